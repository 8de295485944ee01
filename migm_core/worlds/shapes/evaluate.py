"""How often a model generates what the prompt says, how long that takes, and what the image tokenizer alone loses."""

import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from ...bench.compare import machine
from ...bench.intervals import Estimate, median, paired_difference, share
from ...families.lumina_dimoo.tasks import text_guidance
from ...outputs import write_report
from ...pipeline import Pipeline
from .judge import judge
from .scenes import Scene, random_placement, random_scene, render

MOST_SCENES = 640  # a split has as few as 17 scenes of one object


@dataclass(frozen=True)
class Row:
    """One way of sampling, measured. Each ``Estimate`` has a 95% interval.

    Attributes:
        way: the words that asked for it.
        settings: as used.
        full_steps: that ran the base model, of ``steps``.
        accuracy: share of the images on which everything is right.
        accuracy_by_objects: the same by number of objects.
        prompts_by_objects: how many there are of each.
        difference: accuracy less the first row's, on the same prompts and seeds; None in the first row.
        rounds: single images that were timed.
        seconds: of one image alone, median.
        speed_up: the first row's time over this row's, each pair of runs side by side, median.
    """

    way: str
    method: str
    steps: int
    settings: dict[str, Any]
    full_steps: int
    prompts: int
    accuracy: Estimate
    prompts_by_objects: dict[int, int]
    accuracy_by_objects: dict[int, Estimate]
    difference: Estimate | None
    rounds: int
    seconds: float
    speed_up: Estimate


def unseen_scenes(count: int, split: str, seed: int = 0) -> list[Scene]:
    """Different scenes of a split: one in forty of one object, of which there are few, the others half of two, half of three.

    Raises:
        ValueError: more than the split holds.
    """
    if count > MOST_SCENES:
        raise ValueError(f"{count} prompts were asked for, but at most {MOST_SCENES} different ones can be spread evenly. Ask for fewer.")
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
        branches = text_guidance(torch.stack([prompts[i] for i in chunk]), unconditional, settings.guidance_scale)
        for index, image in zip(chunk, pipeline.run(branches, settings).images):
            right[index] = judge(np.asarray(image, np.float32) / 255, scenes[index]).right
    return right


def evaluate(
    pipeline: Pipeline, ways: Mapping[str, Mapping[str, Any]], *, prompts: int = 500, split: str = "test", seed: int = 0, timed: int = 15
) -> list[Row]:
    """Measure several ways of sampling on the same prompts and seeds.

    Args:
        ways: settings of each, as ``Pipeline.settings`` takes them, by its name. The first is what the others are compared with.
        prompts: of the split, judged.
        timed: rounds of single images, in which the ways take turns, so that a drift of the machine's speed hits all.
    """
    scenes = unseen_scenes(prompts, split, seed)
    captions = [scene.caption for scene in scenes[-timed:]]
    full_steps = [len(pipeline.generate(captions[0], **way).full_steps) for way in ways.values()]  # and a warm-up
    times = [[pipeline.generate(caption, **way).seconds for way in ways.values()] for caption in captions]
    rows, first = [], None
    for k, (name, way) in enumerate(ways.items()):
        right = verdicts(pipeline, scenes, seed=seed, **way)
        first = first or right
        settings = pipeline.settings(**way)
        groups = {n: [r for r, scene in zip(right, scenes) if len(scene.objects) == n] for n in sorted({len(s.objects) for s in scenes})}
        rows.append(
            Row(
                way=name,
                method=settings.method,
                steps=settings.steps,
                settings={key: value for key, value in settings.used().items() if key not in ("seed", "batch")},
                full_steps=full_steps[k],
                prompts=len(right),
                accuracy=share(sum(right), len(right)),
                prompts_by_objects={n: len(group) for n, group in groups.items()},
                accuracy_by_objects={n: share(sum(group), len(group)) for n, group in groups.items()},
                difference=paired_difference(first, right) if k else None,
                rounds=len(times),
                seconds=statistics.median(t[k] for t in times),
                speed_up=median([t[0] / t[k] for t in times]),
            )
        )
    return rows


def table(rows: list[Row], pipeline: Pipeline) -> str:
    """The rows as a Markdown table under lines about the machine and the figures."""
    groups, settings = rows[0].prompts_by_objects, rows[0].settings
    lines = [
        f"{machine(pipeline)}; cfg {settings['guidance_scale']:g}, temperature {settings['temperature']:g}; {rows[0].prompts} prompts, "
        + ", ".join(f"{count} with {_objects(n)}" for n, count in groups.items())
        + ".",
        "In brackets 95% intervals: Wilson's for accuracy, Newcombe's for the difference on the same prompts and seeds, and that of the order "
        f"of the ratios for the speed-up, the median of {rows[0].rounds} runs side by side. Full steps ran the base model.",
        "",
        f"| method | steps | full steps | accuracy | against the first row | {' | '.join(map(_objects, groups))} | s an image | speed-up |",
        "|---|--:|--:|---|---|" + "---|" * len(groups) + "--:|---|",
    ]
    for row in rows:
        cells = [row.way, row.steps, row.full_steps, _percent(row.accuracy)]
        cells.append("" if row.difference is None else "{:+.1f} points ({:+.1f} to {:+.1f})".format(*(100 * x for x in row.difference)))
        cells += [_percent(accuracy) for accuracy in row.accuracy_by_objects.values()]
        cells += [f"{row.seconds:.2f}", "1" if row is rows[0] else "{:.2f} ({:.2f} to {:.2f})".format(*row.speed_up)]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def _objects(number: int) -> str:
    return f"{number} object{'s' if number > 1 else ''}"


def _percent(estimate: Estimate) -> str:
    return "{:.1f}% ({:.1f} to {:.1f})".format(*(100 * x for x in estimate))


def save(rows: list[Row], path: str | Path) -> None:
    write_report(Path(path), [asdict(row) for row in rows])


@torch.inference_mode()
def round_trip(pipeline: Pipeline, count: int = 500, split: str = "test", seed: int = 0) -> dict[str, float]:
    """The judge's accuracy on the renderer's own images, and on them after the image tokenizer, with its PSNR in dB."""
    rng = np.random.default_rng((seed, 5))
    scenes = unseen_scenes(count, split, seed)
    pictures = np.stack([render(scene, random_placement(rng, scene)) for scene in scenes])
    images = torch.from_numpy(pictures).permute(0, 3, 1, 2)
    errors, right = [], []
    for chunk, of in zip(images.split(50), [scenes[i : i + 50] for i in range(0, count, 50)]):
        again = pipeline.decode(pipeline.encode(chunk)).cpu()
        errors += (again - chunk).square().mean((1, 2, 3)).tolist()
        right += [judge(image.permute(1, 2, 0).numpy(), scene).right for image, scene in zip(again, of)]
    rendered = statistics.mean(judge(image, scene).right for image, scene in zip(pictures, scenes))
    return {"rendered": rendered, "tokenized": statistics.mean(right), "psnr": float(-10 * np.log10(np.mean(errors)))}
