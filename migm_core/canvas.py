"""The canvas: a grid of image codes, some of them still unknown. It knows nothing of text or vocabularies."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Canvas:
    """What is being drawn: empty, encoded from an image, partly masked or finished, all are one type.

    Attributes:
        codes: image codes 0..K-1, int64 (B, H, W); without meaning where unknown.
        unknown: the cells still to draw, bool (B, H, W).
    """

    codes: Tensor
    unknown: Tensor

    def __post_init__(self):
        if self.codes.dim() != 3 or self.codes.shape != self.unknown.shape or self.unknown.dtype != torch.bool:
            raise ValueError(
                f"A canvas needs codes and a boolean map of unknown cells of one shape (batch, height, width), "
                f"got {tuple(self.codes.shape)} and {tuple(self.unknown.shape)} of {self.unknown.dtype}."
            )

    @classmethod
    def empty(cls, batch: int, height: int, width: int, device=None) -> "Canvas":
        """All cells unknown; height and width in cells."""
        codes = torch.zeros(batch, height, width, dtype=torch.int64, device=device)
        return cls(codes, torch.ones_like(codes, dtype=torch.bool))

    @classmethod
    def stacked(cls, canvases: list["Canvas"]) -> "Canvas":
        """Canvases of one size as one batch."""
        return cls(torch.cat([c.codes for c in canvases]), torch.cat([c.unknown for c in canvases]))

    @property
    def shape(self) -> tuple[int, int, int]:
        """(B, H, W), in cells."""
        return tuple(self.codes.shape)

    def to(self, device) -> "Canvas":
        return Canvas(self.codes.to(device), self.unknown.to(device))

    def repeat(self, batch: int) -> "Canvas":
        """A canvas of one image, ``batch`` times."""
        return Canvas(self.codes.repeat(batch, 1, 1), self.unknown.repeat(batch, 1, 1))

    def masked_with(self, mask: Tensor) -> "Canvas":
        """The same canvas with the cells of ``mask``, bool and broadcastable to (B, H, W), unknown too."""
        return Canvas(self.codes, self.unknown | mask)

    def varied(self, share: float, seed: int) -> "Canvas":
        """The same canvas with a share, 0 to 1, of each image's known cells unknown too: image i's chosen by seed + i."""
        unknown = self.unknown.flatten(1).clone()
        for image, cells in enumerate(unknown):
            known = (~cells).nonzero()[:, 0].cpu()
            order = torch.randperm(len(known), generator=torch.Generator().manual_seed(seed + image))
            cells[known[order[: round(share * len(known))]].to(cells.device)] = True
        return Canvas(self.codes, unknown.view(self.shape))


def touched_cells(mask: Tensor, height: int, width: int) -> Tensor:
    """The cells that a mask of pixels touches: (B, h, w) in 0..1, of any size, to bool (B, height, width).

    One pixel at half strength or more marks its cell.
    """
    return F.adaptive_max_pool2d(mask.float()[:, None], (height, width))[:, 0] >= 0.5
