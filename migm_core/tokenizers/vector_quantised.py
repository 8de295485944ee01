"""What the image tokenizers share: a codebook, and the way from pixels to codes and back."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from .tiled_decoding import check_tile

AT_ONCE = 2**16  # latents whose distances to all entries are in memory together
LARGEST = 2**20  # of any size in a config, so that no product of sizes overflows


def is_size(value: object) -> bool:
    """Whether a config's value is a whole number from 1 to LARGEST."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= LARGEST


class Quantizer(nn.Module):
    """A codebook of K vectors with C channels."""

    def __init__(self, size: int, channels: int, *, dtype, device, operations):
        super().__init__()
        self.embedding = operations.Embedding(size, channels, dtype=dtype, device=device)

    def nearest(self, latents: Tensor) -> Tensor:
        """Index of the nearest codebook entry, (B, C, H, W) to (B, H, W)."""
        flat = latents.permute(0, 2, 3, 1).flatten(0, 2)
        return nearest(flat, self.embedding.weight.to(flat)).view(latents.shape[0], *latents.shape[2:])


def nearest(latents: Tensor, codebook: Tensor) -> Tensor:
    """Index of the nearest entry (K, C) to each latent (n, C): int64 (n,)."""
    # |z - e|^2 without |z|^2, which is the same for all codes: one matrix product instead of a (tokens, codes, C) difference.
    return torch.cat([(codebook.square().sum(1) - 2 * part @ codebook.T).argmin(1) for part in latents.split(AT_ONCE)])


class VectorQuantised(nn.Module, ABC):
    """An image tokenizer: an encoder, a codebook ``quantize`` and a decoder. Its own classes define ``latents`` and ``decode_latents``."""

    @abstractmethod
    def latents(self, images: Tensor) -> Tensor:
        """Pixels in 0..1, (B, 3, h, w), to unquantised latents, (B, C, h / downscale factor, w / downscale factor)."""

    @abstractmethod
    def decode_latents(self, quantised: Tensor, tile: int = 0) -> Tensor:
        """Codebook vectors (B, C, H, W) to pixels of about 0..1, (B, 3, H * downscale factor, W * downscale factor), not clamped; ``tile`` as in ``decode``."""

    def encode(self, images: Tensor) -> Tensor:
        """Pixels in 0..1, (B, 3, h, w), to codes 0..K-1, int64 (B, h / downscale factor, w / downscale factor).

        Raises:
            ValueError: height or width is not a multiple of the downscale factor.
        """
        height, width = images.shape[-2:]
        factor = self.config.downscale_factor
        if height % factor or width % factor or not height or not width:
            raise ValueError(f"Image size {width}x{height} is not a multiple of {factor} pixels. Resize or crop it first.")
        return self.quantize.nearest(self.latents(images))

    def decode(self, codes: Tensor, tile: int = 0) -> Tensor:
        """Codes 0..K-1, int64 (B, H, W), to pixels in 0..1, (B, 3, H * downscale factor, W * downscale factor).

        Args:
            tile: pixels a side of the parts that a larger image is decoded in, for less memory and the same image; 0 for whole.

        Raises:
            ValueError: the tile is too small.
        """
        check_tile(tile)
        quantised = self.quantize.embedding(codes).permute(0, 3, 1, 2)
        return self.decode_latents(quantised, tile).clamp(0, 1)
