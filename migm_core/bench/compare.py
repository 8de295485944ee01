"""Methods side by side on one model: time, memory and tokens. How good the images are, only a judge can say: see ``worlds``."""

import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..canvas import Canvas
from ..outputs import plan
from ..pipeline import Pipeline
from ..sampling.memory import run_bytes
from ..settings import Settings
from ..threads import suited_threads
from .intervals import Estimate, median


@dataclass(frozen=True)
class Row:
    """One way of sampling, measured.

    Attributes:
        way: the words that asked for it.
        settings: as used.
        full_steps: that ran the base model.
        memory_bytes: that sampling one image needs beside the weights, by the sizes of its tensors.
        rounds: images that were timed.
        seconds: of one image with decoding, median.
        speed_up: the first row's time over this row's, each pair of images side by side: median and 95% interval.
        same_tokens: share of the tokens that equal the first row's, at the same prompt and seed.
    """

    way: str
    settings: dict[str, Any]
    full_steps: int
    memory_bytes: int
    rounds: int
    seconds: float
    speed_up: Estimate
    same_tokens: float


def compare(pipeline: Pipeline, prompts: Sequence[str | int], ways: Mapping[str, Mapping[str, Any]], *, negative: str = "", seed: int = 0, rounds: int = 5) -> list[Row]:
    """Generate the same images in several ways, which take turns, so that a drift of the machine's speed hits all.

    Args:
        prompts: taken in turn, one a round.
        ways: settings of each, as ``Pipeline.settings`` takes them. The first is what the others are compared with.
        seed: of the first round; the next ones count up.
        rounds: images of each way, after one that is not counted.

    Raises:
        ValueError: a setting out of its range, before anything is generated.
    """
    settings = [pipeline.settings(**way) for way in ways.values()]
    for way in ways.values():
        pipeline.generate(prompts[0], negative, seed=seed, **way)
    results = [[pipeline.generate(prompts[k % len(prompts)], negative, seed=seed + k, **way) for way in ways.values()] for k in range(rounds)]
    return [
        Row(
            way=name,
            settings={key: value for key, value in each.used().items() if key not in ("seed", "batch")},
            full_steps=plan(pipeline, each)[0].count("full"),
            memory_bytes=_run_bytes(pipeline, each, prompts[0], negative),
            rounds=rounds,
            seconds=statistics.median(row[k].seconds for row in results),
            speed_up=median([row[0].seconds / row[k].seconds for row in results]),
            same_tokens=statistics.mean((row[0].tokens == row[k].tokens).float().mean().item() for row in results),
        )
        for k, (name, each) in enumerate(zip(ways, settings))
    ]


def table(rows: Sequence[Row], pipeline: Pipeline) -> str:
    """The rows as a Markdown table under lines about the machine and the figures."""
    first = rows[0].settings
    lines = [
        f"{machine(pipeline)}; {pipeline.checkpoint.family.title}, {first['width']}x{first['height']}, one image at a time.",
        f"Times with decoding: the median of {rows[0].rounds} runs side by side; in brackets the 95% interval of the ratios' order.",
        "",
        "| method | steps | full steps | s an image | speed-up | tokens as in the first row | memory beside the weights |",
        "|---|--:|--:|--:|---|--:|--:|",
    ]
    for row in rows:
        speed_up = "1" if row is rows[0] else "{:.2f} ({:.2f} to {:.2f})".format(*row.speed_up)
        lines.append(
            f"| {row.way} | {row.settings['steps']} | {row.full_steps} | {row.seconds:.2f} | {speed_up} | {row.same_tokens:.1%} "
            f"| {row.memory_bytes / 1e6:,.1f} MB |"
        )
    return "\n".join(lines)


def machine(pipeline: Pipeline) -> str:
    """What figures were measured on, for example "x86_64, 1 CPU thread, cpu, float32"."""
    with suited_threads(pipeline.checkpoint.base.config, pipeline.device):
        threads = torch.get_num_threads()
    card = f" ({torch.cuda.get_device_name(pipeline.device)})" if pipeline.device.type == "cuda" else ""
    return f"{platform.machine()}, {threads} CPU thread{'s' if threads > 1 else ''}, {pipeline.device}{card}, {str(pipeline.dtype).removeprefix('torch.')}"


def _run_bytes(pipeline: Pipeline, settings: Settings, prompt: str | int, negative: str) -> int:
    checkpoint, factor = pipeline.checkpoint, pipeline.checkpoint.image_tokenizer.config.downscale_factor
    canvas = Canvas.empty(1, settings.height // factor, settings.width // factor, pipeline.device)
    branches = checkpoint.family.branches(checkpoint, prompt, negative, settings.guidance_scale, 1)
    lengths = [checkpoint.base.sequence(branch, canvas).length for branch in branches]
    return run_bytes(checkpoint.base.config, pipeline.dtype, lengths, canvas.codes.numel(), pipeline.method(settings))
