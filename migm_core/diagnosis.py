"""What to blame when a model gives numbers that are not finite."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from .checkpoints import Checkpoint, CheckpointError
from .sampling.backbone import Head
from .sampling.not_finite import NotFinite


@contextmanager
def named_culprit(checkpoint: Checkpoint, head: Head | None = None, head_path: str | Path = "") -> Iterator[None]:
    """A block in which numbers that are not finite become a CheckpointError that names what to blame; arguments as ``find_culprit``."""
    try:
        yield
    except NotFinite as error:
        raise CheckpointError(f"{find_culprit(error.kind, checkpoint, head, head_path)} Nothing was generated.") from None


def find_culprit(kind: str, checkpoint: Checkpoint, head: Head | None, head_path: str | Path) -> str:
    """Name the damaged tensor and its file, or say what to try where all weights are finite.

    Args:
        kind: of the step that gave them, or "decode".
        head: the method's; head_path: its file, or what to call it.
    """
    path, what, model, dtype = checkpoint.path, "base model", checkpoint.base, checkpoint.base.dtype
    if kind == "decode":
        what, model, dtype = "image tokenizer", checkpoint.image_tokenizer, torch.float32
    elif kind == "shortcut" and isinstance(head, nn.Module):  # without one the kind is of a method of somebody's own
        path, what, model = head_path, "shortcut head", head
    for name, tensor in model.state_dict().items():
        if not tensor.float().isfinite().all():  # float8 cannot tell by itself
            name = checkpoint.family.base_prefix + name if model is checkpoint.base else name
            return f"{path}: the {what}'s tensor {name} holds values that are not finite. The file may be damaged: download it again."
    advice = "Its weights are finite: check that they are of this model" if dtype == torch.float32 else "Try dtype fp32"
    return f"{path}: the {what} gives values that are not finite, computed in {str(dtype).removeprefix('torch.')}. {advice}."
