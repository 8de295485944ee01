"""Layers in the host's way: it owns where their weights lie, in which dtype, and when they move."""

from __future__ import annotations

import inspect
from collections.abc import Collection
from contextlib import contextmanager
from functools import cache

import comfy.ldm.modules.attention
import comfy.model_management
import comfy.ops
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...migm_core.modules.quantised import FORMATS, QuantisedLinear, dequantise

OFFLOADS_ASYNCHRONOUSLY = "offloadable" in inspect.signature(comfy.ops.cast_bias_weight).parameters


def operations(stored: torch.dtype, computed: torch.dtype, device: torch.device, offload: torch.device, formats: Collection[str] = ()):
    """A namespace of the host's layers, to use instead of torch.nn.

    Args:
        stored: dtype that large weights are kept in.
        computed: dtype of the features.
        device: to compute on.
        offload: where quantised weights lie when they are loaded.
        formats: of quantised weights in the file, by the host's names; empty where it has none.
    """
    picked = comfy.ops.pick_operations(stored, computed, load_device=device)
    linear, by_host = _linear(picked, stored), False
    if formats and _host_computes(formats) and not _better_whole(formats, device):
        linear, by_host = _host_quantised(computed, device, offload, formats), True
    elif formats:
        linear = _scaled(picked, stored)

    class Operations(picked):
        Linear = linear
        loads_quantised = by_host

        class Embedding(picked.Embedding):
            def __init__(self, *args, dtype=None, **kwargs):
                # Rows are looked up, not multiplied: 8 bits would cost quality and save no time.
                super().__init__(*args, dtype=stored if stored.itemsize > 1 else torch.bfloat16, **kwargs)

            def forward(self, index: Tensor) -> Tensor:
                # With dynamic memory the host keeps the table on the card while it can, and moves it itself.
                if hasattr(self, "_v") or self.weight.device == index.device or self.weight_function:
                    return super().forward(index, out_dtype=computed).to(computed)
                # Offloaded: a few rows cross the bus instead of the table, a gigabyte in the 8B model.
                return F.embedding(index.to(self.weight.device), self.weight).to(index.device, computed)

        @staticmethod
        def optimized_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            """(B, heads, T, head_dim) each, to the same: by the function that the user chose with --use-sage-attention and its like."""
            if q.device.type == "cpu":  # there the host's choice only saves memory, at the cost of time and of the same digits
                return F.scaled_dot_product_attention(q, k, v)
            _settle_kernel_order(q.device)
            return comfy.ldm.modules.attention.optimized_attention(q, k, v, q.shape[1], skip_reshape=True, skip_output_reshape=True)

    return Operations


@cache
def _settle_kernel_order(device: torch.device) -> None:
    """Torch puts its attention kernels into an order of its own at a process's first call, over the one that the host asks for: that call
    would round otherwise than all later ones, and the first image of a seed be another than the second."""
    if device.type == "cuda":
        x = torch.zeros(1, 1, 8, 64, dtype=torch.float16, device=device)
        F.scaled_dot_product_attention(x, x, x)


def cast_on_cpu(model: nn.Module, device: torch.device) -> nn.Module:
    """Give weights that lie as in their file the dtype that they are computed in, where that is done on the CPU: there the host moves, and
    so casts, nothing."""
    if comfy.model_management.is_device_cpu(device):
        for module in model.modules():
            for name in ("weight", "bias"):
                tensor, dtype = getattr(module, name, None), getattr(module, f"{name}_comfy_model_dtype", None)
                if tensor is not None and dtype is not None and tensor.dtype != dtype:
                    setattr(module, name, nn.Parameter(tensor.to(dtype), requires_grad=False))
    return model


def _linear(picked, stored: torch.dtype):
    class Linear(picked.Linear):
        def __init__(self, *args, dtype=None, **kwargs):
            super().__init__(*args, dtype=stored, **kwargs)

    return Linear


def _scaled(picked, stored: torch.dtype):
    """Linear layers that dequantise by themselves: for formats that the host does not know, and hosts that know none."""

    class Linear(QuantisedLinear, picked.Linear):
        # Of our own: for layers that inherit it, dynamic memory takes the host's, which knows no scales.
        _load_from_state_dict = nn.Module._load_from_state_dict

        def __init__(self, *args, dtype=None, **kwargs):
            super().__init__(*args, dtype=stored, **kwargs)

        def forward(self, x: Tensor) -> Tensor:
            if self.weight_scale is None:
                return super().forward(x)
            with _cast(self, x) as (weight, bias):  # 8 bits cross the bus and become a new tensor in x's dtype
                return F.linear(x, dequantise(weight, self.weight_scale.to(weight.device), x.dtype), bias)

    return Linear


@contextmanager
def _cast(layer, x: Tensor):
    """A layer's weight and bias on x's device, in its dtype; the host may move the next layer's meanwhile."""
    if not OFFLOADS_ASYNCHRONOUSLY:
        yield comfy.ops.cast_bias_weight(layer, x)
        return
    weight, bias, stream = comfy.ops.cast_bias_weight(layer, x, offloadable=True)
    try:
        yield weight, bias
    finally:
        comfy.ops.uncast_bias_weight(layer, weight, bias, stream)


def _host_quantised(computed: torch.dtype, device: torch.device, offload: torch.device, formats: Collection[str]):
    """The host's linear layers for its own quantised tensors, in whole products where the card has none of the format's."""
    slow = {name for name in formats if not _has_products(name, device)}
    mixed = comfy.ops.mixed_precision_ops({}, computed, disabled=slow)

    class Linear(mixed.Linear):
        def __init__(self, *args, device=None, dtype=None, **kwargs):
            super().__init__(*args, device=offload, dtype=dtype, **kwargs)  # where it puts what it loads

    return Linear


def _host_computes(formats: Collection[str]) -> bool:
    """Whether the host has quantised tensors of all these formats, in the way that it has had them since 0.4."""
    try:
        from comfy.quant_ops import QUANT_ALGOS, get_layout_class  # noqa: F401
    except ImportError:
        return False
    return set(formats) <= set(QUANT_ALGOS)


def _better_whole(formats: Collection[str], device: torch.device) -> bool:
    """Whether our layers compute all these formats better: the host's round their input to 8 bits for int8, also on a CPU, which has no use for it."""
    return device.type == "cpu" and set(formats) <= set(FORMATS)


def _has_products(name: str, device: torch.device) -> bool:
    """Whether the device multiplies a format's numbers themselves."""
    from comfy.quant_ops import QUANT_ALGOS, get_layout_class

    if device.type != "cuda":
        return False
    management = comfy.model_management
    asked = {"nvfp4": "supports_nvfp4_compute", "mxfp8": "supports_mxfp8_compute", "float8_e4m3fn": "supports_fp8_compute", "float8_e5m2": "supports_fp8_compute"}
    if name in asked:
        return bool(getattr(management, asked[name])(device))
    return bool(get_layout_class(QUANT_ALGOS[name]["comfy_tensor_layout"]).supports_fast_matmul())
