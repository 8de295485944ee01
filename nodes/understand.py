"""MIGM Ask About Image: answers in words."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..migm_core import arguments
from ..migm_core.families import family_named
from ..migm_core.families.lumina_dimoo import reading
from ..migm_core.families.lumina_dimoo.inputs import Inputs, for_reading
from ..migm_core.families.lumina_dimoo.reading import Choice, Reply
from ..migm_core.families.lumina_dimoo.sequence import image_length
from ..migm_core.families.lumina_dimoo.text_settings import TextSettings
from . import choices
from .host import pictures
from .host.pictures import picture_batch
from .host.text import prepare_text
from .host.text_progress import TextProgress
from .host.weights import LoadedModel
from .run import as_time
from .sampler import MAX_SEED, seed
from .sockets import advanced, expect, expect_family, optional, schema
from .tasks import LOADER, TaskPrompt, model_link, side_by_side

FAMILY = family_named("lumina-dimoo")
PLACES = ("image", "image_2", "image_3")
MORE = {
    "length": "The answer ends before it where it is finished.",
    "steps": "Fewer are faster and, at some point, worse.",
}
EXAMPLE = "Describe this image."
TEMPLATE = 80  # tokens of the words around a question, about
PICTURE = "What to ask about: a picture, or a batch of several. As many pixels as the model was trained to read, cropped around its middle."


class AskAboutImage(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        of_text = choices.inputs_of(TextSettings, MORE)
        of_text["guidance_scale"].id = "cfg"
        return schema(
            node_id="MIGMAskAboutImage",
            display_name="MIGM Ask About Image",
            category="MIGM",
            search_aliases=["ask", "question", "caption", "describe", "interrogate", "vqa", "vlm", "llm", "image to text", "img2txt", "understand", "ocr", "prompt from image", "lumina"],
            description="Ask Lumina-DiMOO about pictures, or without one. The answer appears on the node while it is written.",
            is_output_node=True,  # what it shows is on itself; so the host sends it again after a cached run
            inputs=[
                model_link(),
                io.String.Input("question", multiline=True, dynamic_prompts=True, default=EXAMPLE, tooltip="What to ask, or to tell the model to do with the pictures."),
                *(io.Image.Input(name, optional=True, tooltip=PICTURE if name == PLACES[0] else "Another picture, of any size.") for name in PLACES),
                io.String.Input(
                    "options",
                    multiline=True,
                    default="",
                    optional=True,
                    tooltip="Answers to choose from, one a line: the likeliest is taken, in one pass. Empty: the answer is written in the model's own words.",
                ),
                io.Boolean.Input(
                    "one_by_one", default=False, optional=True, tooltip="An answer for each picture of a batch, as a list. Otherwise the question is on all of them together."
                ),
                optional(of_text.pop("length")),
                # Mostly it counts for nothing: one that changed would have the same answer written again at every run.
                optional(seed("Counts where the temperature is above 0 or remasking is random; answer i of several has the seed plus i.", changes=False)),
                *map(optional, map(advanced, of_text.values())),
            ],
            outputs=[
                io.String.Output("answer", display_name="answer", is_output_list=True, tooltip="The answer, or one for each picture. It can be a prompt, or a part of one."),
                io.Image.Output("seen", display_name="images", is_output_list=True, tooltip="The pictures as the model sees them; nothing where there is none."),
                io.String.Output("report", display_name="report", tooltip="Passes, times, and what became of pictures and answer. Connect Preview Any to read it."),
            ],
        )

    @classmethod
    def validate_inputs(cls, length=None, block=None, steps=None):
        # The others' limits the host knows. A linked one is not known yet.
        given = {"length": length, "block": block, "steps": steps}
        if any(not isinstance(value, int) for value in given.values()):
            return True
        try:
            TextSettings(**given)
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def execute(cls, model, question, options="", one_by_one=False, seed=0, image=None, image_2=None, image_3=None, **settings) -> io.NodeOutput:
        expect(LoadedModel, LOADER, model=model)
        expect_family(model, TaskPrompt)
        for name, text in (("question", question), ("options", options)):
            arguments.text(name, text)
        settings = TextSettings(**{"guidance_scale" if name == "cfg" else name: value for name, value in settings.items()}, seed=seed)
        groups = grouped({name: each for name, each in zip(PLACES, (image, image_2, image_3)) if each is not None}, one_by_one)
        encode = pictures.encode_pixels(model)
        inputs = [for_reading(group, encode, model.downscale_factor, model.checkpoint.trained.sizes) for group in groups]
        lines = [line.strip() for line in options.splitlines() if line.strip()]
        answered = choose(model, question, lines, inputs) if lines else write(model, question, inputs, settings)
        text = "\n\n".join(_report(model, each, lines) for each in answered)
        seen = [pictures.placed(pictures.as_image(each)) for group in inputs for each in group.pictures] or pictures.no_pictures()
        answers = [each.option if lines else each.text for each in answered]
        notes = list(dict.fromkeys(note for each in answered for note in each.notes))
        return io.NodeOutput(answers, seen, text, ui={"text": answers, "migm_notes": notes})


def grouped(given: dict[str, Any], one_by_one: bool) -> list[list[Tensor]]:
    """The pictures of each question, (h, w, 3 or 4): all together; or one of each input, a single picture counting for all.

    Raises:
        ValueError: an input is no picture, or the inputs have different numbers of them.
    """
    batches = [picture_batch(name, image) for name, image in given.items()]
    return side_by_side(batches) if one_by_one else [[picture for batch in batches for picture in batch]]


def write(model: LoadedModel, question: str, inputs: list[Inputs], settings: TextSettings) -> list[Reply]:
    """Answers in the model's own words, under the host's progress bar and stop button.

    Raises:
        ValueError: a question that cannot be.
    """
    progress = TextProgress(len(inputs) * settings.passes)
    rows = 2 if settings.guidance_scale > 0 else 1
    replies = []
    for index, each in enumerate(inputs):
        values = {**asdict(settings), "seed": (settings.seed + index) % (MAX_SEED + 1)}
        before = "".join(f"{reply.text}\n\n" for reply in replies)
        with prepare_text(model, rows, _length(model, question, each, settings.length), settings):
            replies += reading.answer_questions(model.checkpoint, [question], each, values, progress.of(index * settings.passes, before))
    progress.end("\n\n".join(reply.text for reply in replies))
    return replies


def choose(model: LoadedModel, question: str, options: list[str], inputs: list[Inputs]) -> list[Choice]:
    """The likeliest of some answers.

    Raises:
        ValueError: a question or options that cannot be.
    """
    progress = TextProgress(len(inputs))
    lengths = {len(model.checkpoint.prompts.text(option, "option")) for option in options}  # a row is computed for each
    chosen = []
    for index, each in enumerate(inputs):
        with prepare_text(model, len(lengths), _length(model, question, each, max(lengths)), TextSettings()):
            chosen.append(reading.choose(model.checkpoint, question, options, each))
        progress.step(index + 1, "\n\n".join(each.option for each in chosen))
    progress.end("\n\n".join(each.option for each in chosen))
    return chosen


def _length(model: LoadedModel, question: str, inputs: Inputs, answer: int) -> int:
    """Tokens of a sequence, a few more than it has."""
    return len(model.checkpoint.prompts.text(question, "question")) + sum(image_length(*codes.shape) for codes in inputs.codes) + TEMPLATE + answer


def _report(model: LoadedModel, answered: Reply | Choice, options: list[str]) -> str:
    """What was done, in a few lines."""
    sizes = ", ".join(f"{picture.width}x{picture.height}" for picture in answered.pictures)
    lines = [f"{model.name}, {f'pictures of {sizes}' if sizes else 'no picture'}"]
    if isinstance(answered, Choice):
        lines += [f"{probability:.1%} {option}" for option, probability in zip(options, answered.probabilities)]
    else:
        settings, passes = answered.settings, answered.settings.model_passes(answered.answer.passes)
        tokens = settings.length / settings.model_passes(settings.passes)
        lines.append(f"{passes} pass{'es' if passes > 1 else ''} in {as_time(answered.seconds)}, {as_time(answered.seconds / passes)} each; {tokens:.3g} tokens a pass")
    return "\n".join([*lines, *answered.notes])
