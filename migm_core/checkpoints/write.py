"""Write tensors to a .safetensors file one at a time, so that they are never all in memory."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from ..writing import folder_for, replacing
from .source import DTYPES
from .version import KEY, VERSION

_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class Pending:
    """A tensor that is made only when it is written; its shape and dtype are known before."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    make: Callable[[], Tensor]


def write_tensors(path: Path, tensors: Mapping[str, Tensor | Pending], metadata: dict[str, str]) -> None:
    """Write a file, whole or not at all, in a folder that is made if missing.

    Raises:
        OSError: naming the file.
    """
    with folder_for(path.parent), replacing(path) as file:
        put_tensors(file, tensors, metadata)


def put_tensors(file: BinaryIO, tensors: Mapping[str, Tensor | Pending], metadata: dict[str, str]) -> None:
    """Write into an open file."""
    # Widest dtype first: every tensor then starts at a multiple of its item size, as memory mapping needs.
    order = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    file.write(_header(order, tensors, metadata))
    for name in order:
        file.write(_bytes(name, tensors[name]))


def _header(order: list[str], tensors: Mapping[str, Tensor | Pending], metadata: dict[str, str]) -> bytes:
    """Length and JSON, padded to a multiple of 8 bytes."""
    entries: dict[str, dict] = {"__metadata__": dict(sorted({"format": "pt", **metadata, KEY: str(VERSION)}.items()))}
    end = 0
    for name in order:
        shape, dtype = tuple(tensors[name].shape), tensors[name].dtype
        begin, end = end, end + torch.Size(shape).numel() * dtype.itemsize
        entries[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _bytes(name: str, tensor: Tensor | Pending):
    made = tensor.make() if isinstance(tensor, Pending) else tensor
    if (tuple(made.shape), made.dtype) != (tuple(tensor.shape), tensor.dtype):
        raise RuntimeError(f"{name} was planned as {tuple(tensor.shape)} of {tensor.dtype}, but made as {tuple(made.shape)} of {made.dtype}.")
    return made.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
