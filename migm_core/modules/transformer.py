"""The Llama block without a causal mask, which the base model and the shortcut head share (LLaDA, arXiv 2502.09992).

Nothing here keeps state: rotary tables, contexts and caches are passed in by the caller that owns them.
"""

from contextlib import nullcontext
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

# cuDNN's attention makes a plan for each new size: 40 to 80 ms on an H100, where a shortcut step of the published size takes 10.
FOR_CHANGING_SIZES = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


class RMSNorm(nn.Module):
    """x / rms(x) in float32, cast back, then times the weight; over the last dimension."""

    def __init__(self, size: int, eps: float, *, dtype=None, device=None):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(size, dtype=dtype, device=device))

    def forward(self, x: Tensor) -> Tensor:
        normed = F.rms_norm(x.float(), (x.shape[-1],), eps=self.eps).to(x.dtype)
        # A host may hold the weight on another device or in another dtype; in place, this is no copy.
        return normed * self.weight.to(device=x.device, dtype=x.dtype)


@dataclass(frozen=True)
class Rotary:
    """Tables of the rotary embedding, float32 (..., T, head_dim): cosines, and sines that are negative in the first half."""

    cos: Tensor
    sin: Tensor

    @classmethod
    def at(cls, positions: Tensor, head_dim: int, theta: float) -> "Rotary":
        """Tables for integer positions (T,) or (B, T).

        The angles are formed in float64: in float32 they drift by 1e-3 rad past a few thousand positions.
        """
        double = torch.float64 if positions.device.type != "mps" else torch.float32
        exponents = torch.arange(0, head_dim, 2, device=positions.device, dtype=double) / head_dim
        angles = positions.to(double)[..., None] * theta**-exponents
        cos, sin = angles.cos().float(), angles.sin().float()
        return cls(torch.cat([cos, cos], dim=-1), torch.cat([-sin, sin], dim=-1))

    def rows(self, index: Tensor) -> "Rotary":
        """The tables of some positions: index (B, n) into tables (T, head_dim)."""
        return Rotary(self.cos[index], self.sin[index])

    def rotate(self, x: Tensor) -> Tensor:
        """Rotate (B, heads, T, head_dim): the first half of the head dimension pairs with the second half."""
        # (T, D) serves every image; (B, T, D) needs an axis for the heads.
        cos, sin = (t if t.dim() == 2 else t.unsqueeze(1) for t in (self.cos, self.sin))
        wide = x.float()
        return (wide * cos).addcmul_(wide.roll(x.shape[-1] // 2, dims=-1), sin).to(x.dtype)


@dataclass
class KeyValueCache:
    """Keys and values of every position, per layer, of one branch of one run: a list of (k, v), (B, heads, T, head_dim)."""

    layers: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def store(self, layer: int, k: Tensor, v: Tensor) -> None:
        if layer == len(self.layers):
            self.layers.append((k, v))
        else:
            self.layers[layer] = (k, v)

    def replace(self, layer: int, positions: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Overwrite the rows at ``positions`` (B, n) and return the whole of both."""
        all_k, all_v = self.layers[layer]
        index = positions[:, None, :, None].expand_as(k)
        return all_k.scatter_(2, index, k), all_v.scatter_(2, index, v)


class Block(nn.Module):
    """Attention and a gated MLP, each after its norm and around a residual.

    Args:
        d_model: width of the residual stream.
        n_heads, n_kv_heads: query heads, and key and value heads that groups of them share.
        mlp_hidden_size: width inside the MLP.
        operations: namespace with Linear; torch.nn by default. A host's may have its own ``optimized_attention(q, k, v)``, (B, heads, T, head_dim)
            each, to the same.
    """

    def __init__(self, d_model, n_heads, n_kv_heads, mlp_hidden_size, eps, *, dtype=None, device=None, operations=nn):
        super().__init__()
        self.n_heads, self.n_kv_heads = n_heads, n_kv_heads
        self.attention = getattr(operations, "optimized_attention", F.scaled_dot_product_attention)
        factory_kwargs = {"dtype": dtype, "device": device}
        kv_size = d_model // n_heads * n_kv_heads

        def linear(size_in, size_out):
            return operations.Linear(size_in, size_out, bias=False, **factory_kwargs)

        self.attn_norm = RMSNorm(d_model, eps, **factory_kwargs)
        self.q_proj = linear(d_model, d_model)
        self.k_proj = linear(d_model, kv_size)
        self.v_proj = linear(d_model, kv_size)
        self.attn_out = linear(d_model, d_model)
        self.ff_norm = RMSNorm(d_model, eps, **factory_kwargs)
        self.ff_proj = linear(d_model, mlp_hidden_size)
        self.up_proj = linear(d_model, mlp_hidden_size)
        self.ff_out = linear(mlp_hidden_size, d_model)

    def forward(
        self,
        x: Tensor,
        rotary: Rotary,
        *,
        context: Tensor | None = None,
        context_rotary: Rotary | None = None,
        cache: KeyValueCache | None = None,
        layer: int = 0,
        positions: Tensor | None = None,
        visible: Tensor | None = None,
    ) -> Tensor:
        """Transform x (B, T, d_model).

        Args:
            rotary: tables of x's positions.
            context, context_rotary: (B, S, d_model) and its tables: keys and values come from here instead of x (both
                go through the same norm). With S = 0 the attention adds nothing.
            cache, layer: where keys and values of this layer are stored, or, with positions, read.
            positions: (B, T) indices of x in the cached sequence; attention then reads the whole cache.
            visible: which keys attention sees, bool (B, 1, 1, keys), at least one for each image; None for all.
        """
        attended = self._attention(x, rotary, context, context_rotary, cache, layer, positions, visible)
        if attended is not None:
            x = x + attended
            del attended
        return x + self.mlp(x)

    def _attention(self, x, rotary, context, context_rotary, cache, layer, positions, visible=None) -> Tensor | None:
        """What attention adds to x; None where there is nothing to attend to. Its inner tensors are gone when the MLP's come."""
        h = self.attn_norm(x)
        source, source_rotary = (h, rotary) if context is None else (self.attn_norm(context), context_rotary)
        q = rotary.rotate(self._heads(self.q_proj(h), self.n_heads))
        k = source_rotary.rotate(self._heads(self.k_proj(source), self.n_kv_heads))
        v = self._heads(self.v_proj(source), self.n_kv_heads)
        if positions is not None:
            k, v = cache.replace(layer, positions, k, v)
        elif cache is not None:
            cache.store(layer, k, v)
        if not k.shape[2]:
            return None
        # How many tokens a context has differs from step to step.
        with sdpa_kernel(FOR_CHANGING_SIZES) if context is not None and q.is_cuda else nullcontext():
            return self.attn_out(self._attend(q, k, v, visible))

    def mlp(self, x: Tensor) -> Tensor:
        h = self.ff_norm(x)
        return self.ff_out(F.silu(self.ff_proj(h)) * self.up_proj(h))

    def _heads(self, x: Tensor, heads: int) -> Tensor:
        batch, length, size = x.shape
        return x.view(batch, length, heads, size // heads).transpose(1, 2)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None) -> Tensor:
        if self.n_kv_heads != self.n_heads:
            k, v = (t.repeat_interleave(self.n_heads // self.n_kv_heads, dim=1) for t in (k, v))
        if visible is None:
            return self.attention(q, k, v).transpose(1, 2).flatten(2)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=visible).transpose(1, 2).flatten(2)
