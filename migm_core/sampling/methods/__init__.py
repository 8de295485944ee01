"""Where a step's features come from: one file a method."""

from .base import Method, MethodRun, Step
from .ml_cache import MLCache
from .shortcut import Shortcut
from .vanilla import Vanilla

__all__ = ["MLCache", "Method", "MethodRun", "Shortcut", "Step", "Vanilla"]
