"""JSON that anybody may have written: how deep it goes and what numbers it holds are looked at before any of it is used.

Python reads NaN, Infinity and numbers of any length; here they are refused by the key that they stand under.
"""

import json
import math
from collections.abc import Iterable
from typing import Any

from .errors import CheckpointError

LARGEST = 2**26  # bytes of a text; tokenizers of 250,000 words take 20 MB
DEEPEST = 64  # levels; a tokenizer has eight
LONGEST_NUMBER = 300  # digits; a float holds no larger one
MOST_SHOWN = 80  # letters of a value in a message


class _TooLong(float):
    """What stands for a number of more digits than any that is meant."""


def parse_object(text: str | bytes, name: str, advice: str = "Download it again.") -> dict[str, Any]:
    """A JSON object whose numbers are all finite.

    Args:
        text: UTF-8 where it is bytes, with or without a mark at its start.
        name: of the file, and where it is one the key, for messages.

    Raises:
        CheckpointError: naming the text, and the key that is wrong.
    """
    if len(text) > LARGEST:
        raise CheckpointError(f"{name} has {len(text):,} bytes, but no such text has more than {LARGEST:,}. {advice}")
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8-sig")
        values = json.loads(text, parse_int=_whole, parse_constant=float)
    except RecursionError:
        raise CheckpointError(f"{name} is not valid JSON: it is nested deeper than {DEEPEST} levels. {advice}") from None
    except ValueError as error:
        raise CheckpointError(f"{name} is not valid JSON: {str(error).rstrip('.')}. {advice}") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{name}: expected a JSON object, found {type(values).__name__}. {advice}")
    _check(values, name, advice)
    return values


def shown(value: object) -> str:
    """A value of a file as a message shows it: in one line, cut short, without letters that a terminal acts on."""
    text = value if isinstance(value, str) and value.isprintable() and value else repr(value)
    return text if len(text) <= MOST_SHOWN else text[:MOST_SHOWN] + "..."


def _whole(text: str) -> int | float:
    return int(text) if len(text) <= LONGEST_NUMBER else _TooLong("inf")


def _check(values: dict, name: str, advice: str) -> None:
    """Walk through everything, without a call for each level."""
    levels: list[tuple[str, Iterable]] = [("", iter(values.items()))]
    while levels:
        path, items = levels[-1]
        for key, value in items:
            where = f"{path}.{shown(str(key))}" if path else shown(str(key))
            if isinstance(value, float) and not math.isfinite(value):
                said = "a number of too many digits" if isinstance(value, _TooLong) else f"{value}"
                raise CheckpointError(f"{name}: {where} is {said}, expected a finite number. {advice}")
            if isinstance(value, (dict, list)) and value:
                if len(levels) == DEEPEST:
                    raise CheckpointError(f"{name} is nested deeper than {DEEPEST} levels, at {shown(where)}. {advice}")
                levels.append((where if len(where) < 4 * MOST_SHOWN else path, iter(value.items() if isinstance(value, dict) else enumerate(value))))
                break
        else:
            levels.pop()
