"""What runs along the wires between these nodes, each of an io type of its own, so that a wrong connection is impossible; and
their schemas."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from comfy_api.latest import io

if TYPE_CHECKING:
    from ..migm_core.canvas import Canvas
    from .weights import LoadedModel

MODEL = io.Custom("MIGM_MODEL")  # weights.LoadedModel
HEAD = io.Custom("MIGM_HEAD")  # weights.HeadFile
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


def schema(*, search_aliases: list[str], **values) -> io.Schema:
    """A node's schema; with aliases on the hosts that know them."""
    if any(f.name == "search_aliases" for f in fields(io.Schema)):
        values["search_aliases"] = search_aliases
    return io.Schema(**values)
