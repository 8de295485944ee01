"""ML-Cache, which ships with Lumina-DiMOO: between full steps only the least certain positions are recomputed."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ...modules.transformer import KeyValueCache
from ..backbone import Backbone, BackboneConfig, HeadConfig, Sequence, at_positions
from ..setting import setting
from .method import Method, Step


@dataclass(frozen=True)
class MLCache(Method):
    """Settings of the method.

    Attributes:
        warmup: share of the steps that are full at the start.
        interval: a full step every so many steps after that.
        ratio: share of the positions that keep their features at a partial step.
    """

    name: ClassVar[str] = "ml-cache"
    about: ClassVar[str] = "the base model at every step, but at most of them for the least certain positions only"
    own_steps: ClassVar[Mapping[str, str]] = MappingProxyType({"partial": "The model runs for some tokens, and the cache gives the rest."})
    compiles: ClassVar[bool] = False  # its passes write into a cache, and each layer would be compiled for itself

    warmup: float = setting(0.3, 0, 1, "share of the steps that are full at the start")
    interval: int = setting(5, 1, 1024, "a full step every so many steps after the warm-up")
    ratio: float = setting(0.9, 0, 1, "share of the positions that keep their features at a partial step")

    def is_full(self, index: int, steps: int) -> bool:
        warmup = int(steps * self.warmup)
        return index <= warmup or (index - warmup) % self.interval == 0

    def kinds(self, steps: int) -> list[str]:
        return ["full" if self.is_full(step, steps) else "partial" for step in range(steps)]

    def recomputed(self, length: int) -> int:
        """How many of ``length`` distinct values lie at or below their (1 - ratio) quantile, computed in float32 as published.
        """
        return int(np.floor(np.float32(1 - self.ratio) * np.float32(length - 1))) + 1

    def start(self, backbone: Backbone, sequences: list[Sequence], mask_ratios: list[float]) -> "MLCacheRun":
        return MLCacheRun(self, backbone, sequences, len(mask_ratios))

    def kept_bytes(self, config: BackboneConfig, dtype: torch.dtype, lengths: list[int]) -> int:
        return sum(lengths) * config.width * dtype.itemsize + config.cache_bytes(sum(lengths), dtype)

    def step_macs(self, kind: str, config: BackboneConfig, head: HeadConfig | None, positions: int) -> int:
        recomputed = self.recomputed(positions)
        return config.pass_macs(recomputed, positions) + recomputed * config.width * config.codebook_size


class MLCacheRun:
    """Per branch: keys and values, features (B, T, width), and each position's largest code logit (B, T)."""

    def __init__(self, settings: MLCache, backbone: Backbone, sequences: list[Sequence], steps: int):
        self.settings, self.backbone, self.sequences, self.steps = settings, backbone, sequences, steps
        self.caches: list[KeyValueCache] = []
        self.last: list[Tensor] = []
        self.certainty: list[Tensor] = []

    def features(self, step: Step) -> list[Tensor]:
        if self.settings.is_full(step.index, self.steps):
            self._compute_all()
        else:
            for branch in range(len(self.sequences)):
                self._recompute_uncertain(branch)
        return [at_positions(last, s.positions[step.masked]) for last, s in zip(self.last, self.sequences)]

    def _compute_all(self) -> None:
        self.caches, self.last = [KeyValueCache() for _ in self.sequences], []  # freed before the new ones are computed
        self.last = [self.backbone.features(s, cache) for s, cache in zip(self.sequences, self.caches)]
        self.certainty = [self._largest_logit(last, self._everywhere(s)) for last, s in zip(self.last, self.sequences)]

    def _recompute_uncertain(self, branch: int) -> None:
        sequence, last, certainty = self.sequences[branch], self.last[branch], self.certainty[branch]
        count = self.settings.recomputed(sequence.length)
        positions = certainty.argsort(dim=1, stable=True)[:, :count].sort(dim=1).values
        fresh = self.backbone.features_at(sequence, positions, self.caches[branch])
        last.scatter_(1, positions.unsqueeze(-1).expand_as(fresh), fresh)
        certainty.scatter_(1, positions, self._largest_logit(fresh, positions))

    def _largest_logit(self, features: Tensor, positions: Tensor) -> Tensor:
        """Features (B, n, width) at positions (B, n) to each one's largest code logit, (B, n); in pieces, to keep memory low."""
        pieces = zip(features.split(512, dim=1), positions.split(512, dim=1))
        return torch.cat([self.backbone.code_logits(piece, there).amax(-1) for piece, there in pieces], dim=1)

    @staticmethod
    def _everywhere(sequence: Sequence) -> Tensor:
        """All positions of a sequence, int64 (B, T)."""
        return torch.arange(sequence.length, device=sequence.tokens.device).expand(len(sequence.tokens), -1)
