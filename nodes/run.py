"""From a node's inputs to a finished canvas and a report that says what was done, how fast, and why not faster."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

from ..migm_core.canvas import Canvas
from ..migm_core.pipeline import Result, Settings
from ..migm_core.sampling.methods import MLCache
from ..migm_core.sampling.sampler import StepReport
from ..migm_core.sampling.schedule import full_steps
from ..migm_core.sampling.sequence import text_guidance
from ..migm_core.sampling.timing import median_seconds, speed_up
from . import weights
from .watch import Watch
from .weights import HeadFile, LoadedModel
from .wires import ModelCanvas, PromptText

CUSTOM = "Custom"
# Full steps as a share of those in the model's own settings; its number of steps stays.
PRESETS = {"Quality": 1.5, "Balanced": 1.0, "Fast": 0.67}
OWN = -1.0  # for guidance and temperature: the model's own


@dataclass(frozen=True)
class Plan:
    """What will be run.

    Attributes:
        settings: checked.
        preset: where steps and budget come from.
        notes: why something else than was asked for, as sentences.
    """

    settings: Settings
    preset: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Run:
    """What was run. ``results`` has one entry, or one an image where these have different numbers of unknown cells."""

    plan: Plan
    canvas: Canvas
    results: list[Result]

    @property
    def kinds(self) -> list[str]:
        """Kind of each step; of the longest run, where an image had nothing to draw."""
        return [kind for kind, _ in max((result.step_seconds for result in self.results), key=len)]

    @property
    def seconds(self) -> float:
        """Of all steps, without previews and decoding."""
        return sum(seconds for result in self.results for _, seconds in result.step_seconds)

    @property
    def step_seconds(self) -> dict[str, float]:
        """Median by kind of step."""
        return median_seconds(self._steps)

    @property
    def speed_up(self) -> float | None:
        """Against all steps full; None where nothing was run."""
        return speed_up(self._steps, sum(result.vanilla_passes for result in self.results))

    @property
    def _steps(self) -> list[tuple[str, float]]:
        return [step for result in self.results for step in result.step_seconds]

    def summary(self) -> dict:
        """In numbers, for the page."""
        settings = self.plan.settings
        return {
            "preset": self.plan.preset,
            "method": settings.method,
            "steps": settings.steps,
            "budget": settings.budget,
            "kinds": self.kinds,
            "seconds": self.seconds,
            "step_seconds": self.step_seconds,
            "speed_up": self.speed_up,
        }


class Resolved(NamedTuple):
    """What a preset and what is connected come to; ``notes`` say why something else than was asked for."""

    method: str
    steps: int
    budget: int
    notes: tuple[str, ...]


def resolve(own: dict, preset: str, method: str, has_head: bool, *, steps: int, budget: int) -> Resolved:
    """The method, steps and budget of a run.

    Args:
        own: the model's own settings.
        steps, budget: count with the Custom preset only.

    Raises:
        ValueError: there is no such preset.
    """
    if preset in PRESETS:
        steps, budget = own["steps"], min(own["steps"], max(2, round(own["budget"] * PRESETS[preset])))
    elif preset != CUSTOM:
        raise ValueError(f"preset is {preset!r}, expected one of {', '.join((*PRESETS, CUSTOM))}.")
    if method != "shortcut":
        return Resolved(method, steps, budget, ())
    if not has_head:
        note = "No shortcut head is connected, so every step runs the whole model. Connect Load Shortcut Head to the input head."
        return Resolved("vanilla", steps, budget, (note,))
    if steps == 1:
        return Resolved("vanilla", steps, budget, ("A single step leaves nothing to a shortcut head.",))
    return Resolved(method, steps, budget, ())


def step_kinds(method: str, steps: int, budget: int) -> list[str]:
    """The kind of each step, before a run.

    Raises:
        ValueError: the budget does not fit the steps.
    """
    if method == "ml-cache":
        return ["full" if MLCache().is_full(step, steps) else "partial" for step in range(steps)]
    full = full_steps(steps, budget) if method == "shortcut" else range(steps)
    return ["full" if step in full else "shortcut" for step in range(steps)]


def make_plan(
    model: LoadedModel,
    head: HeadFile | None,
    canvas: Canvas,
    *,
    preset: str,
    method: str,
    seed: int,
    steps: int = 1,
    budget: int = 2,
    guidance: float = OWN,
    temperature: float = OWN,
) -> Plan:
    """Settings of a run; ``steps`` and ``budget`` count with the Custom preset only.

    Raises:
        ValueError: names the first setting out of its range.
    """
    own = model.checkpoint.settings
    resolved = resolve(own, preset, method, head is not None, steps=steps, budget=budget)
    batch, rows, columns = canvas.shape
    settings = Settings(
        width=columns * model.factor,
        height=rows * model.factor,
        steps=resolved.steps,
        budget=resolved.budget,
        guidance=own["guidance"] if guidance < 0 else guidance,
        temperature=own["temperature"] if temperature < 0 else temperature,
        method=resolved.method,
        seed=seed,
        batch=batch,
    )
    settings.check(model.factor)
    return Plan(settings, preset, resolved.notes)


def canvas_for(model: LoadedModel, canvas: ModelCanvas | None) -> Canvas:
    """The canvas of a node's input; an empty one of the model's own size where there is none.

    Raises:
        ValueError: it was made with another model.
    """
    if canvas is None:
        own = model.checkpoint.settings
        return Canvas.empty(1, own["height"] // model.factor, own["width"] // model.factor)
    if canvas.model.checkpoint.path != model.checkpoint.path:
        raise ValueError(f"The canvas was made with the model {canvas.model.name!r}, but {model.name!r} is to draw on it. Connect one model to both.")
    return canvas.canvas


def draw(
    model: LoadedModel,
    head: HeadFile | None,
    prompt: PromptText,
    canvas: Canvas,
    plans: list[Plan],
    on_step: Callable[[StepReport], None],
) -> list[Run]:
    """Draw the canvas anew by each plan, under the host's progress bar and stop button.

    Args:
        on_step: called after each step too.

    Raises:
        ValueError: the prompt is too long, or the head is for another model.
    """
    encoder = model.checkpoint.prompts
    conditional, unconditional = encoder.prompt(prompt.text), encoder.unconditional(prompt.negative)
    parts = _parts(canvas)
    watch = Watch(model, len(parts) * sum(plan.settings.steps for plan in plans))

    def after_step(step: StepReport) -> None:
        on_step(step)
        watch.after_step(step)

    runs = []
    for plan in plans:
        settings = plan.settings
        branches = text_guidance(conditional, unconditional, settings.guidance)
        pipeline = weights.prepare(model, head if settings.method == "shortcut" else None, settings, branches)
        watch.start()
        results = []
        for first, part in parts:
            of_part = replace(settings, seed=settings.seed + first, batch=part.shape[0])
            results.append(pipeline.draw(branches, of_part, part, after_step))
        runs.append(Run(plan, Canvas.stacked([result.canvas.to("cpu") for result in results]), results))
    return runs


def _parts(canvas: Canvas) -> list[tuple[int, Canvas]]:
    """What can be drawn in one batch, each with the index of its first image: all, or image by image where their unknown cells differ in number."""
    if len(set(canvas.unknown.flatten(1).sum(1).tolist())) == 1:
        return [(0, canvas)]
    return [(i, Canvas(canvas.codes[i : i + 1], canvas.unknown[i : i + 1])) for i in range(canvas.shape[0])]


def report(model: LoadedModel, head: HeadFile | None, run: Run) -> str:
    """A run in a few lines."""
    settings, kinds = run.plan.settings, run.kinds
    lines = [
        f"{model.name}, {settings.width}x{settings.height}, {settings.batch} image{'s' if settings.batch > 1 else ''}, "
        f"seed {settings.seed}, guidance {settings.guidance:g}, temperature {settings.temperature:g}",
    ]
    if not kinds:
        return "\n".join([*lines, "Nothing was drawn: the canvas has no unknown cells. Give Encode Image to Canvas a mask or a variation above 0."])
    full = [index + 1 for index, kind in enumerate(kinds) if kind == "full"]
    with_head = f" with the head {head.name}" if head and settings.method == "shortcut" else ""
    lines.append(f"{run.plan.preset}: {settings.method}{with_head}, {len(kinds)} steps, {len(full)} of them full ({_listed(full)})")
    lines.append(", ".join(f"{kind} step {_time(seconds)}" for kind, seconds in run.step_seconds.items()) + " (median)")
    accelerated = f"{run.speed_up:.2f}x as fast as if every step were full" if len(full) < len(kinds) else "Not accelerated"
    lines.append(f"{_time(run.seconds)} in all. {accelerated}.")
    return "\n".join([*lines, *run.plan.notes, *_why_not_faster(run)])


def _why_not_faster(run: Run) -> list[str]:
    settings, times = run.plan.settings, run.step_seconds
    if settings.method == "vanilla" and not run.plan.notes:
        return ["The vanilla method runs the whole model at every step."]
    if settings.method == "shortcut" and "shortcut" not in times:
        return [f"Every step is a full one, as the budget is {settings.budget} of {settings.steps} steps."]
    slow = next((kind for kind in ("shortcut", "partial") if times.get(kind, 0) > 0.5 * times["full"]), None)
    if slow:
        return [f"Little is gained: a {slow} step takes {times[slow] / times['full']:.0%} of a full one, as the model is small or the image is."]
    return []


def _listed(steps: list[int]) -> str:
    shown = ", ".join(map(str, steps[:8]))
    return f"steps {shown}, ... {steps[-1]}" if len(steps) > 8 else f"step{'s' if len(steps) > 1 else ''} {shown}"


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.3g} ms"
