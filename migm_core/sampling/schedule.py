"""When tokens become fixed and when the base model runs: plain numbers, known before the first step."""

import math

import torch


def keep_masked(cells: int, steps: int) -> list[int]:
    """How many cells are still masked after each step: the cosine schedule of MaskGIT (arXiv 2202.04200, section 3.2).

    Computed in float32, as published: at some sizes the last digit decides.
    """
    counts = []
    for step in range(steps - 1):
        share = torch.cos(torch.tensor((step + 1) / steps, dtype=torch.float32) * (math.pi / 2))
        counts.append(min(cells, max(1, int(torch.floor(cells * share)))))
    return [*counts, 0]


def full_steps(steps: int, budget: int) -> list[int]:
    """The steps that run the base model when it may run ``budget`` times in ``steps``: evenly spread, the first included.

    Raises:
        ValueError: the budget is below 2 or above the number of steps.
    """
    if not 2 <= budget <= steps:
        raise ValueError(
            f"budget is {budget}, but must be from 2 to the number of steps, {steps}: it counts the steps that run the base model. "
            "For fewer steps of the base model alone, lower the steps and choose the vanilla method."
        )
    chosen = [0]
    for k in range(1, budget):
        chosen.append(max(chosen[-1] + 1, round(steps * k / budget)))
    return chosen
