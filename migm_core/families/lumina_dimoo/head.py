"""Lumina-DiMOO's shortcut head: how the base model's feature changes in one step (MIGM-Shortcut, arXiv 2602.23996, section 4)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...modules.residual_head import ResidualHead, ResidualHeadConfig
from ...modules.transformer import Block, RMSNorm, Rotary
from .config import LuminaConfig


@dataclass(frozen=True)
class ShortcutConfig(ResidualHeadConfig):
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

    def step_macs(self, positions: int, read: int = 0) -> int:
        """Multiply-adds of one step, see ``sampling.backbone.HeadConfig``."""

        def block(keys: int, seen: int) -> int:
            return self.width * (2 * self.width + 2 * keys) + 2 * seen * self.width + 3 * self.width * self.mlp_hidden_size

        ends = 2 * self.d_model * self.width if self.projects else 0
        reading = block(0, read) if self.cross_attention else block(self.width, positions)
        of_read = read * (ends // 2 + self.n_blocks * 2 * self.width**2) if self.cross_attention else 0  # projected, then keys and values
        return positions * (ends + self.n_blocks * (reading + block(self.width, positions))) + of_read


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


class ShortcutHead(ResidualHead):
    """Predict the next step's feature."""

    def add_blocks(self, *, operations, **factory_kwargs) -> None:
        config = self.config
        sizes = (config.width, config.n_heads, config.n_heads, config.mlp_hidden_size, config.rms_norm_eps)
        self.blocks = nn.ModuleList(HeadBlock(*sizes, operations=operations, **factory_kwargs) for _ in range(config.n_blocks))
        self.ln_f = RMSNorm(config.width, config.rms_norm_eps, **factory_kwargs)

    def tables(self, length: int, device: torch.device) -> Rotary:
        """Rotary tables for positions 0..length-1: made once a run and passed to every call."""
        head_dim = self.config.width // self.config.n_heads
        return Rotary.at(torch.arange(length, device=device), head_dim, self.config.rope_theta)

    def read(self, x: Tensor, new_tokens: Tensor, new_positions: Tensor, tables: Rotary) -> Tensor:
        context, context_rotary = None, None  # without cross attention the feature reads itself
        if self.config.cross_attention:
            context = self.new_token_proj_in(new_tokens) if self.config.projects else new_tokens
            context_rotary = tables.rows(new_positions)
        for block in self.blocks:
            x = block.cross_attn(x, tables, context=context, context_rotary=context_rotary)
            x = block.self_attn(x, tables)
        return self.ln_f(x)
