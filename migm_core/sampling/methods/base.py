"""The seam between the sampling loop and the methods: settings that start a run, and a run that gives features."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from ...models.lumina import Lumina
from ..sequence import Sequence


@dataclass(frozen=True)
class Step:
    """Where the loop stands before a step.

    Attributes:
        index: 0..steps-1.
        masked: cells still unknown, int64 (B, m), ascending.
        fixed: cells fixed by the previous step, int64 (B, n), ascending; n = 0 before the first.
    """

    index: int
    masked: Tensor
    fixed: Tensor


class MethodRun(Protocol):
    """The state of one run; it dies with it."""

    def features(self, step: Step) -> list[Tensor]:
        """Per branch, the features at the masked cells, (B, m, d_model). At a full step they follow from the tokens alone."""


class Method(Protocol):
    """A method's settings, reusable and without state."""

    def kinds(self, steps: int) -> list[str]:
        """Of each step of a run: "full" where the base model computes all features, else "shortcut" or "partial"."""

    def start(self, model: Lumina, sequences: list[Sequence], mask_ratios: list[float]) -> MethodRun:
        """Begin a run of ``len(mask_ratios)`` steps: each step's unknown cells over those at the start."""


def at_cells(features: Tensor, sequence: Sequence, cells: Tensor) -> Tensor:
    """Features (B, T, d) of a whole sequence at some cells (B, n): (B, n, d)."""
    return rows(features, sequence.cells[cells])


def rows(features: Tensor, positions: Tensor) -> Tensor:
    """Features (B, T, d) at positions (B, n): (B, n, d)."""
    return features.gather(1, positions.unsqueeze(-1).expand(-1, -1, features.shape[-1]))
