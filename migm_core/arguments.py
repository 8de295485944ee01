"""What a caller gives, by the names of the arguments: what it is not is told in a sentence, before torch does in its own words.

Each function returns the value, or raises a ValueError.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

MOST_SHOWN = 4  # values of a list
LARGEST_TEXT = 2**26  # bytes of a list of prompts or requests: a million of them


def whole(name: str, value: Any, low: int | None = None, high: int | None = None) -> int:
    """A whole number within bounds, both included."""
    if isinstance(value, bool) or not isinstance(value, int) or low is not None and value < low or high is not None and value > high:
        bounds = f" from {low} to {high}" if high is not None else f", at least {low}" if low is not None else ""
        raise ValueError(f"{name} is {shown(value)}, but must be a whole number{bounds}.")
    return value


def share(name: str, value: Any) -> float:
    """A number from 0 to 1."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise ValueError(f"{name} is {shown(value)}, but must be a number from 0 to 1.")
    return value


def text(name: str, value: Any) -> str:
    return _of(str, name, value, "text")


def path(name: str, value: Any) -> Path:
    if not isinstance(value, (str, os.PathLike)) or not isinstance(os.fspath(value), str):
        raise ValueError(f"{name} is {shown(value)}, but must be a path.")
    return Path(value)


def read_text(path: Path, holds: str) -> str:
    """A text in UTF-8 from a regular file, with or without a mark at its start.

    Args:
        holds: what it should, for messages.

    Raises:
        ValueError: it is no such file, no text, or larger than any that is meant.
        OSError: naming the file, which cannot be read.
    """
    if path.exists() and not path.is_file():  # a pipe would be waited for, and a device has no end
        raise ValueError(f"{path} is a folder, a device or a pipe. Expected a file with {holds}.")
    with path.open("rb") as file:
        content = file.read(LARGEST_TEXT + 1)
    if len(content) > LARGEST_TEXT:
        raise ValueError(f"{path} has more than {LARGEST_TEXT:,} bytes. Expected a file with {holds}: split it.")
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is no text in UTF-8. Expected {holds}.") from None


def switch(name: str, value: Any) -> bool:
    return _of(bool, name, value, "True or False")


def function(name: str, value: Any) -> Callable:
    if not callable(value):
        raise ValueError(f"{name} is {shown(value)}, but must be a function.")
    return value


def instance(name: str, value: Any, *kinds: type) -> Any:
    """A value of one of some classes."""
    if not isinstance(value, kinds):
        raise ValueError(f"{name} is {shown(value)}, but must be {' or '.join(f'a {kind.__name__}' for kind in kinds)}.")
    return value


def images(name: str, value: Any) -> Tensor:
    """Pixels in 0..1, floating point (B, 3, h, w), none of them empty or not finite."""
    value = tensor(name, value)
    if value.dim() != 4 or value.shape[1] != 3 or 0 in value.shape or not value.is_floating_point():
        raise ValueError(f"{name} has the shape {tuple(value.shape)} and holds {_dtype(value)}, but must be (images, 3, height, width) in floating point, from 0 to 1.")
    if not value.isfinite().all():
        raise ValueError(f"{name} holds values that are not finite, but must be from 0 to 1.")
    return value


def mask(name: str, value: Any) -> Tensor:
    """Numbers or truth values, (B, h, w), none of them empty; whatever is not finite is refused."""
    value = tensor(name, value)
    if value.dim() != 3 or 0 in value.shape or value.is_complex():
        raise ValueError(f"{name} has the shape {tuple(value.shape)} and holds {_dtype(value)}, but must be (images, height, width), from 0 to 1.")
    if value.is_floating_point() and not value.isfinite().all():
        raise ValueError(f"{name} holds values that are not finite, but must be from 0 to 1.")
    return value


def tensor(name: str, value: Any, *, data: bool = True) -> Tensor:
    """A plain tensor; with ``data`` one that holds its numbers."""
    if not isinstance(value, Tensor):
        raise ValueError(f"{name} is {shown(value)}, but must be a tensor.")
    if value.is_nested or value.layout != torch.strided or value.is_quantized or data and value.device.type == "meta":
        raise ValueError(f"{name} is sparse, nested, quantised or on the device meta, but must be a plain tensor.")
    return value


def shown(value: Any) -> str:
    """A value as a message shows it, in few words whatever it is."""
    if isinstance(value, type):
        return repr(value)[:80]
    if value is None or isinstance(value, (bool, float, str, bytes)):
        return repr(value[:80] if isinstance(value, (str, bytes)) else value)
    if isinstance(value, int):
        return str(value) if abs(value) < 10**40 else "a number of too many digits"
    if type(value) in (list, tuple) and len(value) <= MOST_SHOWN and all(isinstance(each, (str, int, float, type(None))) for each in value):
        begin, end = "[]" if type(value) is list else "()"
        return begin + ", ".join(map(shown, value)) + end
    return f"a {type(value).__name__}"


def _of(kind: type, name: str, value: Any, what: str) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"{name} is {shown(value)}, but must be {what}.")
    return value


def _dtype(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")
