"""From a node's inputs to a finished canvas and a report that says what was done, how fast, and why not faster."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from ..migm_core.canvas import Canvas
from ..migm_core.checkpoints.fingerprint import KEY, other_base
from ..migm_core.result import Result
from ..migm_core.sampling.backbone import Branch
from ..migm_core.sampling.loop import StepReport
from ..migm_core.sampling.methods import METHODS
from ..migm_core.sampling.probe import summary as probe_summary
from ..migm_core.sampling.rule import Rule
from ..migm_core.sampling.schedules import SKIPPED
from ..migm_core.sampling.timing import median_seconds, speed_up
from ..migm_core.settings import Settings
from ..migm_core.trained import cautions
from . import step_times
from .host import weights
from .host.folders import fingerprint
from .host.progress import RunProgress
from .host.weights import HeadFile, LoadedModel
from .plan import check, in_words_of_nodes, resolve
from .sockets import Condition, ModelCanvas, expect, expect_family


@dataclass(frozen=True)
class Plan:
    """What will be run.

    Attributes:
        settings: checked.
        probe: whether to measure how far a shortcut head is off, as it may not know what is asked.
        notes: why something else than was asked for, as sentences.
        cautions: what the model does badly or ignores, as sentences.
        unknown_words: of the prompt, as written.
    """

    settings: Settings
    notes: tuple[str, ...] = ()
    cautions: tuple[str, ...] = ()
    unknown_words: tuple[str, ...] = ()
    probe: bool = False


@dataclass(frozen=True)
class Run:
    """What was run.

    Attributes:
        model: its name.
        results: one entry, or one an image where these have different numbers of masked tokens.
    """

    model: str
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
        return speed_up(self._steps, sum(result.vanilla_passes for result in self.results), any(result.probed for result in self.results))

    @property
    def _steps(self) -> list[tuple[str, float]]:
        return [step for result in self.results for step in result.step_seconds]

    def summary(self) -> dict:
        """In numbers, for the page."""
        plan = self.plan
        return {
            "model": self.model,
            "method": plan.settings.method,
            "steps": plan.settings.steps,
            "settings": of_method(plan.settings),
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


def of_method(settings: Settings) -> dict[str, Any]:
    """The settings that the method of a run looks at."""
    return {name: settings.method_settings[name] for name in METHODS[settings.method].settings() if name in settings.method_settings}


def make_plan(
    model: LoadedModel,
    head: HeadFile | None,
    canvas: Canvas,
    condition: Condition,
    *,
    method: str,
    seed: int,
    steps: int,
    guidance_scale: float,
    rule: Mapping[str, Any],
    method_settings: Mapping[str, Any],
    painted: ModelCanvas | None = None,
) -> Plan:
    """Settings of a run.

    Args:
        painted: the node's canvas, where it has one.
        rule: the settings of the family's sampling rule.
        method_settings: of this method and of others, which it leaves alone.

    Raises:
        ValueError: names the first setting out of its range, or the prompt is too long.
    """
    checkpoint = model.checkpoint
    resolved = resolve(method, head is not None, steps, method_settings)
    batch, rows, columns = canvas.shape
    settings = Settings(
        width=columns * model.downscale_factor,
        height=rows * model.downscale_factor,
        steps=resolved.steps,
        guidance_scale=guidance_scale,
        rule=checkpoint.family.sampling(rule),
        method=resolved.method,
        method_settings=resolved.settings,
        seed=seed,
        batch=batch,
        **condition.settings,
    )
    check(settings, model.downscale_factor)
    said = cautions(checkpoint.trained, settings, condition.negative)
    if head is not None and METHODS[settings.method].needs_head:
        said += filter(None, [other_base(head.name, head.source.metadata.get(KEY), checkpoint.base, model.name)])
    words = checkpoint.family.unknown_words(checkpoint, [condition.asked], condition.negative if guidance_scale > 0 else "")
    said += [*condition.notes, *(painted.notes if painted else ())]
    return Plan(settings, resolved.notes, tuple(said), tuple(words), condition.probes or bool(painted and painted.probes))


def canvas_for(model: LoadedModel, condition: Condition, head: HeadFile | None, canvas: ModelCanvas | None) -> Canvas:
    """The canvas of a node's inputs; an empty one of the model's own size where there is none. Several classes take an image each.

    Raises:
        ValueError: an input is of another kind than its link should bring, the model is of another family than the node samples, or the
            canvas was made with another model.
    """
    expect(LoadedModel, model=model)
    expect_family(model, condition)
    if head is not None:
        expect(HeadFile, head=head)
    images = condition.images(model)
    if canvas is None:
        width, height = condition.size(model)
        return Canvas.empty(images, height // model.downscale_factor, width // model.downscale_factor)
    expect(ModelCanvas, canvas=canvas)
    if canvas.model.checkpoint.path != model.checkpoint.path:
        raise ValueError(f"The canvas was made with the model {canvas.model.name!r}, but the sampler has {model.name!r}. Connect one model to both.")
    return canvas.canvas.repeat(images) if canvas.canvas.shape[0] == 1 else canvas.canvas


def generate(
    model: LoadedModel,
    head: HeadFile | None,
    condition: Condition,
    canvas: Canvas,
    plans: list[Plan],
    on_step: Callable[[StepReport, int, int], None],
) -> list[Run]:
    """Sample the canvas by each plan, under the host's progress bar and stop button.

    Args:
        on_step: called after each step too, with the width and height of the image in pixels.

    Raises:
        ValueError: the model does not take the prompt or the classes, or the head is for another model.
    """
    parts = [_parts(canvas, plan.settings.rule.one_by_one) for plan in plans]
    _, rows, columns = canvas.shape
    progress = RunProgress(model, sum(plan.settings.steps for each, plan in zip(parts, plans) for _, part in each if _masked(part)))

    def after_step(step: StepReport) -> None:
        on_step(step, columns * model.downscale_factor, rows * model.downscale_factor)
        progress.after_step(step)

    runs = []
    for plan, of_plan in zip(plans, parts):
        settings = plan.settings
        branches = branches_of(model, condition, settings)
        pipeline = weights.prepare(model, head if METHODS[settings.method].needs_head else None, settings, branches, probe=plan.probe)
        method = pipeline.method(settings).probed() if plan.probe else pipeline.method(settings)
        progress.start()
        results = []
        for first, part in of_plan:
            if masked := _masked(part):
                progress.start_part(masked, settings.steps)
            of_part = replace(settings, seed=settings.seed + first, batch=part.shape[0])
            results.append(pipeline.sample(_of_images(branches, first, part.shape[0]), of_part, part, after_step, method=method))
        run = Run(model.name, plan, Canvas.stacked([result.canvas.to("cpu") for result in results]), results)
        if plan.probe == condition.probes:  # steps that are probed for the canvas's sake are slower: a plan, which knows no canvas, would take them for others
            size = step_times.Size(fingerprint(model.checkpoint.path), canvas.codes[0].numel(), len(branches), condition.picture_tokens)
            step_times.remember(size, of_plan[0][1].shape[0], run.step_seconds)
        runs.append(run)
    return runs


def branches_of(model: LoadedModel, condition: Condition, settings: Settings) -> list[Branch]:
    """The guidance branches of a run.

    Raises:
        ValueError: the model does not take the prompt or the classes.
    """
    try:
        return condition.branches(model, settings)
    except ValueError as error:
        raise in_words_of_nodes(error) from None


def _of_images(branches: list[Branch], first: int, count: int) -> list[Branch]:
    """The branches of some images of the batch."""
    return [branch if branch.prompt.dim() == 1 else replace(branch, prompt=branch.prompt[first : first + count]) for branch in branches]


def _parts(canvas: Canvas, one_by_one: bool) -> list[tuple[int, Canvas]]:
    """What can be sampled in one batch, each with the index of its first image: all, or image by image where their masked tokens differ in number."""
    if not one_by_one and len(set(canvas.masked.flatten(1).sum(1).tolist())) == 1:
        return [(0, canvas)]
    return [(i, Canvas(canvas.codes[i : i + 1], canvas.masked[i : i + 1])) for i in range(canvas.shape[0])]


def _masked(part: Canvas) -> int:
    """How many tokens of each image are masked; all images of a part have equally many."""
    return int(part.masked[0].sum())


def report(model: LoadedModel, head: HeadFile | None, run: Run) -> str:
    """A run in a few lines."""
    settings, kinds, plan = run.plan.settings, run.kinds, run.plan
    lines = [
        f"{model.name}, {settings.width}x{settings.height}, {settings.batch} image{'s' if settings.batch > 1 else ''}, "
        f"seed {settings.seed}, {_guidance(settings)}, {_named(_telling(settings.rule))}",
    ]
    if not kinds:
        return "\n".join([*lines, "Nothing was generated: the canvas has no masked tokens. Give MIGM Encode Image to Canvas a mask or a variation above 0."])
    full = [index + 1 for index, kind in enumerate(kinds) if kind == "full"]
    skipped = kinds.count(SKIPPED)
    with_head = f" with the head {head.name}" if head and METHODS[settings.method].needs_head else ""
    usual = {name: field.default for name, field in METHODS[settings.method].settings().items()}
    others = {name: value for name, value in of_method(settings).items() if name != "budget" and value != usual[name]}
    lines.append(
        f"{settings.method}{with_head}{f' ({_named(others)})' if others else ''}, {len(kinds)} steps, {len(full)} of them full ({_listed(full)})"
        + (f"; {skipped} skipped, as they unmask nothing" if skipped else "")
    )
    lines.append(", ".join(f"{kind} step {as_time(seconds)}" for kind, seconds in run.step_seconds.items() if kind != SKIPPED) + " (median)")
    accelerated = "Not accelerated."
    if set(kinds) - {"full", SKIPPED}:
        accelerated = f"{run.speed_up:.2f}x as fast as the vanilla method at these times." if run.speed_up else ""
    lines.append(f"{as_time(run.seconds)} in all. {accelerated}".rstrip())
    unknown = [f"The model does not know: {', '.join(plan.unknown_words)}."] if plan.unknown_words else []
    probed = probe_summary([each for result in run.results for each in result.probed])
    if probed:
        lines.append(f"The head's predictions, probed: {probed}.")
    return "\n".join([*lines, *plan.notes, *_why_not_faster(run), *plan.cautions, *unknown])


def _why_not_faster(run: Run) -> list[str]:
    settings, times = run.plan.settings, run.step_seconds
    if settings.method == "vanilla" and not run.plan.notes:
        return ["The vanilla method runs the whole model at every step."]
    slow = next((kind for kind in times if kind not in ("full", SKIPPED) and times[kind] > 0.5 * times["full"]), None)
    if slow:
        return [f"Little is gained: a {slow} step takes {times[slow] / times['full']:.0%} of a full one, as the model is small or the image is."]
    return []


def _guidance(settings: Settings) -> str:
    of_pictures = "" if settings.image_guidance_scale is None else f", image_cfg {settings.image_guidance_scale:g}"
    return f"cfg {settings.guidance_scale:g}{of_pictures}"


def _telling(rule: Rule) -> dict[str, Any]:
    """The numbers of a rule, and of its other settings those that are not the usual ones."""
    usual = {each.name: each.default for each in fields(rule)}
    return {name: value for name, value in asdict(rule).items() if type(value) in (int, float) or value != usual[name]}


def _named(values: Mapping[str, Any]) -> str:
    """Settings with their values."""
    return ", ".join(f"{name.replace('_', ' ')} {value:g}" if isinstance(value, float) else f"{name.replace('_', ' ')} {value}" for name, value in values.items())


def _listed(steps: list[int]) -> str:
    shown = ", ".join(map(str, steps[:8]))
    return f"steps {shown}, ... {steps[-1]}" if len(steps) > 8 else f"step{'s' if len(steps) > 1 else ''} {shown}"


def as_time(seconds: float) -> str:
    """Seconds as reports say them."""
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.3g} ms"
