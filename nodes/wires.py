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
    """What to generate and, where it is not empty, what to keep away from."""

    text: str
    negative: str


@dataclass(frozen=True, eq=False)
class ModelCanvas:
    """A canvas on the CPU, and the model whose image tokenizer gives its codes a meaning."""

    canvas: Canvas
    model: LoadedModel


def schema(*, search_aliases: list[str], has_intermediate_output: bool = False, **values) -> io.Schema:
    """A node's schema; with aliases, and with outputs that are sent again after a cached run, on the hosts that know them."""
    newer = {"search_aliases": search_aliases, "has_intermediate_output": has_intermediate_output}
    known = {each.name for each in fields(io.Schema)}
    return io.Schema(**values, **{name: value for name, value in newer.items() if name in known})


def advanced(widget: io.Input) -> io.Input:
    """An input behind the button "Show advanced inputs". All hosts hand this on to their page; only newer ones have an argument for it."""
    widget.extra_dict["advanced"] = True
    return widget


def expect(kind: type, **connected) -> None:
    """Check what the API may send in the place of a link; None is left to the caller, as some inputs are optional.

    Raises:
        ValueError: an input that is no ``kind``; names it.
    """
    for name, value in connected.items():
        if not isinstance(value, kind):
            raise ValueError(f"The input {name} got {_shown(value)}, but needs a link. Connect {SOURCES[kind.__name__]}.")


SOURCES = {
    "LoadedModel": "MIGM Load Lumina-DiMOO",
    "HeadFile": "MIGM Load Shortcut Head",
    "PromptText": "MIGM Prompt",
    "ModelCanvas": "MIGM Empty Canvas or MIGM Encode Image to Canvas",
}


def _shown(value: object) -> str:
    return "nothing" if value is None else repr(value)[:60] if isinstance(value, (str, int, float, list, dict)) else f"a {type(value).__name__}"
