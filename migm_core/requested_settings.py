"""The settings that a caller asks for, filled up with the checkpoint's own, and checked."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from . import arguments
from .checkpoints import Checkpoint
from .sampling.backbone import Head
from .sampling.methods import METHODS, Method
from .sampling.methods.method import kinds_of, unknown_setting
from .settings import MAX_STEPS, Settings
from .switches import Switches

OF_RUN = ("width", "height", "steps", "guidance_scale", "image_guidance_scale", "task", "method", "seed", "batch")


def resolve_settings(checkpoint: Checkpoint, head: Head | None, switches: Switches, asked: Mapping[str, Any]) -> Settings:
    """Fill in what was not asked for (None counts as not asked), and check all.

    Args:
        head: what the shortcut method needs; with one it is the method by default.
        asked: by name, of the run, of methods and of the family's rule.

    Raises:
        ValueError: a setting is out of its range, or nobody has one of that name.
    """
    family, own = checkpoint.family, checkpoint.settings
    asked = {name: value.item() if isinstance(value, np.generic) else value for name, value in asked.items() if value is not None}
    of_methods = dict.fromkeys(name for method in METHODS.values() for name in method.settings())
    known = [*OF_RUN, *of_methods, *family.rule_settings()]
    for name in asked:
        if name not in known:
            raise unknown_setting(name, known)
    if "task" in asked:
        family.task(asked["task"])  # raises for one that there is not
        own = {**own, **family.task_settings(checkpoint.trained, asked["task"])}
    if "image_guidance_scale" in asked and not ("task" in asked and family.task(asked["task"]).guides_by_pictures):
        raise ValueError("image_guidance_scale counts only for tasks whose prompt shows pictures. Leave it out, or choose such a task.")
    own_method = asked["method"] if isinstance(asked.get("method"), Method) else None
    if own_method is not None:
        asked["method"] = "vanilla"  # checks what all methods share
    steps = arguments.whole("steps", asked.get("steps", own["steps"]))
    asked.setdefault("method", "vanilla" if head is None or steps == 1 else "shortcut")  # one step leaves none to a head
    asked.setdefault("budget", _budget(checkpoint.settings, asked.get("steps")))
    values = {**own, **asked}
    settings = Settings(
        **{name: values[name] for name in OF_RUN if name in values},
        rule=family.sampling(values),
        method_settings={name: values[name] for name in of_methods if name in values},
    )
    settings.check(checkpoint.image_tokenizer.config.downscale_factor)
    _check_method(own_method or METHODS[settings.method], getattr(own_method, "head", head), switches)
    if own_method is not None:
        kinds_of(own_method, settings.steps)
        return replace(settings, method=own_method.name, method_settings={name: getattr(own_method, name) for name in own_method.settings()})
    return settings


def _check_method(method: Method | type[Method], head: Head | None, switches: Switches) -> None:
    """Raise a ValueError if a method, by its class or one of the caller's own, cannot run with these models."""
    if method.needs_head and head is None:
        raise ValueError(f"The {method.name} method needs a shortcut head, and none is loaded. Give one, or choose the vanilla method.")
    if switches.compile and not method.compiles:
        raise ValueError(f"The {method.name} method does not run compiled. Leave compile out, or choose another method.")


def _budget(own: Mapping[str, Any], steps: int | None) -> int:
    """The checkpoint's own budget, or as large a part of the steps that were asked for."""
    if steps is not None and steps > 1:
        return min(steps, max(2, round(min(steps, MAX_STEPS) * own["budget"] / own["steps"])))
    return own["budget"]
