"""What a trajectory's file says of its run, which anybody may have written."""

import math
from collections.abc import Mapping
from typing import Any

from .errors import CheckpointError
from .json_text import shown

SAID = {"base": str, "prompt": str, "seed": int, "settings": dict}  # "request", a dict, may be missing
SCALES = ("guidance_scale", "image_guidance_scale")  # of the settings, those that a training computes with
ADVICE = "Remove it, and run `migm collect` again."
_WORDS = {str: "text", int: "a whole number", dict: "an object"}


def check_run(said: Mapping[str, Any], path: object) -> None:
    """Check the form of what a file says of its run; not whether it is of this base, or has these settings.

    Args:
        path: of the file, for messages.

    Raises:
        CheckpointError: naming the file and what it lacks, or what has another form.
    """
    if not SAID.keys() <= said.keys():
        raise CheckpointError(f"{path} does not say of which base, prompt, seed and settings it is. {ADVICE}")
    for name, kind in {**SAID, "request": dict}.items():
        value = said.get(name, {})
        if not isinstance(value, kind) or isinstance(value, bool):
            raise _wrong(path, name, value, _WORDS[kind])
    for name in SCALES:
        scale = said["settings"].get(name, 0)
        if isinstance(scale, bool) or not isinstance(scale, (int, float)) or not math.isfinite(scale):
            raise _wrong(path, f"settings.{name}", scale, "a finite number")
    if not isinstance(task := said.get("request", {}).get("task", ""), str):
        raise _wrong(path, "request.task", task, "the name of a task")


def _wrong(path: object, name: str, value: object, expected: str) -> CheckpointError:
    return CheckpointError(f"{path} cannot be read as a trajectory: its {name} is {shown(value)}, expected {expected}. {ADVICE}")
