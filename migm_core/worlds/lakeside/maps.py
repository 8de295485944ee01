"""Pictures made from scenes and pictures for the tasks with a control image: depth, edges, masks, one subject alone."""

import random

import torch
import torch.nn.functional as F
from torch import Tensor

from .prompting import names, write
from .renderer import render_layers, render_lone_objects
from .scene import Scenes

_EDGE = (0.10, 0.28)  # contrast at which a line begins to show and is white


def depth_maps(scenes: Scenes, size: int = 256) -> Tensor:
    """Depth as grey, near is bright: float32 (N, 3, size, size) in 0..1."""
    return render_layers(scenes, size).depth.expand(-1, 3, -1, -1)


def edge_maps(images: Tensor) -> Tensor:
    """White outlines on black of pictures (N, 3, size, size) in 0..1: their gradient over two pixels, thinned softly."""
    smooth = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, 1)
    padded = F.pad(smooth, (1, 1, 1, 1), mode="replicate")
    across = (padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]).abs().amax(1, keepdim=True)
    down = (padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]).abs().amax(1, keepdim=True)
    contrast = torch.maximum(across, down)
    # Keep only what is a maximum across the edge.
    highest = torch.where(across > down, F.max_pool2d(contrast, (1, 5), 1, (0, 2)), F.max_pool2d(contrast, (5, 1), 1, (2, 0)))
    kept = contrast * (contrast > 0.8 * highest)
    low, high = _EDGE
    return ((kept - low) / (high - low)).clamp(0, 1).expand(-1, 3, -1, -1)


def object_masks(scenes: Scenes, size: int = 256) -> Tensor:
    """The visible part of each object: bool (N, 4, size, size)."""
    return render_layers(scenes, size).masks


def mask_pictures(scenes: Scenes, slots: Tensor, size: int = 256) -> Tensor:
    """The mask of one object of each scene (slots: int64 (N,)), white on black: float32 (N, 3, size, size)."""
    masks = object_masks(scenes, size)
    return masks[torch.arange(len(scenes), device=masks.device), slots, None].float().expand(-1, 3, -1, -1)


def render_subjects(scenes: Scenes, slots: Tensor, size: int = 256) -> Tensor:
    """One object of each scene (slots: int64 (N,)) alone, by daylight, in the middle of a plain backdrop: float32 (N, 3, size, size)."""
    return render_lone_objects(scenes, slots, size)


def subject_prompts(scenes: Scenes, slots: Tensor, seed: int) -> list[str]:
    """Prompts that say all of each scene but the look of one object, which a picture of it shows instead."""
    rng = random.Random(seed)
    found = []
    for (setting, objects, related), slot in zip(names(scenes), slots.tolist(), strict=True):
        objects[slot].colour = objects[slot].finish = None
        found.append(write(setting, objects, related, rng, complete=True))
    return found

