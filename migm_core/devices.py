"""Devices and dtypes by the names that users write."""

import torch

from .arguments import shown

SMALL = 100 * 10**6  # weights; fewer make layers so narrow that half precision saves no time
DTYPES = {
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
}


def resolve_device(name: str | None) -> torch.device:
    """Find a torch device by name; None takes CUDA where there is one.

    Raises:
        ValueError: an unknown device, or one that this machine lacks.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
        torch.Generator(device)  # meta, for one, has none
    except (RuntimeError, AssertionError, ImportError, TypeError, ValueError):
        raise ValueError(f"Device {shown(name)} is not known, or this machine or its PyTorch lacks it. Try cpu.") from None
    return device


def resolve_dtype(name: str | torch.dtype, device: torch.device | str, weights: int | None = None) -> torch.dtype:
    """Resolve "auto", "bf16", "fp16", "fp32" or a torch dtype that models run in, for a device and a model.

    ``auto`` is float32 for a small model; else bfloat16 where the device computes it fast, or float16 on a GPU and float32 on a CPU.

    Args:
        weights: how many the model has; None for many.

    Raises:
        ValueError: an unknown name, or a dtype that no model runs in.
    """
    if isinstance(name, torch.dtype) and name in DTYPES.values():
        return name
    if isinstance(name, str) and name in DTYPES:
        return DTYPES[name]
    if not isinstance(name, str) or name != "auto":
        wrong = f"Models do not run in {name}" if isinstance(name, torch.dtype) else f"Unknown dtype {shown(name)}"
        raise ValueError(f"{wrong}. Expected auto, {', '.join(DTYPES)}.")
    if weights is not None and weights < SMALL:
        return torch.float32
    kind = torch.device(device).type
    if kind == "cpu":
        return fast_dtype(device)
    if kind == "cuda":
        with torch.cuda.device(device):  # torch asks the current one
            return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return torch.float16


def fast_dtype(device: torch.device | str) -> torch.dtype:
    """What training and large batches compute in: bfloat16 where that is fast, else float32."""
    return torch.bfloat16 if has_fast_bfloat16(device) else torch.float32


def half_precision(device: torch.device) -> torch.autocast:
    """Autocast to bfloat16 where that is fast; nothing elsewhere."""
    return torch.autocast(device.type, torch.bfloat16, enabled=has_fast_bfloat16(device))


def has_fast_bfloat16(device: torch.device | str) -> bool:
    """Whether bfloat16 is worth computing in: on a GPU, and on a processor that has products in it; on others they are many times slower than float32."""
    kind = torch.device(device).type
    if kind != "cpu":
        return kind == "cuda"
    probes = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(probe() for name in probes if (probe := getattr(torch.cpu, name, None)))
