"""What a run will be, before it starts: from the numbers that are asked for, without loading a model."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from ..migm_core import arguments
from ..migm_core.checkpoints import CheckpointError, TensorSource
from ..migm_core.families import Family, detect
from ..migm_core.sampling import schedules
from ..migm_core.sampling.backbone import BackboneConfig, HeadConfig
from ..migm_core.sampling.cost import PROMPT, PlannedRun
from ..migm_core.sampling.methods import METHODS
from ..migm_core.sampling.setting import settings_of
from ..migm_core.sampling.timing import speed_up
from ..migm_core.settings import MAX_BATCH, MAX_STEPS, Settings
from ..migm_core.trained import Trained, cautions
from . import step_times
from .choices import DEFAULT, kinds_of_steps, settings_of_methods
from .host import folders

# Full steps as a share of those in the model's own settings; its number of steps stays.
PRESETS = {"Quality": 1.5, "Balanced": 1.0, "Fast": 0.67}
NO_HEAD = "No shortcut head is connected, so every step runs the whole model. Connect MIGM Load Shortcut Head to the input head."
NO_SHORTCUT = "The budget is not below the number of steps, so every step runs the whole model. Lower the budget, or raise the steps."
ON_NODES = {"image_guidance_scale": "image_cfg", "guidance_scale": "cfg"}  # settings that nodes call otherwise


class Resolved(NamedTuple):
    """What was asked for and what is connected come to.

    Attributes:
        settings: of the methods.
        notes: why something else runs than was asked for.
    """

    method: str
    steps: int
    settings: dict[str, Any]
    notes: tuple[str, ...]

    def used(self) -> dict[str, Any]:
        """The settings that the method looks at."""
        return {name: self.settings[name] for name in METHODS[self.method].settings() if name in self.settings}


def resolve(method: str, has_head: bool, steps: int, settings: Mapping[str, Any]) -> Resolved:
    """The method, steps and settings of a run.

    Raises:
        ValueError: there is no such method, or so few or so many steps.
    """
    if not isinstance(method, str) or method not in METHODS:
        raise ValueError(f"method is {arguments.shown(method)}, expected one of {', '.join(METHODS)}.")
    arguments.whole("steps", steps, 1, MAX_STEPS)
    settings, budget = dict(settings), settings.get("budget")
    if METHODS[method].needs_head and not has_head:
        return Resolved("vanilla", steps, settings, (NO_HEAD,))
    if "budget" in METHODS[method].settings() and budget is not None and arguments.whole("budget", budget) >= steps:
        return Resolved("vanilla", steps, settings, (NO_SHORTCUT,))
    return Resolved(method, steps, settings, ())


def preset_budget(own: Mapping[str, Any], preset: str) -> int:
    """Full steps of a preset, of a model with such settings."""
    return min(own["steps"], max(2, round(own["budget"] * PRESETS[preset])))


def in_words_of_nodes(error: ValueError) -> ValueError:
    """The same, with the nodes' names of settings."""
    said = str(error)
    for name, on_nodes in ON_NODES.items():
        said = said.replace(name, on_nodes)
    return ValueError(said)


def check(settings: Settings, downscale_factor: int) -> None:
    """Raise a ValueError that names the first setting out of its range, in the words of the nodes."""
    try:
        settings.check(downscale_factor)
    except ValueError as error:
        raise in_words_of_nodes(error) from None


class Outline(NamedTuple):
    """A checkpoint by its small files alone.

    Attributes:
        base: sizes of its base model.
        own: its settings of a run, by the engine's names.
    """

    family: Family
    base: BackboneConfig
    downscale_factor: int
    own: dict[str, Any]
    trained: Trained


@lru_cache(maxsize=16)
def _outline(path: Path, fingerprint: tuple) -> Outline:
    family, _ = detect(path, data=False)
    return Outline(family, *family.sizes(path), *family.own_settings(path))


def outline(path: Path) -> Outline:
    """A checkpoint's outline, read anew when a file of it changes.

    Raises:
        ValueError: its files are bad.
    """
    return _outline(path, folders.fingerprint(path))


def answer(asked: Mapping[str, str]) -> dict:
    """The answer to ``GET /migm/plan``; see ``host.routes.register_routes``.

    Raises:
        ValueError: in words for the page.
    """
    method, has_head = asked.get("method", DEFAULT), asked.get("head") == "1"
    if method not in METHODS:
        raise ValueError(f"method is {method!r}, expected one of {', '.join(METHODS)}.")
    uses = [] if METHODS[method].needs_head and not has_head else list(METHODS[method].settings())
    _check_known(asked.get("unknown", "").split(","), ["method", "steps", *uses])
    path = folders.chosen(asked.get("model", folders.DEMO), folders.models(), "model")
    family, base, downscale_factor, own, trained = outline(path)
    task = asked.get("task", "")
    if task:
        family.task(task)  # raises for one that there is not
        own = {**own, **family.task_settings(trained, task)}
    guidance_scale, image_scale = _number(asked, "cfg", own["guidance_scale"]), _number(asked, "image_cfg", own.get("image_guidance_scale", 0.0))
    of_task = family.task_sizes(task, _sizes(asked), trained, downscale_factor, guidance_scale, image_scale) if task else None
    own_size = dict(zip(("width", "height"), of_task.size)) if of_task else own
    width, height = (_whole(asked, name, own_size[name]) for name in ("width", "height"))
    steps = _whole(asked, "steps", own["steps"])
    batch = _whole(asked, "batch", 0)
    if not 0 <= batch <= MAX_BATCH:
        raise ValueError(f"batch is {batch}, but must be from 1 to {MAX_BATCH} images.")
    settings = {name: like(field.default, asked, name, own.get(name, field.default)) for name, field in settings_of_methods().items()}
    resolved = resolve(method, has_head, steps, settings)
    rule = {name: like(field.default, asked, name, own.get(name, field.default)) for name, field in settings_of(family.rule).items()}
    rule = family.sampling(rule)
    run = Settings(
        width, height, resolved.steps, guidance_scale, rule, resolved.method, resolved.settings, image_guidance_scale=image_scale if of_task else None, task=task or None
    )
    check(run, downscale_factor)
    rows, columns = height // downscale_factor, width // downscale_factor
    as_run = run.build_method(of_family=family.method_fields)
    kinds = schedules.step_kinds(as_run.kinds(resolved.steps), rule.keep(rows * columns, rows * columns, resolved.steps), rows * columns)
    branches, pictures = (len(of_task.branches), of_task.pictures) if of_task else (2 if guidance_scale > 0 else 1, 0)
    size = step_times.Size(folders.fingerprint(path), rows * columns, branches, pictures)
    prompts = [PROMPT + of_branch for of_branch in of_task.branches] if of_task else [PROMPT]
    planned = PlannedRun(as_run, rule, kinds, rows, columns, prompts)
    return {
        "method": resolved.method,
        "steps": resolved.steps,
        "settings": resolved.used(),
        "notes": resolved.notes,
        "kinds": kinds,
        "cautions": cautions(trained, run, "negative" if asked.get("negative") == "1" else ""),
        "own": {ON_NODES.get(name, name): value for name, value in own.items()},
        "presets": {preset: {"steps": own["steps"], "budget": preset_budget(own, preset)} for preset in PRESETS} if "budget" in uses else {},
        "uses": uses,
        "method_settings": list(settings),
        "legend": legend(kinds),
        "speed_up": promise(planned, step_times.recall(size, batch), family, base, probed=bool(of_task) and METHODS[resolved.method].needs_head),
    }


def legend(kinds: list[str]) -> list[dict[str, str]]:
    """Each kind of step that there is, in the order of their colours, with what happens at it; ""  where its method does not say."""
    known = kinds_of_steps()
    return [{"kind": kind, "about": known.get(kind, "")} for kind in dict.fromkeys([*known, *kinds])]


def promise(run: PlannedRun, seconds: Mapping[str, float], family: Family, base: BackboneConfig, probed: bool = False) -> dict | None:
    """How many times as fast as vanilla a run will be: by measured step times, or at most, by the sizes of the models.

    Args:
        seconds: of a step of each kind, where they were measured.
        probed: whether the full steps run the head as well.
    """
    kinds = set(run.kinds) - {schedules.SKIPPED}
    if kinds == {"full"}:
        return None
    if all(seconds.get(kind, 0) > 0 for kind in kinds | {"full"}):
        passes = run.as_vanilla().kinds.count("full")
        measured = speed_up([(kind, seconds.get(kind, 0.0)) for kind in run.kinds], passes, probed)
        if measured is not None:
            return {"value": measured, "source": "measured"}
    head = cheapest_head(family, base) if run.method.needs_head else None
    try:
        return {"value": run.largest_speed_up(base, head), "source": "sizes"}
    except NotImplementedError:  # a method need not say what its steps cost
        return None


def cheapest_head(family: Family, base: BackboneConfig) -> HeadConfig:
    """Of the heads that are there and fit, the one that costs least; where none is known, one of the published proportions."""
    fitting = []
    for path in folders.heads().values():
        if path.suffix.lower() == folders.SAFETENSORS:
            try:
                source = TensorSource.open(path, data=False)
                if family.is_head(source):
                    fitting.append(family.head_config(source, base))
            except (CheckpointError, OSError):
                continue  # of another model, or damaged
    return min(fitting or [family.typical_head(base)], key=lambda head: head.step_macs(1))


def _check_known(unknown: list[str], needed: list[str]) -> None:
    """Raise a ValueError where one of the inputs that other nodes give, and that only a run can tell, decides about the steps."""
    for name in needed:
        if name in unknown:
            raise ValueError(f"The steps will be known when it runs: {name} comes from another node.")


def like(default: Any, asked: Mapping[str, str], name: str, otherwise: Any) -> Any:
    """What is asked for, of the kind of the setting's default."""
    if isinstance(default, bool):
        if asked.get(name, "true") not in ("true", "false"):
            raise ValueError(f"{name} is {asked[name][:20]!r}, expected true or false.")
        return asked[name] == "true" if name in asked else otherwise
    if isinstance(default, int):
        return _whole(asked, name, otherwise)
    return _number(asked, name, otherwise) if isinstance(default, float) else asked.get(name, otherwise)


def _sizes(asked: Mapping[str, str]) -> list[tuple[int, int] | None]:
    """Sizes such as "512x768", with commas; anything else is one that is not known."""
    sizes = [re.fullmatch(r"([1-9]\d{0,5})x([1-9]\d{0,5})", each) for each in asked.get("pictures", "").split(",")[:MAX_BATCH]]
    return [(int(size[1]), int(size[2])) if size else None for size in sizes]


def _whole(asked: Mapping[str, str], name: str, otherwise: int) -> int:
    text = asked.get(name, "")
    try:
        return int(text[:20]) if text else otherwise
    except ValueError:
        raise ValueError(f"{name} is {text[:20]!r}, expected a whole number.") from None


def _number(asked: Mapping[str, str], name: str, otherwise: float) -> float:
    text = asked.get(name, "")
    try:
        number = float(text[:40]) if text else otherwise
    except ValueError:
        raise ValueError(f"{name} is {text[:20]!r}, expected a number.") from None
    if not math.isfinite(number):
        raise ValueError(f"{name} is {text[:20] or number}, expected a number.")
    return number
