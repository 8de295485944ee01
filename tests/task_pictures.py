"""What tests of tasks begin with: pictures, and the least that a task needs."""

import numpy as np
import torch
from PIL import Image

from migm_core.families.lumina_dimoo.tasks import TASKS

SIZES = ((64, 64), (96, 32), (32, 96))  # of input pictures
SHORT = {"steps": 6, "budget": 3}
WITH_PICTURES = [task for task in TASKS.values() if task.pictures and not task.paints]


def noisy(width: int, height: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    """A picture without two equal parts, smooth enough to be scaled."""
    channels = {"RGB": 3, "RGBA": 4}[mode]
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, channels), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height))


def asked(task, **values) -> dict:
    """The least that a task needs."""
    kind = next(iter(task.kinds), "left") if task.kinds is not None else ""
    return {"task": task.name, "prompt": "red house" if task.takes_text else "", "kind": kind, **values}


def half(width: int = 64, height: int = 64) -> torch.Tensor:
    mask = torch.zeros(height, width)
    mask[:, width // 2 :] = 1
    return mask
