"""The canvas: a grid of image codes, some of them masked. It knows nothing of text, classes or vocabularies."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from . import arguments

MOST_TOKENS = 2**24  # of a batch; far more than any run takes


@dataclass(frozen=True)
class Canvas:
    """The image that is being generated, whether empty, encoded from pixels, partly masked or finished.

    Attributes:
        codes: image codes 0..K-1, int64 (B, H, W); without meaning where masked.
        masked: the tokens still to sample, bool (B, H, W).
    """

    codes: Tensor
    masked: Tensor

    def __post_init__(self):
        for name in ("codes", "masked"):
            arguments.tensor(f"The canvas's {name}", getattr(self, name), data=False)
        if self.codes.dtype != torch.int64:
            raise ValueError(f"The canvas's codes are of {self.codes.dtype}, expected torch.int64.")
        if self.codes.dim() != 3 or self.codes.shape != self.masked.shape or self.masked.dtype != torch.bool:
            raise ValueError(
                f"A canvas needs codes and a boolean mask of one shape (batch, height, width), "
                f"got {tuple(self.codes.shape)} and {tuple(self.masked.shape)} of {self.masked.dtype}."
            )
        if not self.codes.numel():
            raise ValueError(f"A canvas of the shape {tuple(self.codes.shape)} has no tokens, expected at least one image, row and column.")

    @classmethod
    def empty(cls, batch: int, height: int, width: int, device=None) -> "Canvas":
        """All tokens masked; height and width in tokens."""
        for name, value in (("batch", batch), ("height", height), ("width", width)):
            arguments.whole(name, value, 1, MOST_TOKENS)
        if batch * height * width > MOST_TOKENS:
            raise ValueError(f"A canvas of {batch} x {height} x {width} has {batch * height * width:,} tokens; the limit is {MOST_TOKENS:,}.")
        codes = torch.zeros(batch, height, width, dtype=torch.int64, device=device)
        return cls(codes, torch.ones_like(codes, dtype=torch.bool))

    @classmethod
    def stacked(cls, canvases: list["Canvas"]) -> "Canvas":
        """Canvases of one size as one batch.

        Raises:
            ValueError: there are none, or not of one size.
        """
        if not isinstance(canvases, (list, tuple)) or not canvases:
            raise ValueError(f"canvases is {arguments.shown(canvases)}, but must be a list with at least one Canvas.")
        for canvas in canvases:
            arguments.instance("One of canvases", canvas, Canvas)
        if len({canvas.shape[1:] for canvas in canvases}) > 1:
            raise ValueError(f"canvases are of several sizes, {' and '.join(str(canvas.shape[1:]) for canvas in canvases[:3])}, but one batch has one.")
        return cls(torch.cat([c.codes for c in canvases]), torch.cat([c.masked for c in canvases]))

    @property
    def shape(self) -> tuple[int, int, int]:
        """(B, H, W), in tokens."""
        return tuple(self.codes.shape)

    def to(self, device) -> "Canvas":
        return Canvas(self.codes.to(device), self.masked.to(device))

    def repeat(self, batch: int) -> "Canvas":
        """A canvas of one image, ``batch`` times."""
        arguments.whole("batch", batch, 1, MOST_TOKENS // self.codes.numel())
        return Canvas(self.codes.repeat(batch, 1, 1), self.masked.repeat(batch, 1, 1))

    def masked_with(self, mask: Tensor) -> "Canvas":
        """The same canvas with the tokens of ``mask``, bool and broadcastable to (B, H, W), masked too.

        Raises:
            ValueError: it is of another shape or kind.
        """
        mask = arguments.tensor("mask", mask)
        fits = mask.dim() <= 3 and all(one in (1, other) for one, other in zip(reversed(mask.shape), reversed(self.shape)))
        if mask.dtype != torch.bool or not fits:
            raise ValueError(f"mask has the shape {tuple(mask.shape)} and is of {mask.dtype}, but must be of torch.bool and fit a canvas {self.shape}.")
        return Canvas(self.codes, self.masked | mask)

    def varied(self, share: float, seed: int) -> "Canvas":
        """The same canvas with a share, 0 to 1, of each image's known tokens masked too. Seed + i chooses those of image i."""
        arguments.share("share", share)
        arguments.whole("seed", seed, 0, 2**64 - self.shape[0])
        masked = self.masked.flatten(1).clone()
        for image, of_image in enumerate(masked):
            known = (~of_image).nonzero()[:, 0].cpu()
            order = torch.randperm(len(known), generator=torch.Generator().manual_seed(seed + image))
            of_image[known[order[: round(share * len(known))]].to(of_image.device)] = True
        return Canvas(self.codes, masked.view(self.shape))

    def check_codes(self, codebook_size: int) -> None:
        """Raise a ValueError if a known token is no code of a codebook of that size."""
        arguments.whole("codebook_size", codebook_size, 1)
        arguments.tensor("The canvas's codes", self.codes)
        known = self.codes[~self.masked]
        if known.numel() and not 0 <= int(known.min()) <= int(known.max()) < codebook_size:
            wrong = int(known.min()) if known.min() < 0 else int(known.max())
            raise ValueError(
                f"The canvas holds the code {wrong}, but this model's codebook has {codebook_size:,} codes, from 0. "
                "Encode the image with the image tokenizer of this model."
            )


def check_canvas(canvas: Any, batch: int, codebook_size: int) -> None:
    """Raise a ValueError if it is no canvas for a run of ``batch`` images with a codebook of that size."""
    arguments.instance("canvas", canvas, Canvas)
    if canvas.shape[0] not in (1, batch):
        raise ValueError(f"The canvas holds {canvas.shape[0]} images; expected one, or {batch}, as many as are generated.")
    canvas.check_codes(codebook_size)


def scaled_mask(mask: tuple[int, int], picture: tuple[int, int]) -> str:
    """A sentence on a mask of another size than its picture, (width, height) each."""
    return f"The mask has {mask[0]}x{mask[1]} pixels and the picture {picture[0]}x{picture[1]}: the mask is scaled."


def read_as_white(name: str) -> str:
    """A sentence on a picture whose transparent parts are blended onto white; ``name`` is what messages call it."""
    return f"{name} has transparent parts: they are read as white."


def touched_tokens(mask: Tensor, height: int, width: int) -> Tensor:
    """Find the tokens that a mask of pixels touches: (B, h, w) in 0..1, of any size, to bool (B, height, width).

    One pixel at half strength or more marks its token.

    Raises:
        ValueError: the mask is of another shape or kind, or a size is no whole number above 0.
    """
    mask = arguments.mask("mask", mask)
    arguments.whole("height", height, 1, MOST_TOKENS)
    arguments.whole("width", width, 1, MOST_TOKENS)
    return F.adaptive_max_pool2d(mask.float()[:, None], (height, width))[:, 0] >= 0.5
