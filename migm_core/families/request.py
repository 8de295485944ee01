"""What is asked of a family beside a bare prompt or class: a task, its words, its pictures."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

Encode = Callable[[Tensor], Tensor]  # by an image tokenizer: pixels in 0..1, (1, 3, h, w), to codes int64 (1, H, W)


@dataclass(frozen=True)
class TaskRequest:
    """What is asked of a task.

    Attributes:
        task: its name.
        prompt: the user's words; some tasks have words of their own.
        negative: takes the place of no text, where it is given.
        kind: of the map or the view, where the task has such.
        pictures: one or a list: PIL images, paths, or pixels.
        mask: what to generate in the picture, where the task paints.
        options: the task's own settings, by name.
    """

    task: str
    prompt: str = ""
    negative: str = ""
    kind: str = ""
    pictures: Any = ()
    mask: Any = None
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TaskSizes:
    """What a task's pictures make of a run, known by their sizes alone.

    Attributes:
        size: of the result in pixels, (width, height), where no canvas says another.
        pictures: tokens of all pictures in a prompt that shows them.
        branches: tokens of pictures in the prompt of each guidance branch.
    """

    size: tuple[int, int]
    pictures: int
    branches: tuple[int, ...]


def shapes_only(downscale_factor: int) -> Encode:
    """In the place of an image tokenizer: codes of the right shape at once, for whoever checks a request or asks for its lengths alone."""
    return lambda pixels: torch.zeros(len(pixels), pixels.shape[2] // downscale_factor, pixels.shape[3] // downscale_factor, dtype=torch.int64)
