"""The outline of a shortcut head, which all families share (MIGM-Shortcut, arXiv 2602.23996, section 4).

    f_{t+1} = f_t + S(f_t, tokens unmasked at step t, mask ratio)
"""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from .time_embedding import TimeEmbedder


class ResidualHeadConfig:
    """What the configs of all families' heads share.

    Attributes:
        d_model: width of the base's features.
        bottleneck_ratio: how many times narrower the head is.
        time_embedding: whether it is told the mask ratio; cross_attention: whether it reads the new tokens.
    """

    d_model: int
    bottleneck_ratio: float
    time_embedding: bool
    cross_attention: bool = True

    @property
    def width(self) -> int:
        """Width of the head's residual stream."""
        return round(self.d_model / self.bottleneck_ratio)

    @property
    def projects(self) -> bool:
        return self.width != self.d_model


class ResidualHead(nn.Module, ABC):
    """Predict the next step's feature: at a smaller width where ``config.projects``, scaled and shifted by the mask ratio where ``config.time_embedding``.

    A family's head defines ``add_blocks`` and ``read``.

    Args:
        config: architecture.
        dtype, device: of the parameters.
        operations: namespace with Linear; torch.nn by default.
    """

    def __init__(self, config: ResidualHeadConfig, *, dtype=None, device=None, operations=nn):
        super().__init__()
        self.config = config
        width, factory_kwargs = config.width, {"dtype": dtype, "device": device}
        if config.projects:
            self.proj_in = operations.Linear(config.d_model, width, **factory_kwargs)
            self.proj_out = operations.Linear(width, config.d_model, **factory_kwargs)
            if config.cross_attention:
                self.new_token_proj_in = operations.Linear(config.d_model, width, **factory_kwargs)
        self.add_blocks(operations=operations, **factory_kwargs)
        if config.time_embedding:
            self.time_embedder = TimeEmbedder(width, operations=operations, **factory_kwargs)
            self.adaLN_modulation = operations.Linear(width, 2 * width, **factory_kwargs)

    def forward(self, features: Tensor, new_tokens: Tensor, new_positions: Tensor, mask_ratio: Tensor, tables: Any = None) -> Tensor:
        """One shortcut step.

        Args:
            features: the last step's, (B, T, d_model).
            new_tokens: the base's embeddings of the tokens unmasked at the last step, (B, n, d_model), in sequence order.
            new_positions: where they stand, int64 (B, n). n may be 0.
            mask_ratio: masked tokens before this step over those that the family's rule counts, (B,).
            tables: from ``tables(T, device)``.

        Returns:
            The predicted features, (B, T, d_model).
        """
        return self.step(features, new_tokens, new_positions, self.modulation(mask_ratio, features.dtype), tables)

    def modulation(self, mask_ratio: Tensor, dtype: torch.dtype) -> Tensor | None:
        """Scale and shift of the output by the mask ratio, (B,) to (B, 1, 2 * width); a run makes it for all its steps at once."""
        if not self.config.time_embedding:
            return None
        return self.adaLN_modulation(self.time_embedder(1000 * mask_ratio, dtype)).unsqueeze(1)

    def step(self, features: Tensor, new_tokens: Tensor, new_positions: Tensor, modulation: Tensor | None, tables: Any = None) -> Tensor:
        """``forward`` with the rows of ``modulation`` in place of the mask ratio."""
        x = self.proj_in(features) if self.config.projects else features
        x = self.read(x, new_tokens, new_positions, tables)
        if modulation is not None:
            scale, shift = modulation.chunk(2, dim=-1)
            x = x * (1 + scale) + shift
        return features + (self.proj_out(x) if self.config.projects else x)

    @abstractmethod
    def add_blocks(self, *, dtype, device, operations) -> None:
        """Make the blocks and the last norm."""

    @abstractmethod
    def read(self, x: Tensor, new_tokens: Tensor, new_positions: Tensor, tables: Any) -> Tensor:
        """What the blocks and the last norm make of a feature (B, T, width) and the new tokens (B, n, d_model): (B, T, width)."""
