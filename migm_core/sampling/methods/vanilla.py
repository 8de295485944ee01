"""Vanilla: the base model at every step that unmasks something."""

from dataclasses import dataclass

from torch import Tensor

from ...models.lumina import Lumina
from ..sequence import Sequence
from .base import Step, at_cells


@dataclass(frozen=True)
class Vanilla:
    def kinds(self, steps: int) -> list[str]:
        return ["full"] * steps

    def start(self, model: Lumina, sequences: list[Sequence], mask_ratios: list[float]) -> "VanillaRun":
        return VanillaRun(model, sequences)


@dataclass(frozen=True)
class VanillaRun:
    model: Lumina
    sequences: list[Sequence]

    def features(self, step: Step) -> list[Tensor]:
        return [at_cells(self.model.features(s.tokens, s.rotary), s, step.masked) for s in self.sequences]
