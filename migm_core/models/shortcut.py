"""The shortcut head: how the base model's feature moves in one step (MIGM-Shortcut, arXiv 2602.23996, section 4).

    f_{t+1} = f_t + S(f_t, tokens newly fixed at step t, mask ratio)
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .transformer import Block, RMSNorm, Rotary

TIME_FREQUENCIES = 128


@dataclass(frozen=True)
class ShortcutConfig:
    """Architecture of a head.

    ``n_heads``, ``rms_norm_eps`` and ``rope_theta`` are the base's: the head's own file does not tell them.
    """

    d_model: int
    n_heads: int
    mlp_hidden_size: int
    rms_norm_eps: float = 1e-5
    rope_theta: float = 500000.0
    n_blocks: int = 1
    bottleneck_ratio: float = 2
    time_embedding: bool = True
    cross_attention: bool = True

    @property
    def width(self) -> int:
        """Width of the head's residual stream."""
        return round(self.d_model / self.bottleneck_ratio)

    @property
    def projects(self) -> bool:
        return self.width != self.d_model


class TimeEmbedder(nn.Module):
    """Sinusoids of a scalar through two layers: (B,) to (B, size)."""

    def __init__(self, size: int, *, dtype, device, operations):
        super().__init__()
        inputs = 2 * TIME_FREQUENCIES
        hidden = round(math.sqrt(inputs * size))
        place = {"dtype": dtype, "device": device}
        self.mlp = nn.Sequential(
            operations.Linear(inputs, hidden, **place), nn.SiLU(), operations.Linear(hidden, size, **place)
        )

    def forward(self, time: Tensor, dtype: torch.dtype) -> Tensor:
        exponents = torch.arange(TIME_FREQUENCIES, device=time.device, dtype=torch.float32) / TIME_FREQUENCIES
        angles = time.float()[:, None] * torch.exp(-math.log(10000) * exponents)
        return self.mlp(torch.cat([angles.cos(), angles.sin()], dim=-1).to(dtype))


class HeadBlock(nn.Module):
    """The feature reads the new tokens (or, in the ablation, itself), then itself."""

    def __init__(self, *args, **kw):
        super().__init__()
        self.cross_attn = Block(*args, **kw)
        self.self_attn = Block(*args, **kw)


class ShortcutHead(nn.Module):
    """Predict the next step's feature.

    Args:
        config: architecture.
        dtype, device: of the parameters.
        operations: namespace with Linear; torch.nn by default.
    """

    def __init__(self, config: ShortcutConfig, *, dtype=None, device=None, operations=nn):
        super().__init__()
        self.config = config
        width, d_model = config.width, config.d_model
        place = {"dtype": dtype, "device": device}
        if config.projects:
            self.proj_in = operations.Linear(d_model, width, **place)
            self.proj_out = operations.Linear(width, d_model, **place)
            if config.cross_attention:
                self.new_token_proj_in = operations.Linear(d_model, width, **place)
        sizes = (width, config.n_heads, config.n_heads, config.mlp_hidden_size, config.rms_norm_eps)
        self.blocks = nn.ModuleList(HeadBlock(*sizes, operations=operations, **place) for _ in range(config.n_blocks))
        self.ln_f = RMSNorm(width, config.rms_norm_eps, **place)
        if config.time_embedding:
            self.time_embedder = TimeEmbedder(width, operations=operations, **place)
            self.adaLN_modulation = operations.Linear(width, 2 * width, **place)

    def rotary(self, length: int, device: torch.device) -> Rotary:
        """Tables for positions 0..length-1: made once a run and passed to every call."""
        head_dim = self.config.width // self.config.n_heads
        return Rotary.at(torch.arange(length, device=device), head_dim, self.config.rope_theta)

    def forward(self, features: Tensor, new_tokens: Tensor, new_positions: Tensor, mask_ratio: Tensor, rotary: Rotary) -> Tensor:
        """One shortcut step.

        Args:
            features: the last step's, (B, T, d_model).
            new_tokens: the base's embeddings of the tokens fixed at the last step, (B, n, d_model), in sequence order.
            new_positions: where they stand, int64 (B, n). n may be 0.
            mask_ratio: masked before this step over masked at the start, (B,).
            rotary: tables from ``rotary(T, device)``.

        Returns:
            The predicted features, (B, T, d_model).
        """
        return self.step(features, new_tokens, new_positions, self.modulation(mask_ratio, features.dtype), rotary)

    def modulation(self, mask_ratio: Tensor, dtype: torch.dtype) -> Tensor | None:
        """What the mask ratio does to the output, (B,) to (B, 1, 2 * width); a run makes it for all its steps at once."""
        if not self.config.time_embedding:
            return None
        return self.adaLN_modulation(self.time_embedder(1000 * mask_ratio, dtype)).unsqueeze(1)

    def step(self, features: Tensor, new_tokens: Tensor, new_positions: Tensor, modulation: Tensor | None, rotary: Rotary) -> Tensor:
        """``forward`` with the rows of ``modulation`` in place of the mask ratio."""
        x, context = features, new_tokens
        if self.config.projects:
            x = self.proj_in(x)
        if not self.config.cross_attention:
            context, context_rotary = None, None
        else:
            if self.config.projects:
                context = self.new_token_proj_in(context)
            context_rotary = rotary.rows(new_positions)
        for block in self.blocks:
            x = block.cross_attn(x, rotary, context=context, context_rotary=context_rotary)
            x = block.self_attn(x, rotary)
        x = self.ln_f(x)
        if self.config.time_embedding:
            scale, shift = modulation.chunk(2, dim=-1)
            x = x * (1 + scale) + shift
        if self.config.projects:
            x = self.proj_out(x)
        return features + x
