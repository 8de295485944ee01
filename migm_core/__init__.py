"""Accelerated masked image generation: the engine, which knows nothing of ComfyUI."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .pipeline import Pipeline
    from .result import Result
    from .settings import Settings

__version__ = "0.3.0"
__all__ = ["Pipeline", "Result", "Settings", "__version__"]

_HOME = {"Pipeline": "pipeline", "Result": "result", "Settings": "settings"}


def __getattr__(name: str):
    """The public names, imported when they are asked for: torch takes seconds, and a command's help needs none of it."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)
