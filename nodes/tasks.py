"""MIGM Edit Image and MIGM Image Task: what Lumina-DiMOO makes of pictures, by the words that it was trained with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar

import torch
from comfy_api.latest import io
from torch import Tensor

from ..migm_core.families import family_named
from ..migm_core.families.lumina_dimoo.inputs import Inputs
from ..migm_core.families.lumina_dimoo.prompts import MAPS
from ..migm_core.families.lumina_dimoo.tasks import IMAGE_SCALE, TASKS
from ..migm_core.families.request import TaskRequest
from ..migm_core.sampling.backbone import Branch
from ..migm_core.sampling.rule import MAX_SCALE
from ..migm_core.settings import MAX_BATCH, Settings
from .host import pictures
from .host.weights import LoadedModel
from .sockets import MODEL, PROMPT, PromptText, advanced, expect, expect_family, optional, schema

FAMILY = family_named("lumina-dimoo")
OFFERED = [task for task in TASKS.values() if task.pictures and not task.paints]
DYNAMIC = hasattr(io, "DynamicCombo")  # a list whose choice decides what other inputs there are; older hosts show all of them
FIRST_VIEW = "left"


@dataclass(frozen=True, eq=False)
class TaskPrompt(PromptText):
    """A task with its pictures, read by a model.

    Attributes:
        requests: what is asked, one for each result.
        inputs: their pictures, as the model sees them.
        image_scale: guidance by the pictures.
    """

    model: LoadedModel
    requests: tuple[TaskRequest, ...]
    inputs: tuple[Inputs, ...] = field(repr=False)
    image_scale: float

    probes: ClassVar[bool] = True

    @property
    def settings(self) -> Mapping[str, Any]:
        return {"task": self.requests[0].task, "image_guidance_scale": self.image_scale}

    @cached_property
    def notes(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(note for each in self.inputs for note in each.notes))

    def size(self, model: LoadedModel) -> tuple[int, int]:
        return self.inputs[0].size

    def images(self, model: LoadedModel) -> int:
        return len(self.inputs)

    def texts(self, guidance_scale: float) -> list[str]:
        return super().texts(guidance_scale) if TASKS[self.requests[0].task].takes_text else []

    def branches(self, model: LoadedModel, settings: Settings) -> list[Branch]:
        if model.checkpoint.path != self.model.checkpoint.path:
            raise ValueError(f"The pictures were read with the model {self.model.name!r}, but the sampler has {model.name!r}. Connect one model to both.")
        if len(self.inputs) not in (1, settings.batch):
            raise ValueError(f"There are {len(self.inputs)} pictures for {settings.batch} images. Give the canvas a batch of 1 or {len(self.inputs)}.")
        of_each = [model.checkpoint.family.task_branches(model.checkpoint, *each, settings.guidance_scale, settings.image_guidance_scale or 0) for each in zip(self.requests, self.inputs)]
        if len(of_each) == 1:
            return of_each[0]
        # Pictures of one batch have one size, so their prompts have one length.
        return [replace(branches[0], prompt=torch.stack([branch.prompt for branch in branches])) for branches in zip(*of_each)]


def read_pictures(model: LoadedModel, request: TaskRequest, given: Mapping[str, Any], scale: float) -> TaskPrompt:
    """A task with its pictures.

    Args:
        request: without pictures.
        given: what is connected, IMAGEs by the names of their inputs, in the task's order; of a batch, picture i goes with picture i of the others.

    Raises:
        ValueError: it is not what the task takes.
    """
    expect(LoadedModel, model=model)
    expect_family(model, TaskPrompt)
    batches = [picture_batch(name, image) for name, image in given.items() if image is not None]
    count = max(map(len, batches), default=1)
    if wrong := [len(batch) for batch in batches if len(batch) not in (1, count)]:
        raise ValueError(f"There are {count} pictures at one input and {wrong[0]} at another. Give one picture, or as many as there are at the other.")
    requests = [replace(request, pictures=[batch[index if len(batch) > 1 else 0] for batch in batches]) for index in range(count)]
    encode = pictures.encode_pixels(model)
    inputs = tuple(model.checkpoint.family.task_inputs(model.checkpoint, each, encode) for each in requests)
    return TaskPrompt(request.prompt, request.negative, model, tuple(replace(each, pictures=()) for each in requests), inputs, scale)


def picture_batch(name: str, image: Any) -> Tensor:
    """An IMAGE (B, h, w, 3 or 4) at an input.

    Raises:
        ValueError: it is none, or has too many pictures.
    """
    if not isinstance(image, Tensor) or image.dim() != 4:
        found = f"the shape {tuple(image.shape)}" if isinstance(image, Tensor) else repr(image)[:60]
        raise ValueError(f"The input {name} got {found}, but needs a picture. Connect Load Image.")
    if not 1 <= len(image) <= MAX_BATCH:
        raise ValueError(f"The input {name} got {len(image)} pictures, but takes 1 to {MAX_BATCH}.")
    return image


def as_images(seen: tuple[Inputs, ...], which: int) -> Tensor:
    """The pictures as the model sees them, of all results the one at this place: an IMAGE (B, h, w, 3)."""
    return torch.cat([pictures.as_image(each.pictures[which]) for each in seen])


def negative_prompt() -> io.Input:
    about = "What cfg leads away from, in the place of no words; with cfg at 0 it changes nothing."
    return advanced(io.String.Input("negative", multiline=True, dynamic_prompts=True, default="", optional=True, tooltip=about))


def image_cfg() -> io.Input:
    about = "How closely to follow the pictures, beside the sampler's cfg for the words. Lumina-DiMOO takes 4 with cfg 2.5, the bundled demo 0. 0 saves a third of the work."
    return io.Float.Input("image_cfg", default=IMAGE_SCALE, min=0.0, max=MAX_SCALE, step=0.1, tooltip=about)


def model_link() -> io.Input:
    return MODEL.Input("model", tooltip="From MIGM Load Lumina-DiMOO.")


def prompt_output() -> io.Output:
    return PROMPT.Output("prompt", display_name="prompt", tooltip="For MIGM KSampler (Shortcut) and MIGM Compare Methods.")


class EditImage(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="MIGMEditImage",
            display_name="MIGM Edit Image",
            category="MIGM",
            search_aliases=["edit", "instruct", "image to image", "img2img", "instruct pix2pix", "kontext", "qwen image edit", "change", "remove", "replace", "lumina"],
            description="Change a picture as an instruction tells: add, remove or replace something, its background, or text in it.",
            inputs=[
                model_link(),
                io.Image.Input("image", tooltip="What to change. Scaled and cropped around its middle to a size that the model knows; of a batch, each gives a result."),
                io.String.Input("instruction", multiline=True, dynamic_prompts=True, default="", tooltip="What to change, such as: Remove the dog."),
                image_cfg(),
                negative_prompt(),
            ],
            outputs=[prompt_output(), io.Image.Output("seen", display_name="image", tooltip="The picture as the model sees it. The result gets its size where the sampler has no canvas.")],
        )

    @classmethod
    def validate_inputs(cls, instruction=None):
        if isinstance(instruction, str) and not instruction.strip():
            return "The instruction is empty: say what to change."
        return True

    @classmethod
    def execute(cls, model, image, instruction, image_cfg, negative="") -> io.NodeOutput:
        prompt = read_pictures(model, TaskRequest("edit", instruction, negative), {"image": image}, image_cfg)
        return io.NodeOutput(prompt, as_images(prompt.inputs, 0))


# The inputs of tasks, by task; a name means the same in each.
FIELDS = {
    "edit": ("image", "prompt"),
    "control": ("image", "prompt"),
    "dense": ("image", "map"),
    "subject": ("image", "prompt"),
    "style": ("image", "style_image"),
    "multi-view": ("image", "view"),
    "free": ("image", "prompt"),
}
KINDS = {"dense": "map", "multi-view": "view"}


def _fields(names: tuple[str, ...]) -> list[io.Input]:
    """The inputs of a task, made anew."""
    pictures_of = "; ".join(f"{task.name}: {task.pictures[0]}" for task in OFFERED)
    every = {
        "image": lambda: io.Image.Input("image", tooltip=f"{pictures_of}. Scaled and cropped around its middle to a size that the model knows."),
        "prompt": lambda: io.String.Input("prompt", multiline=True, dynamic_prompts=True, default="", tooltip="What to generate; for edit, what to change."),
        "map": lambda: io.Combo.Input("map", options=list(MAPS), tooltip=f"What to make of the picture. {'; '.join(f'{name}: {about}' for name, about in MAPS.items())}."),
        "style_image": lambda: io.Image.Input("style_image", tooltip="The picture whose style the other one gets. The result has its size where the sampler has no canvas."),
        "view": lambda: io.String.Input("view", default=FIRST_VIEW, tooltip="From where to see the object, in a word such as left, right or back. The model's makers name no list."),
    }
    return [every[name]() for name in names]


def _task_inputs() -> list[io.Input]:
    tooltip = f"{'; '.join(f'{task.name}: {task.about}' for task in OFFERED)}."
    names = [task.name for task in OFFERED]
    if DYNAMIC:
        return [io.DynamicCombo.Input("task", options=[io.DynamicCombo.Option(name, _fields(FIELDS[name])) for name in names], tooltip=tooltip)]
    shown = _fields(tuple(dict.fromkeys(name for fields in FIELDS.values() for name in fields)))
    for each in shown:  # under the names that newer hosts give them
        each.id = f"task.{each.id}"
    return [io.Combo.Input("task", options=names, tooltip=tooltip), *map(optional, shown)]


class ImageTask(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        aliases = ["edit", "controlnet", "canny", "hed", "depth", "openpose", "normal", "segmentation", "preprocessor", "dense prediction"]
        aliases += ["subject driven", "ip adapter", "reference image", "style transfer", "multi view", "novel view", "image to image", "lumina"]
        return schema(
            node_id="MIGMImageTask",
            display_name="MIGM Image Task",
            category="MIGM",
            search_aliases=aliases,
            description="What Lumina-DiMOO makes of pictures: edits, pictures laid out by a map, maps, pictures of an object, a style's transfer, other views.",
            inputs=[model_link(), *_task_inputs(), image_cfg(), negative_prompt()],
            outputs=[
                prompt_output(),
                io.Image.Output("seen", display_name="images", is_output_list=True, tooltip="The task's pictures as the model sees them, in their order."),
            ],
        )

    @classmethod
    def execute(cls, model, image_cfg, task=None, negative="", **flat) -> io.NodeOutput:
        given = dict(task) if isinstance(task, dict) else {"task": task, **{name.removeprefix("task."): value for name, value in flat.items()}}
        name = given.pop("task")
        if name not in FIELDS:
            raise ValueError(f"task is {name!r:.60}, expected one of {', '.join(FIELDS)}.")
        given = {each: given.get(each) for each in FIELDS[name]}
        kind = given.pop(KINDS[name]) if name in KINDS else ""
        request = TaskRequest(name, given.pop("prompt", None) or "", negative, kind or "")
        prompt = read_pictures(model, request, given, image_cfg)
        return io.NodeOutput(prompt, [as_images(prompt.inputs, which) for which in range(len(TASKS[name].pictures))])
