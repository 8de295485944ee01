"""Models to files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ..modules.quantised import LARGEST
from ..sampling.backbone import Head
from .quantised import SCALE
from .write import write_tensors


def save_head(path: str | Path, head: Head, *, dtype: torch.dtype | None = None, extra: dict[str, str] | None = None) -> None:
    """Write a head to a .safetensors file that says what it is."""
    from ..families import family_of_head

    family = family_of_head(head.config)
    write_tensors(Path(path), stored(family.head_tensors(head), dtype), {**family.head_metadata(head.config), **(extra or {})})


def stored(model: nn.Module | Mapping[str, Tensor], dtype: torch.dtype | None) -> dict[str, Tensor]:
    """A model's tensors, or its state dict's, as they go into a file; what is quantised, and scales, as they are."""
    state = model.state_dict() if isinstance(model, nn.Module) else model
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    return {name: tensor if tensor.dtype in LARGEST or name.endswith(SCALE) else tensor.to(dtype) for name, tensor in tensors.items()}
