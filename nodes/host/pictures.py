"""Pictures to canvases and back, by an image tokenizer that the host has placed."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import comfy.model_management
import numpy as np
import torch
from comfy_execution.graph_utils import ExecutionBlocker
from PIL.Image import Image
from torch import Tensor

from ...migm_core import arguments
from ...migm_core.canvas import Canvas
from ...migm_core.diagnosis import named_culprit
from ...migm_core.families.request import Encode
from ...migm_core.images import to_images
from ...migm_core.sampling.not_finite import NotFinite
from ...migm_core.settings import MAX_BATCH, MAX_TOKENS
from ...migm_core.threads import suited_threads
from ...migm_core.tokenizers.tiled_decoding import TILE, decode_in_room
from ..sockets import Finish
from .weights import LoadedModel, fitting_tile, load_image_tokenizer


@torch.inference_mode()
def canvas_image(model: LoadedModel, canvas: Canvas, tile: int = 0, finish: Sequence[Finish] = ()) -> Tensor:
    """A canvas as an IMAGE, float32 (B, h, w, 3) on the CPU; masked tokens as in previews.

    The images are decoded one at a time: at 1024x1024 each needs gigabytes, or a third of that in tiles.

    Args:
        tile: pixels a side of the parts to decode in; 0 for whole where that has room.
        finish: as of a ``ModelCanvas``.

    Raises:
        ValueError: the tile is too small.
        CheckpointError: the image tokenizer gives values that are not finite.
    """
    width, height = canvas.shape[2] * model.downscale_factor, canvas.shape[1] * model.downscale_factor
    tile = tile or fitting_tile(model, width, height)
    load_image_tokenizer(model, width, height, tile)
    with named_culprit(model.checkpoint), _threads(model):
        pixels = torch.stack([decode(model, codes, masked, tile) for codes, masked in stoppable(zip(canvas.codes, canvas.masked.cpu()))])
        if not pixels.isfinite().all():
            raise NotFinite("decode")
    if finish:
        finish = list(finish) * len(pixels) if len(finish) == 1 else finish
        return torch.cat([as_image(each(image)) for each, image in zip(finish, to_images(pixels), strict=True)])
    return pixels.permute(0, 2, 3, 1).contiguous()


def picture_batch(name: str, image: Any) -> Tensor:
    """An IMAGE (B, h, w, 3 or 4) at an input, as a node may use it.

    Raises:
        ValueError: it is none, has too many pictures, or holds what is no colour.
    """
    if not isinstance(image, Tensor) or image.dim() != 4 or image.shape[3] not in (1, 3, 4):
        found = f"the shape {tuple(image.shape)}" if isinstance(image, Tensor) else arguments.shown(image)
        raise ValueError(f"The input {name} got {found}, but needs a picture. Connect Load Image.")
    if not 1 <= len(image) <= MAX_BATCH:
        raise ValueError(f"The input {name} got {len(image)} pictures, but takes 1 to {MAX_BATCH}.")
    if not image.numel():
        raise ValueError(f"The input {name} got a picture of {image.shape[2]}x{image.shape[1]} pixels: it is empty. Check what made it.")
    image = arguments.tensor(f"The input {name}", image)
    if image.dtype == torch.uint8:
        image = image / 255
    if not image.is_floating_point():
        raise ValueError(f"The input {name} got numbers of type {str(image.dtype).removeprefix('torch.')}, expected floating point in 0..1.")
    if not image.isfinite().all():
        raise ValueError(f"The input {name} got values that are not finite (NaN or infinity). Check what made them.")
    return image.expand(-1, -1, -1, 3) if image.shape[3] == 1 else image


def mask_batch(mask: Any, images: int) -> Tensor:
    """A MASK (B, h, w), (h, w) or (B, 1, h, w) at the input of that name: (1, h, w) for all images, or one for each, (images, h, w).

    Raises:
        ValueError: it is none, holds what is no number, or has another number of masks.
    """
    has_channel = isinstance(mask, Tensor) and mask.dim() == 4 and mask.shape[1] == 1
    if not isinstance(mask, Tensor) or not (mask.dim() in (2, 3) or has_channel) or 0 in mask.shape:
        found = f"the shape {tuple(mask.shape)}" if isinstance(mask, Tensor) else arguments.shown(mask)
        raise ValueError(f"The input mask got {found}, but needs a mask. Connect one, or none.")
    mask = arguments.mask("The input mask", mask.reshape(-1, *mask.shape[-2:])).cpu()  # where codes are; with --gpu-only it comes from the card
    if len(mask) not in (1, images):
        raise ValueError(f"There are {len(mask)} masks for {images} images. Give one mask, or one an image.")
    return mask


def check_size(width: int, height: int, downscale_factor: int, advice: str) -> None:
    """Raise a ValueError for a picture that would be too large, before the memory for it is asked for."""
    if (tokens := (width // downscale_factor) * (height // downscale_factor)) > MAX_TOKENS:
        raise ValueError(f"A picture of {width}x{height} pixels has {tokens:,} image tokens; the limit is {MAX_TOKENS:,}. {advice}")


def placed(pixels: Tensor) -> Tensor:
    """An IMAGE or MASK where the host keeps what goes from node to node: on the CPU, with --gpu-only on the card."""
    return pixels.to(comfy.model_management.intermediate_device())


def no_pictures() -> ExecutionBlocker:
    """What an output gives that has none: nodes after it do not run."""
    return ExecutionBlocker(None)


def as_image(picture: Image) -> Tensor:
    """An RGB picture as an IMAGE, float32 (1, h, w, 3)."""
    return torch.from_numpy(np.array(picture))[None].float() / 255


def encode_pixels(model: LoadedModel) -> Encode:
    """As the engine asks for it: pixels in 0..1, (1, 3, h, w), to codes int64 (1, H, W) on the CPU."""
    return lambda pixels: encode(model, pixels.permute(0, 2, 3, 1))


@torch.inference_mode()
def encode(model: LoadedModel, images: Tensor) -> Tensor:
    """An IMAGE (B, h, w, 3), its sides multiples of the factor, to codes, int64 (B, H, W) on the CPU."""
    load_image_tokenizer(model, images.shape[2], images.shape[1])
    device = model.image_tokenizer.load_device
    pixels = images.permute(0, 3, 1, 2)
    with _threads(model):
        return torch.cat([model.checkpoint.image_tokenizer.encode(image.to(device, torch.float32)).cpu() for image in stoppable(pixels.split(1))])


def stoppable(pictures: Iterable) -> Iterator:
    """The same one by one, as long as nobody presses stop."""
    for picture in pictures:
        comfy.model_management.throw_exception_if_processing_interrupted()
        yield picture


def _threads(model: LoadedModel):
    """A block in which a small model's image tokenizer runs on the number of CPU threads that serves it."""
    return suited_threads(model.checkpoint.base.config, model.image_tokenizer.load_device)


@torch.inference_mode()
def decode(model: LoadedModel, codes: Tensor, masked: Tensor, tile: int = 0) -> Tensor:
    """Codes (H, W) to pixels in 0..1, float32 (3, h, w) on the CPU; masked tokens, bool (H, W), as a grey chequerboard.

    Where the memory does not suffice for the whole image, it is decoded in tiles, which gives the same.
    """
    pixels = _pixels(model, codes, tile)
    row, column = (torch.arange(side) * 2 // model.downscale_factor for side in pixels.shape[1:])  # two squares a side of each token
    board = 0.3 + 0.12 * ((row[:, None] + column) % 2)
    hidden = masked.repeat_interleave(model.downscale_factor, 0).repeat_interleave(model.downscale_factor, 1)
    return torch.where(hidden, board, pixels)


def _pixels(model: LoadedModel, codes: Tensor, tile: int) -> Tensor:
    """Codes (H, W) to pixels in 0..1, float32 (3, h, w) on the CPU."""
    codes = codes[None].to(model.image_tokenizer.load_device)
    found = decode_in_room(model.checkpoint.image_tokenizer.decode, codes, tile, lacking=comfy.model_management.OOM_EXCEPTION, make_room=_make_room)
    return found[0].float().cpu()


def _make_room() -> None:
    logging.warning("MIGM-Shortcut: not enough memory to decode the image at once; it is decoded in tiles of %d pixels.", TILE)
    comfy.model_management.soft_empty_cache()
