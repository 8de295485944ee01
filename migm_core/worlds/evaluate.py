"""How often a model generates what the prompt says, how long that takes, and what the image tokenizer alone loses."""

import math
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from ..bench.compare import machine
from ..bench.intervals import Estimate, median, paired_difference, share
from ..outputs import write_report
from ..pipeline import Pipeline
from . import lakeside
from .prompts import prompts_of_scenes

AT_ONCE = 20  # images


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


def unseen_prompts(pipeline: Pipeline, count: int, split: str = "test", seed: int = 0) -> tuple[lakeside.Scenes, list[str]]:
    """Scenes of a split and a prompt for each, some of whose attributes are left open.

    Raises:
        ValueError: the model does not know the lakeside world's words.
    """
    return prompts_of_scenes(pipeline.checkpoint, count, split, seed, "Only a model of the lakeside world can be evaluated.")


def verdicts(pipeline: Pipeline, prompts: list[str], *, seed: int = 0, **asked) -> list[bool]:
    """Whether the image of each prompt shows all that it says. The k-th has the seed ``seed`` + k, and prompts of one length run together."""
    right, request = [False] * len(prompts), lakeside.parse(prompts)
    groups: dict[int, list[int]] = {}
    for index, prompt in enumerate(prompts):
        groups.setdefault(len(pipeline.checkpoint.prompts.prompt(prompt)), []).append(index)
    with tqdm(total=len(prompts), desc="evaluate", unit="image", disable=None) as bar:
        for chunk in (group[first : first + AT_ONCE] for group in groups.values() for first in range(0, len(group), AT_ONCE)):
            images = pipeline.generate([prompts[index] for index in chunk], seeds=[seed + index for index in chunk], **asked).images
            for index, verdict in zip(chunk, lakeside.judge(as_tensor(images), request[torch.tensor(chunk)]), strict=True):
                right[index] = verdict.right
            bar.update(len(chunk))
    return right


def as_tensor(images: list[Image.Image]) -> Tensor:
    """Images of one size as the judge takes them: float32 (N, 3, h, w) in 0..1."""
    return torch.from_numpy(np.stack([np.asarray(image, np.float32) / 255 for image in images])).permute(0, 3, 1, 2)


def evaluate(
    pipeline: Pipeline, ways: Mapping[str, Mapping[str, Any]], *, prompts: int = 100, split: str = "test", seed: int = 0, timed: int = 15
) -> list[Row]:
    """Measure several ways of sampling on the same prompts and seeds.

    Args:
        ways: settings of each, as ``Pipeline.settings`` takes them, by its name. The first is what the others are compared with.
        prompts: of the split, judged.
        timed: rounds of single images, in which the ways take turns, so that a drift of the machine's speed hits all.

    Raises:
        ValueError: the model does not know the lakeside world's words, or images have a size that the judge does not read.
    """
    scenes, texts = unseen_prompts(pipeline, prompts, split, seed)
    of_ways = {name: pipeline.settings(**way) for name, way in ways.items()}
    for settings in of_ways.values():
        _check_size(settings.width, settings.height)
    counts = scenes.present.sum(1).tolist()
    full_steps = [len(pipeline.generate(texts[-1], **way).full_steps) for way in ways.values()]  # and a warm-up
    times = [[pipeline.generate(text, **way).seconds for way in ways.values()] for text in texts[-timed:]]
    rows, first = [], None
    for k, (name, settings) in enumerate(of_ways.items()):
        right = verdicts(pipeline, texts, seed=seed, **ways[name])
        first = first or right
        groups = {n: [r for r, count in zip(right, counts) if count == n] for n in sorted(set(counts))}
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


def _check_size(width: int, height: int) -> None:
    if width != height or width % 64 or width < 128:
        raise ValueError(f"Images of {width}x{height} pixels cannot be judged. Expected squares whose side is a multiple of 64, 128 or more.")


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
def round_trip(pipeline: Pipeline, count: int = 100, split: str = "test", seed: int = 0, size: int | None = None) -> dict[str, float]:
    """The judge's accuracy on the renderer's own images, and on them after the image tokenizer, with its PSNR in dB.

    Args:
        size: of the images' sides in pixels; None for the model's own width.
    """
    scenes, _ = unseen_prompts(pipeline, count, split, seed)
    errors, right, right_again = [], 0, 0
    for first in range(0, count, AT_ONCE):
        some = scenes[first : first + AT_ONCE]
        images = lakeside.render(some, size or pipeline.settings().width)
        again = pipeline.decode(pipeline.encode(images)).cpu()
        errors += (again - images).square().mean((1, 2, 3)).tolist()
        right, right_again = (number + sum(verdict.right for verdict in lakeside.judge(shown, some)) for number, shown in ((right, images), (right_again, again)))
    return {"rendered": right / count, "tokenized": right_again / count, "psnr": -10 * math.log10(statistics.mean(errors))}
