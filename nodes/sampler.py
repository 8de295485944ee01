"""MIGM KSampler (Shortcut): generates the masked tokens of a canvas by a text."""

from functools import partial

from comfy_api.latest import io

from ..migm_core.families import Family, family_named
from ..migm_core.sampling.rule import MAX_SCALE
from ..migm_core.settings import MAX_STEPS
from . import choices
from .host import pictures
from .host.routes import tell_step
from .host.weights import HeadFile, LoadedModel
from .run import Condition, canvas_for, generate, make_plan, report
from .sockets import CANVAS, HEAD, MODEL, PROMPT, ModelCanvas, PromptText, advanced, expect, optional, schema
from .tasks import LOADER

MAX_SEED = 2**64 - 1
FAMILY = family_named("lumina-dimoo")
PUBLISHED = FAMILY.defaults


def links(condition: io.Input, loader: str) -> list[io.Input]:
    """What every node that samples takes first."""
    return [
        MODEL.Input("model", tooltip=f"From {loader}."),
        condition,
        HEAD.Input("head", optional=True, tooltip="From MIGM Load Shortcut Head. Without it every step runs the whole model."),
        CANVAS.Input("canvas", optional=True, tooltip="What to work on. Without it: one image of the model's own size, or of the size of a task's picture."),
    ]


def of_text() -> list[io.Input]:
    """The links of a node that samples by a text."""
    return links(PROMPT.Input("prompt", tooltip="From MIGM Prompt or MIGM Edit Image."), LOADER)


def seed(about: str, *, changes: bool = True) -> io.Input:
    """A seed; ``changes`` has the page choose another one after each run, unless its user says otherwise."""
    return io.Int.Input("seed", default=0, min=0, max=MAX_SEED, control_after_generate=changes, tooltip=about)


def steps(default: int, about: str, least: int = 1) -> io.Input:
    return io.Int.Input("steps", default=default, min=least, max=MAX_STEPS, tooltip=f"How many steps unmask the image. {about}")


def cfg(default: float, what: str, about: str = "") -> io.Input:
    tooltip = f"How closely to follow the {what}. 0 turns it off and halves the work. {about}".strip()
    return io.Float.Input("cfg", default=default, min=0.0, max=MAX_SCALE, step=0.1, tooltip=tooltip)


def how_closely() -> io.Input:
    """cfg of a node that samples by a text."""
    return cfg(PUBLISHED["guidance_scale"], "prompt", "Lumina-DiMOO and the bundled demo take 4; beside a picture Lumina-DiMOO takes 2.5.")


def of_rule() -> dict[str, io.Input]:
    """The settings of the rule of text, by name."""
    return {name: advanced(each) for name, each in choices.rule_settings(FAMILY, {"temperature": "Lumina-DiMOO and the bundled demo take 1."}).items()}


class Sampler(io.ComfyNode):
    """What the nodes that sample have in common.

    Attributes:
        family: whose sampling rule the node's inputs set.
    """

    family: Family

    @classmethod
    def of_family(cls, inputs: list[io.Input], **values) -> io.Schema:
        """The schema; the settings of methods but the budget come after ``inputs``."""
        return schema(
            category="MIGM",
            has_intermediate_output=True,
            inputs=[*inputs, *choices.other_settings()],
            outputs=[
                io.Image.Output("image", display_name="image", tooltip="The finished canvas, decoded."),
                CANVAS.Output("canvas_out", display_name="canvas", tooltip="The finished canvas."),
                io.String.Output("report", display_name="report", tooltip="Steps, times, speed-up, and why it was not faster. Connect Preview Any to read it."),
            ],
            **values,
        )

    @classmethod
    def validate_inputs(cls, method=None):
        # Alone, as the host shows an error at each input that is named here; the others' limits it knows.
        return choices.check_method(method)

    @classmethod
    def sample(cls, model: LoadedModel, condition: Condition, head: HeadFile | None, canvas: ModelCanvas | None, *, cfg: float, **settings) -> io.NodeOutput:
        """What the node gives; ``settings`` are its inputs after the links."""
        of_run = {name: settings.pop(name) for name in ("method", "seed", "steps")}
        rule = {name: settings.pop(name) for name in cls.family.rule_settings() if name in settings}
        blank = canvas_for(model, condition, head, canvas)
        plan = make_plan(model, head, blank, condition, painted=canvas, guidance_scale=cfg, rule=rule, method_settings=settings, **of_run)
        (run,) = generate(model, head, condition, blank, [plan], partial(tell_step, model.name))
        finished = ModelCanvas(run.canvas, model, canvas.finish if canvas is not None else ())
        image = pictures.placed(pictures.canvas_image(model, run.canvas, finish=finished.finish))
        return io.NodeOutput(image, finished, report(model, head, run), ui={"migm_run": [run.summary()]})


class ShortcutSampler(Sampler):
    family = FAMILY

    @classmethod
    def define_schema(cls):
        rule = of_rule()
        return cls.of_family(
            [
                *of_text(),
                seed("The same seed gives the same image, alone or in a batch."),
                steps(PUBLISHED["steps"], "Lumina-DiMOO and the bundled demo take 64."),
                choices.budget(PUBLISHED["budget"], "Lumina-DiMOO and the bundled demo take 11."),
                how_closely(),
                rule.pop("temperature"),
                choices.method(),
                *map(optional, rule.values()),
            ],
            node_id="MIGMShortcutSampler",
            display_name="MIGM KSampler (Shortcut)",
            search_aliases=["KSampler", "sampler", "generate", "text to image", "inpaint", "accelerate", "teacache", "lumina", "dimoo"],
            description="Generate the masked tokens of a canvas, and watch them appear. With a shortcut head most steps skip the large model.",
        )

    @classmethod
    def execute(cls, model, prompt, head=None, canvas=None, **settings) -> io.NodeOutput:
        expect(PromptText, prompt=prompt)
        return cls.sample(model, prompt, head, canvas, **settings)
