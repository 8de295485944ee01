"""The shortcut head: how the base model's feature changes in one step (MIGM-Shortcut, arXiv 2602.23996, section 4).

    f_{t+1} = f_t + S(f_t, tokens unmasked at step t, mask ratio)
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...modules.time_embedding import TimeEmbedder
from ...modules.transformer import Block, RMSNorm, Rotary
from .config import LuminaConfig


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

    def step_macs(self, positions: int) -> int:
        """Multiply-adds of one step. The tokens that are new at a step are few, so what is computed of them is left out."""

        def block(keys: int, seen: int) -> int:
            return self.width * (2 * self.width + 2 * keys) + 2 * seen * self.width + 3 * self.width * self.mlp_hidden_size

        ends = 2 * self.d_model * self.width if self.projects else 0
        reading = block(0, 0) if self.cross_attention else block(self.width, positions)
        return positions * (ends + self.n_blocks * (reading + block(self.width, positions)))


def head_for(base: LuminaConfig, bottleneck_ratio: float = 2, n_blocks: int = 1) -> ShortcutConfig:
    """The published architecture at a base's size.

    Raises:
        ValueError: a width that the base's heads, or their rotary pairs, do not divide, or one larger than the base's.
    """
    width, pairs = round(base.d_model / bottleneck_ratio) if bottleneck_ratio > 0 else 0, 2 * base.n_heads
    if not 0 < width <= base.d_model or width % pairs:
        nearest = min(max(round(width / pairs) * pairs, pairs), base.d_model)
        raise ValueError(
            f"The ratio {bottleneck_ratio:g} gives a head of width {width}, but a width must be a multiple of {pairs}, twice the base's heads, and at most "
            f"{base.d_model}. Choose for example {base.d_model / nearest:.4g}."
        )
    return ShortcutConfig(
        d_model=base.d_model,
        n_heads=base.n_heads,
        mlp_hidden_size=base.mlp_hidden_size,
        rms_norm_eps=base.rms_norm_eps,
        rope_theta=base.rope_theta,
        n_blocks=n_blocks,
        bottleneck_ratio=bottleneck_ratio,
    )


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
        factory_kwargs = {"dtype": dtype, "device": device}
        if config.projects:
            self.proj_in = operations.Linear(d_model, width, **factory_kwargs)
            self.proj_out = operations.Linear(width, d_model, **factory_kwargs)
            if config.cross_attention:
                self.new_token_proj_in = operations.Linear(d_model, width, **factory_kwargs)
        sizes = (width, config.n_heads, config.n_heads, config.mlp_hidden_size, config.rms_norm_eps)
        self.blocks = nn.ModuleList(HeadBlock(*sizes, operations=operations, **factory_kwargs) for _ in range(config.n_blocks))
        self.ln_f = RMSNorm(width, config.rms_norm_eps, **factory_kwargs)
        if config.time_embedding:
            self.time_embedder = TimeEmbedder(width, operations=operations, **factory_kwargs)
            self.adaLN_modulation = operations.Linear(width, 2 * width, **factory_kwargs)

    def tables(self, length: int, device: torch.device) -> Rotary:
        """Rotary tables for positions 0..length-1: made once a run and passed to every call."""
        head_dim = self.config.width // self.config.n_heads
        return Rotary.at(torch.arange(length, device=device), head_dim, self.config.rope_theta)

    def forward(self, features: Tensor, new_tokens: Tensor, new_positions: Tensor, mask_ratio: Tensor, tables: Rotary) -> Tensor:
        """One shortcut step.

        Args:
            features: the last step's, (B, T, d_model).
            new_tokens: the base's embeddings of the tokens unmasked at the last step, (B, n, d_model), in sequence order.
            new_positions: where they stand, int64 (B, n). n may be 0.
            mask_ratio: masked before this step over masked at the start, (B,).
            tables: from ``tables(T, device)``.

        Returns:
            The predicted features, (B, T, d_model).
        """
        return self.step(features, new_tokens, new_positions, self.modulation(mask_ratio, features.dtype), tables)

    def modulation(self, mask_ratio: Tensor, dtype: torch.dtype) -> Tensor | None:
        """What the mask ratio does to the output, (B,) to (B, 1, 2 * width); a run makes it for all its steps at once."""
        if not self.config.time_embedding:
            return None
        return self.adaLN_modulation(self.time_embedder(1000 * mask_ratio, dtype)).unsqueeze(1)

    def step(self, features: Tensor, new_tokens: Tensor, new_positions: Tensor, modulation: Tensor | None, tables: Rotary) -> Tensor:
        """``forward`` with the rows of ``modulation`` instead of the mask ratio."""
        x, context = features, new_tokens
        if self.config.projects:
            x = self.proj_in(x)
        if not self.config.cross_attention:
            context, context_rotary = None, None
        else:
            if self.config.projects:
                context = self.new_token_proj_in(context)
            context_rotary = tables.rows(new_positions)
        for block in self.blocks:
            x = block.cross_attn(x, tables, context=context, context_rotary=context_rotary)
            x = block.self_attn(x, tables)
        x = self.ln_f(x)
        if self.config.time_embedding:
            scale, shift = modulation.chunk(2, dim=-1)
            x = x * (1 + scale) + shift
        if self.config.projects:
            x = self.proj_out(x)
        return features + x
