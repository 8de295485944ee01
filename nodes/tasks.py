"""What Lumina-DiMOO makes of pictures, by the words that it was trained with: MIGM Edit Image, and what MIGM Prompt has for tasks."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar

import torch
from comfy_api.latest import io
from torch import Tensor

from ..migm_core import arguments
from ..migm_core.families import family_named
from ..migm_core.families.lumina_dimoo.inputs import Inputs
from ..migm_core.families.lumina_dimoo.prompts import MAPS
from ..migm_core.families.lumina_dimoo.sequence import image_length
from ..migm_core.families.lumina_dimoo.tasks import IMAGE_SCALE, TASKS, Task
from ..migm_core.families.request import TaskRequest
from ..migm_core.sampling.backbone import Branch
from ..migm_core.sampling.rule import MAX_SCALE
from ..migm_core.settings import Settings
from .host import pictures
from .host.pictures import picture_batch
from .host.weights import LoadedModel
from .sockets import MODEL, PROMPT, PromptText, advanced, expect, expect_family, optional, schema

FAMILY = family_named("lumina-dimoo")
OFFERED = [task for task in TASKS.values() if task.pictures and not task.paints]
DYNAMIC = hasattr(io, "DynamicCombo")  # a list whose choice decides what other inputs there are; older hosts show all of them
FIRST_VIEW = "left"
TEXT = "text-to-image"
LOADER = "MIGM Load Lumina-DiMOO"


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

    @property
    def picture_tokens(self) -> int:
        return sum(image_length(*codes.shape) for codes in self.inputs[0].codes)

    def size(self, model: LoadedModel) -> tuple[int, int]:
        return self.inputs[0].size

    def images(self, model: LoadedModel) -> int:
        return len(self.inputs)

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
    expect(LoadedModel, LOADER, model=model)
    expect_family(model, TaskPrompt)
    batches = [picture_batch(name, image) for name, image in given.items() if image is not None]
    requests = [replace(request, pictures=together) for together in side_by_side(batches)]
    encode = pictures.encode_pixels(model)
    inputs = tuple(model.checkpoint.family.task_inputs(model.checkpoint, each, encode) for each in requests)
    return TaskPrompt(request.prompt, request.negative, model, tuple(replace(each, pictures=()) for each in requests), inputs, scale)


def side_by_side(batches: list[Tensor]) -> list[list[Tensor]]:
    """Picture i of each input (B, h, w, 3 or 4) with picture i of the others; a single one counts for all.

    Raises:
        ValueError: the inputs have different numbers of pictures.
    """
    count = max(map(len, batches), default=1)
    if wrong := [len(batch) for batch in batches if len(batch) not in (1, count)]:
        raise ValueError(f"There are {count} pictures at one input and {wrong[0]} at another. Give one picture, or as many as there are at the other.")
    return [[batch[index if len(batch) > 1 else 0] for batch in batches] for index in range(count)]


def as_images(seen: tuple[Inputs, ...], which: int) -> Tensor:
    """The pictures as the model sees them, of all results the one at this place: an IMAGE (B, h, w, 3)."""
    return pictures.placed(torch.cat([pictures.as_image(each.pictures[which]) for each in seen]))


def negative_prompt() -> io.Input:
    about = "What cfg leads away from, in the place of no words; with cfg at 0 it changes nothing."
    return advanced(io.String.Input("negative", multiline=True, dynamic_prompts=True, default="", optional=True, tooltip=about))


def image_cfg() -> io.Input:
    about = "How closely to follow the pictures, beside the sampler's cfg for the words. Lumina-DiMOO takes 4 with cfg 2.5. 0 saves up to a fifth of the work."
    return io.Float.Input("image_cfg", default=IMAGE_SCALE, min=0.0, max=MAX_SCALE, step=0.1, tooltip=about)


def model_link() -> io.Input:
    return MODEL.Input("model", tooltip=f"From {LOADER}.")


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


PICTURES = ("image", "style_image")  # inputs, as many as a task takes
MAP, VIEW = "map", "view"  # inputs of a task's kind: one of a list, or any word


def kind_of(task: Task) -> tuple[str, ...]:
    """The input of a task's kind, where it has kinds."""
    return () if task.kinds is None else (MAP,) if task.kinds else (VIEW,)


def _field(name: str) -> io.Input:
    """An input of one or several tasks, made anew; a name means the same in each."""
    of_pictures = "; ".join(f"{task.name}: {task.pictures[0]}" for task in OFFERED)
    every = {
        "model": model_link,
        "image": lambda: io.Image.Input("image", tooltip=f"{of_pictures}. Scaled and cropped around its middle to a size that the model knows."),
        "prompt": lambda: io.String.Input("prompt", multiline=True, dynamic_prompts=True, default="", tooltip="What to generate; for edit, what to change."),
        "map": lambda: io.Combo.Input("map", options=list(MAPS), tooltip=f"What to make of the picture. {'; '.join(f'{name}: {about}' for name, about in MAPS.items())}."),
        "style_image": lambda: io.Image.Input("style_image", tooltip="The picture whose style the other one gets. The result has its size where the sampler has no canvas."),
        "view": lambda: io.String.Input("view", default=FIRST_VIEW, tooltip="From where to see the object, in a word such as left, right or back. The model's makers name no list."),
        "image_cfg": image_cfg,
    }
    return every[name]()


def task_inputs(fields: Mapping[str, tuple[str, ...]], *, must: bool = True) -> list[io.Input]:
    """A list of tasks whose choice decides what other inputs there are; on older hosts all of these, under the names that newer ones give them.

    Args:
        fields: by task, the names of its inputs.
        must: whether a prompt has to name a task; where not, it is the first.
    """
    about = {**{task.name: task.about for task in OFFERED}, TEXT: TASKS[TEXT].about}
    tooltip = f"{'; '.join(f'{name}: {about[name]}' for name in fields)}."
    if DYNAMIC:
        options = [io.DynamicCombo.Option(name, [_field(each) for each in names]) for name, names in fields.items()]
        return [io.DynamicCombo.Input("task", options=options, optional=not must, tooltip=tooltip)]
    choice = io.Combo.Input("task", options=list(fields), default=next(iter(fields)), optional=not must, tooltip=tooltip)
    shown = [_field(name) for name in dict.fromkeys(name for names in fields.values() for name in names)]
    for each in shown:
        each.id = f"task.{each.id}"
    return [choice, *(optional(each if must else advanced(each)) for each in shown)]


def chosen_task(task: Any, flat: Mapping[str, Any], among: Collection[str], otherwise: str | None = None) -> tuple[Task, dict[str, Any]]:
    """A task and its inputs by name, as a host of either age hands them on.

    Args:
        task: what the host gives for the list of tasks.
        flat: inputs of an older host, by its names for them.
        among: the tasks of the node.
        otherwise: the task where none is named.

    Raises:
        ValueError: there is no such task.
    """
    given = dict(task) if isinstance(task, dict) else {"task": task, **{name.removeprefix("task."): value for name, value in flat.items()}}
    name = given.pop("task", None)
    name = otherwise if name is None or isinstance(name, str) and not name else name
    if not isinstance(name, str) or name not in among:
        raise ValueError(f"task is {arguments.shown(name)}, expected one of {', '.join(among)}.")
    return TASKS[name], given


def read_task(model: LoadedModel, task: Task, given: Mapping[str, Any], text: str, negative: str, scale: float) -> TaskPrompt:
    """A task with pictures.

    Args:
        given: its inputs by name.

    Raises:
        ValueError: it is not what the task takes.
    """
    kind = next((given.get(name) for name in kind_of(task)), "") or ""
    if VIEW in kind_of(task) and isinstance(kind, str) and kind in MAPS:  # newer hosts read it in the view's place from workflows of older ones
        raise ValueError(f"view is {kind!r}, which is a map. Write from where to see the object, such as left or back.")
    request = TaskRequest(task.name, text if task.takes_text else "", negative, kind)
    return read_pictures(model, request, {name: given.get(name) for name in PICTURES[: len(task.pictures)]}, scale)


def seen_pictures(prompt: TaskPrompt) -> list[Tensor]:
    """An IMAGE for each picture that the task takes, as the model sees it."""
    return [as_images(prompt.inputs, which) for which in range(len(TASKS[prompt.requests[0].task].pictures))]


# What MIGM Prompt adds for a task. image_cfg stands before a map or a view, so that older hosts, which have all of these, read the values of the
# other tasks from workflows of newer ones.
OF_PROMPT = {TEXT: (), **{task.name: ("model", *PICTURES[: len(task.pictures)], "image_cfg", *kind_of(task)) for task in OFFERED}}
# What MIGM Image Task shows, in the order of the workflows that were saved with it.
OF_IMAGE_TASK = {task.name: (*PICTURES[: len(task.pictures)], *(("prompt",) if task.takes_text else ()), *kind_of(task)) for task in OFFERED}


class ImageTask(io.ComfyNode):
    """MIGM Prompt does all of this; for workflows that were saved with it."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="MIGMImageTask",
            display_name="MIGM Image Task",
            category="MIGM",
            search_aliases=[],
            description="What Lumina-DiMOO makes of pictures. MIGM Prompt does all of this: choose its task.",
            is_deprecated=True,
            inputs=[model_link(), *task_inputs(OF_IMAGE_TASK), image_cfg(), negative_prompt()],
            outputs=[
                prompt_output(),
                io.Image.Output("seen", display_name="images", is_output_list=True, tooltip="The task's pictures as the model sees them, in their order."),
            ],
        )

    @classmethod
    def execute(cls, model, image_cfg, task=None, negative="", **flat) -> io.NodeOutput:
        task, given = chosen_task(task, flat, OF_IMAGE_TASK)
        prompt = read_task(model, task, given, given.get("prompt") or "", negative, image_cfg)
        return io.NodeOutput(prompt, seen_pictures(prompt))
