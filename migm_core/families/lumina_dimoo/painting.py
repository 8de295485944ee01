"""Inpainting and outpainting: which tokens of a picture to generate anew, and how the result joins what was there."""

from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ...arguments import shown
from ...canvas import scaled_mask, touched_tokens
from ...sampling.setting import check_settings, choice, setting
from ...settings import MAX_TOKENS
from .buckets import Size

MAX_REACH = 8192  # to grow, fade or extend by
MOSTLY, TOUCHED = "mostly", "touched"


def squeezed_size(size: Size, downscale_factor: int) -> Size:
    """The multiples of the factor below a picture's sides.

    Raises:
        ValueError: there are none, or more than a run may have.
    """
    width, height = (side // downscale_factor * downscale_factor for side in size)
    if width * height > MAX_TOKENS * downscale_factor**2:
        raise ValueError(f"The picture has {size[0]}x{size[1]} pixels, {width * height // downscale_factor**2:,} image tokens; the limit is {MAX_TOKENS:,}. Make it smaller first.")
    if not width or not height:
        raise ValueError(
            f"The picture has {size[0]}x{size[1]} pixels; a single token of this model covers {downscale_factor}x{downscale_factor}. Use a larger picture."
        )
    return width, height


def squeeze(picture: Image.Image, downscale_factor: int) -> Image.Image:
    """A picture with its sides at the multiples of the factor below, each side scaled by itself, as published."""
    return picture.resize(squeezed_size(picture.size, downscale_factor), Image.Resampling.LANCZOS)


def squeezed(size: Size, to: Size) -> str:
    """A sentence on a picture that was squeezed, (width, height) before and after."""
    return f"The picture is scaled from {size[0]}x{size[1]} to {to[0]}x{to[1]} pixels, whole tokens: all of its pixels change slightly. Crop it to that size to keep them."


def masked_tokens(mask: Tensor, downscale_factor: int, rule: str = TOUCHED) -> Tensor:
    """The tokens that a mask of pixels takes: (B, h, w) in 0..1, sides multiples of the factor, to bool (B, H, W).

    Args:
        rule: "touched" or "mostly".

    Raises:
        ValueError: there is no such rule.
    """
    if rule == TOUCHED:
        return touched_tokens(mask, mask.shape[1] // downscale_factor, mask.shape[2] // downscale_factor)
    if rule == MOSTLY:
        return F.avg_pool2d(mask.double()[:, None], downscale_factor)[:, 0] > 0.5
    raise ValueError(f"mask_rule is {rule!r}, expected {TOUCHED} or {MOSTLY}.")


@dataclass(frozen=True)
class Painting:
    """How a part of a picture is generated anew, or more of it beyond its borders.

    Attributes:
        mask_rule: which tokens the mask takes, "touched" or "mostly".
        grow: pixels by which the mask grows on all sides.
        grow_tokens: tokens by which what is generated grows on all sides.
        feather: pixels over which the result fades into the picture, outside the mask; all of them are generated, too.
        blend: whether the picture's own pixels come back outside the mask. Otherwise all of the result went through the image tokenizer, as
            published, which changes known pixels slightly.
        extend: pixels to add at the left, top, right and bottom. Where any are, a few more fill up both sides to whole tokens.
    """

    mask_rule: str = choice(TOUCHED, (TOUCHED, MOSTLY), "which tokens the mask takes: those that it touches, or as published those that it covers by more than half")
    grow: int = setting(0, 0, MAX_REACH, "pixels by which the mask grows on all sides")
    grow_tokens: int = setting(0, 0, MAX_REACH, "tokens by which what is generated grows on all sides")
    feather: int = setting(0, 0, MAX_REACH, "pixels over which the result fades into the picture, outside the mask")
    blend: bool = choice(True, (True, False), "the picture's own pixels come back outside the mask; otherwise they change slightly, as published")
    extend: tuple[int, int, int, int] = field(default=(0, 0, 0, 0), metadata={"about": "pixels to add at the left, top, right and bottom"})

    def __post_init__(self):
        """Raise a ValueError that names the first setting out of its range."""
        check_settings(self, ("extend",))
        if isinstance(self.extend, list):
            object.__setattr__(self, "extend", tuple(self.extend))
        if not isinstance(self.extend, tuple) or len(self.extend) != 4 or not all(type(side) is int and 0 <= side <= MAX_REACH for side in self.extend):
            raise ValueError(f"extend is {shown(self.extend)}, expected four whole numbers of pixels from 0 to {MAX_REACH}: left, top, right, bottom.")


@dataclass(frozen=True)
class PaintingArea:
    """A picture to paint in, and where.

    Attributes:
        picture: RGB, its sides multiples of the downscale factor.
        tokens: to generate, bool (H, W).
        alpha: share of the result in each pixel, float32 (h, w); None where all of it is the result.
        notes: sentences for who should know what became of the picture and the mask.
    """

    picture: Image.Image
    tokens: Tensor
    alpha: Tensor | None
    notes: tuple[str, ...] = ()

    def finish(self, result: Image.Image) -> Image.Image:
        """A generated picture with the pixels that were to stay."""
        if self.alpha is None:
            return result
        ours, theirs = (torch.from_numpy(np.array(image)).float() for image in (self.picture, result))
        mixed = torch.lerp(ours, theirs, self.alpha[..., None])
        return Image.fromarray(mixed.round().to(torch.uint8).numpy())


def paint_in(picture: Image.Image, mask: Tensor | None, settings: Painting, downscale_factor: int) -> PaintingArea:
    """Prepare a picture: extend it, squeeze it, and find the tokens to generate.

    Args:
        picture: RGB.
        mask: what to generate, (h, w) in 0..1, finite, of any size; None for what an extension adds alone.

    Raises:
        ValueError: there is nothing to generate.
    """
    notes = []
    if mask is None and not any(settings.extend):
        raise ValueError("There is nothing to paint: give a mask, a picture with transparent parts, or pixels to extend it by.")
    if mask is None:
        mask = torch.zeros(picture.height, picture.width)
    given, size = (mask.shape[1], mask.shape[0]), picture.size
    if given != size:
        notes.append(scaled_mask(given, size))
    picture, area = _extended(picture, _scaled(mask, size, settings.mask_rule), settings.extend, downscale_factor)
    size, picture = picture.size, squeeze(picture, downscale_factor)
    if picture.size != size:
        notes.append(squeezed(size, picture.size))
    area = _grown(_scaled(area, picture.size, settings.mask_rule), settings.grow)
    if settings.grow_tokens:
        tokens = masked_tokens(area[None], downscale_factor, settings.mask_rule)[0]
        area = torch.maximum(area, _on_pixels(_grown(tokens.float(), settings.grow_tokens), downscale_factor))
    tokens = masked_tokens(_grown(area, settings.feather)[None], downscale_factor, settings.mask_rule)[0]
    if not tokens.any():
        why = "is empty" if not area.any() else "is too faint"
        if area.any() and settings.mask_rule == MOSTLY:
            why = f"covers no token by more than half, which mask_rule {TOUCHED} does not ask for"
        raise ValueError(f"The mask {why}: nothing would be generated. Mark what to generate.")
    if tokens.all():
        notes.append("The mask takes all of the picture: nothing of it is left to go by.")
    alpha = None
    if settings.blend:
        reach = settings.feather // 2
        alpha = _blurred(_grown(area, settings.feather - reach), reach) * _on_pixels(tokens, downscale_factor)
    return PaintingArea(picture, tokens, alpha, tuple(notes))


def _extended(picture: Image.Image, mask: Tensor, extend: tuple[int, int, int, int], downscale_factor: int) -> tuple[Image.Image, Tensor]:
    """A picture with its borders continued, and the mask (h, w) with what is added marked.

    What is generated is masked, but the encoder of its neighbours sees it: so it continues the picture instead of being black.
    """
    if not any(extend):
        return picture, mask
    left, top, right, bottom = extend
    # Whole tokens on both axes, so that the picture need not be squeezed: where it is extended anyway, else at its right or bottom.
    fill_width, fill_height = -(picture.width + left + right) % downscale_factor, -(picture.height + top + bottom) % downscale_factor
    left, right = (left + fill_width, right) if left and not right else (left, right + fill_width)
    top, bottom = (top + fill_height, bottom) if top and not bottom else (top, bottom + fill_height)
    tokens = (picture.width + left + right) * (picture.height + top + bottom) // downscale_factor**2
    if tokens > MAX_TOKENS:
        raise ValueError(f"The extended picture has {tokens:,} image tokens; the limit is {MAX_TOKENS:,}. Extend it by less.")
    pixels = np.pad(np.array(picture), ((top, bottom), (left, right), (0, 0)), mode="edge")
    return Image.fromarray(pixels), F.pad(mask, (left, right, top, bottom), value=1.0)


def _on_pixels(tokens: Tensor, downscale_factor: int) -> Tensor:
    """(H, W) to (h, w), each token on all of its pixels."""
    return tokens.repeat_interleave(downscale_factor, 0).repeat_interleave(downscale_factor, 1)


def _scaled(mask: Tensor, size: Size, rule: str) -> Tensor:
    """A mask (h, w) of any size, to one of a size (width, height): where tokens are touched, so that no mark is lost; else by its mean."""
    pool = F.adaptive_max_pool2d if rule == TOUCHED else F.adaptive_avg_pool2d
    return pool(mask.float().clamp(0, 1)[None, None], (size[1], size[0]))[0, 0]


def _grown(mask: Tensor, reach: int) -> Tensor:
    """The largest value within a square of 2 * reach + 1 around each of (h, w)."""
    for _ in range(2):  # down, then across
        mask = _largest(mask.T, reach)
    return mask


def _largest(rows: Tensor, reach: int) -> Tensor:
    """The largest within reach along each row. A window of twice the length is the larger of two: so a wide one takes few passes."""
    reach = min(reach, rows.shape[1])
    largest, length, wanted = F.pad(rows, (reach, reach)), 1, 2 * reach + 1
    while length < wanted:
        step = min(length, wanted - length)
        largest, length = torch.maximum(largest[:, :-step], largest[:, step:]), length + step
    return largest


def _blurred(mask: Tensor, reach: int) -> Tensor:
    """The mean within such a square, borders continued."""
    for _ in range(2):
        rows = mask.T
        reach_here = min(reach, rows.shape[1])
        summed = F.pad(rows[None], (reach_here, reach_here), mode="replicate")[0].double().cumsum(1)
        summed = F.pad(summed, (1, 0))
        mask = ((summed[:, 2 * reach_here + 1 :] - summed[:, : -2 * reach_here - 1]) / (2 * reach_here + 1)).float()
    return mask
