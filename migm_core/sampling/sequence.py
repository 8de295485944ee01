"""Guidance branches: a canvas seen as token sequences, each behind its own prompt."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..canvas import Canvas
from ..config import TokenLayout
from ..models.lumina import Lumina


@dataclass(frozen=True)
class Branch:
    """One guidance branch of a run.

    Attributes:
        prompt: token ids of everything before the answer, int64 (P,), or (B, P) for one prompt an image.
        weight: of its logits in the guided sum.
        prompt_visible: whether the shortcut head reads the prompt at every step beside the newly fixed tokens.
    """

    prompt: Tensor
    weight: float
    prompt_visible: bool = True


def text_guidance(prompt: Tensor, unconditional: Tensor, guidance: float) -> list[Branch]:
    """Branches whose weighted sum is (1 + g) * conditional - g * unconditional; one branch where g is 0."""
    branches = [Branch(prompt, 1 + guidance), Branch(unconditional, -guidance, prompt_visible=False)]
    return [branch for branch in branches if branch.weight != 0]


def image_guidance(
    prompt: Tensor, without_text: Tensor, without_image: Tensor, text_guidance: float, image_guidance: float
) -> list[Branch]:
    """Branches for image to image: c + s_txt (c - u_txt) + s_img (c - u_img)."""
    branches = [
        Branch(prompt, 1 + text_guidance + image_guidance),
        Branch(without_text, -text_guidance, prompt_visible=False),
        Branch(without_image, -image_guidance, prompt_visible=False),
    ]
    return [branch for branch in branches if branch.weight != 0]


class Sequence:
    """A branch's tokens during a run: prompt, boa, boi, rows of cells each with a newline, eoi, eoa.

    Attributes:
        tokens: int64 (B, T), kept up to date by ``fix``.
        cells: position in the sequence of each cell of the canvas in reading order, int64 (H * W,).
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
        self.prompt_visible = branch.prompt_visible
        self.prompt_length = prompt.shape[1]

        def column(*ids: int) -> Tensor:
            return torch.tensor(ids, device=device).expand(batch, -1)

        grid = torch.where(canvas.unknown, layout.mask, canvas.codes + layout.image_codes)
        rows = torch.cat([grid, column(layout.newline).unsqueeze(1).expand(-1, height, -1)], dim=2).flatten(1)
        self.tokens = torch.cat([prompt, column(layout.boa, layout.boi), rows, column(layout.eoi, layout.eoa)], dim=1)
        cell = torch.arange(height * width, device=device)
        self.cells = self.prompt_length + 2 + cell + torch.div(cell, width, rounding_mode="floor")
        self.rotary = model.rotary(self.tokens.shape[1], device)

    @property
    def length(self) -> int:
        return self.tokens.shape[1]

    def fix(self, cells: Tensor, codes: Tensor) -> None:
        """Write codes (B, n) into cells (B, n), indices in reading order."""
        self.tokens.scatter_(1, self.cells[cells], codes + self.layout.image_codes)


def image_tokens(codes: Tensor, layout: TokenLayout) -> Tensor:
    """An input image as prompt tokens: codes (H, W) to boi, rows with newlines, eoi, int64 (H * (W + 1) + 2,)."""
    newlines = codes.new_full((codes.shape[0], 1), layout.newline)
    rows = torch.cat([codes + layout.image_codes, newlines], dim=1).flatten()
    return torch.cat([codes.new_tensor([layout.boi]), rows, codes.new_tensor([layout.eoi])])
