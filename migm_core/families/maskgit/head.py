"""MaskGIT's shortcut head: how the base model's feature changes in one step (MIGM-Shortcut, arXiv 2602.23996, section 4)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...modules.residual_head import ResidualHead, ResidualHeadConfig
from .config import layer_macs
from .layers import Attention, FeedForward, OutputLayer


@dataclass(frozen=True)
class MaskGitHeadConfig(ResidualHeadConfig):
    """Architecture of a head. ``n_heads`` is the base's: the head's own file does not tell it."""

    d_model: int
    n_heads: int
    n_blocks: int = 1
    bottleneck_ratio: float = 2
    time_embedding: bool = True

    def __post_init__(self):
        if self.width < 1 or self.width % self.n_heads:
            raise ValueError(f"a head of width {self.width}, d_model {self.d_model} / bottleneck_ratio {self.bottleneck_ratio:g}, does not divide into n_heads {self.n_heads}")

    def step_macs(self, positions: int, read: int = 0) -> int:
        """Multiply-adds of one step, see ``sampling.backbone.HeadConfig``. There is no prompt to read."""
        ends = 2 * self.d_model * self.width if self.projects else 0
        reading = 2 * self.width**2 + 8 * self.width**2  # queries, the projection of what attention gives, the MLP
        block = reading + layer_macs(self.width, 4 * self.width, positions)
        return positions * (ends + self.n_blocks * block + self.width**2)


class HeadBlock(nn.Module):
    """The feature reads the new tokens, then itself.

    Norms act on queries only. Keys and values come from the raw new tokens, and from the raw feature. The published head was trained so.
    """

    def __init__(self, width: int, n_heads: int, **kw):
        super().__init__()
        self.cross_attn = Attention(width, n_heads, **kw)
        self.cross_attn_ff = FeedForward(width, 4 * width, **kw)
        self.self_attn = Attention(width, n_heads, **kw)
        self.self_attn_ff = FeedForward(width, 4 * width, **kw)

    def forward(self, x: Tensor, new_tokens: Tensor) -> Tensor:
        if new_tokens.shape[1]:  # else there is nothing to read
            x = x + self.cross_attn(self.cross_attn.norm(x), new_tokens, varying=True)
        x = x + self.cross_attn_ff(x)
        x = x + self.self_attn(self.self_attn.norm(x), x)
        return x + self.self_attn_ff(x)


class MaskGitHead(ResidualHead):
    """Predict the next step's feature."""

    def add_blocks(self, **kw) -> None:
        self.blocks = nn.ModuleList(HeadBlock(self.config.width, self.config.n_heads, **kw) for _ in range(self.config.n_blocks))
        self.last_layer = OutputLayer(self.config.width, **kw)

    def tables(self, length: int, device: torch.device) -> None:
        """Nothing to make once a run: positions come with the embeddings."""

    def read(self, x: Tensor, new_tokens: Tensor, new_positions: Tensor, tables: None) -> Tensor:
        context = self.new_token_proj_in(new_tokens) if self.config.projects else new_tokens
        for block in self.blocks:
            x = block(x, context)
        return self.last_layer(x)
