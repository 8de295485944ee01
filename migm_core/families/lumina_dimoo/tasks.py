"""What Lumina-DiMOO generates: one entry a task, from a request to guidance branches. To add one: write its entry in ``TASKS``."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from ...arguments import shown
from ...sampling.backbone import Branch
from ..request import TaskRequest
from .painting import Painting
from .prompts import FALLBACK, MAPS, SYSTEM_PROMPTS, PromptEncoder, dense_text, view_text
from .sequence import image_tokens

TEXT_SCALE, IMAGE_SCALE = 2.5, 4.0  # of image to image, as published; no task has values of its own


@dataclass(frozen=True)
class Task:
    """One thing that the model does with words and pictures.

    Attributes:
        name: as users write it; title: as they read it.
        about: what it does, in a few words.
        system: the key of its system prompt.
        pictures: what each picture that it takes is, in their order.
        kinds: what ``TaskRequest.kind`` may be, and what each means; None where there is no such choice, empty where any word goes.
        text: the words of the template, from the user's and the kind.
        takes_text: whether the user's words are read.
        settings: the class of its own settings; with ``Painting`` it generates a part of its picture, which the prompt then does not show.
    """

    name: str
    title: str
    about: str
    system: str
    pictures: tuple[str, ...] = ()
    kinds: dict[str, str] | None = None
    text: Callable[[str, str], str] = lambda prompt, kind: prompt
    takes_text: bool = True
    settings: type | None = None

    @property
    def paints(self) -> bool:
        return self.settings is Painting

    @property
    def guides_by_pictures(self) -> bool:
        """Whether its prompt shows pictures, which have a guidance branch of their own."""
        return bool(self.pictures) and not self.paints

    @property
    def setting_names(self) -> list[str]:
        """Of its own settings."""
        return [] if self.settings is None else [each.name for each in fields(self.settings)]

    def check(self, request: TaskRequest, pictures: int) -> None:
        """Raise a ValueError for a request that it cannot serve.

        Args:
            pictures: how many are given.
        """
        for name in ("prompt", "negative", "kind"):
            if not isinstance(getattr(request, name), str):
                raise ValueError(f"{name} is {shown(getattr(request, name))}, expected text.")
        wanted = len(self.pictures)
        if pictures != wanted:
            takes = f"takes {wanted} picture{'s' if wanted > 1 else ''}: {' and '.join(self.pictures)}" if wanted else "takes no picture"
            given = "none is given" if not pictures else f"{pictures} {'is' if pictures == 1 else 'are'} given"
            raise ValueError(f"The task {self.name} {takes}; {given}.")
        if self.kinds and request.kind not in self.kinds:
            raise ValueError(f"The task {self.name} needs a kind, {', '.join(self.kinds)}; kind is {request.kind!r}.")
        if self.kinds is not None and not request.kind.strip():
            raise ValueError(f"The task {self.name} needs a kind, such as left or back: which view to generate.")
        if self.kinds is None and request.kind:
            raise ValueError(f"The task {self.name} has no kinds; kind is {request.kind!r}. Leave it out.")
        if self.settings is None and request.options:
            raise ValueError(f"The task {self.name} has no setting {shown(next(iter(request.options)))}. Leave it out, or choose the task paint.")
        if not self.paints and request.mask is not None:
            raise ValueError(f"The task {self.name} takes no mask. Leave it out, or choose the task paint.")
        if self.takes_text and self.guides_by_pictures and not request.prompt.strip():
            raise ValueError(f"The task {self.name} needs a prompt: say what to generate.")

    def branches(self, encoder: PromptEncoder, request: TaskRequest, codes: Sequence[Tensor], text_scale: float, image_scale: float = 0) -> list[Branch]:
        """The guidance branches.

        Args:
            codes: of the pictures, int64 (H, W) each.
            text_scale, image_scale: guidance; the second counts only where the prompt shows pictures.

        Raises:
            ValueError: a prompt is too long or holds what is no text.
        """
        text = self.text(request.prompt, request.kind)
        if self.paints or not self.pictures:
            return text_guidance(encoder.prompt(text, self.system), encoder.unconditional(request.negative, self.system), text_scale)
        pictures = torch.cat([image_tokens(each.cpu(), encoder.layout) for each in codes])
        return image_guidance(
            encoder.prompt(text, self.system, pictures),
            encoder.unconditional(request.negative, self.system, pictures),
            encoder.prompt(text, self.system),
            text_scale,
            image_scale,
        )


_ALL = (
    Task("text-to-image", "Text to image", "a picture of what the prompt says", "text_to_image"),
    Task("edit", "Edit", "a picture changed as the prompt tells", "editing", ("the picture to edit",)),
    Task("control", "Control", "a picture of what the prompt says, laid out as a map shows", "control", ("the map: canny, hed, depth or openpose",)),
    Task(
        "dense", "Dense prediction", "a map of a picture", "dense_prediction", ("the picture to map",),
        kinds=MAPS, text=lambda prompt, kind: dense_text(kind), takes_text=False,
    ),
    Task("subject", "Subject", "what the prompt says, with the object of a picture in it", "subject", ("the picture of the object",)),
    Task(
        "style", "Style", "a picture in the style of another", "style", ("the picture to change", "the picture whose style it gets"),
        text=lambda prompt, kind: SYSTEM_PROMPTS["style"], takes_text=False,
    ),
    Task(
        "multi-view", "Multi view", "an object from another side", "multi_view", ("the front view",),
        kinds={}, text=lambda prompt, kind: view_text(kind), takes_text=False,
    ),
    Task("paint", "Paint", "the masked part of a picture, or what lies beyond its borders", "text_to_image", ("the picture to paint in",), settings=Painting),
    Task("free", "Picture and prompt", "what the published script does with a task that it does not know; not trained", FALLBACK, ("the picture",)),
)  # fmt: skip

TASKS: dict[str, Task] = {task.name: task for task in _ALL}


def text_to_image(encoder: PromptEncoder, prompt: str, negative: str, guidance_scale: float) -> list[Branch]:
    """Branches of a prompt; the unconditional one holds the negative prompt if there is one.

    Raises:
        ValueError: a prompt is too long or holds what is no text.
    """
    return TASKS["text-to-image"].branches(encoder, TaskRequest("text-to-image", prompt, negative), (), guidance_scale)


def text_guidance(prompt: Tensor, unconditional: Tensor, guidance_scale: float) -> list[Branch]:
    """Branches whose weighted sum is (1 + g) * conditional - g * unconditional; one branch where g is 0."""
    branches = [Branch(prompt, 1 + guidance_scale), Branch(unconditional, -guidance_scale, prompt_visible=False)]
    return [branch for branch in branches if branch.weight != 0]


def image_guidance(
    prompt: Tensor, without_text: Tensor, without_image: Tensor, text_scale: float, image_scale: float
) -> list[Branch]:
    """Branches for image to image: c + s_txt (c - u_txt) + s_img (c - u_img). One whose scale is 0 is left out, which changes nothing."""
    branches = [
        Branch(prompt, 1 + text_scale + image_scale),
        Branch(without_text, -text_scale, prompt_visible=False),
        Branch(without_image, -image_scale, prompt_visible=False),
    ]
    return [branch for branch in branches if branch.weight != 0]
