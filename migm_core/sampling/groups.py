"""Many images: sampled in groups that one batch can hold, and what was seen of their steps."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..canvas import Canvas
from .backbone import Backbone, Branch
from .loop import Recorded, StepReport, sample
from .methods.method import Method
from .noise import SeededNoise
from .not_finite import NotFinite
from .probe import Probed
from .rule import Rule
from .schedules import SKIPPED
from .timing import StepTimer

Branches = list[Branch] | list[list[Branch]]  # of all images, or a list for each in the same order of weights


@dataclass(frozen=True)
class Sampled:
    """A finished canvas and what was seen on the way; ``result.Result`` explains each field."""

    canvas: Canvas
    log_likelihood: Tensor
    step_seconds: list[tuple[str, float]]
    vanilla_passes: int
    recorded: list[list[Recorded]] | None
    probed: tuple[Probed, ...]


def sample_groups(
    backbone: Backbone,
    branches: Branches,
    canvas: Canvas,
    method: Method,
    rule: Rule,
    *,
    steps: int,
    seeds: list[int],
    device: torch.device,
    callback: Callable[[StepReport], None] | None = None,
    record: bool = False,
) -> Sampled:
    """Sample a canvas of any images: those that one batch can hold together, and one group after the other.

    Args:
        seeds: one for each image.
        device: of the computation; the finished canvas lies there.
        callback, record: as ``loop.sample``.

    Raises:
        ValueError: there are no branches, or branches or seeds of another number of images.
        NotFinite: a step gave values that are not finite. The first step of each kind is looked at when it ends, all others when the last has.
    """
    of_images = _of_images(branches, canvas.shape[0])
    if len(seeds) != canvas.shape[0]:
        raise ValueError(f"There are {len(seeds)} seeds for {canvas.shape[0]} images. Give one for each.")
    groups = [[image] for image in range(canvas.shape[0])] if rule.one_by_one else _groups(of_images, canvas.masked)
    codes, likelihood, observed = canvas.codes.clone(), torch.zeros(canvas.shape[0]), []
    for images in groups:
        rows = torch.tensor(images)
        observer = _Observer(len(images), device, callback)
        finished = sample(
            backbone,
            [_stacked(list(of_group)) for of_group in zip(*(of_images[image] for image in images))],
            Canvas(canvas.codes[rows], canvas.masked[rows]).to(device),
            method,
            rule,
            steps=steps,
            noise=SeededNoise.of_seeds([seeds[image] for image in images], device),
            callback=observer,
            record=record,
        )
        observer.check_finite()
        codes[rows], likelihood[rows] = finished.codes.to(codes.device), observer.likelihood.cpu()
        observed.append(observer)
    return Sampled(
        Canvas(codes, torch.zeros_like(canvas.masked)).to(device),
        likelihood,
        [step for observer in observed for step in observer.timer.seconds()],
        sum(observer.passes for observer in observed),
        [observer.recorded for observer in observed] if record else None,
        tuple(probed for observer in observed for probed in observer.probed()),
    )


class _Observer:
    """The callback of one group: times its steps, adds up what they say, and hands their reports on."""

    def __init__(self, batch: int, device: torch.device, callback: Callable[[StepReport], None] | None):
        self.callback, self.passes = callback, 0
        self.likelihood = torch.zeros(batch, device=device)
        self.recorded: list[Recorded] = []
        self.timer = StepTimer(device)
        self._measured = []
        self._seen = {SKIPPED}  # kinds of step; what is wrong with a model mostly shows the first time that it runs
        self._finite: list[tuple[str, Tensor]] = []  # kind and answer of each step; all but a kind's first stay on the device
        self.timer.start()

    def __call__(self, report: StepReport) -> None:
        self.timer.lap(report)
        self.passes += report.unmasked > 0
        self.likelihood.add_(report.log_probability.float().sum(1))
        if report.kind not in self._seen and not report.finite:
            raise NotFinite(report.kind)
        self._seen.add(report.kind)
        self._finite.append((report.kind, report.finite))
        if report.recorded is not None:
            self.recorded.append(report.recorded)
        if report.measured:
            self._measured.append((report.step, report.measured))
        if self.callback is not None:
            self.callback(report)
        self.timer.start()

    def check_finite(self) -> None:
        """Raise a NotFinite of the first step that gave values that are not finite: one question to the device for all of them."""
        finite = torch.stack([answer for _, answer in self._finite]).tolist() if self._finite else []
        for (kind, _), good in zip(self._finite, finite):
            if not good:
                raise NotFinite(kind)

    def probed(self) -> list[Probed]:
        return [Probed(step, **{name: float(value) for name, value in values.items()}) for step, values in self._measured]


def _groups(branches: list[list[Branch]], masked: Tensor) -> list[list[int]]:
    """Images that one batch can hold: prompts of one length in every branch, and equally many masked tokens."""
    groups: dict[tuple, list[int]] = {}
    for image, (of_image, count) in enumerate(zip(branches, masked.flatten(1).sum(1).tolist())):
        groups.setdefault((count, *(branch.prompt.shape[-1] for branch in of_image)), []).append(image)
    return list(groups.values())


def _of_images(branches: Branches, count: int) -> list[list[Branch]]:
    """The branches of each image."""
    shared = bool(branches) and isinstance(branches[0], Branch)
    numbers = {len(branch.prompt) for branch in branches if branch.prompt.dim() == 2} if shared else {len(branches)}
    if wrong := numbers - {count}:
        raise ValueError(f"There are guidance branches of {min(wrong)} images, but {count} are sampled. Give those of each, or the same for all.")
    if not shared:
        if empty := [image for image, of_image in enumerate(branches) if not of_image]:
            raise ValueError(f"Image {empty[0]} has no guidance branches. Give each image at least one.")
        return branches
    return [[branch if branch.prompt.dim() == 1 else replace(branch, prompt=branch.prompt[image]) for branch in branches] for image in range(count)]


def _stacked(branches: list[Branch]) -> Branch:
    """One branch of several images as a branch of their batch."""
    first = branches[0]
    if all(branch.prompt is first.prompt for branch in branches):
        return first
    return replace(first, prompt=torch.stack([branch.prompt for branch in branches]))
