"""What the base model learns from: pictures of random scenes, a part of their cells masked."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .patches import PatchCodebook
from .scenes import place, random_scene, render


@dataclass(frozen=True)
class Example:
    """A picture and what a model has yet to tell of it.

    Attributes:
        caption: "" for the unconditional prompt.
        codes: int64 (H, W).
        unknown: bool (H, W).
    """

    caption: str
    codes: Tensor
    unknown: Tensor


def random_examples(objects: int, count: int, codebook: PatchCodebook, rng: np.random.Generator) -> list[Example]:
    """Scenes of the training split with so many objects, randomly masked; 0 objects: any number, without captions."""
    scenes = [random_scene(rng, objects or int(rng.integers(1, 4)), "train") for _ in range(count)]
    images = np.stack([render(scene, place(rng, scene)) for scene in scenes])
    codes = codebook.codes(torch.from_numpy(images).permute(0, 3, 1, 2))
    return [Example(scene.caption if objects else "", *tensors) for scene, *tensors in zip(scenes, codes, random_masks(codes, rng))]


def random_masks(codes: Tensor, rng: np.random.Generator) -> Tensor:
    """Masked cells of images (B, H, W), bool alike, at the rate of a random time of the cosine schedule (MaskGIT, section 3.1).

    Half of the masks are uniform, the others such as a sampler leaves that fixes first what it is surest of: background rather
    than objects, and one region before another. Uniform masks alone hardly ever show a model the choice of the last free place.
    """
    batch, height, width = codes.shape
    cells = height * width
    late = rng.random((batch, height, width))  # the later, the longer masked
    regions = rng.random((batch, 2, 2)).repeat(-(-height // 2), 1).repeat(-(-width // 2), 2)[:, :height, :width]
    objects = (codes != codes.flatten(1).mode(1).values[:, None, None]).numpy()
    late += rng.integers(2, size=(batch, 1, 1)) * (regions + rng.random((batch, 1, 1)) * objects)
    masked = np.ceil(np.cos(rng.random(batch) * math.pi / 2) * cells).clip(1, cells)
    rank = late.reshape(batch, cells).argsort(1).argsort(1)
    return torch.from_numpy(rank >= cells - masked[:, None]).view(codes.shape)
