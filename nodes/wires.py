"""What runs along the wires between these nodes. Each has an io type of its own, so that a wrong connection is impossible."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from comfy_api.latest import io

if TYPE_CHECKING:
    from ..migm_core.canvas import Canvas
    from .host import LoadedModel

MODEL = io.Custom("MIGM_MODEL")  # host.LoadedModel
HEAD = io.Custom("MIGM_HEAD")  # host.HeadFile
PROMPT = io.Custom("MIGM_PROMPT")  # PromptText
CANVAS = io.Custom("MIGM_CANVAS")  # ModelCanvas


@dataclass(frozen=True)
class PromptText:
    """What to draw and, where it is not empty, what to keep away from."""

    text: str
    negative: str


@dataclass(frozen=True, eq=False)
class ModelCanvas:
    """A canvas on the CPU, and the model whose image tokenizer gives its codes a meaning."""

    canvas: Canvas
    model: LoadedModel
