"""From a request to guidance branches, one function a task."""

import torch

from ...sampling.backbone import Branch
from .classes import ClassNames
from .config import MaskGitConfig


def class_to_image(names: ClassNames, config: MaskGitConfig, classes: int | str | list[int | str], guidance_scale: float, batch: int) -> list[Branch]:
    """Branches of a batch from classes by number or name: one for all of its images, or one for each.

    Raises:
        ValueError: a class that the model does not have, the nearest offered; or another number of classes.
    """
    numbers = names.parse(classes)
    if len(numbers) not in (1, batch):
        raise ValueError(f"There are {len(numbers)} classes for {batch} image{'s' if batch > 1 else ''}. Give one for all images, or one for each.")
    return class_guidance(config, numbers, guidance_scale)


def class_guidance(config: MaskGitConfig, classes: list[int], guidance_scale: float) -> list[Branch]:
    """Branches whose weighted sum is (1 + w) * conditional - w * unconditional; one branch where w is 0.

    Args:
        classes: one for all images of the batch, or one for each.

    Raises:
        ValueError: a class that the model does not have.
    """
    tokens = torch.tensor([config.class_token(number) for number in classes])
    if len(classes) > 1:
        tokens = tokens[:, None]
    branches = [
        Branch(tokens, 1 + guidance_scale, prompt_visible=False),
        Branch(torch.full_like(tokens, config.dropped_class), -guidance_scale, prompt_visible=False),
    ]
    return [branch for branch in branches if branch.weight != 0]
