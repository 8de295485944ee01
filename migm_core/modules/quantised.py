"""Linear layers whose weight may be quantised: an ``operations`` namespace, to use instead of torch.nn.

A weight W (out, in) is kept as Q (out, in), in 8 bits, beside float32 scales: one for the whole weight, one per row, or one per block.

    W ~ scale * Q

Each call dequantises its layer's weight to the dtype of its input, and frees it afterwards. Weights take half the memory of 16 bits, and
products run in 16 bits: the only error is the rounding of Q.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import uninitialised
from .uninitialised import Embedding

__all__ = ["FORMATS", "LARGEST", "Embedding", "Linear", "QuantisedLinear", "dequantise", "fits", "quantise", "per_channel_scales", "per_tensor_scale"]

LARGEST = {torch.float8_e4m3fn: 448.0, torch.float8_e5m2: 57344.0, torch.int8: 127.0}  # the largest value that a dtype holds with either sign
# The formats that these layers compute, by ComfyUI's names, and the dtype that each keeps a weight in.
FORMATS = {"float8_e4m3fn": torch.float8_e4m3fn, "float8_e5m2": torch.float8_e5m2, "int8_tensorwise": torch.int8}


def per_channel_scales(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Scales that map the largest value of each row to the dtype's largest: (out, in) to float32 (out, 1); 1 for a row of zeros."""
    return _scales(weight.abs().amax(dim=1, keepdim=True), dtype)


def per_tensor_scale(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """The scale that maps the largest value to the dtype's largest: float32 (); 1 for zeros."""
    return _scales(weight.abs().amax(), dtype)


def _scales(largest: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.where(largest == 0, 1.0, largest.float() / LARGEST[dtype])


def quantise(weight: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """Round a weight (out, in) over its scales, (out, 1) or (), to the nearest values of a dtype, (out, in)."""
    values = (weight.float() / scale).clamp_(-LARGEST[dtype], LARGEST[dtype])
    return (values.round_() if dtype == torch.int8 else values).to(dtype)


def fits(scale_shape: tuple[int, ...], shape: tuple[int, int]) -> bool:
    """Whether scales of a shape are those of a weight (out, in): one for all, one a row, or one for each of equal blocks."""
    rows, columns = shape
    if scale_shape in ((), (1,), (rows,)):
        return True
    return len(scale_shape) == 2 and all(n > 0 and size % n == 0 for n, size in zip(scale_shape, (rows, columns)))


def dequantise(stored: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """The weight of quantised values (out, in) and their scales, as a new tensor (out, in)."""
    # The scales stay in float32: in float16 those of small weights would lose their digits.
    weight = stored.to(dtype)
    if scale.dim() < 2 or scale.shape[1] == 1 and scale.shape[0] in (1, len(weight)):
        return weight.mul_(scale.view(-1, 1))
    rows, columns = (size // n for size, n in zip(weight.shape, scale.shape))
    weight.view(scale.shape[0], rows, scale.shape[1], columns).mul_(scale[:, None, :, None])
    return weight


class QuantisedLinear:
    """Mixin for a linear layer, ours or a host's, that can keep its weight quantised.

    ``weight_scale`` is None until ``keep_quantised``.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.register_parameter("weight_scale", None)

    def keep_quantised(self, dtype: torch.dtype, scale_shape: tuple[int, ...]) -> None:
        """Replace the weight by a quantised one and its scales, on the meta device, to be loaded.

        Args:
            scale_shape: one that ``fits`` the weight.
        """
        shape = (self.out_features, self.in_features)
        self.weight = nn.Parameter(torch.empty(shape, dtype=dtype, device="meta"), requires_grad=False)
        self.weight_scale = nn.Parameter(torch.empty(scale_shape, dtype=torch.float32, device="meta"), requires_grad=False)


class Linear(QuantisedLinear, uninitialised.Linear):
    """nn.Linear until ``keep_quantised``; then each call dequantises the weight."""

    def forward(self, x: Tensor) -> Tensor:
        if self.weight_scale is None:
            return super().forward(x)
        return F.linear(x, dequantise(self.weight, self.weight_scale, x.dtype), self.bias)
