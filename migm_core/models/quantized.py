"""Linear layers whose weight may be quantised: an ``operations`` namespace to use in the place of torch.nn.

A weight W (out, in) is kept as Q (out, in), in 8 bits, beside float32 scales: one for all of it, one a row, or one a block of it.

    W ~ scale * Q

Each call makes W of its own layer in the dtype of its input and forgets it again. So weights take half the memory of 16 bits, and the
products are those of 16 bits: only the rounding of Q is lost.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import uninitialised
from .uninitialised import Embedding

__all__ = ["FORMATS", "LARGEST", "Embedding", "Linear", "Scaled", "dequantise", "fits", "quantise", "row_scales", "tensor_scale"]

LARGEST = {torch.float8_e4m3fn: 448.0, torch.float8_e5m2: 57344.0, torch.int8: 127.0}  # that a dtype holds with either sign
# The formats that these layers compute, by ComfyUI's names, and the dtype that each keeps a weight in.
FORMATS = {"float8_e4m3fn": torch.float8_e4m3fn, "float8_e5m2": torch.float8_e5m2, "int8_tensorwise": torch.int8}


def row_scales(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Scales that make the largest value of each row the dtype's largest: (out, in) to float32 (out, 1); 1 for a row of zeros."""
    return _scales(weight.abs().amax(dim=1, keepdim=True), dtype)


def tensor_scale(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """The scale that makes the largest value of all the dtype's largest: float32 (); 1 for zeros."""
    return _scales(weight.abs().amax(), dtype)


def _scales(largest: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.where(largest == 0, 1.0, largest.float() / LARGEST[dtype])


def quantise(weight: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """The nearest values of a dtype: (out, in) and its scales, (out, 1) or (), to (out, in)."""
    scaled = (weight.float() / scale).clamp_(-LARGEST[dtype], LARGEST[dtype])
    return (scaled.round_() if dtype == torch.int8 else scaled).to(dtype)


def fits(scale_shape: tuple[int, ...], shape: tuple[int, int]) -> bool:
    """Whether scales of a shape are those of a weight (out, in): one for all, one a row, or one for each of equal blocks."""
    rows, columns = shape
    if scale_shape in ((), (1,), (rows,)):
        return True
    return len(scale_shape) == 2 and all(n > 0 and size % n == 0 for n, size in zip(scale_shape, (rows, columns)))


def dequantise(stored: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """What 8 bits (out, in) and their scales stand for, as a new tensor (out, in)."""
    # The scales stay in float32: in float16 those of small weights would lose their digits.
    weight = stored.to(dtype)
    if scale.dim() < 2 or scale.shape[1] == 1 and scale.shape[0] in (1, len(weight)):
        return weight.mul_(scale.view(-1, 1))
    rows, columns = (size // n for size, n in zip(weight.shape, scale.shape))
    weight.view(scale.shape[0], rows, scale.shape[1], columns).mul_(scale[:, None, :, None])
    return weight


class Scaled:
    """What a linear layer gains to keep its weight quantised; to stand before the layer's own class, ours or a host's.

    ``weight_scale`` is None until ``keep_scaled``.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.register_parameter("weight_scale", None)

    def keep_scaled(self, dtype: torch.dtype, scale_shape: tuple[int, ...]) -> None:
        """Make room, on the meta device, for a weight in 8 bits and scales of a shape that ``fits`` it."""
        shape = (self.out_features, self.in_features)
        self.weight = nn.Parameter(torch.empty(shape, dtype=dtype, device="meta"), requires_grad=False)
        self.weight_scale = nn.Parameter(torch.empty(scale_shape, dtype=torch.float32, device="meta"), requires_grad=False)


class Linear(Scaled, uninitialised.Linear):
    """nn.Linear until ``keep_scaled``; from then on the weight is made anew at each call."""

    def forward(self, x: Tensor) -> Tensor:
        if self.weight_scale is None:
            return super().forward(x)
        return F.linear(x, dequantise(self.weight, self.weight_scale, x.dtype), self.bias)
