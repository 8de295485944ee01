"""Pictures as users have them, to pictures as the model reads them: upright, opaque, 8-bit RGB, of one of its sizes."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ... import arguments
from ...canvas import read_as_white
from ...writing import one_line
from .buckets import WIDEST, Fit, Size, nearest

BRIGHT = 2  # mean of numbers that are meant to be 0..255; a picture with a wide range has some far above 1, and few
SMALLEST = 16  # pixels a side, those of one image token
MAX_PIXELS = 2**26  # of an input picture: up to 1 GB while it is read, which makes copies
_DEPTH = 257  # values of 16 bits to one of 8
_BY_PROGRAMS = ("EPS", "WMF")
_GREYS = {"L;2": 85, "L;4": 17}  # raw modes of fewer bits, and how many values of 8 bits one of them stands for
_DEEP = ("I;16", "I;16B", "I;16L", "I;16N", "I")  # Pillow's greys of 16 bits, the last of 32, which it gives older files of 16


@dataclass(frozen=True)
class Prepared:
    """A picture as the model reads it.

    Attributes:
        picture: RGB, its sides multiples of 16.
        note: a sentence for who should know how much of it was cut off; empty where that is little.
        losses: sentences on what else of it the model does not see, see ``Read``.
    """

    picture: Image.Image
    note: str = ""
    losses: tuple[str, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        return (*self.losses, *([self.note] if self.note else []))

    @property
    def pixels(self) -> Tensor:
        return to_pixels(self.picture)


def prepare(picture: Any, sizes: Sequence[Size] | Callable[[Size], Sequence[Size]], name: str = "The picture") -> Prepared:
    """Scale a picture and crop it around its middle to that of the sizes that is nearest in aspect ratio.

    Args:
        picture: as ``read`` takes it.
        sizes: or what says them for the picture's own size.
        name: for messages, such as "Picture 2".

    Raises:
        ValueError: as ``read``.
    """
    was = Read.of(picture, name)
    return prepare_read(was, size_for(was.picture.size, sizes))


def size_for(picture: Size, sizes: Sequence[Size] | Callable[[Size], Sequence[Size]]) -> Size:
    """The size that a picture is scaled and cropped to; ``sizes`` as for ``prepare``."""
    return nearest(picture, tuple(sizes(picture) if callable(sizes) else sizes))


def prepare_read(was: "Read", size: Size) -> Prepared:
    """Scale a picture that is read, and crop it around its middle to a size.

    A picture past 4:1 is cropped to the ratio before it is scaled: the published order would make 512x256000 of 2x1000.
    """
    picture = was.picture
    whole, note = picture.size, ""
    if max(whole) > WIDEST * min(whole):
        picture = _middle(picture, size)
        share = picture.width * picture.height / (whole[0] * whole[1])
        if share < 0.9:
            note = f"{was.name} has {whole[0]}x{whole[1]} pixels, but the model takes pictures up to {WIDEST}:1: only its middle, {share:.0%}, is used."
    return Prepared(fit(picture, Fit.of(picture.size, size)), note, was.losses)


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


@dataclass(frozen=True)
class Read:
    """A picture as it was given, and as it is read: upright, opaque, 8-bit RGB.

    Transparent parts are blended onto white, as in the model's training; 16 bits are scaled to 8.

    Attributes:
        picture: RGB.
        transparent: share of white in each pixel, float32 (h, w); None where there is none.
        deep: whether it has more than 8 bits a channel.
        name: for messages.
    """

    picture: Image.Image
    transparent: Tensor | None
    deep: bool
    name: str

    @classmethod
    def of(cls, picture: Any, name: str = "The picture", smallest: int = SMALLEST) -> "Read":
        """Arguments and errors as ``read``."""
        image, deep = _opened(picture, name, smallest)
        _check_size(image.size, name, smallest)
        deep = deep or image.mode in (*_DEEP, "F")
        image = _of_8_bits(image, name)
        transparent = _transparency(image)
        seen = None if transparent is None or not transparent.any() else transparent
        return cls(_opaque(image), seen, deep, name)

    @property
    def losses(self) -> tuple[str, ...]:
        """What the model does not see of it, a sentence each."""
        return (*([read_as_white(self.name)] if self.transparent is not None else []), *self.of_depth)

    @property
    def of_depth(self) -> tuple[str, ...]:
        return (f"{self.name} has more than 8 bits a channel: it is read with 8.",) if self.deep else ()


def read(picture: Any, name: str = "The picture", smallest: int = SMALLEST) -> Image.Image:
    """An upright, opaque 8-bit RGB picture of whatever users give, see ``Read``.

    Args:
        picture: a PIL image, a path, or pixels (h, w), (h, w, 1), (h, w, 3) or (h, w, 4): a tensor or an array, of bytes or of numbers in 0..1.
        smallest: pixels that it needs along each side.

    Raises:
        ValueError: it is no picture, too small or too large, or holds what is no number.
    """
    return Read.of(picture, name, smallest).picture


def _of_8_bits(image: Image.Image, name: str) -> Image.Image:
    """A grey of more bits with 8, and with an alpha channel where one of its values is said to be transparent; others as they are."""
    if image.mode == "F":
        return _of_numbers(torch.tensor(np.array(image)), name)
    if image.mode not in _DEEP:
        return image
    values = np.asarray(image)
    grey = Image.fromarray((values / _DEPTH).round().clip(0, 255).astype(np.uint8))
    if not isinstance(colour := image.info.get("transparency"), int):
        return grey
    opaque = np.where(values == colour, 0, 255).astype(np.uint8)
    return Image.merge("LA", (grey, Image.fromarray(opaque)))


def _opaque(image: Image.Image) -> Image.Image:
    if _has_alpha(image):
        image = _with_alpha(image)
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def _with_alpha(image: Image.Image) -> Image.Image:
    """As RGBA; Pillow converts greys with premultiplied transparency by way of plain ones only."""
    return (image.convert("LA") if image.mode == "La" else image).convert("RGBA")


def _has_alpha(image: Image.Image) -> bool:
    return image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info


def _transparency(image: Image.Image) -> Tensor | None:
    if not _has_alpha(image):
        return None
    opaque = torch.from_numpy(np.asarray(_with_alpha(image).getchannel("A"), dtype=np.float32)) / 255
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


def _opened(picture: Any, name: str, smallest: int = 1) -> tuple[Image.Image, bool]:
    """A picture in its own mode, upright; and whether that mode holds fewer bits than were given."""
    if isinstance(picture, (str, Path)):
        return _of_file(Path(picture), name, smallest)
    if isinstance(picture, Image.Image):
        _check_size(picture.size, name, smallest)
        try:
            return _upright(picture)
        except Exception as error:  # one that is not loaded yet may be damaged, or closed
            raise ValueError(one_line(f"{name} cannot be read: {str(error).rstrip('.')}.")) from None
    deep = False
    if isinstance(picture, np.ndarray):
        deep, picture = picture.dtype.kind == "u" and picture.dtype.itemsize == 2, of_array(picture, name)
    if isinstance(picture, Tensor):
        return _of_numbers(arguments.tensor(name, picture).detach().cpu(), name), deep
    raise ValueError(f"{name} is {type(picture).__name__}, expected a PIL image, a path, or pixels as a tensor or an array.")


def _of_file(path: Path, name: str, smallest: int) -> tuple[Image.Image, bool]:
    try:
        if not path.exists():
            raise ValueError(one_line(f"{name}, {path}, does not exist."))
        if not path.is_file():  # a pipe would be waited for
            raise ValueError(one_line(f"{name}, {path}, is a folder, a device or a pipe. Give the path of a picture."))
        with Image.open(path, formats=_formats()) as picture:
            _check_size(picture.size, one_line(f"{name}, {path},"), smallest)
            return _upright(picture)
    except Exception as error:  # what Pillow's readers raise of a damaged file is of many kinds
        if isinstance(error, ValueError) and str(error).startswith(name):
            raise
        said = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
        raise ValueError(one_line(f"{name}, {path}, cannot be read as a picture: {said.rstrip('.')}.")) from None


def _upright(picture: Image.Image) -> tuple[Image.Image, bool]:
    """A picture as its camera held it; and whether its file has more bits than its mode."""
    # What a file holds is in the reader's raw mode, such as RGB;16B. Pillow has no colours of 16 bits: it reads them with 8.
    raw = " ".join(str(tile[3]) for tile in getattr(picture, "tile", ()))
    upright = ImageOps.exif_transpose(picture)
    # A PNG names its transparent colour in the file's own bits, and Pillow hands that on beside pixels of 8.
    colour = upright.info.get("transparency")
    if raw in _GREYS and isinstance(colour, int):
        upright.info["transparency"] = colour * _GREYS[raw]
    elif upright.mode == "RGB" and isinstance(colour, tuple) and (";16" in raw or max(colour) > 255):
        upright.info["transparency"] = tuple(value >> 8 for value in colour)
    return upright, ";16" in raw


@cache
def _formats() -> list[str]:
    """Pillow's formats but those that it hands to another program, such as Ghostscript, which would run what the file says."""
    Image.init()
    return [each for each in Image.ID if each not in _BY_PROGRAMS]


def of_array(array: np.ndarray, name: str) -> Tensor:
    """An array of numbers as a tensor.

    Raises:
        ValueError: it holds something else.
    """
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{name} is an array of {str(array.dtype)[:80]}, expected numbers.")
    if array.dtype.kind == "u" and array.dtype.itemsize == 2:
        array = array.astype(np.float32) / (255 * _DEPTH)
    native = np.float64 if array.dtype.kind == "f" and array.dtype.itemsize > 8 else array.dtype.newbyteorder("=")
    return torch.tensor(np.ascontiguousarray(array, dtype=native))


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
        if values.numel() and (mean := float(values.float().mean())) > BRIGHT:
            raise ValueError(f"{name} holds numbers of {mean:.3g} on average, expected 0..1. Divide them by 255, or give bytes.")
        values = (values.float().clamp(0, 1) * 255).round().to(torch.uint8)
    if values.dtype != torch.uint8:
        raise ValueError(f"{name} holds numbers of type {str(values.dtype).removeprefix('torch.')}, expected bytes or floating point in 0..1.")
    if 0 in values.shape:
        raise ValueError(f"{name} has the shape {shape}: it is empty.")
    return Image.fromarray(values.numpy().squeeze(-1) if values.shape[-1] == 1 else values.numpy())
