"""Shortcut Sampler: draws a canvas."""

from comfy_api.latest import io

from ..migm_core.pipeline import MAX_STEPS, MAX_STRENGTH, METHODS, Settings
from . import pictures
from .page import tell_step
from .run import CUSTOM, OWN, PRESETS, canvas_for, draw, make_plan, report
from .wires import CANVAS, HEAD, MODEL, PROMPT, ModelCanvas, schema

MAX_SEED = 2**64 - 1


def shared_inputs() -> list[io.Input]:
    """What every node that draws takes first."""
    return [
        MODEL.Input("model", tooltip="From Load Lumina-DiMOO."),
        PROMPT.Input("prompt", tooltip="From MIGM Prompt."),
        HEAD.Input("head", optional=True, tooltip="From Load Shortcut Head. Without it every step runs the whole model."),
        CANVAS.Input("canvas", optional=True, tooltip="What to draw on. Without it: one image of the model's own size."),
    ]


def strength(name: str, what: str) -> io.Input:
    """Guidance and temperature."""
    return io.Float.Input(name, default=OWN, min=OWN, max=MAX_STRENGTH, step=0.1, tooltip=f"{what} -1 takes the model's own, which the report shows.")


class ShortcutSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        methods = ["shortcut", *(method for method in METHODS if method != "shortcut")]
        return schema(
            node_id="MIGMShortcutSampler",
            display_name="Shortcut Sampler (MIGM)",
            category="MIGM",
            search_aliases=["ksampler", "generate", "text to image", "inpaint", "accelerate", "teacache", "lumina", "dimoo"],
            description="Draw the unknown cells of a canvas, and watch them fill in. With a shortcut head most steps skip the large model.",
            inputs=[
                *shared_inputs(),
                io.Int.Input(
                    "seed", default=0, min=0, max=MAX_SEED, control_after_generate=True, tooltip="The same seed gives the same image, alone or in a batch."
                ),
                io.Combo.Input(
                    "preset",
                    options=[*PRESETS, CUSTOM],
                    default="Balanced",
                    tooltip="How often the whole model runs. Balanced is the model's own setting, Quality half as often again, Fast two thirds; "
                    "Custom takes steps and budget from below. The report shows the numbers.",
                ),
                io.Int.Input("steps", default=64, min=1, max=MAX_STEPS, tooltip="Custom only: passes over the canvas."),
                io.Int.Input("budget", default=11, min=2, max=MAX_STEPS, tooltip="Custom only: how many of the steps run the whole model. The head takes the others."),
                strength("guidance", "How closely to follow the prompt; 0 turns guidance off, which halves the work."),
                strength("temperature", "How varied the images are; 0 always takes the likeliest token."),
                io.Combo.Input(
                    "method",
                    options=methods,
                    default="shortcut",
                    tooltip="shortcut: the head between full steps. ml-cache: the cache that ships with Lumina-DiMOO, without a head. vanilla: every step full.",
                ),
            ],
            outputs=[
                io.Image.Output("image", display_name="image", tooltip="The finished canvas, decoded."),
                CANVAS.Output("canvas_out", display_name="canvas", tooltip="The finished canvas."),
                io.String.Output("report", display_name="report", tooltip="Steps, times, speed-up, and why it was not faster. Connect Preview Any to read it."),
            ],
        )

    @classmethod
    def validate_inputs(cls, preset=None, steps=None, budget=None, method=None):
        if None in (preset, steps, budget, method):
            return True  # linked: known when it runs, and checked then
        if preset not in (*PRESETS, CUSTOM):
            return f"preset is {preset!r}, expected one of {', '.join((*PRESETS, CUSTOM))}."
        numbers = (steps, budget) if preset == CUSTOM else (2, 2)
        try:
            Settings(1, 1, *numbers, guidance=0, temperature=0, method="vanilla" if steps == 1 and method in METHODS else method).check(factor=1)
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def execute(cls, model, prompt, seed, preset, steps, budget, guidance, temperature, method, head=None, canvas=None) -> io.NodeOutput:
        blank = canvas_for(model, canvas)
        plan = make_plan(
            model, head, blank, preset=preset, method=method, seed=seed, steps=steps, budget=budget, guidance=guidance, temperature=temperature
        )
        (run,) = draw(model, head, prompt, blank, [plan], tell_step)
        image = pictures.canvas_image(model, run.canvas)
        return io.NodeOutput(image, ModelCanvas(run.canvas, model), report(model, head, run), ui={"migm_run": [run.summary()]})
