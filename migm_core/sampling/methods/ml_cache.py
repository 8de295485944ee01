"""ML-Cache, which ships with Lumina-DiMOO: between full steps only the least certain positions are recomputed."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...models.lumina import Lumina
from ...models.transformer import KeyValueCache
from ..sequence import Sequence
from .base import Step, at_cells


@dataclass(frozen=True)
class MLCache:
    """Settings of the method.

    Attributes:
        warmup: share of the steps that are full at the start.
        interval: a full step every so many steps after that.
        ratio: share of the positions that keep their features at a partial step.
    """

    warmup: float = 0.3
    interval: int = 5
    ratio: float = 0.9

    def __post_init__(self):
        if not 0 <= self.warmup <= 1:
            raise ValueError(f"warmup is {self.warmup}, but must be from 0 to 1: a share of the steps.")
        if self.interval < 1:
            raise ValueError(f"interval is {self.interval}, but must be at least 1 step.")
        if not 0 <= self.ratio <= 1:
            raise ValueError(f"ratio is {self.ratio}, but must be from 0 to 1: a share of the positions.")

    def is_full(self, index: int, steps: int) -> bool:
        warmup = int(steps * self.warmup)
        return index <= warmup or (index - warmup) % self.interval == 0

    def kinds(self, steps: int) -> list[str]:
        return ["full" if self.is_full(step, steps) else "partial" for step in range(steps)]

    def recomputed(self, length: int) -> int:
        """How many of ``length`` values lie at or below their (1 - ratio) quantile, barring ties.

        In float32, as the published quantile is.
        """
        return int(np.floor(np.float32(1 - self.ratio) * np.float32(length - 1))) + 1

    def start(self, model: Lumina, sequences: list[Sequence], mask_ratios: list[float]) -> "MLCacheRun":
        return MLCacheRun(self, model, sequences, len(mask_ratios))


class MLCacheRun:
    """Per branch: keys and values, features (B, T, d_model), and each position's largest code logit (B, T)."""

    def __init__(self, settings: MLCache, model: Lumina, sequences: list[Sequence], steps: int):
        self.settings, self.model, self.sequences, self.steps = settings, model, sequences, steps
        self.caches: list[KeyValueCache] = []
        self.last: list[Tensor] = []
        self.certainty: list[Tensor] = []

    def features(self, step: Step) -> list[Tensor]:
        if self.settings.is_full(step.index, self.steps):
            self._compute_all()
        else:
            for branch in range(len(self.sequences)):
                self._recompute_uncertain(branch)
        return [at_cells(last, s, step.masked) for last, s in zip(self.last, self.sequences)]

    def _compute_all(self) -> None:
        self.caches, self.last = [KeyValueCache() for _ in self.sequences], []  # what they held is gone before the new comes
        self.last = [
            self.model.features(s.tokens, s.rotary, cache) for s, cache in zip(self.sequences, self.caches)
        ]
        self.certainty = [self._largest_logit(last) for last in self.last]

    def _recompute_uncertain(self, branch: int) -> None:
        sequence, last, certainty = self.sequences[branch], self.last[branch], self.certainty[branch]
        count = self.settings.recomputed(sequence.length)
        positions = certainty.argsort(dim=1, stable=True)[:, :count].sort(dim=1).values
        fresh = self.model.features_at(sequence.tokens, positions, sequence.rotary, self.caches[branch])
        last.scatter_(1, positions.unsqueeze(-1).expand_as(fresh), fresh)
        certainty.scatter_(1, positions, self._largest_logit(fresh))

    def _largest_logit(self, features: Tensor) -> Tensor:
        """(B, T, d_model) to (B, T), in pieces: the logits of a whole sequence are larger than the run needs at once."""
        return torch.cat([self.model.code_logits(piece).amax(-1) for piece in features.split(512, dim=1)], dim=1)
