"""MIGM Compare Methods: one prompt and seed by several methods, side by side."""

import re

import numpy as np
import torch
from comfy_api.latest import io
from PIL import Image, ImageDraw, ImageFont

from ..migm_core.settings import MAX_STEPS, METHODS
from . import pictures
from .page import tell_step
from .plan import PRESETS, preset_budget
from .run import Run, canvas_for, generate, make_plan, report
from .sampler import MAX_SEED, cfg, shared_inputs, temperature
from .wires import schema

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
                *shared_inputs(),
                io.Int.Input("seed", default=0, min=0, max=MAX_SEED, control_after_generate=True, tooltip="The same for all."),
                io.String.Input(
                    "methods",
                    multiline=True,
                    default=EXAMPLES,
                    tooltip="One way a line: quality, balanced, fast, the model's own steps with 1.5, 1 and 0.67 times its own budget; shortcut with a "
                    "budget, as in 'shortcut 8'; vanilla or ml-cache, with a number of steps if it differs from the model's own, as in "
                    "'vanilla 16'; or both, as in 'shortcut 8 of 48'.",
                ),
                cfg(),
                temperature(),
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
        blank = canvas_for(model, prompt, head, canvas)
        ways = parse(methods)
        numbers = [numbers_of(way, model.checkpoint.settings) for way in ways.values()]
        plans = [make_plan(model, head, blank, prompt, seed=seed, guidance=cfg, temperature=temperature, **each) for each in numbers]
        runs = generate(model, head, prompt, blank, plans, tell_step)
        images = [pictures.canvas_image(model, run.canvas) for run in runs]
        sheet = contact_sheet([image[0] for image in images], [label(name, run) for name, run in zip(ways, runs)])
        text = "\n\n".join(f"{name}\n{report(model, head, run)}" for name, run in zip(ways, runs))
        return io.NodeOutput(torch.cat(images), sheet, text)


def parse(methods: str) -> dict[str, dict]:
    """Lines to what each asks for: preset, method, and steps and budget where they are given.

    Raises:
        ValueError: names the line.
    """
    presets = {preset.lower(): preset for preset in PRESETS}
    ways = {}
    for line in filter(None, map(str.strip, str(methods).lower().splitlines())):
        match = re.fullmatch(r"([a-z-]+)(?: +(\d{1,6}))?(?: +of +(\d{1,6}))?", line)
        word, first, second = match.groups() if match else (line, None, None)
        if word in presets and not first and not second:
            ways[line] = {"preset": presets[word], "method": "shortcut"}
        elif word == "shortcut":
            ways[line] = {"method": word} | {name: int(number) for name, number in (("budget", first), ("steps", second)) if number}
        elif word in METHODS and not second:
            ways[line] = {"method": word, **({"steps": int(first)} if first else {})}
        else:
            shown = line if len(line) <= 60 else f"{line[:57]}..."
            raise ValueError(f"methods: {shown!r} is not understood. Examples: {', '.join(EXAMPLES.split())}, shortcut 8, shortcut 8 of 48, vanilla 16, ml-cache.")
        _check(line, ways[line])
    if not ways:
        raise ValueError(f"methods is empty. Write one way a line, for example {', '.join(EXAMPLES.split())}.")
    return ways


def _check(line: str, way: dict) -> None:
    steps, budget = way.get("steps"), way.get("budget")
    if steps is not None and not 1 <= steps <= MAX_STEPS:
        raise ValueError(f"methods: {line!r} asks for {steps} steps, but they must be from 1 to {MAX_STEPS}.")
    if budget is not None and not 2 <= budget <= (steps or MAX_STEPS):
        raise ValueError(f"methods: {line!r} asks for a budget of {budget}, but it must be from 2 to the number of steps.")


def numbers_of(way: dict, own: dict) -> dict:
    """A line's method, steps and budget, those that it does not name taken from the model's own settings."""
    steps = way.get("steps", own["steps"])
    budget = preset_budget(own, way["preset"]) if "preset" in way else way.get("budget", min(own["budget"], steps))
    return {"method": way["method"], "steps": steps, "budget": budget}


def label(name: str, run: Run) -> list[str]:
    """Three lines for the contact sheet."""
    full = run.kinds.count("full")
    speed = f", {run.speed_up:.2f}x" if run.speed_up else ""
    return [name, f"{full} of {len(run.kinds)} steps full", f"{run.seconds:.2f} s{speed}"]


def contact_sheet(images: list[torch.Tensor], labels: list[list[str]]) -> torch.Tensor:
    """Images (h, w, 3) in 0..1 in rows, each above its label: an IMAGE of one."""
    pictures = [Image.fromarray((image.clamp(0, 1) * 255).round().to(torch.uint8).numpy()) for image in images]
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
            pen.text((left, top + height + 6 + 19 * line), text, font=font, fill=(235, 235, 235) if line == 0 else (165, 165, 170))
    return torch.from_numpy(np.asarray(sheet).copy()).float()[None] / 255
