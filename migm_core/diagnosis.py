"""What to blame when a model gives numbers that are not finite."""

from pathlib import Path

from .checkpoints import Checkpoint
from .sampling.backbone import Head


def find_culprit(kind: str, checkpoint: Checkpoint, head: Head | None, head_path: str | Path) -> str:
    """A sentence that names the damaged tensor and its file, or the dtype where all weights are sound.

    Args:
        kind: of the step that gave them, or "decode".
    """
    path, what, model = {
        "shortcut": (head_path, "shortcut head", head),
        "decode": (checkpoint.path, "image tokenizer", checkpoint.image_tokenizer),
    }.get(kind, (checkpoint.path, "base model", checkpoint.base))
    for name, tensor in model.state_dict().items():
        if not tensor.float().isfinite().all():  # float8 cannot tell by itself
            name = checkpoint.family.base_prefix + name if model is checkpoint.base else name
            return f"{path}: the {what}'s tensor {name} holds values that are not finite. The file may be damaged: download it again."
    return f"{path}: the {what} gives values that are not finite, computed in {checkpoint.base.dtype}; try dtype fp32."
