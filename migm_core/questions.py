"""Questions on pictures, for a pipeline: what the model's family does of them, with the caller's arguments checked."""

from collections.abc import Callable, Mapping
from typing import Any

from . import arguments
from .checkpoints import Checkpoint
from .families.request import Encode


def answer(checkpoint: Checkpoint, encode: Encode, question: str | list[str], images: Any, settings: Mapping[str, Any], callback: Callable | None) -> Any:
    """A reply, or a list of them for a list of questions; arguments and errors as ``Pipeline.understand``.

    Raises:
        NotFinite: the base gives no finite numbers.
    """
    if callback is not None:
        arguments.function("callback", callback)
    replies = checkpoint.family.understand(checkpoint, _questions(question), images, encode, settings, callback)
    return replies if isinstance(question, list) else replies[0]


def choose(checkpoint: Checkpoint, encode: Encode, question: str | list[str], options: list[str], images: Any) -> Any:
    """A choice, or a list of them for a list of questions; arguments and errors as ``Pipeline.choose``.

    Raises:
        NotFinite: the base gives no finite numbers.
    """
    choices = checkpoint.family.choose(checkpoint, _questions(question), options, images, encode)
    return choices if isinstance(question, list) else choices[0]


def _questions(question: str | list[str]) -> list[str]:
    if isinstance(question, list) and not question:
        raise ValueError("The list of questions is empty, expected at least one.")
    return question if isinstance(question, list) else [question]
