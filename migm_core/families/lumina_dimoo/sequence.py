"""A canvas as token sequences, each behind the prompt of its guidance branch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...canvas import Canvas
from ...sampling.backbone import Branch
from .config import TokenLayout

if TYPE_CHECKING:
    from .backbone import Lumina


class LuminaSequence:
    """A branch's tokens during a run: prompt, boa, boi, rows of image tokens each with a newline, eoi, eoa.

    Attributes:
        tokens: int64 (B, T), kept up to date by ``unmask``.
        positions: where each token of the canvas stands in the sequence, in reading order, int64 (H * W,).
        weight: as the branch's.
        context: positions of the prompt where the head reads it, int64 (P,) or (0,).
        prompt_length: positions before boa.
        rotary: the base's tables for positions 0..T-1.
    """

    def __init__(self, branch: Branch, canvas: Canvas, model: Lumina):
        layout = model.config.tokens
        device = canvas.codes.device
        batch, height, width = canvas.shape
        prompt = branch.prompt.to(device)
        if prompt.dim() == 1:
            prompt = prompt.expand(batch, -1)
        self.layout = layout
        self.weight = branch.weight
        self.prompt_length = prompt.shape[1]
        self.context = torch.arange(self.prompt_length if branch.prompt_visible else 0, device=device)

        def column(*ids: int) -> Tensor:
            return torch.cat([prompt.new_full((batch, 1), each) for each in ids], 1)  # a tensor of Python's numbers would wait for the device

        grid = torch.where(canvas.masked, layout.mask, canvas.codes + layout.image_codes)
        rows = torch.cat([grid, column(layout.newline).unsqueeze(1).expand(-1, height, -1)], dim=2).flatten(1)
        self.tokens = torch.cat([prompt, column(layout.boa, layout.boi), rows, column(layout.eoi, layout.eoa)], dim=1)
        token = torch.arange(height * width, device=device)
        self.positions = self.prompt_length + 2 + token + torch.div(token, width, rounding_mode="floor")
        self.rotary = model.rotary(self.tokens.shape[1], device)

    @property
    def length(self) -> int:
        return self.tokens.shape[1]

    def unmask(self, where: Tensor, codes: Tensor) -> None:
        """Write codes (B, n) at tokens of the canvas (B, n), indices in reading order."""
        self.tokens.scatter_(1, self.positions[where], codes + self.layout.image_codes)


def image_length(rows: int, columns: int) -> int:
    """Tokens of an input image in a prompt."""
    return rows * (columns + 1) + 2


def image_tokens(codes: Tensor, layout: TokenLayout) -> Tensor:
    """Turn an input image's codes (H, W) into prompt tokens: boi, rows with newlines, eoi; int64 (H * (W + 1) + 2,)."""
    newlines = codes.new_full((codes.shape[0], 1), layout.newline)
    rows = torch.cat([codes + layout.image_codes, newlines], dim=1).flatten()
    return torch.cat([codes.new_tensor([layout.boi]), rows, codes.new_tensor([layout.eoi])])
