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


SKIPPED = "skipped"  # a step at which no model runs


def step_kinds(kinds: list[str], cells: int) -> list[str]:
    """The kinds of a run's steps, with "skipped" in the place of those that need no model.

    With more steps than the mask schedule has tokens to give, some steps unmask nothing and throw away what they sampled. At a
    full step features come from the tokens alone, so what was computed before it is forgotten. A step is skipped where nothing is
    unmasked from there to the next full step: all idle steps of vanilla, whose every step is full. In the other methods an idle
    step may hand its features on to one that unmasks; it runs, as in the published runs, since their tokens depend on it.

    Args:
        kinds: of each step, by the method: "full", or another name where the step goes on from earlier features.
        cells: masked at the start.
    """
    keep = keep_masked(cells, len(kinds))
    planned, needed = list(kinds), False
    for step in reversed(range(len(kinds))):
        needed = needed or unmasked(keep, cells, step) > 0
        if not needed:
            planned[step] = SKIPPED
        if kinds[step] == "full":
            needed = False
    return planned


def unmasked(keep: list[int], cells: int, step: int) -> int:
    """How many tokens a step unmasks, of ``keep_masked``'s numbers."""
    return (keep[step - 1] if step else cells) - keep[step]


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
