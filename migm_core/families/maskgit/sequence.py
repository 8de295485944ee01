"""A guidance branch's tokens during a run: the image tokens row by row, then the class token."""

import torch
from torch import Tensor

from ...canvas import Canvas
from ...sampling.backbone import Branch
from .config import MaskGitConfig


class Sequence:
    """A branch's tokens during a run.

    Attributes:
        tokens: int64 (B, L + 1), kept up to date by ``unmask``.
        positions: where each canvas token stands in the sequence, int64 (L,): where it stands in reading order.
        weight: of the branch's logits in the guided sum.
        context: positions that the head reads at every step beside the new tokens: none, int64 (0,).

    Raises:
        ValueError: the canvas is of another size than the model's.
    """

    def __init__(self, branch: Branch, canvas: Canvas, config: MaskGitConfig):
        batch, height, width = canvas.shape
        if (height, width) != (config.grid, config.grid):
            raise ValueError(f"The canvas has {width}x{height} tokens, but this MaskGIT model samples {config.grid}x{config.grid}. Make the canvas that size.")
        device = canvas.codes.device
        grid = torch.where(canvas.masked, config.mask, canvas.codes).flatten(1)
        class_token = branch.prompt.to(device).expand(batch, 1)
        self.tokens = torch.cat([grid, class_token], dim=1)
        self.positions = torch.arange(config.tokens, device=device)
        self.weight = branch.weight
        self.context = self.positions[:0]

    @property
    def length(self) -> int:
        return self.tokens.shape[1]

    def unmask(self, where: Tensor, codes: Tensor) -> None:
        """Write codes (B, n) at the canvas tokens (B, n), indices in reading order."""
        self.tokens.scatter_(1, where, codes)
