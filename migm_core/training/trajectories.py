"""Recorded runs of a base model, for its head's training (MIGM-Shortcut, arXiv 2602.23996, section 4).

A trajectory is one vanilla run: the finished codes, the step that unmasked each of them and, per step and guidance branch, the
feature of the whole sequence. Every trajectory is a safetensors shard of its own, so that collecting can stop and resume
anywhere and be spread over machines. A family may bring a published form of its own, see ``Family.trajectories``.
"""

import json
import re
from collections.abc import Iterator
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..canvas import Canvas
from ..checkpoints import fingerprint
from ..checkpoints.json_text import parse_object
from ..checkpoints.recorded_run import ADVICE, SAID, SCALES, check_run
from ..checkpoints.source import check_safetensors
from ..checkpoints.write import write_tensors
from ..families import Family
from ..sampling.backbone import Backbone, BackboneConfig, Sequence, at_positions
from ..sampling.methods import Step

BRANCHES = ("conditional", "unconditional", "without-pictures")  # the last where a prompt shows pictures
KIND = "migm-trajectory"
IN_METADATA = (*SAID, "request")  # what a shard's metadata says of the run


class Trajectory(Protocol):
    """A recorded run of N steps over a canvas of H x W tokens.

    Attributes:
        path: where it lies, for messages.
        shape: numbers that the runs which share a batch have in common: tokens of the prompts, H, W, N.
        codes: finished, int64 (H, W).
        unmasked_at: step that unmasked each token in reading order, (H * W,); -1 for those that were known from the start.
        prompts: token ids of the guidance branches, two or, where the prompt shows pictures, three.
        run: what the shard says of the run: "base" (a fingerprint), "prompt", "seed", "settings" and, of a task, "request"; empty where it
            says nothing.
    """

    path: Path | str
    shape: tuple[int, ...]
    codes: Tensor
    unmasked_at: Tensor
    prompts: tuple[Tensor, ...]
    run: dict[str, Any]

    @property
    def steps(self) -> int: ...

    def features(self, branch: int, step: int) -> Tensor | None:
        """(T, width) of a branch as it entered the logits of a step; None where the shard was written without."""


@dataclass(frozen=True)
class Shard:
    """A trajectory in a safetensors file of its own; its features are read when they are asked for."""

    path: Path
    codes: Tensor
    unmasked_at: Tensor
    prompts: tuple[Tensor, ...]
    run: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path) -> "Shard":
        """Read all but the features.

        Raises:
            ValueError: the file is damaged, or does not say what run it holds.
        """
        if not path.is_file():  # opening a pipe would wait for ever
            raise _damaged(path, "it is no file")
        check_safetensors(path)
        try:
            with safe_open(path, framework="pt") as file:
                about = file.metadata() or {}
                if about.get("kind") != KIND:
                    about = {}
                run = {name: text if name in ("base", "prompt") else _value(path, name, text) for name, text in about.items() if name in IN_METADATA}
                check_run(run, path)
                branches = [name for name in BRANCHES if name in BRANCHES[:2] or f"prompt.{name}" in file.keys()]
                codes, unmasked_at, *prompts = (file.get_tensor(name) for name in ("codes", "unmasked_at", *(f"prompt.{name}" for name in branches)))
        except (SafetensorError, OSError) as error:
            raise _damaged(path, str(error)) from None
        run.setdefault("request", {})
        whole = all(not t.is_floating_point() and t.numel() and t.min() >= 0 for t in (codes, unmasked_at + 1, *prompts))
        if not whole or unmasked_at.max() < 0 or codes.dim() != 2 or unmasked_at.shape != (codes.numel(),) or any(prompt.dim() != 1 for prompt in prompts):
            raise _damaged(path, "its codes, steps and prompts do not belong together")
        return cls(path, codes, unmasked_at, tuple(prompts), run)

    @property
    def steps(self) -> int:
        return int(self.unmasked_at.max()) + 1

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the prompts, H, W, N, and how many tokens were known from the start."""
        return *map(len, self.prompts), *self.codes.shape, self.steps, int((self.unmasked_at < 0).sum())

    def features(self, branch: int, step: int) -> Tensor | None:
        try:
            with safe_open(self.path, framework="pt") as file:
                name = f"features.{BRANCHES[branch]}"
                if name not in file.keys():
                    return None
                rows = file.get_slice(name)
                if len(rows.get_shape()) != 3 or rows.get_shape()[0] != self.steps:
                    raise _damaged(self.path, f"{name} has the shape {tuple(rows.get_shape())} for {self.steps} steps")
                return rows[step]
        except (SafetensorError, OSError) as error:
            raise _damaged(self.path, str(error)) from None


def _value(path: Path, name: str, text: str) -> Any:
    """What a shard's metadata says under a name, as ``check_run`` expects it."""
    if name != "seed":
        return parse_object(text, f"{path}: {name} in its metadata", ADVICE)
    return int(text) if re.fullmatch(r"\d{1,30}", text) else text


def _damaged(path: Path, reason: str) -> ValueError:
    return ValueError(f"{path} cannot be read as a trajectory ({reason.rstrip('.')}). {ADVICE}")


class Shards:
    """Writes runs into a folder, a shard each, and finds those that are there. A family's published form has the same methods.

    Use it in a with block.

    Args:
        config: of the base.
        numbers: of the files that this process may write, where a file holds several runs.
    """

    overhead = 1000  # bytes of a run beside its tensors

    def __init__(self, folder: str | Path, config: BackboneConfig, numbers: Iterator[int] | None = None):
        self.folder = Path(folder)

    @classmethod
    def open(cls, folder: str | Path, config: BackboneConfig) -> list[Shard]:
        """All runs of a folder."""
        return [Shard.open(path) for path in sorted(Path(folder).glob("*.safetensors"))]

    def find(self, index: int) -> Shard | None:
        """The ``index``-th run, where it is there."""
        return Shard.open(self._path(index)) if self._path(index).exists() else None

    def write(
        self, index: int, codes: Tensor, unmasked_at: Tensor, prompts: SequenceOf[Tensor], features: SequenceOf[Tensor | None], run: dict[str, Any]
    ) -> None:
        """Write a run.

        Args:
            codes: finished, (H, W).
            unmasked_at: (H * W,).
            prompts: of all branches.
            features: of each branch, (N, T, width), or None where it was not recorded; none to leave them out.
            run: base, prompt, seed, settings and request.
        """
        tensors = {"codes": codes.cpu(), "unmasked_at": unmasked_at.cpu()}
        tensors |= {f"prompt.{name}": prompt.cpu() for name, prompt in zip(BRANCHES, prompts)}
        tensors |= {f"features.{name}": of_branch for name, of_branch in zip(BRANCHES, features) if of_branch is not None}
        about = {"kind": KIND, "base": run["base"], "prompt": str(run["prompt"]), "seed": str(run["seed"]), "settings": json.dumps(run["settings"])}
        if run.get("request"):
            about["request"] = json.dumps(run["request"])
        write_tensors(self._path(index), tensors, about)

    def _path(self, index: int) -> Path:
        return self.folder / f"trajectory-{index:06d}.safetensors"

    def __enter__(self) -> "Shards":
        return self

    def __exit__(self, *error) -> None:
        pass


def open_folder(folder: str | Path, family: Family, config: BackboneConfig) -> list[Trajectory]:
    """All runs of a folder, in our form and in the family's published one.

    Raises:
        ValueError: a shard is damaged, or does not say of what run it is; or the family has no form of tar shards.
    """
    tars = sorted(Path(folder).glob("*.tar"))
    if tars and family.trajectories is None:
        raise ValueError(
            f"{tars[0]} is a tar shard, but trajectories of {family.title} have no such form. Remove it, or give the model that it is of by --model."
        )
    return [*Shards.open(folder, config), *(family.trajectories.open(folder, config) if tars else [])]


def check_alike(trajectories: SequenceOf[Trajectory], base: str, config: BackboneConfig) -> None:
    """All runs are of one base, and those of a task of one group of settings; a shard that says nothing of its run is of any.

    Args:
        base, config: the fingerprint and the sizes of the base whose head is to learn from them.

    Raises:
        ValueError: naming the first shard that is not.
    """
    for t in trajectories:
        if t.codes.max() >= config.codebook_size or max(int(prompt.max()) for prompt in t.prompts) >= config.vocab_size:
            raise ValueError(f"{t.path} holds tokens that this base does not have. Remove it, or give its base by --model.")
    said = [t for t in trajectories if t.run]
    first: dict[str | None, Trajectory] = {}  # of each task
    for t in said:
        like = first.setdefault(task_of(t), t)
        if not fingerprint.same_base(t.run["base"], base):
            raise ValueError(f"{t.path} was recorded from another base model. Remove it, or give its base by --model.")
        if t.run["settings"] != like.run["settings"]:
            raise ValueError(f"{t.path} was recorded with {differences(t.run['settings'], like.run['settings'])} as {like.path} was. Keep those of one kind only.")


def task_of(trajectory: Trajectory) -> str | None:
    """The name of a run's task; None of a bare prompt or class."""
    return trajectory.run.get("request", {}).get("task")


def weights_of(trajectory: Trajectory) -> list[float]:
    """Of the branches in a run's guided sum, some of which may be 0."""
    settings = trajectory.run.get("settings", {})
    scales = [float(settings.get(name, 0)) for name in SCALES][: len(trajectory.prompts) - 1]
    return [1 + sum(scales), *(-scale for scale in scales)]


def differences(found: dict[str, Any], expected: dict[str, Any]) -> str:
    """For example "steps 32, not 64"."""
    names = [name for name in {**found, **expected} if found.get(name) != expected.get(name)]
    return ", ".join(f"{name} {found.get(name)}, not {expected.get(name)}" for name in names)


def canvas_at(trajectories: SequenceOf[Trajectory], step: int) -> Canvas:
    """What a step saw of runs of one shape, an image each; on the CPU."""
    codes = torch.stack([t.codes for t in trajectories])
    return Canvas(codes, (torch.stack([t.unmasked_at for t in trajectories]) >= step).view_as(codes))


def unmasked_by(trajectories: SequenceOf[Trajectory], step: int) -> Tensor:
    """Tokens that a step unmasked in runs of one shape, ascending, int64 (B, n)."""
    new = torch.stack([t.unmasked_at for t in trajectories]) == step
    counts = new.sum(1)
    if (counts != counts[0]).any():
        other = trajectories[int((counts != counts[0]).nonzero()[0])]
        raise ValueError(
            f"{other.path} unmasks another number of tokens at step {step} than {trajectories[0].path}: they are of different schedules. "
            "Train with --batch 1."
        )
    return new.nonzero()[:, 1].view(len(trajectories), int(counts[0]))


def features_of(trajectories: SequenceOf[Trajectory], step: int, branch: int, sequence: Sequence, backbone: Backbone) -> Tensor:
    """Features of a branch at a step, (B, T, width): as recorded, or else computed from its sequence."""
    kept = [t.features(branch, step) for t in trajectories]
    if any(features is None for features in kept):
        return backbone.features(sequence)
    found = torch.stack(kept)
    if found.shape[1:] != (sequence.length, backbone.config.width):
        raise ValueError(
            f"{trajectories[0].path} holds features of {found.shape[1]} positions and width {found.shape[2]}, but this base computes "
            f"{sequence.length} of width {backbone.config.width}. Give the base that it was recorded from by --model."
        )
    return found.to(backbone.device, backbone.dtype)


class RecordingRun:
    """Vanilla sampling that keeps the features of every step, if asked to, and when each token was unmasked."""

    def __init__(self, settings: "Recording", backbone: Backbone, sequences: list[Sequence]):
        self.dtype, self.backbone, self.sequences = settings.dtype, backbone, sequences
        self.features_of_steps: list[list[Tensor]] = [[] for _ in sequences]
        self.last: list[Tensor] = []  # whole features of each branch
        batch, tokens = sequences[0].tokens.shape[0], len(sequences[0].positions)
        self.unmasked_at = torch.full((batch, tokens), -1, dtype=torch.int16, device=sequences[0].tokens.device)

    def features(self, step: Step) -> list[Tensor]:
        # A token that is masked now is unmasked by this step or a later one.
        self.unmasked_at.scatter_(1, step.masked, step.index)
        if step.new.shape[1] or not self.last:  # on a small canvas some steps unmask no token, and change nothing
            self.last = [self.backbone.features(s) for s in self.sequences]
        if self.dtype is not None:
            for kept, features in zip(self.features_of_steps, self.last):
                kept.append(features.to("cpu", self.dtype))
        return [at_positions(features, s.positions[step.masked]) for features, s in zip(self.last, self.sequences)]


class Recording:
    """The method to pass to the sampling loop; ``run`` is the one run that it starts.

    Args:
        dtype: to keep features in, on the CPU; None to keep none.
    """

    def __init__(self, dtype: torch.dtype | None):
        self.dtype = dtype
        self.run: RecordingRun | None = None

    def kinds(self, steps: int) -> list[str]:
        return ["recorded"] * steps  # none is skipped, as a full one might be

    def start(self, backbone: Backbone, sequences: list[Sequence], mask_ratios: list[float]) -> RecordingRun:
        """Raise a RuntimeError if it has a run already: the images were not sampled together, and that run is of some of them."""
        if self.run is not None:
            raise RuntimeError("This recording has a run already. Make one for each batch.")
        self.run = RecordingRun(self, backbone, sequences)
        return self.run
