"""Sampling with all branches of a run as one batch, and recording what the base computes on the way."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from ...canvas import Canvas
from ...sampling.backbone import Branch, Sequence, at_positions
from ...sampling.methods.method import Step
from ...sampling.schedules import full_steps


class Batched(Protocol):
    """A base model whose sequences, of any branch, have one length.

    Attributes:
        config, device, dtype: as a backbone's.
    """

    def sequence(self, branch: Branch, canvas: Canvas) -> Sequence: ...

    def code_logits(self, features: Tensor, positions: Tensor) -> Tensor: ...

    def branches(self, prompts: Tensor, unconditional: Tensor, guidance_scale: float) -> list[Branch]:
        """Guidance branches of prompts (B, P) and the prompt that says nothing (P,); one branch at scale 0."""

    def features_of(self, sequences: list[Sequence]) -> Tensor:
        """Of branches one after the other: (branches * B, T, d_model)."""

    def counted(self, sequences: list[Sequence]) -> Tensor:
        """Positions whose features mean something: bool (branches * B, T, 1)."""

    def predicted(self, head: nn.Module, features: Tensor, sequences: list[Sequence], new: Tensor, mask_ratio: float) -> Tensor:
        """What a head makes of the last step's features.

        Args:
            features: (branches * B, T, d_model).
            new: tokens that the last step unmasked, (B, n).
        """


@dataclass(frozen=True)
class BatchedShortcut:
    """The shortcut method (``sampling.methods.Shortcut``), and vanilla where there is no head; branches run as one batch.

    Attributes:
        recorder: called with each step and its true features (branches * B, T, d_model); every step then runs the base, too.
        divide_first: how full steps are rounded, see ``full_steps``.
    """

    head: nn.Module | None
    budget: int
    recorder: Callable[[Step, Tensor], None] | None = None
    divide_first: bool = False

    def full(self, steps: int) -> frozenset[int]:
        return frozenset(range(steps) if self.head is None else full_steps(steps, self.budget, self.divide_first))

    def kinds(self, steps: int) -> list[str]:
        if self.recorder is not None:
            return ["recorded"] * steps
        full = self.full(steps)
        return ["full" if step in full else "shortcut" for step in range(steps)]

    def start(self, model: Batched, sequences: list[Sequence], mask_ratios: list[float]) -> "BatchedShortcutRun":
        return BatchedShortcutRun(self, model, sequences, mask_ratios)


class BatchedShortcutRun:
    """The branches' last feature, true or predicted, (branches * B, T, d_model)."""

    def __init__(self, settings: BatchedShortcut, model: Batched, sequences: list[Sequence], mask_ratios: list[float]):
        self.settings, self.model, self.sequences, self.mask_ratios = settings, model, sequences, mask_ratios
        self.full = settings.full(len(mask_ratios))
        self.last: Tensor | None = None

    def features(self, step: Step) -> list[Tensor]:
        true = None
        if step.index in self.full or self.settings.recorder is not None:
            true = self.model.features_of(self.sequences)
            if self.settings.recorder is not None:
                self.settings.recorder(step, true)
        if step.index in self.full:
            self.last = true
        else:
            self.last = self.model.predicted(self.settings.head, self.last, self.sequences, step.new, self.mask_ratios[step.index])
        parts = self.last.chunk(len(self.sequences))
        return [at_positions(part, s.positions[step.masked]) for part, s in zip(parts, self.sequences)]


def compile_blocks(model: nn.Module) -> None:
    """Fuse each block with torch.compile. One compilation serves all of them, since their shapes are the same and never change."""
    for block in model.blocks:
        block.compile(dynamic=False)
