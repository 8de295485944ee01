"""Files to models and back, whatever the family."""

from .checkpoint import Checkpoint
from .convert import convert
from .errors import CheckpointError
from .inspect import describe
from .load import build_head, check_head, load_checkpoint, load_head
from .quantised import QUANTISED
from .save import save_head
from .source import TensorSource

__all__ = [
    "QUANTISED",
    "Checkpoint",
    "CheckpointError",
    "TensorSource",
    "build_head",
    "check_head",
    "convert",
    "describe",
    "load_checkpoint",
    "load_head",
    "save_head",
]
