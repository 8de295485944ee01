"""The pre-norm layers that the base model and the shortcut head share. Nothing here keeps state."""

from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import sdpa_kernel

from ...modules.transformer import FOR_CHANGING_SIZES, KeyValueCache

BLOCK_EPS = 1e-5  # of the norms in the blocks
OUTER_EPS = 1e-12  # of those before and after the blocks


class LayerNorm(nn.Module):
    """Layer norm over the last dimension, with weight and bias."""

    def __init__(self, size: int, eps: float, *, dtype=None, device=None):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(size, dtype=dtype, device=device))
        self.bias = nn.Parameter(torch.zeros(size, dtype=dtype, device=device))

    def forward(self, x: Tensor) -> Tensor:
        # A host may hold the weights on another device or in another dtype; in place, this is no copy.
        return F.layer_norm(x, self.weight.shape, self.weight.to(x), self.bias.to(x), self.eps)


class Attention(nn.Module):
    """Multi-head attention with biases, and the norm that its caller applies to what it likes.

    The published files keep queries, keys and values in one matrix. Here the queries have a layer of their own, since in the head
    they come from other tensors than the keys and values.

    Args:
        operations: namespace with Linear; torch.nn by default. A host's may have its own ``optimized_attention(q, k, v)``, (B, heads, T,
            head_dim) each, to the same.
    """

    def __init__(self, d_model: int, n_heads: int, *, dtype=None, device=None, operations=nn):
        super().__init__()
        self.n_heads = n_heads
        self.attention = getattr(operations, "optimized_attention", F.scaled_dot_product_attention)
        factory_kwargs = {"dtype": dtype, "device": device}
        self.norm = LayerNorm(d_model, BLOCK_EPS, **factory_kwargs)
        self.q_proj = operations.Linear(d_model, d_model, **factory_kwargs)
        self.kv_proj = operations.Linear(d_model, 2 * d_model, **factory_kwargs)
        self.out_proj = operations.Linear(d_model, d_model, **factory_kwargs)

    def forward(
        self, queries: Tensor, context: Tensor, *, cache: KeyValueCache | None = None, layer: int = 0, positions: Tensor | None = None, varying: bool = False
    ) -> Tensor:
        """What positions (B, T, d_model) gather from a context (B, S, d_model), S at least 1: (B, T, d_model).

        Args:
            cache, layer: where keys and values of this layer are stored, or, with positions, replaced and read as a whole.
            positions: (B, S) indices of the context in the cached sequence.
            varying: whether S differs from call to call.
        """
        q = self._heads(self.q_proj(queries))
        k, v = (self._heads(t) for t in self.kv_proj(context).chunk(2, dim=-1))
        if positions is not None:
            k, v = cache.replace(layer, positions, k, v)
        elif cache is not None:
            cache.store(layer, k, v)
        with sdpa_kernel(FOR_CHANGING_SIZES) if varying and q.is_cuda else nullcontext():
            return self.out_proj(self.attention(q, k, v).transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)


class FeedForward(nn.Module):
    """Norm, layer, exact GELU, layer; without the residual."""

    def __init__(self, d_model: int, hidden_size: int, *, dtype=None, device=None, operations=nn):
        super().__init__()
        factory_kwargs = {"dtype": dtype, "device": device}
        self.norm = LayerNorm(d_model, BLOCK_EPS, **factory_kwargs)
        self.up_proj = operations.Linear(d_model, hidden_size, **factory_kwargs)
        self.down_proj = operations.Linear(hidden_size, d_model, **factory_kwargs)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.gelu(self.up_proj(self.norm(x))))


class OutputLayer(nn.Module):
    """Norm, layer, exact GELU, norm: the end of the base model, and of the head's blocks."""

    def __init__(self, d_model: int, *, dtype=None, device=None, operations=nn):
        super().__init__()
        factory_kwargs = {"dtype": dtype, "device": device}
        self.norm_in = LayerNorm(d_model, OUTER_EPS, **factory_kwargs)
        self.proj = operations.Linear(d_model, d_model, **factory_kwargs)
        self.norm_out = LayerNorm(d_model, OUTER_EPS, **factory_kwargs)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm_out(F.gelu(self.proj(self.norm_in(x))))


class InputLayer(nn.Module):
    """Norm, layer, exact GELU, norm, layer: what the base model does to embeddings before its blocks."""

    def __init__(self, d_model: int, *, dtype=None, device=None, operations=nn):
        super().__init__()
        factory_kwargs = {"dtype": dtype, "device": device}
        self.norm_in = LayerNorm(d_model, OUTER_EPS, **factory_kwargs)
        self.proj_in = operations.Linear(d_model, d_model, **factory_kwargs)
        self.norm_out = LayerNorm(d_model, OUTER_EPS, **factory_kwargs)
        self.proj_out = operations.Linear(d_model, d_model, **factory_kwargs)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj_out(self.norm_out(F.gelu(self.proj_in(self.norm_in(x)))))
