"""Linear layers that may keep their weight in 8 bits: an ``operations`` namespace to use in the place of torch.nn.

A weight W (out, in) is kept as Q (out, in), float8_e4m3fn or int8, beside float32 scales, one a row or one for all:

    W ~ scale * Q

Each call makes W of its own layer in the dtype of its input and forgets it again, so that weights take half the memory of
16 bits and what is computed is what 16 bits would compute, but for the rounding of Q.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import uninitialised
from .uninitialised import Embedding

__all__ = ["LARGEST", "Embedding", "Linear", "Scaled", "dequantise", "quantise", "row_scales"]

LARGEST = {torch.float8_e4m3fn: 448.0, torch.int8: 127.0}  # of the values a dtype holds that it also holds negative


def row_scales(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Scales that make the largest value of each row the dtype's largest: (out, in) to float32 (out, 1); 1 for a row of zeros."""
    largest = weight.abs().amax(dim=1, keepdim=True).float()
    return torch.where(largest == 0, 1.0, largest / LARGEST[dtype])


def quantise(weight: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """The nearest values of a dtype: (out, in) and its scales (out, 1) to (out, in)."""
    scaled = (weight.float() / scale).clamp_(-LARGEST[dtype], LARGEST[dtype])
    return (scaled.round_() if dtype == torch.int8 else scaled).to(dtype)


def dequantise(stored: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """What 8 bits (out, in) and scales, one a row or one for all, stand for, as a new tensor (out, in)."""
    # The scales stay in float32: in float16 those of small weights would lose their digits.
    return stored.to(dtype).mul_(scale.view(-1, 1))


class Scaled:
    """What a linear layer gains to keep its weight in 8 bits; to stand before the layer's own class, ours or a host's.

    ``scale_weight`` is None until ``keep_scaled``.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.register_parameter("scale_weight", None)

    def keep_scaled(self, dtype: torch.dtype, scale_shape: tuple[int, ...]) -> None:
        """Make room for a weight in 8 bits and its scales.

        Args:
            scale_shape: (), (1,) or (1, 1) for one scale, (out,) or (out, 1) for one a row; any other counts as the last.
        """
        rows = self.weight.shape[0]
        if scale_shape not in ((), (1,), (1, 1), (rows,)):
            scale_shape = (rows, 1)
        place = {"device": self.weight.device}
        self.weight = nn.Parameter(torch.empty(self.weight.shape, dtype=dtype, **place), requires_grad=False)
        self.scale_weight = nn.Parameter(torch.empty(scale_shape, dtype=torch.float32, **place), requires_grad=False)


class Linear(Scaled, uninitialised.Linear):
    """nn.Linear until ``keep_scaled``; from then on the weight is made anew at each call."""

    def forward(self, x: Tensor) -> Tensor:
        if self.scale_weight is None:
            return super().forward(x)
        return F.linear(x, dequantise(self.weight, self.scale_weight, x.dtype), self.bias)
