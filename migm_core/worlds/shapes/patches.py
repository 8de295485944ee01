"""The codes of the synthetic domain: one for each patch of pixels that a token can cover.

There are some 900 of them, so their list is a codebook that no training could better, at once. The
tokenizer's encoder and decoder are trained against it, and the base model learns its codes without waiting for them.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...checkpoints.source import TensorSource
from ...checkpoints.write import write_tensors
from .scenes import random_placement, random_scene, render


def scene_images(rng: np.random.Generator, count: int, split: str = "train") -> Tensor:
    """Rendered scenes, mostly of three objects since these teach most, float32 (count, 3, 64, 64)."""
    counts = rng.choice([1, 2, 3], count, p=[0.1, 0.2, 0.7])
    scenes = [random_scene(rng, int(n), split) for n in counts]
    images = np.stack([render(scene, random_placement(rng, scene)) for scene in scenes])
    return torch.from_numpy(images).permute(0, 3, 1, 2)


SAME = 0.05  # distance of two patches of 192 values in 0..1: below one level of 255 a value


class PatchCodebook:
    """Centres of the patches' pixels, float32 (K, 3 * side * side)."""

    def __init__(self, centres: Tensor):
        self.centres = centres
        self.side = round((centres.shape[1] / 3) ** 0.5)

    @classmethod
    def fit(cls, side: int, seed: int, scenes: int = 4000) -> "PatchCodebook":
        """List the patches of random scenes; those that no eye can tell apart share a code."""
        centres: list[Tensor] = []
        for patch in distinct_patches(side, seed, scenes):
            if not centres or torch.stack(centres).sub(patch).norm(dim=1).min() > SAME:
                centres.append(patch)
        return cls(torch.stack(centres))

    def codes(self, images: Tensor) -> Tensor:
        """Nearest centre of each patch: (B, 3, h, w) to int64 (B, h / side, w / side)."""
        patches = _patches(images, self.side)
        distance = self.centres.square().sum(1) - 2 * patches @ self.centres.T
        return distance.argmin(-1)

    def latents(self, channels: int) -> Tensor:
        """The centres' principal components, unit variance on average, (K, channels): where a codebook starts from."""
        centred = self.centres - self.centres.mean(0)
        directions = torch.linalg.svd(centred, full_matrices=False).Vh[:channels]
        projected = centred @ directions.T
        return projected / projected.std()

    def save(self, path: Path) -> None:
        """In float16: four times as fine as the levels of an image."""
        write_tensors(Path(path), {"centres": self.centres.half()}, {})

    @classmethod
    def load(cls, path: Path) -> "PatchCodebook":
        """Read what ``save`` writes.

        Raises:
            ValueError: the file is damaged, or holds something else.
        """
        try:
            centres = TensorSource.open(path).get("centres").float()
            if centres.dim() != 2 or not len(centres) or cls(centres).side ** 2 * 3 != centres.shape[1] or not centres.isfinite().all():
                raise ValueError(f"its centres have the shape {tuple(centres.shape)}")
            return cls(centres)
        except (KeyError, ValueError) as error:
            raise ValueError(f"{path} is no codebook of patches ({str(error).rstrip('.')}). Remove it, and run `migm train-tokenizer` again.") from None


def distinct_patches(side: int, seed: int, scenes: int) -> Tensor:
    """The patches of random scenes, each once, float32 (n, 3 * side * side)."""
    rng = np.random.default_rng((seed, 0))
    return torch.cat([_patches(scene_images(rng, 100), side).flatten(0, 2).unique(dim=0) for _ in range(scenes // 100)]).unique(dim=0)


def _patches(images: Tensor, side: int) -> Tensor:
    """(B, 3, h, w) to (B, h / side, w / side, 3 * side * side)."""
    batch, channels, height, width = images.shape
    grid = images.reshape(batch, channels, height // side, side, width // side, side)
    return grid.permute(0, 2, 4, 1, 3, 5).flatten(3)
