"""Where a step's features come from: one file a method. To add one: write its file, and name its class here."""

from .method import Method, MethodRun, Step
from .ml_cache import MLCache
from .shortcut import Shortcut
from .vanilla import Vanilla

METHODS: dict[str, type[Method]] = {method.name: method for method in (Vanilla, Shortcut, MLCache)}

__all__ = ["METHODS", "MLCache", "Method", "MethodRun", "Shortcut", "Step", "Vanilla"]
