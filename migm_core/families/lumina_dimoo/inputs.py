"""From what users give to what the sampler takes: pictures to codes, masks to a canvas, and the result's size."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...canvas import Canvas
from ..request import Encode, TaskRequest
from .buckets import INPUTS, Size, buckets, sizes_for_reading
from .painting import Painting, PaintingArea, paint_in
from .pictures import alpha, prepare, read, to_pixels
from .tasks import Task

LARGE_PAINTING = 1.6  # of the largest area that the model was trained on, from where on a picture to paint in gets a note


@dataclass(frozen=True)
class Inputs:
    """A request's pictures, ready for the model.

    Attributes:
        pictures: as the model sees them, RGB.
        codes: of each, int64 (H, W).
        size: of the result in pixels, (width, height), where the pictures decide; else None.
        canvas: what to sample, of one image, where a part of a picture is generated; else None.
        notes: sentences for who should know what became of the pictures.
    """

    pictures: tuple[Image.Image, ...] = ()
    codes: tuple[Tensor, ...] = ()
    size: Size | None = None
    canvas: Canvas | None = None
    notes: tuple[str, ...] = ()
    area: PaintingArea | None = field(default=None, repr=False)

    def finish(self, image: Image.Image) -> Image.Image:
        """A generated picture as the user gets it."""
        return image if self.area is None else self.area.finish(image)


def as_list(pictures: Any) -> list:
    """Pictures as a list; one by itself is a list of it."""
    if pictures is None:
        return []
    return list(pictures) if isinstance(pictures, (list, tuple)) else [pictures]


def for_task(task: Task, request: TaskRequest, encode: Encode, downscale_factor: int, trained: Sequence[Size] = ()) -> Inputs:
    """A request's pictures for a task.

    Args:
        encode: by the model's image tokenizer.
        trained: the sizes that the model was trained for, where it says so; input pictures take the published buckets where not.

    Raises:
        ValueError: the task does not take these, or one of them is no picture.
    """
    given = as_list(request.pictures)
    task.check(request, len(given))
    if not given:
        return Inputs()
    if task.paints:
        return _to_paint(given[0], request.mask, Painting(**request.options), encode, downscale_factor, trained)
    sizes = trained or buckets(INPUTS)
    prepared = [prepare(picture, sizes, _name(index, len(given))) for index, picture in enumerate(given)]
    return Inputs(
        pictures=tuple(each.picture for each in prepared),
        codes=tuple(encode(each.pixels)[0] for each in prepared),
        size=prepared[-1].picture.size,
        notes=tuple(each.note for each in prepared if each.note),
    )


def for_reading(pictures: Any, encode: Encode, trained: Sequence[Size] = ()) -> Inputs:
    """Pictures for a question, each of a size by its area as in the published training.

    Args:
        pictures: none, one or a list.
        trained: as ``for_task``.

    Raises:
        ValueError: one of them is no picture.
    """
    given = as_list(pictures)
    prepared = []
    for index, picture in enumerate(given):
        name = _name(index, len(given))
        picture = read(picture, name)
        prepared.append(prepare(picture, trained or sizes_for_reading(picture.size, len(given) > 1), name))
    return Inputs(
        pictures=tuple(each.picture for each in prepared),
        codes=tuple(encode(each.pixels)[0] for each in prepared),
        notes=tuple(each.note for each in prepared if each.note),
    )


def _to_paint(picture: Any, mask: Any, painting: Painting, encode: Encode, downscale_factor: int, trained: Sequence[Size]) -> Inputs:
    area = paint_in(read(picture), alpha(picture) if mask is None else read_mask(mask), painting, downscale_factor)
    codes = encode(to_pixels(area.picture))
    width, height = area.picture.size
    largest = max((w * h for w, h in trained), default=1024 * 1024)
    notes = area.notes
    if width * height > LARGE_PAINTING * largest:
        times = f"{width * height / largest:.1f} times what the model was trained on"
        notes += (f"The picture has {width}x{height} pixels, {times}: scale it down for better and faster results.",)
    return Inputs((area.picture,), (codes[0],), (width, height), Canvas(codes, area.tokens[None].to(codes.device)), notes, area)


def read_mask(mask: Any) -> Tensor:
    """A mask as float32 (h, w) in 0..1, 1 where to generate: of a picture its brightness, or how transparent it is where it is that.

    Raises:
        ValueError: it is no mask.
    """
    if isinstance(mask, np.ndarray):
        mask = torch.tensor(mask)
    if isinstance(mask, Tensor) and mask.dim() == 3 and mask.shape[0] == 1:  # ComfyUI's
        mask = mask[0]
    if isinstance(mask, Tensor) and mask.dim() == 2:
        if not mask.numel():
            raise ValueError(f"The mask has the shape {tuple(mask.shape)}: it is empty.")
        if not mask.isfinite().all():
            raise ValueError("The mask holds values that are not finite (NaN or infinity). Check what made it.")
        values = mask.detach().cpu().float()
        return values / 255 if mask.dtype == torch.uint8 and values.max() > 1 else values
    transparent = alpha(mask, "The mask")
    if transparent is not None and transparent.any():
        return transparent
    grey = read(mask, "The mask", smallest=1).convert("L")
    return to_pixels(grey.convert("RGB"))[0, 0]


def _name(index: int, count: int) -> str:
    return "The picture" if count == 1 else f"Picture {index + 1}"
