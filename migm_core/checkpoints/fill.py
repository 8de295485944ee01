"""Load tensors into models."""

import math
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from .errors import CheckpointError


def fill(model: nn.Module, names: Iterable[str], read: Callable[[str], Tensor], device, path: Path) -> nn.Module:
    """Load tensors into a model. Each is converted to its parameter's dtype and moved to the device; one without a parameter stays as it is.

    Args:
        model: on the meta device.
        read: gives a tensor by its name.
        path: where they come from, for messages.

    Raises:
        CheckpointError: a number is too large for the dtype.
    """
    room = dict(model.named_parameters())
    state = {}
    for name in names:
        tensor = read(name)
        state[name] = converted(tensor, room[name].dtype, f"{path}: {name}", device) if name in room else tensor
    model.requires_grad_(False).load_state_dict(state, assign=True)
    return model.eval()


def copy_to_memory(model: nn.Module) -> None:
    """Copy weights out of the files that they are mapped from: from then on it does no harm if a file is cut short."""
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone()


def converted(tensor: Tensor, dtype: torch.dtype, name: str, device=None) -> Tensor:
    """A tensor in another dtype, and on another device.

    Args:
        name: of the file and the tensor, for messages.

    Raises:
        CheckpointError: a finite number in it is none any more, or lies past the end of 8 bits, which also take none that is not finite.
    """
    made = tensor.to(device=device, dtype=dtype)
    wider = tensor.is_floating_point() and dtype.is_floating_point and torch.finfo(tensor.dtype).max > torch.finfo(dtype).max
    if not wider or made.device.type == "meta" or not tensor.numel():
        return made
    ends = torch.finfo(dtype).max
    if dtype.itemsize == 1:  # which PyTorch fills up to its largest number, even from infinity
        largest = (tensor.float() if tensor.itemsize == 1 else tensor).abs().max().item()
        if not math.isfinite(largest):
            raise CheckpointError(f"{name} holds values that are not finite. The file may be damaged: download it again.")
        fits = largest <= ends
    else:
        fits = bool(made.isfinite().all()) or not tensor.isfinite().all()
    if not fits:
        largest = tensor.double().abs().max().item()
        raise CheckpointError(f"{name} holds {largest:.3g}, but {str(dtype).removeprefix('torch.')} ends at {ends:.3g}. Choose another dtype, such as fp32.")
    return made
