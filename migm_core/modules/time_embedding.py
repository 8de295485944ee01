"""The embedding of a scalar time, which the heads of all families share (as in diffusion transformers, arXiv 2212.09748)."""

import math

import torch
from torch import Tensor, nn

TIME_FREQUENCIES = 128


class TimeEmbedder(nn.Module):
    """Sinusoids of a scalar through two layers: (B,) to (B, size)."""

    def __init__(self, size: int, *, dtype, device, operations):
        super().__init__()
        inputs = 2 * TIME_FREQUENCIES
        hidden = round(math.sqrt(inputs * size))
        factory_kwargs = {"dtype": dtype, "device": device}
        self.mlp = nn.Sequential(
            operations.Linear(inputs, hidden, **factory_kwargs), nn.SiLU(), operations.Linear(hidden, size, **factory_kwargs)
        )

    def forward(self, time: Tensor, dtype: torch.dtype) -> Tensor:
        exponents = torch.arange(TIME_FREQUENCIES, device=time.device, dtype=torch.float32) / TIME_FREQUENCIES
        angles = time.float()[:, None] * torch.exp(-math.log(10000) * exponents)
        return self.mlp(torch.cat([angles.cos(), angles.sin()], dim=-1).to(dtype))
