"""Fields that users may set, of methods and of rules: each says its default, its range and what it means.

The command line, the nodes and the errors take all three from here.
"""

from dataclasses import Field, field, fields
from typing import Any

from ..arguments import shown


def setting(default: Any, low: float, high: float, about: str) -> Any:
    """A field that holds a number, whole where its default is.

    Args:
        low, high: its range, both included.
        about: a few words, for the command line and the nodes.
    """
    return field(default=default, metadata={"low": low, "high": high, "about": about})


def choice(default: Any, choices: tuple, about: str) -> Any:
    """A field that holds one of a few values; True and False make a switch.

    Args:
        about: a few words, for the command line and the nodes.
    """
    return field(default=default, metadata={"choices": choices, "about": about})


def settings_of(cls: type) -> dict[str, Field]:
    """The fields of a dataclass that its users may set, by name."""
    return {each.name: each for each in fields(cls) if "about" in each.metadata}


def check_settings(values: Any, besides: tuple[str, ...] = ()) -> None:
    """Raise a ValueError that names the first field of a dataclass that is out of its range.

    Args:
        besides: fields that the dataclass checks itself.
    """
    for name, each in settings_of(type(values)).items():
        if name in besides:
            continue
        value, about = getattr(values, name), each.metadata["about"]
        if "choices" in each.metadata:
            if not isinstance(value, (str, int)) or value not in each.metadata["choices"]:
                raise ValueError(f"{name} is {shown(value)}, expected {', '.join(map(str, each.metadata['choices']))}: {about}.")
            continue
        low, high, whole = each.metadata["low"], each.metadata["high"], isinstance(each.default, int)
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)) or not low <= value <= high:
            raise ValueError(f"{name} is {shown(value)}, but must be a {'whole ' if whole else ''}number from {low} to {high}: {about}.")
