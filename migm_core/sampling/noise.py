"""The random numbers of a run."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor


class Noise(Protocol):
    """A source of noise; one a run."""

    def draw(self, step: int, masked: Tensor, codes: int, kind: str | None) -> tuple[Tensor, Tensor]:
        """The noise of a step.

        Args:
            masked: tokens of the canvas that are masked, indices in reading order, int64 (B, n).
            codes: K for noise on every code, 0 for none.
            kind: of the noise on positions: "gumbel", "uniform", or None where it is not used.

        Returns:
            Standard Gumbel noise (B, n, codes), and the noise on the positions (B, n).
        """

    def skip(self, step: int, masked: Tensor, codes: int) -> None:
        """Consume a skipped step's random numbers."""


class SeededNoise:
    """One generator an image, so that image i of a batch is the single run of its own seed.

    Uniform numbers come image by image, codes before positions, in float32: the order and shapes of Lumina-DiMOO's published sampler, so that a
    seed gives the published tokens.

    Args:
        generators: on the canvas's device.
    """

    def __init__(self, generators: Sequence[torch.Generator]):
        self.generators = list(generators)

    @classmethod
    def of_seeds(cls, seeds: Sequence[int], device: torch.device) -> "SeededNoise":
        return cls([torch.Generator(device).manual_seed(seed) for seed in seeds])

    def draw(self, step: int, masked: Tensor, codes: int, kind: str | None) -> tuple[Tensor, Tensor]:
        of_codes, of_positions = self._uniform(masked, codes)
        return _gumbel(of_codes), of_positions if kind == "uniform" else _gumbel(of_positions)

    def skip(self, step: int, masked: Tensor, codes: int) -> None:
        self._uniform(masked, codes)

    def _uniform(self, masked: Tensor, codes: int) -> tuple[Tensor, Tensor]:
        """Float32 (B, n, codes) and (B, n) in 0..1."""
        device = self.generators[0].device
        of_codes = torch.empty(*masked.shape, codes, device=device)
        of_positions = torch.empty(masked.shape, device=device)
        for image, generator in enumerate(self.generators):
            for noise in (of_codes[image : image + 1], of_positions[image : image + 1]):
                torch.rand(noise.shape, generator=generator, out=noise)
        return of_codes, of_positions


def _gumbel(uniform: Tensor) -> Tensor:
    """Standard Gumbel noise from uniform numbers, in place; kept finite as published."""
    return uniform.add_(1e-20).log_().neg_().add_(1e-20).log_().neg_()
