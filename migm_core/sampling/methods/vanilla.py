"""Vanilla: the base model at every step that unmasks something."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..backbone import Backbone, Sequence, at_positions
from .method import Method, Step


@dataclass(frozen=True)
class Vanilla(Method):
    name: ClassVar[str] = "vanilla"
    about: ClassVar[str] = "the base model at every step"

    def kinds(self, steps: int) -> list[str]:
        return ["full"] * steps

    def start(self, backbone: Backbone, sequences: list[Sequence], mask_ratios: list[float]) -> "VanillaRun":
        return VanillaRun(backbone, sequences)


@dataclass(frozen=True)
class VanillaRun:
    backbone: Backbone
    sequences: list[Sequence]

    def features(self, step: Step) -> list[Tensor]:
        return [at_positions(self.backbone.features(s), s.positions[step.masked]) for s in self.sequences[: step.branches]]
