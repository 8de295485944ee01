"""What a run will be, before it starts: from the numbers that are asked for, without loading a model."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

from ..migm_core.checkpoints import CheckpointError, TensorSource
from ..migm_core.checkpoints.load import head_config, run_settings
from ..migm_core.config import LuminaConfig
from ..migm_core.models.image_tokenizer import ImageTokenizerConfig
from ..migm_core.models.shortcut import ShortcutConfig
from ..migm_core.sampling import schedule
from ..migm_core.sampling.cost import largest_speed_up
from ..migm_core.sampling.methods import MLCache, Shortcut, Vanilla
from ..migm_core.settings import MAX_BATCH, MAX_STEPS, METHODS, Settings
from ..migm_core.trained import Trained
from ..migm_core.trained import cautions as engine_cautions
from . import files, step_times

# Full steps as a share of those in the model's own settings; its number of steps stays.
PRESETS = {"Quality": 1.5, "Balanced": 1.0, "Fast": 0.67}
NO_HEAD = "No shortcut head is connected, so every step runs the whole model. Connect MIGM Load Shortcut Head to the input head."
NO_SHORTCUT = "The budget is not below the number of steps, so every step runs the whole model. Lower the budget, or raise the steps."


class Resolved(NamedTuple):
    """What was asked for and what is connected come to; ``notes`` say why something else runs than was asked for."""

    method: str
    steps: int
    budget: int
    notes: tuple[str, ...]


def resolve(method: str, has_head: bool, steps: int, budget: int) -> Resolved:
    """The method, steps and budget of a run.

    Raises:
        ValueError: there is no such method, or so few or so many steps.
    """
    if method not in METHODS:
        raise ValueError(f"method is {method!r}, expected one of {', '.join(METHODS)}.")
    if not 1 <= steps <= MAX_STEPS:
        raise ValueError(f"steps is {steps}, but must be from 1 to {MAX_STEPS}.")
    if method != "shortcut":
        return Resolved(method, steps, budget, ())
    if not has_head:
        return Resolved("vanilla", steps, budget, (NO_HEAD,))
    if budget >= steps:
        return Resolved("vanilla", steps, budget, (NO_SHORTCUT,))
    return Resolved(method, steps, budget, ())


def preset_budget(own: dict, preset: str) -> int:
    """Full steps of a preset, of a model with such settings."""
    return min(own["steps"], max(2, round(own["budget"] * PRESETS[preset])))


def step_kinds(method: str, steps: int, budget: int, tokens: int) -> list[str]:
    """The kind of each step of a run over so many masked tokens.

    Raises:
        ValueError: the budget does not fit the steps.
    """
    methods = {"shortcut": lambda: Shortcut(None, budget), "ml-cache": MLCache, "vanilla": Vanilla}
    return schedule.step_kinds(methods[method]().kinds(steps), tokens)


def cautions(trained: Trained, settings: Settings, negative: str) -> list[str]:
    """What a run does badly or ignores, one sentence each, in the words of the nodes."""
    said = engine_cautions(SimpleNamespace(trained=trained), settings, negative)
    return [sentence.replace("guidance", "cfg") for sentence in said]


def check(settings: Settings, factor: int) -> None:
    """Raise a ValueError that names the first setting out of its range, in the words of the nodes."""
    try:
        settings.check(factor)
    except ValueError as error:
        raise ValueError(str(error).replace("guidance", "cfg")) from None


def answer(asked: dict[str, str]) -> dict:
    """The answer to ``GET /migm/plan``; see ``page.register_routes``.

    Raises:
        ValueError: in words for the page.
    """
    path = files.chosen(asked.get("model", files.BUNDLED), files.models(), "model")
    said = files.generation_config(path)
    base, factor = model_sizes(path)
    own, trained = run_settings(said, path, factor), Trained.from_json(said.get("trained"), str(path))
    steps, budget, width, height = (_whole(asked, name, own[name]) for name in ("steps", "budget", "width", "height"))
    guidance, temperature = (_number(asked, name, own[key]) for name, key in (("cfg", "guidance"), ("temperature", "temperature")))
    batch = _whole(asked, "batch", 0)
    if not 0 <= batch <= MAX_BATCH:
        raise ValueError(f"batch is {batch}, but must be from 1 to {MAX_BATCH} images.")
    resolved = resolve(asked.get("method", "shortcut"), asked.get("head") == "1", steps, budget)
    settings = Settings(width, height, resolved.steps, resolved.budget, guidance, temperature, resolved.method)
    check(settings, factor)
    rows, columns = height // factor, width // factor
    kinds = step_kinds(resolved.method, resolved.steps, resolved.budget, rows * columns)
    size = step_times.Size(files.stamp(path), rows * columns, 2 if guidance > 0 else 1)
    return {
        **resolved._asdict(),
        "kinds": kinds,
        "cautions": cautions(trained, settings, "negative" if asked.get("negative") == "1" else ""),
        "own": {"cfg" if name == "guidance" else name: value for name, value in own.items()},
        "presets": {preset: {"steps": own["steps"], "budget": preset_budget(own, preset)} for preset in PRESETS},
        "speed_up": promise(kinds, step_times.recall(size, batch), base, rows, columns),
    }


def promise(kinds: list[str], seconds: dict[str, float], base: LuminaConfig, rows: int, columns: int) -> dict | None:
    """How many times as fast as vanilla a run will be: by measured step times, or at most, by the sizes of the models."""
    run = {kind for kind in kinds if kind != schedule.SKIPPED}
    if run == {"full"}:
        return None
    if all(seconds.get(kind, 0) > 0 for kind in run | {"full"}):
        passes = schedule.step_kinds(["full"] * len(kinds), rows * columns).count("full")
        return {"value": seconds["full"] * passes / sum(seconds.get(kind, 0) for kind in kinds), "source": "measured"}
    head = cheapest_head(base) if "shortcut" in run else None
    return {"value": largest_speed_up(base, head, kinds, rows, columns), "source": "sizes"}


def model_sizes(path: Path) -> tuple[LuminaConfig, int]:
    """A base model's sizes, and the pixels of an image token along each side.

    Raises:
        ValueError: its files are bad.
    """
    base, image_tokenizer = files.configs(path)
    return LuminaConfig.from_json(base, source=f"{path}: config"), ImageTokenizerConfig.from_json(image_tokenizer, f"{path}: vqvae config").factor


def cheapest_head(base: LuminaConfig) -> ShortcutConfig:
    """Of the heads that are there and fit, the one that costs least; where none is known, one of the published proportions."""
    fitting = [ShortcutConfig(base.d_model, base.n_heads, base.mlp_hidden_size)]
    for path in files.heads().values():
        if path.suffix.lower() == files.SAFETENSORS:
            try:
                fitting.append(head_config(TensorSource.open(path), base))
            except (CheckpointError, OSError):
                continue  # of another model, or damaged
    return min(fitting[1:] or fitting, key=lambda head: head.n_blocks * head.width * (head.width + head.mlp_hidden_size))


def _whole(asked: dict[str, str], name: str, otherwise: int) -> int:
    text = asked.get(name, "")
    try:
        return int(text[:20]) if text else otherwise
    except ValueError:
        raise ValueError(f"{name} is {text[:20]!r}, expected a whole number.") from None


def _number(asked: dict[str, str], name: str, otherwise: float) -> float:
    text = asked.get(name, "")
    try:
        number = float(text[:40]) if text else otherwise
    except ValueError:
        raise ValueError(f"{name} is {text[:20]!r}, expected a number.") from None
    if not math.isfinite(number):
        raise ValueError(f"{name} is {text[:20] or number}, expected a number.")
    return number
