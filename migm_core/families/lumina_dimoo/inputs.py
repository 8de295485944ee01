"""From what users give to what the sampler takes: pictures to codes, masks to a canvas, and the result's size."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ... import arguments
from ...canvas import Canvas
from ..request import Encode, TaskRequest, TaskSizes
from .buckets import INPUTS, Size, buckets, nearest, sizes_for_reading
from .painting import MAX_TOKENS, Painting, PaintingArea, paint_in
from .pictures import Read, of_array, prepare, prepare_read, size_for, to_pixels
from .sequence import image_length
from .tasks import Task

WORDS_OF_ITS_OWN = "The task {task} has words of its own: the prompt is not read."
MASKS_ITSELF = "The transparent parts of the picture are what is generated, since no mask is given."
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
    unread = (WORDS_OF_ITS_OWN.format(task=task.name),) if not task.takes_text and request.prompt.strip() else ()
    sizes = trained or buckets(INPUTS)
    prepared = [prepare(picture, sizes, _name(index, len(given))) for index, picture in enumerate(given)]
    return Inputs(
        pictures=tuple(each.picture for each in prepared),
        codes=tuple(encode(each.pixels)[0] for each in prepared),
        size=prepared[-1].picture.size,
        notes=unread + tuple(note for each in prepared for note in each.notes),
    )


def sizes_of(
    task: Task, pictures: Sequence[Size | None], trained: Sequence[Size], downscale_factor: int, text_scale: float, image_scale: float
) -> TaskSizes:
    """What the pictures of a task make of a run, as ``for_task`` would prepare them; arguments as for ``Family.task_sizes``."""
    known = [*pictures, *[None] * len(task.pictures)][: len(task.pictures)]
    seen = [nearest(size or (1, 1), tuple(trained or buckets(INPUTS))) for size in known]
    tokens = sum(image_length(height // downscale_factor, width // downscale_factor) for width, height in seen)
    scales = [(tokens, 1.0), (tokens, text_scale), (0, image_scale)]  # as ``tasks.image_guidance`` has its branches
    return TaskSizes(seen[-1], tokens, tuple(length for length, scale in scales if scale != 0))


def for_reading(pictures: Any, encode: Encode, downscale_factor: int, trained: Sequence[Size] = ()) -> Inputs:
    """Pictures for a question, each of a size by its area as in the published training.

    Args:
        pictures: none, one or a list.
        trained: as ``for_task``.

    Raises:
        ValueError: one of them is no picture, or they have more tokens than a pass may have.
    """
    given = as_list(pictures)
    sizes = trained or partial(sizes_for_reading, several=len(given) > 1)
    prepared, pixels = [], 0
    for index, picture in enumerate(given):
        was = Read.of(picture, _name(index, len(given)))
        size = size_for(was.picture.size, sizes)
        pixels += math.prod(size)
        if (tokens := pixels // downscale_factor**2) > MAX_TOKENS:  # before the picture is scaled to that
            raise ValueError(f"The {len(given)} pictures have at least {tokens:,} image tokens together; the limit is {MAX_TOKENS:,}. Ask about fewer at a time.")
        prepared.append(prepare_read(was, size))
    return Inputs(
        pictures=tuple(each.picture for each in prepared),
        codes=tuple(encode(each.pixels)[0] for each in prepared),
        notes=tuple(note for each in prepared for note in each.notes),
    )


def _to_paint(picture: Any, mask: Any, painting: Painting, encode: Encode, downscale_factor: int, trained: Sequence[Size]) -> Inputs:
    was = Read.of(picture)
    area = paint_in(was.picture, was.transparent if mask is None else read_mask(mask), painting, downscale_factor)
    codes = encode(to_pixels(area.picture))
    width, height = area.picture.size
    largest = max((w * h for w, h in trained), default=1024 * 1024)
    by_itself = mask is None and was.transparent is not None
    notes = ((MASKS_ITSELF, *was.of_depth) if by_itself else was.losses) + area.notes
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
        mask = of_array(mask, "The mask")
    if isinstance(mask, Tensor):
        arguments.tensor("The mask", mask)
        if mask.is_complex():
            raise ValueError("The mask holds complex numbers, expected numbers in 0..1.")
    if isinstance(mask, Tensor) and mask.dim() == 3 and mask.shape[0] == 1:  # ComfyUI's
        mask = mask[0]
    if isinstance(mask, Tensor) and mask.dim() == 2:
        if not mask.numel():
            raise ValueError(f"The mask has the shape {tuple(mask.shape)}: it is empty.")
        if not mask.isfinite().all():
            raise ValueError("The mask holds values that are not finite (NaN or infinity). Check what made it.")
        values = mask.detach().cpu().float()
        return values / 255 if mask.dtype == torch.uint8 and values.max() > 1 else values
    was = Read.of(mask, "The mask", smallest=1)
    return to_pixels(was.picture.convert("L").convert("RGB"))[0, 0] if was.transparent is None else was.transparent


def _name(index: int, count: int) -> str:
    return "The picture" if count == 1 else f"Picture {index + 1}"
