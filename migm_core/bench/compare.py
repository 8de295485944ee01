"""Methods side by side on one model and task: time, memory, and how near each comes to the first. How good images are, only a judge can say."""

import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import arguments
from ..canvas import Canvas
from ..families.request import TaskRequest
from ..outputs import plan
from ..pipeline import Pipeline
from ..result import Result
from ..sampling.backbone import Branch
from ..sampling.memory import run_bytes
from ..sampling.methods import METHODS
from ..sampling.schedules import unmasked
from ..settings import Settings
from ..threads import suited_threads
from .divergence import divergence
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
        same_tokens: share of the generated tokens that equal the first row's, at the same prompt and seed.
        pixel_difference: mean absolute difference of the generated pixels to the first row's, 0 to 255.
        kl: mean divergence of its distributions of codes from the base's, in nats, see ``divergence``.
        same_tokens_of_seeds, pixel_difference_of_seeds: the same between this row's own seeds, for scale; None where no prompt came twice.
    """

    way: str
    settings: dict[str, Any]
    full_steps: int
    memory_bytes: int
    rounds: int
    seconds: float
    speed_up: Estimate
    same_tokens: float
    pixel_difference: float
    kl: float
    same_tokens_of_seeds: float | None = None
    pixel_difference_of_seeds: float | None = None


@dataclass(frozen=True)
class Asked:
    """What all ways are asked for, ready for the model.

    Attributes:
        prompts: taken in turn, one a round.
        request: the task, with the first prompt; None for what a bare prompt or class asks for.
        inputs: its pictures, as the model reads them.
        ways: settings of each, those of the task among them.
        settings: of each way, checked.
    """

    pipeline: Pipeline
    prompts: Sequence[str | int]
    negative: str
    request: TaskRequest | None
    inputs: Any = field(repr=False)
    ways: Mapping[str, Mapping[str, Any]]
    settings: list[Settings]

    @classmethod
    def of(
        cls, pipeline: Pipeline, prompts: Sequence[str | int], negative: str, request: TaskRequest | None, ways: Mapping[str, Mapping[str, Any]]
    ) -> "Asked":
        """Check it all before anything is generated.

        Raises:
            ValueError: a setting out of its range, a prompt that the model does not take, or pictures that the task does not.
        """
        inputs = None
        if request is not None:
            request = replace(request, prompt=prompts[0], negative=negative)
            inputs = pipeline.checkpoint.family.task_inputs(pipeline.checkpoint, request, lambda pixels: pipeline.encode(pixels).codes)
        asked = cls(pipeline, prompts, negative, request, inputs, {}, []).in_ways(ways)
        for prompt in prompts:
            asked.branches(asked.settings[0], prompt)
        return asked

    def in_ways(self, ways: Mapping[str, Mapping[str, Any]]) -> "Asked":
        """The same in other ways; a ValueError where a setting is out of its range."""
        own = {} if self.request is None else {"task": self.request.task}
        if self.inputs is not None and self.inputs.size:
            own |= dict(zip(("width", "height"), self.inputs.size))
        return replace(self, ways=ways, settings=[self.pipeline.settings(**{**own, **way}) for way in ways.values()])

    def generate(self, way: str, number: int, seed: int) -> Result:
        """The image of a round, which nothing but the way's own work slows down: the head is not probed."""
        of_task = {}
        if self.request is not None:
            of_task = {"task": self.request.task, "images": self.request.pictures, "mask": self.request.mask, "kind": self.request.kind, **self.request.options}
        prompt = self.prompts[number % len(self.prompts)]
        return self.pipeline.generate(prompt, self.negative, seed=seed + number, probe=False, **of_task, **self.ways[way])

    def branches(self, settings: Settings, prompt: str | int) -> list[Branch]:
        """The guidance branches of a prompt."""
        checkpoint, family = self.pipeline.checkpoint, self.pipeline.checkpoint.family
        if self.request is None:
            return family.branches(checkpoint, prompt, self.negative, settings.guidance_scale, 1)
        return family.task_branches(checkpoint, replace(self.request, prompt=prompt), self.inputs, settings.guidance_scale, settings.image_guidance_scale or 0)

    def canvas(self, settings: Settings) -> Canvas:
        """What one image samples."""
        if self.inputs is not None and self.inputs.canvas is not None:
            return self.inputs.canvas
        factor = self.pipeline.checkpoint.image_tokenizer.config.downscale_factor
        return Canvas.empty(1, settings.height // factor, settings.width // factor)

    @property
    def masked(self) -> int | None:
        """Tokens of an image that are generated; None for all."""
        return None if self.inputs is None or self.inputs.canvas is None else int(self.inputs.canvas.masked.sum())


def compare(
    pipeline: Pipeline,
    prompts: Sequence[str | int],
    ways: Mapping[str, Mapping[str, Any]],
    *,
    negative: str = "",
    seed: int = 0,
    rounds: int = 5,
    request: TaskRequest | None = None,
    same_time: bool = False,
) -> list[Row]:
    """Generate the same images in several ways, which take turns, so that a drift of the machine's speed hits all.

    Args:
        prompts: taken in turn, one a round.
        ways: settings of each, as ``Pipeline.settings`` takes them. The first is what the others are compared with.
        seed: of the first round; the next ones count up.
        rounds: images of each way, after one that is not counted.
        request: of a task, with its pictures; its prompt is that of the round.
        same_time: add the vanilla method at as many steps as take the time of each other method, where that is faster.

    Raises:
        ValueError: a setting out of its range or pictures that the task does not take, before anything is generated.
    """
    arguments.whole("rounds", rounds, 1)
    arguments.whole("seed", seed, 0, 2**64 - rounds)
    asked = Asked.of(pipeline, prompts, negative, request, ways)
    warm = [asked.generate(way, 0, seed) for way in ways]
    if same_time:
        asked = asked.in_ways({**ways, **_in_the_same_time(asked, warm, seed)})
    results = [[asked.generate(way, k, seed) for way in asked.ways] for k in range(rounds)]
    rows = []
    for k, (name, each) in enumerate(zip(asked.ways, asked.settings)):
        own, first = [row[k] for row in results], [row[0] for row in results]
        canvas, branches = asked.canvas(each), asked.branches(each, prompts[0])
        like_first = [likeness(one, other, canvas.masked) for one, other in zip(first, own)]
        # Rounds with the same prompt, and other seeds.
        among = [likeness(one, other, canvas.masked) for one, other in zip(own, own[len(prompts) :])]
        lengths = [pipeline.checkpoint.base.sequence(branch, canvas.to(pipeline.device)).length for branch in branches]
        rows.append(
            Row(
                way=name,
                settings={key: value for key, value in each.used().items() if key not in ("seed", "batch")},
                full_steps=plan(pipeline, each, asked.masked)[0].count("full"),
                memory_bytes=run_bytes(pipeline.checkpoint.base.config, pipeline.dtype, lengths, int(canvas.masked.sum()), pipeline.method(each)),
                rounds=rounds,
                seconds=statistics.median(result.seconds for result in own),
                speed_up=median([one.seconds / other.seconds for one, other in zip(first, own)]),
                same_tokens=statistics.mean(tokens for tokens, _ in like_first),
                pixel_difference=statistics.mean(pixels for _, pixels in like_first),
                kl=divergence(pipeline, branches, canvas, each, seed),
                same_tokens_of_seeds=statistics.mean(tokens for tokens, _ in among) if among else None,
                pixel_difference_of_seeds=statistics.mean(pixels for _, pixels in among) if among else None,
            )
        )
    return rows


def _in_the_same_time(asked: Asked, warm: Sequence[Result], seed: int) -> dict[str, dict[str, Any]]:
    """The vanilla method at fewer steps, once for each time that another method takes."""
    of_methods, found = {name for method in METHODS.values() for name in method.settings()}, {}
    full: dict[tuple, float] = {}  # seconds of a full step, of each settings that ways share
    for name, settings, result in zip(asked.ways, asked.settings, warm):
        if settings.method == "vanilla":
            continue
        plain = {key: value for key, value in asked.ways[name].items() if key not in of_methods} | {"method": "vanilla"}
        key = tuple(sorted(plain.items()))
        if key not in full:
            full[key] = replace(asked, ways={"vanilla": plain}).generate("vanilla", 0, seed).median_step_seconds["full"]
        steps = steps_of_passes(settings, _sampling_seconds(result) / full[key], asked.canvas(settings))
        if steps < settings.steps:
            found.setdefault((steps, key), []).append(name)
    return {f"vanilla {steps}, in the time of {' and '.join(names)}": {**dict(plain), "steps": steps} for (steps, plain), names in found.items()}


def _sampling_seconds(result: Result) -> float:
    """Of all steps, each at the median of its kind: the first ones of a process are slower."""
    medians = result.median_step_seconds
    return sum(medians[kind] for kind, _ in result.step_seconds)


def steps_of_passes(settings: Settings, passes: float, canvas: Canvas) -> int:
    """The most steps of the vanilla method, up to those of the settings, that run the base ``passes`` times, rounded; at least those that the rule needs.

    With more steps than masked tokens some unmask nothing, and are skipped.
    """
    masked, tokens = int(canvas.masked.sum()), canvas.masked.numel()
    steps = max(settings.rule.least_steps, min(round(passes), settings.steps))
    while steps < settings.steps:
        keep = settings.rule.keep(masked, tokens, steps + 1)
        if sum(unmasked(keep, masked, step) > 0 for step in range(steps + 1)) > round(passes):
            break
        steps += 1
    return steps


def likeness(one: Result, other: Result, masked: Tensor) -> tuple[float, float]:
    """Share of equal tokens, and mean absolute difference of pixels, 0 to 255: of two images, where something was generated.

    Args:
        masked: bool (1, H, W).
    """
    pixels = [torch.from_numpy(np.asarray(result.images[0], dtype=np.int16)) for result in (one, other)]
    factor = pixels[0].shape[0] // masked.shape[1]
    generated = masked[0].cpu().repeat_interleave(factor, 0).repeat_interleave(factor, 1)
    same = (one.tokens == other.tokens).cpu()[masked.cpu()]
    return same.float().mean().item(), (pixels[0] - pixels[1]).abs()[generated].float().mean().item()


def table(rows: Sequence[Row], pipeline: Pipeline) -> str:
    """The rows as a Markdown table under lines about the machine and the figures."""
    first = rows[0]
    task = f", {first.settings['task']}" if "task" in first.settings else ""
    lines = [
        f"{machine(pipeline)}; {pipeline.checkpoint.family.title}{task}, {first.settings['width']}x{first.settings['height']}, one image at a time.",
        f"Times with decoding: the median of {first.rounds} runs side by side; in brackets the 95% interval of the ratios' order.",
        "Tokens and pixels (mean difference, 0 to 255) against the first row at the same prompt and seed, where something was generated." + _of_seeds(first),
        "KL: off the base's distribution of codes at the same tokens, mean over the steps of a run. What fewer steps lose is not in it.",
        "",
        "| method | steps | full steps | s an image | speed-up | same tokens | pixels | KL, nats | memory beside the weights |",
        "|---|--:|--:|--:|---|--:|--:|--:|--:|",
    ]
    for row in rows:
        speed_up = "1" if row is first else "{:.2f} ({:.2f} to {:.2f})".format(*row.speed_up)
        lines.append(
            f"| {row.way} | {row.settings['steps']} | {row.full_steps} | {row.seconds:.2f} | {speed_up} | {row.same_tokens:.1%} | {row.pixel_difference:.1f} "
            f"| {row.kl:.2g} | {row.memory_bytes / 1e6:,.1f} MB |"
        )
    return "\n".join(lines)


def _of_seeds(row: Row) -> str:
    """What chance alone does, to hold the others against."""
    if row.same_tokens_of_seeds is None:
        return ""
    return f" Between seeds of the first row: {row.same_tokens_of_seeds:.1%} and {row.pixel_difference_of_seeds:.1f}."


def machine(pipeline: Pipeline) -> str:
    """What figures were measured on, for example "x86_64, 1 CPU thread, cpu, float32"."""
    with suited_threads(pipeline.checkpoint.base.config, pipeline.device):
        threads = torch.get_num_threads()
    card = f" ({torch.cuda.get_device_name(pipeline.device)})" if pipeline.device.type == "cuda" else ""
    return f"{platform.machine()}, {threads} CPU thread{'s' if threads > 1 else ''}, {pipeline.device}{card}, {str(pipeline.dtype).removeprefix('torch.')}"
