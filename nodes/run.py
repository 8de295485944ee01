"""From a node's inputs to a finished canvas and a report that says what was done, how fast, and why not faster."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from ..migm_core.canvas import Canvas
from ..migm_core.pipeline import Result
from ..migm_core.sampling.sampler import StepReport
from ..migm_core.sampling.sequence import text_guidance
from ..migm_core.sampling.timing import median_seconds, speed_up
from ..migm_core.settings import Settings
from . import step_times, weights
from .files import stamp
from .plan import cautions, check, resolve
from .watch import Watch
from .weights import HeadFile, LoadedModel
from .wires import ModelCanvas, PromptText, expect


@dataclass(frozen=True)
class Plan:
    """What will be run.

    Attributes:
        settings: checked.
        notes: why something else than was asked for, as sentences.
        cautions: what the model does badly or ignores, as sentences.
        unknown_words: of the prompt, as written.
    """

    settings: Settings
    notes: tuple[str, ...] = ()
    cautions: tuple[str, ...] = ()
    unknown_words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Run:
    """What was run. ``results`` has one entry, or one an image where these have different numbers of masked tokens."""

    plan: Plan
    canvas: Canvas
    results: list[Result]

    @property
    def kinds(self) -> list[str]:
        """Kind of each step; of the longest run, where an image had nothing masked."""
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
        """Against the vanilla method, which runs the whole model at each step that unmasks something; None where nothing was run."""
        return speed_up(self._steps, sum(result.vanilla_passes for result in self.results))

    @property
    def _steps(self) -> list[tuple[str, float]]:
        return [step for result in self.results for step in result.step_seconds]

    def summary(self) -> dict:
        """In numbers, for the page."""
        plan = self.plan
        return {
            "method": plan.settings.method,
            "steps": plan.settings.steps,
            "budget": plan.settings.budget,
            "width": plan.settings.width,
            "height": plan.settings.height,
            "kinds": self.kinds,
            "seconds": self.seconds,
            "step_seconds": self.step_seconds,
            "speed_up": self.speed_up,
            "notes": plan.notes,
            "cautions": plan.cautions,
            "unknown_words": plan.unknown_words,
        }


def make_plan(
    model: LoadedModel,
    head: HeadFile | None,
    canvas: Canvas,
    prompt: PromptText,
    *,
    method: str,
    seed: int,
    steps: int,
    budget: int,
    guidance: float,
    temperature: float,
) -> Plan:
    """Settings of a run.

    Raises:
        ValueError: names the first setting out of its range, or the prompt is too long.
    """
    resolved = resolve(method, head is not None, steps, budget)
    batch, rows, columns = canvas.shape
    settings = Settings(
        width=columns * model.factor,
        height=rows * model.factor,
        steps=resolved.steps,
        budget=resolved.budget,
        guidance=guidance,
        temperature=temperature,
        method=resolved.method,
        seed=seed,
        batch=batch,
    )
    check(settings, model.factor)
    checkpoint = model.checkpoint
    words = checkpoint.prompts.unknown_words(prompt.text, *([prompt.negative] if guidance > 0 else []))
    return Plan(settings, resolved.notes, tuple(cautions(checkpoint.trained, settings, prompt.negative)), tuple(words))


def canvas_for(model: LoadedModel, prompt: PromptText, head: HeadFile | None, canvas: ModelCanvas | None) -> Canvas:
    """The canvas of a node's inputs; an empty one of the model's own size where there is none.

    Raises:
        ValueError: an input is of another kind than its link should bring, or the canvas was made with another model.
    """
    expect(LoadedModel, model=model)
    expect(PromptText, prompt=prompt)
    if head is not None:
        expect(HeadFile, head=head)
    if canvas is None:
        own = model.checkpoint.settings
        return Canvas.empty(1, own["height"] // model.factor, own["width"] // model.factor)
    expect(ModelCanvas, canvas=canvas)
    if canvas.model.checkpoint.path != model.checkpoint.path:
        raise ValueError(f"The canvas was made with the model {canvas.model.name!r}, but the sampler has {model.name!r}. Connect one model to both.")
    return canvas.canvas


def generate(
    model: LoadedModel,
    head: HeadFile | None,
    prompt: PromptText,
    canvas: Canvas,
    plans: list[Plan],
    on_step: Callable[[StepReport, int, int], None],
) -> list[Run]:
    """Sample the canvas by each plan, under the host's progress bar and stop button.

    Args:
        on_step: called after each step too, with the width and height of the image in pixels.

    Raises:
        ValueError: the prompt is too long, or the head is for another model.
    """
    encoder = model.checkpoint.prompts
    conditional, unconditional = encoder.prompt(prompt.text), encoder.unconditional(prompt.negative)
    parts = _parts(canvas)
    _, rows, columns = canvas.shape
    watch = Watch(model, len(parts) * sum(plan.settings.steps for plan in plans))

    def after_step(step: StepReport) -> None:
        on_step(step, columns * model.factor, rows * model.factor)
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
        run = Run(plan, Canvas.stacked([result.canvas.to("cpu") for result in results]), results)
        size = step_times.Size(stamp(model.checkpoint.path), canvas.codes[0].numel(), len(branches))
        step_times.remember(size, parts[0][1].shape[0], run.step_seconds)
        runs.append(run)
    return runs


def _parts(canvas: Canvas) -> list[tuple[int, Canvas]]:
    """What can be sampled in one batch, each with the index of its first image: all, or image by image where their masked tokens differ in number."""
    if len(set(canvas.unknown.flatten(1).sum(1).tolist())) == 1:
        return [(0, canvas)]
    return [(i, Canvas(canvas.codes[i : i + 1], canvas.unknown[i : i + 1])) for i in range(canvas.shape[0])]


def report(model: LoadedModel, head: HeadFile | None, run: Run) -> str:
    """A run in a few lines."""
    settings, kinds, plan = run.plan.settings, run.kinds, run.plan
    lines = [
        f"{model.name}, {settings.width}x{settings.height}, {settings.batch} image{'s' if settings.batch > 1 else ''}, "
        f"seed {settings.seed}, cfg {settings.guidance:g}, temperature {settings.temperature:g}",
    ]
    if not kinds:
        return "\n".join([*lines, "Nothing was generated: the canvas has no masked tokens. Give MIGM Encode Image to Canvas a mask or a variation above 0."])
    full = [index + 1 for index, kind in enumerate(kinds) if kind == "full"]
    skipped = kinds.count("skipped")
    with_head = f" with the head {head.name}" if head and settings.method == "shortcut" else ""
    lines.append(
        f"{settings.method}{with_head}, {len(kinds)} steps, {len(full)} of them full ({_listed(full)})"
        + (f"; {skipped} skipped, as they unmask nothing" if skipped else "")
    )
    lines.append(", ".join(f"{kind} step {_time(seconds)}" for kind, seconds in run.step_seconds.items() if kind != "skipped") + " (median)")
    accelerated = f"{run.speed_up:.2f}x as fast as the vanilla method at these times" if set(kinds) - {"full", "skipped"} else "Not accelerated"
    lines.append(f"{_time(run.seconds)} in all. {accelerated}.")
    unknown = [f"The model does not know: {', '.join(plan.unknown_words)}."] if plan.unknown_words else []
    return "\n".join([*lines, *plan.notes, *_why_not_faster(run), *plan.cautions, *unknown])


def _why_not_faster(run: Run) -> list[str]:
    settings, times = run.plan.settings, run.step_seconds
    if settings.method == "vanilla" and not run.plan.notes:
        return ["The vanilla method runs the whole model at every step."]
    slow = next((kind for kind in ("shortcut", "partial") if times.get(kind, 0) > 0.5 * times["full"]), None)
    if slow:
        return [f"Little is gained: a {slow} step takes {times[slow] / times['full']:.0%} of a full one, as the model is small or the image is."]
    return []


def _listed(steps: list[int]) -> str:
    shown = ", ".join(map(str, steps[:8]))
    return f"steps {shown}, ... {steps[-1]}" if len(steps) > 8 else f"step{'s' if len(steps) > 1 else ''} {shown}"


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.3g} ms"
