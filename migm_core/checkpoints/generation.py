"""Read a checkpoint's own settings of a run from its generation_config.json."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from ..arguments import shown
from ..settings import MAX_TOKENS, Settings
from ..trained import Trained
from .errors import CheckpointError

if TYPE_CHECKING:
    from ..families.family import Family

LONGEST_SIDE = 512  # tokens of a size that a model was trained for: that of MAX_TOKENS at 4:1


def run_settings(family: Family, values: dict, name: str | Path, downscale_factor: int) -> dict:
    """Read and check a checkpoint's own settings of a run; the defaults of the family and of its rule fill the rest.

    Args:
        values: of generation_config.json.
        name: where they come from, for messages.
        downscale_factor: pixels a token along each side, of its image tokenizer.

    Raises:
        CheckpointError: naming the first that has the wrong type or is out of its range.
    """
    if "guidance" in values:
        raise CheckpointError(f"{name}: generation_config says guidance, as version 0.2 wrote it. Rename the key to guidance_scale.")
    settings, defaults = {}, {**family.defaults, **asdict(family.sampling(family.defaults))}  # every setting of the rule
    for key, default in defaults.items():
        value = default if values.get(key) is None else values[key]
        kinds = type(default) if isinstance(default, (bool, int, str)) else (int, float)
        if not isinstance(value, kinds) or isinstance(value, bool) != isinstance(default, bool):
            expected = {bool: "true or false", int: "a whole number", str: "a word"}.get(kinds, "a number")
            raise CheckpointError(f"{name}: {key} is {value!r:.80}, expected {expected}. Correct it, or download the file again.")
        settings[key] = value
    if (values.get("width") is None) != (values.get("height") is None):
        there, missing = ("width", "height") if values.get("height") is None else ("height", "width")
        raise CheckpointError(f"{name}: {there} is {values[there]!r:.80}, but there is no {missing}. Give both or neither.")
    if values.get("budget") is None and settings["steps"] != defaults["steps"]:
        settings["budget"] = min(max(settings["steps"], 1), max(2, round(settings["steps"] / defaults["steps"] * defaults["budget"])))
    size = (settings["width"], settings["height"]) if values.get("width") or values.get("height") else (downscale_factor,) * 2  # without a size of its own, any size passes the check
    try:
        Settings(
            *size,
            steps=settings["steps"],
            guidance_scale=settings["guidance_scale"],
            rule=family.sampling(settings),
            method="shortcut" if settings["steps"] > 1 else "vanilla",
            method_settings={"budget": settings["budget"]},
        ).check(downscale_factor)
    except ValueError as error:
        raise CheckpointError(f"{name}: {error} Correct it, or download the file again.") from None
    return settings


def trained_for(values: dict, name: str | Path, downscale_factor: int) -> Trained:
    """Read what a checkpoint was trained for from its generation_config; arguments as for ``run_settings``.

    Raises:
        CheckpointError: it is of another form, or names a size that no run may have: input pictures would be scaled to it.
    """
    try:
        trained = Trained.from_json(values.get("trained"), str(name))
    except ValueError as error:
        raise CheckpointError(str(error)) from None
    for size in trained.sizes:
        if max(size) > LONGEST_SIDE * downscale_factor or size[0] * size[1] > MAX_TOKENS * downscale_factor**2:
            width, height = map(shown, size)
            limits = f"{MAX_TOKENS * downscale_factor**2:,} in all, {LONGEST_SIDE * downscale_factor:,} a side"
            raise CheckpointError(f"{name}: trained.sizes names {width}x{height} pixels; the limits are {limits}. Correct it, or download the file again.")
    return trained
