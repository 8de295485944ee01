"""Pictures as users have them, to pictures as the model reads them: upright, opaque, 8-bit RGB, of one of its sizes."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from .buckets import WIDEST, Fit, Size, nearest

SMALLEST = 16  # pixels a side, those of one image token
MAX_PIXELS = 2**28  # of an input picture: 768 MB in RGB
_DEPTH = 257  # values of 16 bits to one of 8
_DEEP = ("I;16", "I;16B", "I;16L", "I;16N", "I")  # Pillow's greys of 16 bits, the last of 32, which it gives older files of 16


@dataclass(frozen=True)
class Prepared:
    """A picture as the model reads it.

    Attributes:
        picture: RGB, its sides multiples of 16.
        note: a sentence for who should know how much of it was lost; empty where that is little.
    """

    picture: Image.Image
    note: str = ""

    @property
    def pixels(self) -> Tensor:
        return to_pixels(self.picture)


def prepare(picture: Any, sizes: Sequence[Size], name: str = "The picture") -> Prepared:
    """Scale a picture and crop it around its middle to that of the sizes that is nearest in aspect ratio.

    A picture past 4:1 is cropped to the ratio before it is scaled: the published order would make 512x256000 of 2x1000.

    Args:
        picture: as ``read`` takes it.
        name: for messages, such as "Picture 2".

    Raises:
        ValueError: as ``read``.
    """
    picture = read(picture, name)
    size = nearest(picture.size, tuple(sizes))
    whole, note = picture.size, ""
    if max(whole) > WIDEST * min(whole):
        picture = _middle(picture, size)
        share = picture.width * picture.height / (whole[0] * whole[1])
        if share < 0.9:
            note = f"{name} has {whole[0]}x{whole[1]} pixels, but the model takes pictures up to {WIDEST}:1: only its middle, {share:.0%}, is used."
    return Prepared(fit(picture, Fit.of(picture.size, size)), note)


def fit(picture: Image.Image, how: Fit, chance: random.Random | None = None) -> Image.Image:
    """Halve, scale and crop a picture in its own mode."""
    for size in how.halvings:
        picture = picture.resize(size, Image.Resampling.BOX)
    return picture.resize(how.scaled, Image.Resampling.BICUBIC).crop(how.box(chance))


def _middle(picture: Image.Image, size: Size) -> Image.Image:
    """The middle of a picture, as much of it as has the aspect ratio of a size."""
    scale = min(picture.width / size[0], picture.height / size[1])
    width, height = max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
    left, top = (picture.width - width) // 2, (picture.height - height) // 2
    return picture.crop((left, top, left + width, top + height))


def read(picture: Any, name: str = "The picture", smallest: int = SMALLEST) -> Image.Image:
    """An upright, opaque 8-bit RGB picture of whatever users give.

    Transparent parts are blended onto white, as in the model's training; 16-bit greys are scaled to 8.

    Args:
        picture: a PIL image, a path, or pixels (h, w), (h, w, 1), (h, w, 3) or (h, w, 4): a tensor or an array, of bytes or of numbers in 0..1.
        smallest: pixels that it needs along each side.

    Raises:
        ValueError: it is no picture, too small or too large, or holds what is no number.
    """
    image = _opened(picture, name)
    _check_size(image.size, name, smallest)
    if image.mode in _DEEP:
        grey = np.asarray(image, dtype=np.float64) / _DEPTH
        image = Image.fromarray(grey.round().clip(0, 255).astype(np.uint8))
    if image.mode == "F":
        image = _of_numbers(torch.tensor(np.array(image)), name)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def alpha(picture: Any, name: str = "The picture") -> Tensor | None:
    """How transparent a picture is, float32 (h, w) in 0..1; None for one that has no transparency: so a picture brings its own mask."""
    image = _opened(picture, name)
    if image.mode not in ("RGBA", "LA", "PA", "La", "RGBa") and "transparency" not in image.info:
        return None
    opaque = torch.from_numpy(np.asarray(image.convert("RGBA").getchannel("A"), dtype=np.float32)) / 255
    return 1 - opaque


def _check_size(size: Size, name: str, smallest: int) -> None:
    width, height = size
    if min(size) < smallest:
        raise ValueError(f"{name} has {width}x{height} pixels, but needs at least {smallest} along each side, those of an image token. Use a larger one.")
    if width * height > MAX_PIXELS:
        raise ValueError(f"{name} has {width}x{height} pixels; the limit is {MAX_PIXELS:,} in all. Make it smaller first.")


def to_pixels(image: Image.Image) -> Tensor:
    """An RGB image to float32 (1, 3, h, w) in 0..1."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255


def _opened(picture: Any, name: str) -> Image.Image:
    """A picture in its own mode, upright."""
    if isinstance(picture, (str, Path)):
        path = Path(picture)
        try:
            picture = Image.open(path)
            picture.load()
        except FileNotFoundError:
            raise ValueError(f"{name}, {path}, does not exist.") from None
        except (UnidentifiedImageError, Image.DecompressionBombError, OSError, ValueError, SyntaxError) as error:
            raise ValueError(f"{name}, {path}, cannot be read as a picture: {str(error).rstrip('.')}.") from None
    if isinstance(picture, Image.Image):
        return ImageOps.exif_transpose(picture)
    if isinstance(picture, np.ndarray):
        if picture.dtype == np.uint16:
            picture = picture.astype(np.float32) / (255 * _DEPTH)
        elif picture.dtype.kind not in "biuf":
            raise ValueError(f"{name} is an array of {picture.dtype}, expected numbers.")
        return _of_numbers(torch.tensor(picture), name)
    if isinstance(picture, Tensor):
        return _of_numbers(picture.detach().cpu(), name)
    raise ValueError(f"{name} is {type(picture).__name__}, expected a PIL image, a path, or pixels as a tensor or an array.")


def _of_numbers(values: Tensor, name: str) -> Image.Image:
    shape = tuple(values.shape)
    if values.dim() == 4 and shape[0] == 1:
        values = values[0]
    if values.dim() == 2:
        values = values[..., None]
    if values.dim() != 3 or values.shape[-1] not in (1, 3, 4):
        raise ValueError(f"{name} has the shape {shape}, expected (height, width, 3) for RGB, 4 with alpha, or 1 for grey.")
    if values.is_floating_point():
        if not values.isfinite().all():
            raise ValueError(f"{name} holds values that are not finite (NaN or infinity). Check what made it.")
        values = (values.float().clamp(0, 1) * 255).round().to(torch.uint8)
    if values.dtype != torch.uint8:
        raise ValueError(f"{name} holds numbers of type {str(values.dtype).removeprefix('torch.')}, expected bytes or floating point in 0..1.")
    if 0 in values.shape:
        raise ValueError(f"{name} has the shape {shape}: it is empty.")
    return Image.fromarray(values.numpy().squeeze(-1) if values.shape[-1] == 1 else values.numpy())
