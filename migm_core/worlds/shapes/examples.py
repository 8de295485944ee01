"""What the base model learns from: partly known pictures of scenes, and all pictures that they may yet become.

A random picture says of each masked token what it happened to be; the domain knows more, namely how likely each code
is there. Learning that exactly, rather than from samples of it, spares a small model most of what it would have to see.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .pictures import ScenePictures, consistent
from .scenes import random_scene


@dataclass(frozen=True)
class Example:
    """A picture of which some tokens are known.

    Attributes:
        caption: "" for the unconditional prompt.
        codes: int64 (H, W).
        masked: bool (H, W).
        possible: what it may become, given the caption and the known tokens, each as likely as the others: int64 (n, H, W), n >= 1.
    """

    caption: str
    codes: Tensor
    masked: Tensor
    possible: Tensor


def random_examples(objects: int, count: int, pictures: ScenePictures, rng: np.random.Generator) -> list[Example]:
    """Scenes of the training split with so many objects, randomly masked.

    0 objects: any number, without captions. Too many pictures are possible then to list them; a random one stands for all.
    """
    scenes = [random_scene(rng, objects or int(rng.integers(1, 4)), "train") for _ in range(count)]
    of_scenes = [pictures.of(scene) for scene in scenes]
    codes = torch.stack([possible[rng.integers(len(possible))] for possible in of_scenes])
    examples = []
    for scene, possible, picked, masked in zip(scenes, of_scenes, codes, random_masks(codes, rng)):
        possible = consistent(possible, picked, masked) if objects else picked[None]
        examples.append(Example(scene.caption if objects else "", picked, masked, possible))
    return examples


def probabilities(example: Example, codes: int) -> Tensor:
    """How likely each code is at each masked token, in reading order: float32 (tokens, codes)."""
    possible = example.possible[:, example.masked].T
    share = torch.full(possible.shape, 1 / possible.shape[1])
    return torch.zeros(len(possible), codes).scatter_add_(1, possible, share)


def divergence(logits: Tensor, examples: list[Example]) -> Tensor:
    """KL divergence of the masked tokens' codes from what is possible: summed over the tokens of all examples, in nats.

    Args:
        logits: of the masked tokens in reading order, example by example: (tokens, codes).
    """
    truth = torch.cat([probabilities(e, logits.shape[-1]) for e in examples])
    return F.kl_div(logits.log_softmax(-1), truth, reduction="sum")


def random_masks(codes: Tensor, rng: np.random.Generator) -> Tensor:
    """Masked tokens of images (B, H, W), bool alike, at the rate of a random time of the cosine schedule (MaskGIT, section 3.1).

    Half of the masks are uniform, the others such as a sampler leaves that fixes first what it is surest of: background rather
    than objects, and one region before another. Uniform masks alone hardly ever show a model the choice of the last free place.
    """
    batch, height, width = codes.shape
    tokens = height * width
    late = rng.random((batch, height, width))  # the later, the longer masked
    regions = rng.random((batch, 2, 2)).repeat(-(-height // 2), 1).repeat(-(-width // 2), 2)[:, :height, :width]
    objects = (codes != codes.flatten(1).mode(1).values[:, None, None]).numpy()
    late += rng.integers(2, size=(batch, 1, 1)) * (regions + rng.random((batch, 1, 1)) * objects)
    masked = np.ceil(np.cos(rng.random(batch) * math.pi / 2) * tokens).clip(1, tokens)
    rank = late.reshape(batch, tokens).argsort(1).argsort(1)
    return torch.from_numpy(rank >= tokens - masked[:, None]).view(codes.shape)
