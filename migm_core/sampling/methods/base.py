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
        mask_ratio: m over the number of cells unknown at the start.
    """

    index: int
    masked: Tensor
    fixed: Tensor
    mask_ratio: float


class MethodRun(Protocol):
    """The state of one run; it dies with it."""

    def kind(self, index: int) -> str:
        """"full", "shortcut" or "partial": what step ``index`` is."""

    def features(self, step: Step) -> list[Tensor]:
        """Per branch, the features at the masked cells, (B, m, d_model)."""


class Method(Protocol):
    """A method's settings, reusable and without state."""

    def start(self, model: Lumina, sequences: list[Sequence], steps: int) -> MethodRun: ...


def at_cells(features: Tensor, sequence: Sequence, cells: Tensor) -> Tensor:
    """Features (B, T, d) of a whole sequence at some cells (B, n): (B, n, d)."""
    return rows(features, sequence.cells[cells])


def rows(features: Tensor, positions: Tensor) -> Tensor:
    """Features (B, T, d) at positions (B, n): (B, n, d)."""
    return features.gather(1, positions.unsqueeze(-1).expand(-1, -1, features.shape[-1]))
