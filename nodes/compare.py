"""MIGM Compare Methods: one prompt and seed by several methods, side by side."""

import re
from bisect import bisect_right
from functools import partial

import numpy as np
import torch
from comfy_api.latest import io
from PIL import Image, ImageDraw, ImageFont

from ..migm_core.images import to_images
from ..migm_core.sampling.methods import METHODS
from ..migm_core.settings import MAX_STEPS
from .choices import DEFAULT
from .host import pictures
from .host.routes import tell_step
from .plan import PRESETS, like, preset_budget
from .run import Run, canvas_for, generate, make_plan, report
from .sampler import how_closely, of_rule, of_text, seed
from .sockets import PromptText, expect, schema

EXAMPLES = "vanilla\nquality\nbalanced\nfast"
SHEET_COLUMNS = 4
TILE = 256  # pixels, at least
LABEL = 66  # pixels, for three lines
MARGIN = 12


class CompareMethods(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="MIGMCompareMethods",
            display_name="MIGM Compare Methods",
            category="MIGM",
            search_aliases=["benchmark", "xy plot", "grid", "contact sheet", "speed", "compare"],
            description="Generate one prompt and seed by several methods and budgets, and see what each costs and gives.",
            inputs=[
                *of_text(),
                seed("The same for all."),
                io.String.Input(
                    "methods",
                    multiline=True,
                    default=EXAMPLES,
                    tooltip="One way a line: quality, balanced, fast, the model's own steps with 1.5, 1 and 0.67 times its own budget; or a method, "
                    "with its budget as in 'shortcut 8', or, where it has none, a number of steps, as in 'vanilla 16'; with both, as in "
                    "'shortcut 8 of 48'; with other settings of its own, as in 'ml-cache interval=3'.",
                ),
                how_closely(),
                of_rule()["temperature"],
            ],
            outputs=[
                io.Image.Output("images", display_name="images", tooltip="One for each line, in order."),
                io.Image.Output("sheet", display_name="contact sheet", tooltip="All of them, with full steps, time and speed-up beneath."),
                io.String.Output("report", display_name="report", tooltip="What MIGM KSampler (Shortcut) reports, for each line."),
            ],
        )

    @classmethod
    def validate_inputs(cls, methods=None):
        # Alone, as the host shows an error at each input that is named here.
        try:
            if methods is not None:
                parse(methods)
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def execute(cls, model, prompt, seed, methods, cfg, temperature, head=None, canvas=None) -> io.NodeOutput:
        expect(PromptText, prompt=prompt)
        blank = canvas_for(model, prompt, head, canvas)
        ways = parse(methods)
        numbers = [numbers_of(way, model.checkpoint.settings) for _, way in ways]
        plans = [make_plan(model, head, blank, prompt, seed=seed, guidance_scale=cfg, rule={"temperature": temperature}, painted=canvas, **each) for each in numbers]
        runs = generate(model, head, prompt, blank, plans, partial(tell_step, model.name))
        finish = canvas.finish if canvas is not None else ()
        images = [pictures.canvas_image(model, run.canvas, finish=finish) for run in runs]
        sheet = contact_sheet([image[0] for image in images], [label(line, run) for (line, _), run in zip(ways, runs)])
        text = "\n\n".join(f"{line}\n{report(model, head, run)}" for (line, _), run in zip(ways, runs))
        return io.NodeOutput(pictures.placed(torch.cat(images)), pictures.placed(sheet), text)


LINE = re.compile(r"([a-z0-9_-]+)(?: +(\d{1,6}))?(?: +of +(\d{1,6}))?((?: +[a-z_]+=[a-z0-9._-]{1,40})*)")


def parse(methods: str) -> list[tuple[str, dict]]:
    """Each line, in order, with what it asks for: preset, method, and steps and settings where they are given. One may stand there twice.

    Raises:
        ValueError: names the line.
    """
    presets = {preset.lower(): preset for preset in PRESETS}
    ways = []
    for line in filter(None, map(str.strip, str(methods).lower().splitlines())):
        match = LINE.fullmatch(line)
        word, first, second, pairs = match.groups() if match else (line, None, None, "")
        if word in presets and not (first or second or pairs):
            way = {"preset": presets[word], "method": DEFAULT}
        elif word in METHODS and (not second or "budget" in METHODS[word].settings()):
            number = "budget" if "budget" in METHODS[word].settings() else "steps"
            numbers = {name: int(given) for name, given in ((number, first), ("steps", second)) if given}
            way = {"method": word, **numbers, **_settings(line, word, pairs.split())}
        else:
            shown = line if len(line) <= 60 else f"{line[:57]}..."
            raise ValueError(f"methods: {shown!r} is not understood. Examples: {', '.join(EXAMPLES.split())}, shortcut 8, shortcut 8 of 48, vanilla 16, ml-cache interval=3.")
        _check(line, way)
        ways.append((line, way))
    if not ways:
        raise ValueError(f"methods is empty. Write one way a line, for example {', '.join(EXAMPLES.split())}.")
    return ways


def _settings(line: str, method: str, pairs: list[str]) -> dict:
    """The settings of a method that a line names, as "name=value" each."""
    fields = METHODS[method].settings()
    given = dict(pair.split("=") for pair in pairs)
    for name in given.keys() - fields.keys():
        raise ValueError(f"methods: {line!r} sets {name}, but {method} has the settings {', '.join(fields) or 'none'}.")
    try:
        return {name: like(fields[name].default, given, name, None) for name in given}
    except ValueError as error:
        raise ValueError(f"methods: {line!r}: {error}") from None


def _check(line: str, way: dict) -> None:
    """Raise a ValueError where a line asks for numbers that no model can have."""
    steps, settings = way.get("steps"), {name: way[name] for name in METHODS[way["method"]].settings() if name in way}
    if steps is not None and not 1 <= steps <= MAX_STEPS:
        raise ValueError(f"methods: {line!r} asks for {steps} steps, but they must be from 1 to {MAX_STEPS}.")
    try:
        method = METHODS[way["method"]].build(settings)
        if settings:
            method.kinds(steps or MAX_STEPS)
    except ValueError as error:
        raise ValueError(f"methods: {line!r}: {error}") from None


def numbers_of(way: dict, own: dict) -> dict:
    """A line's method, steps and settings of it, those that it does not name taken from the model's own where it has them."""
    steps = way.get("steps", own["steps"])
    settings = {name: way[name] for name in METHODS[way["method"]].settings() if name in way}
    if "budget" in METHODS[way["method"]].settings():
        settings.setdefault("budget", preset_budget(own, way["preset"]) if "preset" in way else min(own["budget"], steps))
    return {"method": way["method"], "steps": steps, "method_settings": settings}


def label(name: str, run: Run) -> list[str]:
    """Three lines for the contact sheet."""
    full = run.kinds.count("full")
    speed = f", {run.speed_up:.2f}x" if run.speed_up else ""
    return [name, f"{full} of {len(run.kinds)} steps full", f"{run.seconds:.2f} s{speed}"]


def contact_sheet(images: list[torch.Tensor], labels: list[list[str]]) -> torch.Tensor:
    """Images (h, w, 3) in 0..1 in rows, each above its label: an IMAGE of one."""
    pictures = to_images(torch.stack(images).permute(0, 3, 1, 2))
    scale = max(1, -(-TILE // pictures[0].width))  # whole pixels: small images stay crisp
    width, height = pictures[0].width * scale, pictures[0].height * scale
    columns = min(SHEET_COLUMNS, len(pictures))
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * (width + MARGIN) + MARGIN, rows * (height + LABEL + MARGIN) + MARGIN), (24, 24, 27))
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    for index, (picture, lines) in enumerate(zip(pictures, labels)):
        left = MARGIN + index % columns * (width + MARGIN)
        top = MARGIN + index // columns * (height + LABEL + MARGIN)
        sheet.paste(picture.resize((width, height), Image.Resampling.NEAREST), (left, top))
        for line, text in enumerate(lines):
            shown = shortened(text, font, width)
            pen.text((left, top + height + 6 + 19 * line), shown, font=font, fill=(235, 235, 235) if line == 0 else (165, 165, 170))
    return torch.from_numpy(np.asarray(sheet).copy()).float()[None] / 255


def shortened(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """A line that is at most ``width`` pixels wide, with … in the place of what finds no room."""
    text, whole = text[: width + 1], text  # a letter takes a pixel or more: a line of any length costs no more than that
    if text == whole and font.getlength(text) <= width:
        return text
    letters = bisect_right(range(1, len(text)), width, key=lambda count: font.getlength(f"{text[:count]}…"))
    return f"{text[:letters].rstrip()}…"
