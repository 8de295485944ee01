"""What the links between these nodes carry, each of an io type of its own, so that a wrong connection is impossible; and their schemas."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from comfy_api.latest import io
from PIL import Image

from ..migm_core import arguments

if TYPE_CHECKING:
    from ..migm_core.canvas import Canvas
    from ..migm_core.sampling.backbone import Branch
    from ..migm_core.settings import Settings
    from .host.weights import LoadedModel

Finish = Callable[[Image.Image], Image.Image]

MODEL = io.Custom("MIGM_MODEL")  # host.weights.LoadedModel
HEAD = io.Custom("MIGM_HEAD")  # host.weights.HeadFile
PROMPT = io.Custom("MIGM_PROMPT")  # PromptText
CLASSES = io.Custom("MIGM_CLASSES")  # ClassList
CANVAS = io.Custom("MIGM_CANVAS")  # ModelCanvas


class Condition:
    """What a sampler is told to generate: of a text, of classes, or of a task with its pictures.

    Attributes:
        takes: as a family's.
        asked: what a family makes branches of; negative: likewise.
        settings: of a run, by their names in ``Settings``, that come with it.
        probes: whether a shortcut head is watched, as it may not know what is asked.
        notes: sentences for the report.
        picture_tokens: of the pictures in a prompt that shows them.
    """

    takes: ClassVar[str]
    settings: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    probes: ClassVar[bool] = False
    notes: tuple[str, ...] = ()
    picture_tokens: ClassVar[int] = 0

    def size(self, model: LoadedModel) -> tuple[int, int]:
        """Width and height in pixels where no canvas says them."""
        own = model.checkpoint.settings
        return own["width"], own["height"]

    def branches(self, model: LoadedModel, settings: Settings) -> list[Branch]:
        """The guidance branches of a run.

        Raises:
            ValueError: the model does not take this.
        """
        return model.checkpoint.family.branches(model.checkpoint, self.asked, self.negative, settings.guidance_scale, settings.batch)


@dataclass(frozen=True)
class PromptText(Condition):
    """What to generate and, where it is not empty, what to keep away from."""

    takes: ClassVar[str] = "text"
    text: str
    negative: str

    @property
    def asked(self) -> str:
        """What a family makes branches of."""
        return self.text

    def images(self, model: LoadedModel) -> int:
        """How many images it asks for at least."""
        return 1


@dataclass(frozen=True)
class ClassList(Condition):
    """Classes by their names or numbers as written, separated by commas or lines: one for all images, or one for each."""

    takes: ClassVar[str] = "classes"
    negative: ClassVar[str] = ""
    asked: str

    def images(self, model: LoadedModel) -> int:
        """How many images it asks for at least.

        Raises:
            ValueError: the model has no such class.
        """
        return len(model.checkpoint.prompts.parse(self.asked))


@dataclass(frozen=True, eq=False)
class ModelCanvas:
    """A canvas on the CPU, and the model whose image tokenizer gives its codes a meaning.

    Attributes:
        finish: from each decoded image to what its user gets, such as one joined with the picture that it was painted in; one for each or one for all,
            empty where it is the same.
        notes: sentences for the report.
    """

    canvas: Canvas
    model: LoadedModel
    finish: tuple[Finish, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def probes(self) -> bool:
        """Whether a shortcut head is watched, as it may not know what is asked."""
        return bool(self.finish)


def schema(*, search_aliases: list[str], has_intermediate_output: bool = False, **values) -> io.Schema:
    """A node's schema; with aliases, and with outputs that are sent again after a cached run, on the hosts that know them."""
    newer = {"search_aliases": search_aliases, "has_intermediate_output": has_intermediate_output}
    known = {each.name for each in fields(io.Schema)}
    return io.Schema(**values, **{name: value for name, value in newer.items() if name in known})


def advanced(widget: io.Input) -> io.Input:
    """An input behind the button "Show advanced inputs". All hosts hand this on to their page; only newer ones have an argument for it."""
    widget.extra_dict["advanced"] = True
    return widget


def unused(widget: io.Input, **where: list[str]) -> io.Input:
    """A widget that the page takes away where a list of the node, by its name, is set to one of some values."""
    widget.extra_dict["migm_unused"] = where
    return widget


def optional(widget: io.Input) -> io.Input:
    """An input that a prompt may leave out: one that was not there in earlier versions."""
    widget.optional = True
    return widget


def expect(kind: type, source: str | None = None, **connected) -> None:
    """Check what the API may send in the place of a link; None is left to the caller, as some inputs are optional.

    Args:
        source: the node to connect, where not all of ``SOURCES`` will do.

    Raises:
        ValueError: an input that is no ``kind``; names it.
    """
    for name, value in connected.items():
        if not isinstance(value, kind):
            raise ValueError(f"The input {name} got {_shown(value)}, but needs a link. Connect {source or SOURCES[kind.__name__]}.")


def expect_family(model: LoadedModel, condition: object) -> None:
    """Check that a sampler's condition, and so the sampler, is of its model's kind.

    Raises:
        ValueError: a text for a model that takes classes, or the other way round.
    """
    family = model.checkpoint.family
    if family.takes != condition.takes:
        raise ValueError(f"{model.name!r} is a model of the family {family.title}, which takes {family.takes}. Connect it to {SAMPLERS[family.takes]}.")


SAMPLERS = {"text": "MIGM KSampler (Shortcut)", "classes": "MIGM MaskGIT Sampler"}
SOURCES = {
    "LoadedModel": "MIGM Load Lumina-DiMOO or MIGM Load MaskGIT",
    "HeadFile": "MIGM Load Shortcut Head",
    "PromptText": "MIGM Prompt or MIGM Edit Image",
    "ClassList": "MIGM MaskGIT Class",
    "ModelCanvas": "MIGM Empty Canvas, MIGM Encode Image to Canvas or MIGM Outpaint",
}


def _shown(value: object) -> str:
    return "nothing" if value is None else arguments.shown(value)
