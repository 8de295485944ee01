"""The commands that generate images: `migm generate`, `edit`, `paint`."""

import argparse
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

from ..command import Parser

# What a prompt is called, and what it says.
PROMPT = ("PROMPT", "what to generate: a text, or a class's name or number, as the model takes it")
INSTRUCTION = ("INSTRUCTION", "what to change, for example: make the sky red")


def add_commands(commands) -> None:
    _add(commands, "generate", "generate images of a prompt, or of every line of a file")
    _add(commands, "edit", "change a picture as an instruction tells", "edit")
    _add(commands, "paint", "generate a part of a picture anew, or more of it beyond its borders", "paint")


def _add(commands, name: str, summary: str, task: str | None = None) -> None:
    fill = partial(_fill, task=task)
    parser = commands.add_parser(name, help=summary, description=f"{summary.capitalize()}.", epilog="Settings that are not given come with the model.", fill=fill)
    parser.set_defaults(run=_generate, task=task, called=(INSTRUCTION if task == "edit" else PROMPT)[0])


def _fill(parser: Parser, task: str | None) -> None:
    from ..families import FAMILIES
    from .options import add_model, add_prompts, add_settings
    from .tasks import TASKS, add_task

    add_prompts(parser, INSTRUCTION if task == "edit" else PROMPT)
    add_task(parser, task)
    parser.add_argument("--out", metavar="PATH", type=Path, default=Path("migm.png"), help="default: migm.png; of a batch migm-0.png, ...; of a file by line, migm-1.png, ...")
    parser.add_argument("--report", metavar="PATH", type=Path, help="write the run's settings and times to a .json file")
    parser.add_argument("--seed", metavar="S", type=int, default=0, help="of the first image; the next ones count up (default: 0)")
    parser.add_argument("--batch", metavar="K", type=int, default=1, help="images to generate at once: of the prompt, or of so many lines of the file (default: 1)")
    parser.add_argument(
        "--probe",
        action=argparse.BooleanOptionalAction,
        help="measure at each full step how far the shortcut head was off, by one more head step (default: in every run of a task)",
    )
    families = [family for family in FAMILIES if task is None or task in family.tasks]
    add_settings(parser, size=task is None or not TASKS[task].paints, families=families)
    add_model(parser)


def _generate(args) -> None:
    import torch
    from tqdm import tqdm

    from .. import outputs
    from ..loading import BUNDLED
    from .options import asked, load_pipeline, unused
    from .tasks import prompts_for_task, read_task

    outputs.check_writable(args.out, ".png")
    if args.report:
        outputs.check_writable(args.report, ".json")
    task = read_task(args)
    lines = prompts_for_task(args, args.called)
    pipeline = load_pipeline(args)
    family = pipeline.checkpoint.family
    if task.task is not None:
        family.task(task.task)  # before the prompt, which some tasks do without, is taken for a list of classes
    if args.prompt_file is None and isinstance(parts := family.split(pipeline.checkpoint, lines[1]), list):
        lines = dict(enumerate(map(str, parts)))
    # Either an image or several of one prompt at once, or one of each prompt.
    each = args.prompt_file is not None or len(lines) > 1
    texts, images = list(lines.values()), len(lines) if each else args.batch
    given = asked(args, family)
    runs = [{**given, "seed": args.seed + first, "batch": min(args.batch, images - first)} for first in range(0, max(images, 1), max(args.batch, 1))]
    settings, masked, notes = _check(pipeline, runs, lines, task, args)
    paths = outputs.image_paths(args.out, list(lines) if each else images)
    for path in paths:
        outputs.check_writable(path, ".png")
    cautions = [*notes, *pipeline.cautions(settings, texts, args.negative), *unused(given, settings.method, args.probe)]
    for caution in cautions:
        _say(caution)

    about = {"model": args.model, "head": args.model if args.head == "auto" and args.model in BUNDLED else args.head, "negative": args.negative, **task.about(family)}
    of_images = _of_images(pipeline, texts, task)
    results = []
    try:
        with tqdm(total=settings.steps * images, unit="step", leave=False, disable=None) as bar:  # None: on a terminal only
            for run in runs:
                some = slice(run["seed"] - args.seed, run["seed"] - args.seed + run["batch"])
                prompt = texts[some] if each else texts[0]
                result = pipeline.generate(prompt, args.negative, callback=lambda step: bar.update(step.canvas.shape[0]), probe=args.probe, **run, **task.arguments())
                of_these = {name: values[some] if each else values[0] for name, values in of_images.items()}
                outputs.save_images(result, paths[some], {**of_these, **about})
                tqdm.write(f"{', '.join(map(str, paths[some]))}: {outputs.summary(result, pipeline, masked)}", file=sys.stdout)
                results.append(replace(result, images=[]))
                for note in result.notes:
                    if note not in cautions:
                        cautions.append(note)
                        _say(note)
    except torch.OutOfMemoryError:
        raise ValueError(f"{pipeline.device} has not enough memory for this run. Choose a smaller size or batch, dtype bf16, or --tile 256.") from None
    if args.report:
        of_all = {name: values if each else values[0] for name, values in of_images.items()}
        outputs.write_report(args.report, outputs.report(results, pipeline, paths, {**of_all, **about}, cautions, masked))


def _say(caution: str) -> None:
    from tqdm import tqdm

    tqdm.write(f"migm: {caution}", file=sys.stderr)


def _of_images(pipeline, texts: list[str], task) -> dict[str, list[str]]:
    """What reports and images say of each image: its prompt, and a class's name where a number was given."""
    if not any(texts) and task.task is not None:
        return {}
    labels = [pipeline.checkpoint.family.label(pipeline.checkpoint, text) for text in texts]
    return {"prompt": texts} if labels == texts else {"prompt": texts, "class": labels}


def _check(pipeline, runs: list[dict], lines: dict, task, args):
    """Check the settings of all runs, the pictures and every prompt, so that all errors come before the first run.

    Returns:
        The first run's settings, how many tokens of each image are generated (None for all), and what became of the pictures, in sentences.
    """
    from .options import named_as_options
    from .tasks import look_at

    family, checkpoint = pipeline.checkpoint.family, pipeline.checkpoint
    inputs = look_at(pipeline, task, next(iter(lines.values())), args.negative)
    size = {} if inputs is None or inputs.size is None else dict(zip(("width", "height"), inputs.size))
    of_task = {} if task.task is None else {"task": task.task}
    with named_as_options():
        settings = [pipeline.settings(**{**size, **run, **of_task}) for run in (runs[0], runs[-1])]
    for number, prompt in lines.items():
        try:
            if inputs is None:
                family.branches(checkpoint, prompt, args.negative, settings[0].guidance_scale, 1)
            else:
                family.task_branches(checkpoint, task.request(prompt, args.negative), inputs, settings[0].guidance_scale, settings[0].image_guidance_scale or 0)
        except ValueError as error:
            raise ValueError(f"{args.prompt_file}, line {number}: {error}" if args.prompt_file else str(error)) from None
    if inputs is None:
        return settings[0], None, ()
    return settings[0], None if inputs.canvas is None else int(inputs.canvas.masked.sum()), inputs.notes
