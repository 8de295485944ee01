"""The codes of the synthetic domain: every cell's pixels, clustered.

Cells of this domain look like one of a few thousand pictures, so k-means on their pixels gives a codebook that no
training could better, at once. The tokenizer's encoder and decoder are trained against it, and the base model learns
its codes without waiting for them.
"""

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from .scenes import place, random_scene, render


def scene_images(rng: np.random.Generator, count: int, split: str = "train") -> Tensor:
    """Rendered scenes, mostly of three objects since these teach most, float32 (count, 3, 64, 64)."""
    counts = rng.choice([1, 2, 3], count, p=[0.1, 0.2, 0.7])
    scenes = [random_scene(rng, int(n), split) for n in counts]
    images = np.stack([render(scene, place(rng, scene)) for scene in scenes])
    return torch.from_numpy(images).permute(0, 3, 1, 2)


class PatchCodebook:
    """Centres of the cells' pixels, float32 (K, 3 * side * side)."""

    def __init__(self, centres: Tensor):
        self.centres = centres
        self.side = round((centres.shape[1] / 3) ** 0.5)

    @classmethod
    def fit(cls, size: int, side: int, seed: int, scenes: int = 4000) -> "PatchCodebook":
        """Cluster the distinct cells of random scenes; all weigh the same, however rare they are."""
        return cls(k_means(distinct_cells(side, seed, scenes), size, torch.Generator().manual_seed(seed)))

    def codes(self, images: Tensor) -> Tensor:
        """Nearest centre of each cell: (B, 3, h, w) to int64 (B, h / side, w / side)."""
        cells = _cells(images, self.side)
        distance = self.centres.square().sum(1) - 2 * cells @ self.centres.T
        return distance.argmin(-1)

    def latents(self, channels: int) -> Tensor:
        """The centres' principal components, unit variance on average, (K, channels): where a codebook starts from."""
        centred = self.centres - self.centres.mean(0)
        directions = torch.linalg.svd(centred, full_matrices=False).Vh[:channels]
        projected = centred @ directions.T
        return projected / projected.std()

    def parents(self, smaller: "PatchCodebook") -> Tensor:
        """For each code, the code of the codebook that this one was grown from, int64 (K,): its own, or the nearest."""
        parents = torch.cdist(self.centres, smaller.centres).argmin(1)
        parents[: len(smaller.centres)] = torch.arange(len(smaller.centres))
        return parents

    def save(self, path: Path) -> None:
        save_file({"centres": self.centres}, path)

    @classmethod
    def load(cls, path: Path) -> "PatchCodebook":
        return cls(load_file(path)["centres"])


def distinct_cells(side: int, seed: int, scenes: int) -> Tensor:
    """What the cells of random scenes look like, each picture once, float32 (n, 3 * side * side)."""
    rng = np.random.default_rng((seed, 0))
    return torch.cat([_cells(scene_images(rng, 100), side).flatten(0, 2).unique(dim=0) for _ in range(scenes // 100)]).unique(dim=0)


def _cells(images: Tensor, side: int) -> Tensor:
    """(B, 3, h, w) to (B, h / side, w / side, 3 * side * side)."""
    batch, channels, height, width = images.shape
    grid = images.reshape(batch, channels, height // side, side, width // side, side)
    return grid.permute(0, 2, 4, 1, 3, 5).flatten(3)


def k_means(points: Tensor, count: int, generator: torch.Generator, *, start: Tensor | None = None, rounds: int = 20) -> Tensor:
    """Centres (count, C) of points (n, C): k-means++ seeding, then Lloyd's rounds.

    Args:
        start: the first centres (at most ``count``), which only the rounds move.
    """
    if start is None:
        start = points[torch.randint(len(points), (1,), generator=generator)]
    centres = [start]
    nearest = torch.cdist(points, start).amin(1).square()
    for _ in range(count - len(start)):
        chosen = torch.multinomial(nearest.clamp_min(1e-12), 1, generator=generator)
        centres.append(points[chosen])
        nearest = torch.minimum(nearest, (points - centres[-1]).square().sum(1))
    centres = torch.cat(centres)
    for _ in range(rounds):
        owner = (centres.square().sum(1) - 2 * points @ centres.T).argmin(1)
        sums = torch.zeros_like(centres).index_add_(0, owner, points)
        sizes = torch.bincount(owner, minlength=count).unsqueeze(1)
        centres = torch.where(sizes > 0, sums / sizes.clamp_min(1), centres)
    return centres
