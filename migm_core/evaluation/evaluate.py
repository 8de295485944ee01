"""How often a model draws what the prompt says, how long that takes, and what the image tokenizer alone loses."""

import platform
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from ..outputs import write_report
from ..pipeline import Pipeline
from ..sampling.sequence import text_guidance
from ..training.scenes import Scene, place, random_scene, render
from .judge import judge


MOST_SCENES = 640  # a split has as few as 17 scenes of one object


@dataclass(frozen=True)
class Row:
    """One way of sampling, measured.

    Attributes:
        right: share of the images on which everything is right, by number of objects and in all.
        seconds: of one image alone, median.
        faster: the first row's time over this row's, each pair of runs side by side, median.
    """

    method: str
    steps: int
    budget: int | None
    guidance: float
    temperature: float
    right: float
    right_by_objects: dict[int, float]
    images: int
    seconds: float
    faster: float


def unseen_scenes(count: int, split: str, seed: int = 0) -> list[Scene]:
    """Different scenes of a split: one in forty of one object, of which there are few, the others half of two, half of three.

    Raises:
        ValueError: more than the split holds.
    """
    if count > MOST_SCENES:
        raise ValueError(f"{count} prompts were asked for, but at most {MOST_SCENES} different ones can be drawn evenly. Ask for fewer.")
    rng = np.random.default_rng((seed, 4))
    wanted = {1: count // 40, 2: (count - count // 40) // 2}
    wanted[3] = count - sum(wanted.values())
    scenes: dict[str, Scene] = {}
    for objects, number in wanted.items():
        found = 0
        while found < number:
            scene = random_scene(rng, objects, split)
            if scene.canonical not in scenes:
                scenes[scene.canonical] = scene
                found += 1
    return list(scenes.values())


def verdicts(pipeline: Pipeline, scenes: list[Scene], *, seed: int = 0, batch: int = 20, **asked) -> list[bool]:
    """Whether the image of each scene's caption is right in every respect; prompts of one length run together."""
    prompts = [pipeline.checkpoint.prompts.prompt(scene.caption) for scene in scenes]
    right = [False] * len(scenes)
    groups: dict[int, list[int]] = {}
    for index, ids in enumerate(prompts):
        groups.setdefault(len(ids), []).append(index)
    chunks = [group[i : i + batch] for group in groups.values() for i in range(0, len(group), batch)]
    for chunk in tqdm(chunks, desc="evaluate", disable=None):
        settings = pipeline.settings(**asked, batch=len(chunk), seed=seed + chunk[0])
        unconditional = pipeline.checkpoint.prompts.unconditional()
        branches = text_guidance(torch.stack([prompts[i] for i in chunk]), unconditional, settings.guidance)
        for index, image in zip(chunk, pipeline.run(branches, settings).images):
            right[index] = judge(np.asarray(image, np.float32) / 255, scenes[index]).right
    return right


def evaluate(
    pipeline: Pipeline, ways: list[dict], *, prompts: int = 500, split: str = "test", seed: int = 0, timed: int = 9
) -> list[Row]:
    """Measure several ways of sampling on the same prompts.

    Args:
        ways: settings of each (method, steps, budget, ...), those missing are the checkpoint's own. The first is what the others
            are compared with.
        prompts: of the split, judged.
        timed: rounds of single images, in which the ways take turns, so that a drift of the machine's speed hits all.
    """
    scenes = unseen_scenes(prompts, split, seed)
    captions = [scene.caption for scene in scenes[-timed:]]
    for way in ways:  # warm-up
        pipeline.generate(captions[0], **way)
    times = [[pipeline.generate(caption, **way).seconds for way in ways] for caption in captions]
    rows = []
    for k, way in enumerate(ways):
        right = verdicts(pipeline, scenes, seed=seed, **way)
        settings = pipeline.settings(**way)
        by_objects = {
            n: statistics.mean(r for r, scene in zip(right, scenes) if len(scene.things) == n)
            for n in sorted({len(scene.things) for scene in scenes})
        }
        rows.append(
            Row(
                method=settings.method,
                steps=settings.steps,
                budget=settings.budget if settings.method == "shortcut" else None,
                guidance=settings.guidance,
                temperature=settings.temperature,
                right=statistics.mean(right),
                right_by_objects=by_objects,
                images=len(right),
                seconds=statistics.median(t[k] for t in times),
                faster=statistics.median(t[0] / t[k] for t in times),
            )
        )
    return rows


def table(rows: list[Row], pipeline: Pipeline) -> str:
    """The rows as a Markdown table under a line about the machine."""
    lines = [
        f"{platform.machine()}, {torch.get_num_threads()} threads, {pipeline.device}, {str(pipeline.dtype).removeprefix('torch.')}; "
        f"{rows[0].images} prompts, guidance {rows[0].guidance:g}, temperature {rows[0].temperature:g}",
        "",
        "| method | steps | full steps | all right | 1 / 2 / 3 objects | s an image | faster |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        parts = " / ".join(f"{share:.1%}" for share in row.right_by_objects.values())
        full = row.budget or row.steps
        lines.append(f"| {row.method} | {row.steps} | {full} | {row.right:.1%} | {parts} | {row.seconds:.2f} | {row.faster:.2f}x |")
    return "\n".join(lines)


def save(rows: list[Row], path: str | Path) -> None:
    write_report(Path(path), [asdict(row) for row in rows])


@torch.inference_mode()
def round_trip(pipeline: Pipeline, count: int = 500, split: str = "test", seed: int = 0) -> dict[str, float]:
    """What remains of the renderer's own images after the image tokenizer: PSNR in dB and share still judged right."""
    rng = np.random.default_rng((seed, 5))
    scenes = unseen_scenes(count, split, seed)
    drawn = np.stack([render(scene, place(rng, scene)) for scene in scenes])
    images = torch.from_numpy(drawn).permute(0, 3, 1, 2)
    errors, right = [], []
    for chunk, of in zip(images.split(50), [scenes[i : i + 50] for i in range(0, count, 50)]):
        again = pipeline.decode(pipeline.encode(chunk)).cpu()
        errors += (again - chunk).square().mean((1, 2, 3)).tolist()
        right += [judge(image.permute(1, 2, 0).numpy(), scene).right for image, scene in zip(again, of)]
    rendered = statistics.mean(judge(image, scene).right for image, scene in zip(drawn, scenes))
    return {"rendered_right": rendered, "right": statistics.mean(right), "psnr": float(-10 * np.log10(np.mean(errors)))}
