"""Ways of sampling in a user's words, for the commands that compare them."""

import re
from collections import Counter
from typing import Any

from ..sampling.methods import METHODS

EXAMPLES = "vanilla; shortcut 9; shortcut 8 of 48; vanilla 16; ml-cache interval=3"
SHARED = ("seed", "batch", "width", "height", "method")
_NAMES = {"cfg": "guidance_scale", "image_cfg": "image_guidance_scale"}


def parse_ways(text: str) -> dict[str, dict[str, Any]]:
    """The settings of each way, by the words that ask for it.

    Ways are separated by semicolons or new lines. Each is a method's name, then a number, its budget where it takes one, else its steps, then
    "of" and the steps, then settings as name=value. One that is written
    again, which shows how far chance alone moves the times, has its count behind its words.

    Raises:
        ValueError: naming the way that is not understood; whether settings exist and fit is for ``Pipeline.settings`` to say.
    """
    ways, written = {}, Counter()
    for part in filter(None, map(str.strip, re.split(r"[;\n]", text))):
        match = re.fullmatch(r"([\w-]+)(?:\s+(\d{1,6}))?(?:\s+of\s+(\d{1,6}))?((?:\s+[\w-]+=\S+)*)", part)
        method = METHODS.get(match[1].lower()) if match else None
        if method is None:
            raise ValueError(f"{part[:60]!r} is no way of sampling. Expected one of {', '.join(METHODS)}, for example: {EXAMPLES}.")
        counts = [number for number in match.groups()[1:3] if number]
        names = ["budget", "steps"] if "budget" in method.settings() else ["steps"]
        if len(counts) > len(names):
            raise ValueError(f"{part[:60]!r} has two numbers, but {method.name} takes its steps alone. Examples: {EXAMPLES}.")
        way = {"method": method.name} | dict(zip(["steps"] if match[3] and not match[2] else names, map(int, counts)))
        for word in match[4].split():
            name, _, value = word.partition("=")
            name = name.replace("-", "_")
            if name in SHARED:
                raise ValueError(f"{part[:60]!r} sets {name}, which is the same for all ways. Give it as an option of the command.")
            way[_NAMES.get(name, name)] = _value(value)
        written[part] += 1
        ways[part if written[part] == 1 else f"{part} ({written[part]})"] = way
    if not ways:
        raise ValueError(f"There are no methods to compare. Examples: {EXAMPLES}.")
    return ways


def _value(text: str) -> int | float | bool | str:
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text
