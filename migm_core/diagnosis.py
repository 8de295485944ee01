"""What to blame when a model gives numbers that are not finite."""

from pathlib import Path

import torch

from .checkpoints import Checkpoint
from .sampling.backbone import Head


def find_culprit(kind: str, checkpoint: Checkpoint, head: Head | None, head_path: str | Path) -> str:
    """Name the damaged tensor and its file, or say what to try where all weights are finite.

    Args:
        kind: of the step that gave them, or "decode".
    """
    path, what, model, dtype = checkpoint.path, "base model", checkpoint.base, checkpoint.base.dtype
    if kind == "decode":
        what, model, dtype = "image tokenizer", checkpoint.image_tokenizer, torch.float32
    elif kind == "shortcut" and head is not None:  # without one the kind is of a method of somebody's own
        path, what, model = head_path, "shortcut head", head
    for name, tensor in model.state_dict().items():
        if not tensor.float().isfinite().all():  # float8 cannot tell by itself
            name = checkpoint.family.base_prefix + name if model is checkpoint.base else name
            return f"{path}: the {what}'s tensor {name} holds values that are not finite. The file may be damaged: download it again."
    advice = "Its weights are finite: check that they are of this model" if dtype == torch.float32 else "Try dtype fp32"
    return f"{path}: the {what} gives values that are not finite, computed in {str(dtype).removeprefix('torch.')}. {advice}."
