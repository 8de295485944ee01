"""Pixels to images."""

import torch
from PIL import Image
from torch import Tensor


def to_images(pixels: Tensor) -> list[Image.Image]:
    """Pixels in 0..1, (B, 3, h, w), to RGB images."""
    arrays = (pixels.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(array) for array in arrays]
