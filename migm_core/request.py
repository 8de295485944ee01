"""What a caller of ``Pipeline.generate`` asks for, checked and ready for the model: words or classes, pictures, a canvas."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any

from . import arguments
from .canvas import Canvas, check_canvas
from .checkpoints import Checkpoint
from .families import Family
from .families.request import Encode, TaskRequest
from .result import Result
from .sampling.backbone import Branch
from .settings import Settings


@dataclass(frozen=True)
class Request:
    """What to generate; how is in the settings.

    Attributes:
        prompts: one for all images or, where ``several``, one for each.
        batch: how many images.
        seeds: one for each image, or None to count up from that of the settings.
        task, inputs: its words and its pictures as the model takes them, see ``lumina_dimoo.inputs.Inputs``; None for a bare prompt or class.
        canvas: what to start from; None for an empty one.
        width, height: in pixels; None for the checkpoint's own.
    """

    checkpoint: Checkpoint
    prompts: list
    several: bool
    negative: str
    batch: int
    seeds: list[int] | None
    task: TaskRequest | None = None
    inputs: Any = None
    canvas: Canvas | None = None
    width: int | None = None
    height: int | None = None

    @classmethod
    def of_words(cls, checkpoint: Checkpoint, prompt: Any, negative: str, batch: int, seeds: Sequence[int] | None) -> "Request":
        """A prompt or class, or a list of them; arguments and errors as ``Pipeline.generate``."""
        if not isinstance(prompt, (list, tuple)):
            prompt = checkpoint.family.split(checkpoint, prompt)
        several = isinstance(prompt, (list, tuple))
        prompts = list(prompt) if several else [prompt]
        if not prompts:
            raise ValueError("The list of prompts is empty, expected at least one.")
        if several and batch not in (1, len(prompts)):
            raise ValueError(f"batch is {arguments.shown(batch)}, but there are {len(prompts)} prompts, one for each image. Leave batch out.")
        arguments.text("negative", negative)
        if seeds is not None:
            seeds = _check_seeds(seeds, prompts if several else None)
        return cls(checkpoint, prompts, several, negative, len(prompts) if several else batch, seeds)

    def with_task(self, task: str | None, kind: str, images: Any, mask: Any, options: Mapping[str, Any], encode: Encode) -> "Request":
        """The same with a task and its pictures.

        Args:
            options: the task's own settings.

        Raises:
            ValueError: the task does not take these, or they are given without a task.
        """
        family = self.checkpoint.family
        if task is None:
            if kind or mask is not None or (images is not None and not (isinstance(images, (list, tuple)) and not images)):
                raise ValueError(f"Pictures, a mask or a kind are given, but no task. Choose one: {', '.join(family.tasks) or 'this model has none'}.")
            return self
        request = TaskRequest(task, self.prompts[0], self.negative, kind, images, mask, options)
        return replace(self, task=request, inputs=family.task_inputs(self.checkpoint, request, encode))

    def on_canvas(self, canvas: Canvas | None, width: int | None, height: int | None) -> "Request":
        """The same with a canvas and a size, which come from the pictures where a task takes them from there.

        Raises:
            ValueError: the canvas is not for this model or batch, or has another size than is asked for.
        """
        painted, size = (None, None) if self.inputs is None else (self.inputs.canvas, self.inputs.size)
        if painted is not None:
            if width or height or canvas is not None:
                raise ValueError(f"The task {self.task.task} takes its size from the picture. Leave width, height and canvas out, or use extend.")
            canvas = painted
        elif size and canvas is None:
            width, height = width or size[0], height or size[1]
        if canvas is not None:
            check_canvas(canvas, self.batch, self.checkpoint.base.config.codebook_size)
            width, height = self._size_of(canvas, width, height)
        return replace(self, canvas=canvas, width=width, height=height)

    def _size_of(self, canvas: Canvas, width: int | None, height: int | None) -> tuple[int, int]:
        """Width and height of a canvas in pixels; a ValueError where others are asked for."""
        factor = self.checkpoint.image_tokenizer.config.downscale_factor
        own = canvas.shape[2] * factor, canvas.shape[1] * factor
        for name, asked, size in zip(("width", "height"), (width, height), own):
            if asked not in (None, size):
                raise ValueError(f"{name} is {arguments.shown(asked)}, but the canvas has {size} pixels there. Leave {name} out.")
        return own

    def branches(self, settings: Settings) -> list[Branch] | list[list[Branch]]:
        """The guidance branches, of all images or a list for each.

        Raises:
            ValueError: a prompt is not one that the model takes.
        """
        family, scale = self.checkpoint.family, settings.guidance_scale
        if self.task is None:
            batch = 1 if self.several else self.batch
            branches = [family.branches(self.checkpoint, prompt, self.negative, scale, batch) for prompt in self.prompts]
        else:
            scales = scale, settings.image_guidance_scale or 0
            branches = [family.task_branches(self.checkpoint, replace(self.task, prompt=prompt), self.inputs, *scales) for prompt in self.prompts]
        return branches if self.several else branches[0]

    def finish(self, result: Result) -> Result:
        """The result as the caller gets it: a task's pictures come back in their own frame, with what became of them."""
        if self.inputs is None:
            return result
        notes = self.inputs.notes
        if result.head_fits == "poor":
            notes += (f"The shortcut head does not predict this task well ({result.head_report}). Raise the budget, or choose another method.",)
        return replace(result, images=[self.inputs.finish(image) for image in result.images], pictures=self.inputs.pictures, notes=notes)


def take_task_options(family: Family, task: str | None, more: dict[str, Any]) -> dict[str, Any]:
    """A task's own settings, taken out of ``more``.

    Raises:
        ValueError: there is no such task, or a setting is another one's.
    """
    own = () if task is None else family.task(task).setting_names
    for other in family.tasks.values():
        for name in other.setting_names:
            if name in more and name not in own:
                raise ValueError(f"{name} is a setting of the task {other.name}. Leave it out, or choose that task.")
    return {name: more.pop(name) for name in own if name in more}


def _check_seeds(seeds: Sequence[int], prompts: list | None) -> list[int]:
    """One seed for each of several prompts."""
    seeds = list(seeds) if isinstance(seeds, Iterable) else [seeds]
    if prompts is None or len(seeds) != len(prompts):
        count = "one prompt" if prompts is None else f"{len(prompts)} prompts"
        raise ValueError(f"There are {len(seeds)} seeds for {count}. Give a list of prompts, and one seed for each.")
    for seed in seeds:
        if isinstance(seed, bool) or not isinstance(seed, Integral) or not 0 <= seed < 2**64:
            raise ValueError(f"seeds holds {arguments.shown(seed)}, but each must be a whole number from 0 to 2**64 - 1.")
    return [int(seed) for seed in seeds]
