"""MIGM KSampler (Shortcut): generates the masked tokens of a canvas."""

from comfy_api.latest import io

from ..migm_core.settings import MAX_STEPS, MAX_STRENGTH, METHODS
from . import pictures
from .page import tell_step
from .run import canvas_for, generate, make_plan, report
from .wires import CANVAS, HEAD, MODEL, PROMPT, ModelCanvas, advanced, schema

MAX_SEED = 2**64 - 1


def shared_inputs() -> list[io.Input]:
    """What every node that samples takes first."""
    return [
        MODEL.Input("model", tooltip="From MIGM Load Lumina-DiMOO."),
        PROMPT.Input("prompt", tooltip="From MIGM Prompt."),
        HEAD.Input("head", optional=True, tooltip="From MIGM Load Shortcut Head. Without it every step runs the whole model."),
        CANVAS.Input("canvas", optional=True, tooltip="What to work on. Without it: one image of the model's own size."),
    ]


def cfg() -> io.Input:
    return io.Float.Input(
        "cfg",
        default=4.0,
        min=0.0,
        max=MAX_STRENGTH,
        step=0.1,
        tooltip="How closely to follow the prompt. 0 turns it off and halves the work. Lumina-DiMOO takes 4, the bundled demo 0.",
    )


def temperature() -> io.Input:
    return advanced(
        io.Float.Input(
            "temperature",
            default=1.0,
            min=0.0,
            max=MAX_STRENGTH,
            step=0.1,
            tooltip="How varied the images are. 0 always takes the likeliest token. Lumina-DiMOO takes 1, the bundled demo 0.2.",
        )
    )


class ShortcutSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        methods = ["shortcut", "ml-cache", "vanilla"]
        return schema(
            node_id="MIGMShortcutSampler",
            display_name="MIGM KSampler (Shortcut)",
            category="MIGM",
            search_aliases=["KSampler", "sampler", "generate", "text to image", "inpaint", "accelerate", "teacache", "lumina", "dimoo"],
            description="Generate the masked tokens of a canvas, and watch them appear. With a shortcut head most steps skip the large model.",
            has_intermediate_output=True,
            inputs=[
                *shared_inputs(),
                io.Int.Input(
                    "seed", default=0, min=0, max=MAX_SEED, control_after_generate=True, tooltip="The same seed gives the same image, alone or in a batch."
                ),
                io.Int.Input("steps", default=64, min=1, max=MAX_STEPS, tooltip="How many steps unmask the image. Both models take 64."),
                io.Int.Input(
                    "budget",
                    default=11,
                    min=2,
                    max=MAX_STEPS,
                    tooltip="How many of the steps run the whole model; the shortcut head takes the others. Fewer are faster and, at some point, worse. "
                    "Lumina-DiMOO takes 11, the bundled demo 9. It counts only for the shortcut method with a head.",
                ),
                cfg(),
                temperature(),
                advanced(
                    io.Combo.Input(
                        "method",
                        options=methods,
                        default="shortcut",
                        tooltip="shortcut: the head between full steps. ml-cache: the cache that ships with Lumina-DiMOO, without a head. vanilla: every step full.",
                    )
                ),
            ],
            outputs=[
                io.Image.Output("image", display_name="image", tooltip="The finished canvas, decoded."),
                CANVAS.Output("canvas_out", display_name="canvas", tooltip="The finished canvas."),
                io.String.Output("report", display_name="report", tooltip="Steps, times, speed-up, and why it was not faster. Connect Preview Any to read it."),
            ],
        )

    @classmethod
    def validate_inputs(cls, method=None):
        # Alone, as the host shows an error at each input that is named here; the others' limits it knows. A linked one is not known yet, and of a list
        # that is no link the host complains itself.
        return True if method is None or isinstance(method, list) or method in METHODS else f"method is {method!r}, expected one of {', '.join(METHODS)}."

    @classmethod
    def execute(cls, model, prompt, seed, steps, budget, cfg, temperature, method, head=None, canvas=None) -> io.NodeOutput:
        blank = canvas_for(model, prompt, head, canvas)
        plan = make_plan(
            model, head, blank, prompt, method=method, seed=seed, steps=steps, budget=budget, guidance=cfg, temperature=temperature
        )
        (run,) = generate(model, head, prompt, blank, [plan], tell_step)
        image = pictures.canvas_image(model, run.canvas)
        return io.NodeOutput(image, ModelCanvas(run.canvas, model), report(model, head, run), ui={"migm_run": [run.summary()]})
