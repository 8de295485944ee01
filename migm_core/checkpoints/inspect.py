"""Describe a file, and say whether it loads. Of weights only the headers are read."""

from collections.abc import Callable
from pathlib import Path

import torch

from .errors import CheckpointError
from .files import locate
from .quantised import COMPANIONS
from .source import TensorSource


def describe(path: str | Path) -> str:
    """Describe a checkpoint folder or file, an image tokenizer or a shortcut head, in a few lines.

    Raises:
        CheckpointError: it is none of these, or is damaged.
    """
    from ..families import FAMILIES, detect

    path = locate(path)
    source, error = None, None
    try:
        source = TensorSource.open(path, data=False)
    except CheckpointError as failed:
        error = failed
    for family in FAMILIES:
        if lines := family.describe(path, source):
            return "\n".join(lines)
    if error is not None:
        raise error
    detect(path, data=False)
    raise CheckpointError(f"{path} is a checkpoint that cannot be described.")


def refusal(action: Callable) -> str | None:
    """The message with which an action refuses a file; None if it does not."""
    try:
        action()
    except CheckpointError as error:
        return str(error)
    return None


def ignored(keys: list[str]) -> list[str]:
    """A line about unknown keys of a config: the model's maker may have meant something by them."""
    return [f"  ignored       in its config, not known here: {', '.join(keys)}"] if keys else []


def weights(source: TensorSource) -> list[str]:
    shapes = [shape for name, shape in source.shapes.items() if not name.endswith(COMPANIONS)]
    if not shapes:
        return []
    count = sum(torch.Size(shape).numel() for shape in shapes)
    return [f"  parameters    {_count(count)} in {len(shapes)} tensors, {dtype_name(source.dtype())}, {source.bytes() / 2**20:,.1f} MiB"]


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _count(n: int) -> str:
    for unit, size in (("B", 10**9), ("M", 10**6), ("k", 10**3)):
        if n >= size:
            return f"{n / size:.2f} {unit}"
    return str(n)
