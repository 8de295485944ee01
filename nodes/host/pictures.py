"""Pictures to canvases and back, by an image tokenizer that the host has placed."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import comfy.model_management
import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor

from ...migm_core.canvas import Canvas
from ...migm_core.checkpoints import CheckpointError
from ...migm_core.families.request import Encode
from ...migm_core.images import to_images
from ...migm_core.threads import suited_threads
from ..sockets import Finish
from .weights import TILE, LoadedModel, fitting_tile, load_image_tokenizer


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
    with _threads(model):
        pixels = torch.stack([decode(model, codes, masked, tile) for codes, masked in zip(canvas.codes, canvas.masked.cpu())])
    if not pixels.isfinite().all():
        raise CheckpointError(f"{model.checkpoint.path}: the image tokenizer gives values that are not finite. The file may be damaged: download it again.")
    if finish:
        finish = list(finish) * len(pixels) if len(finish) == 1 else finish
        return torch.cat([as_image(each(image)) for each, image in zip(finish, to_images(pixels), strict=True)])
    return pixels.permute(0, 2, 3, 1).contiguous()


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
    pixels = images[..., :3].permute(0, 3, 1, 2)
    with _threads(model):
        return torch.cat([model.checkpoint.image_tokenizer.encode(image.to(device, torch.float32)).cpu() for image in pixels.split(1)])


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
    try:
        return model.checkpoint.image_tokenizer.decode(codes, tile)[0].float().cpu()
    except comfy.model_management.OOM_EXCEPTION:
        if tile and tile <= TILE:
            raise
    # Out here the error no longer holds what the attempt had made.
    logging.warning("MIGM-Shortcut: not enough memory to decode the image at once; it is decoded in tiles of %d pixels.", TILE)
    comfy.model_management.soft_empty_cache()
    return model.checkpoint.image_tokenizer.decode(codes, TILE)[0].float().cpu()
