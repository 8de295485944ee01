"""Inputs of the samplers that the engine fills: the methods, their settings and those of sampling rules, and what the page shows of steps."""

from collections.abc import Mapping
from dataclasses import Field
from types import MappingProxyType
from typing import Any

from comfy_api.latest import io

from ..migm_core import arguments
from ..migm_core.families import Family
from ..migm_core.sampling.methods import METHODS
from ..migm_core.sampling.methods.shortcut import Shortcut
from ..migm_core.sampling.schedules import SKIPPED
from ..migm_core.sampling.setting import settings_of
from .sockets import advanced

DEFAULT = Shortcut.name


def method() -> io.Input:
    """One of the methods, each explained."""
    explained = "; ".join(f"{name}: {each.about}" for name, each in METHODS.items())
    return advanced(io.Combo.Input("method", options=list(METHODS), default=DEFAULT, tooltip=f"{explained}."))


def check_method(name: Any) -> bool | str:
    """For validation. A linked one is not known yet, and of a list that is no link the host complains itself."""
    return True if name is None or isinstance(name, list) or isinstance(name, str) and name in METHODS else f"method is {arguments.shown(name)}, expected one of {', '.join(METHODS)}."


def settings_of_methods() -> dict[str, Field]:
    """What the users of any method may set, by name; methods that have a setting of one name share it."""
    return {name: field for each in METHODS.values() for name, field in each.settings().items()}


def with_setting(name: str) -> list[str]:
    """The methods that have a setting."""
    return [method for method, each in METHODS.items() if name in each.settings()]


def budget(default: int, about: str) -> io.Input:
    """How many steps are full, in the range of the methods that take one.

    Args:
        about: the models' own numbers, as a sentence.
    """
    field = settings_of_methods()["budget"]
    only = f"It counts only for {' and '.join(with_setting('budget'))}, with a head."
    return io.Int.Input(
        "budget",
        default=default,
        min=field.metadata["low"],
        max=field.metadata["high"],
        tooltip=f"How many of the steps run the whole model; the shortcut head takes the others. Fewer are faster and, at some point, worse. {about} {only}",
    )


def other_settings() -> list[io.Input]:
    """The methods' settings but the budget. They stand after all other inputs, so that saved workflows keep their values."""
    made = []
    for name, field in settings_of_methods().items():
        if name != "budget":
            tooltip = f"For {' and '.join(with_setting(name))}: {field.metadata['about']}."
            made.append(advanced(_setting(name, field, tooltip, default=field.default, optional=True)))
    return made


def rule_settings(family: Family, more: Mapping[str, str]) -> dict[str, io.Input]:
    """The settings of a family's sampling rule, by name; ``more`` has further sentences on some of them, beside what the family says."""
    made = {}
    for name, field in settings_of(family.rule).items():
        made[name] = _setting(name, field, _sentences(field, more.get(name)), default=family.defaults.get(name, field.default))
    return made


def inputs_of(cls: type, more: Mapping[str, str] = MappingProxyType({})) -> dict[str, io.Input]:
    """The settings of a dataclass that one widget can hold, by name; ``more`` has further sentences on some of them, beside what they say of themselves."""
    fields = {name: field for name, field in settings_of(cls).items() if field.metadata.keys() & {"low", "choices"}}
    return {name: _setting(name, field, _sentences(field, more.get(name)), default=field.default) for name, field in fields.items()}


def _sentences(field: Field, more: str | None) -> str:
    about = field.metadata["about"]
    return " ".join(filter(None, (f"{about[0].upper()}{about[1:]}.", more)))


def _setting(name: str, field: Field, tooltip: str, **options) -> io.Input:
    """A widget for a setting, of its kind and in its range."""
    options["tooltip"] = tooltip
    if isinstance(field.default, bool):
        return io.Boolean.Input(name, **options)
    if "choices" in field.metadata:
        return io.Combo.Input(name, options=list(field.metadata["choices"]), **options)
    options |= {"min": field.metadata["low"], "max": field.metadata["high"]}
    if isinstance(field.default, int):
        return io.Int.Input(name, **options)
    return io.Float.Input(name, step=0.01 if options["max"] <= 1 else 0.1, **options)


def kinds_of_steps() -> dict[str, str]:
    """Every kind of step that a method has, with what happens at it, in the order of their colours on the page."""
    own = {kind: about for each in METHODS.values() for kind, about in each.own_steps.items()}
    return {"full": "The whole model runs.", **own, SKIPPED: "No token is unmasked at this step, so nothing runs."}
