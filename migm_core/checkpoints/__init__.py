"""Files to models and back: the published layout, single files, shortcut heads."""

from .errors import CheckpointError
from .inspect import describe
from .load import Checkpoint, build_base, build_head, build_image_tokenizer, load_checkpoint, load_head, resolve_dtype
from .quantised import EIGHT_BIT
from .save import convert, save_checkpoint, save_head
from .source import TensorSource

__all__ = [
    "EIGHT_BIT",
    "Checkpoint",
    "CheckpointError",
    "TensorSource",
    "build_base",
    "build_head",
    "build_image_tokenizer",
    "convert",
    "describe",
    "load_checkpoint",
    "load_head",
    "resolve_dtype",
    "save_checkpoint",
    "save_head",
]
