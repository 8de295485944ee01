"""How many tokens each step unmasks: plain numbers, known before the first step."""

import math

import torch
from torch import Tensor

from ...arguments import shown

LEAST_STEPS = 2


def _linear(r: Tensor) -> Tensor:
    return 1 - r


def _square(r: Tensor) -> Tensor:
    return 1 - r**2


def _root(r: Tensor) -> Tensor:
    return 1 - r**0.5


def _cosine(r: Tensor) -> Tensor:
    return torch.cos(r * math.pi * 0.5)


def _arccos(r: Tensor) -> Tensor:
    return torch.arccos(r) / (math.pi * 0.5)


# Weight of a step, of r that falls from 1 at the first step to 0 at the last (Halton-MaskGIT v1.0).
SCHEDULES = {"arccos": _arccos, "cosine": _cosine, "square": _square, "linear": _linear, "root": _root}


def unmask_counts(mode: str, steps: int, tokens: int) -> list[int]:
    """How many tokens each step unmasks: in proportion to its weight, at least 1, and what rounding leaves at the last.

    Computed in float32, as published: at some sizes the last digit decides. With more steps than tokens the last count is 0 or
    negative; a run has unmasked everything before it.

    Raises:
        ValueError: an unknown mode, or fewer than 2 steps.
    """
    if mode not in SCHEDULES:
        raise ValueError(f"Unknown schedule {shown(mode)}. Expected {', '.join(SCHEDULES)}, or a list of counts.")
    check_steps(steps)
    weights = SCHEDULES[mode](torch.linspace(1, 0, steps, dtype=torch.float32))
    counts = (weights / weights.sum() * tokens).round().clamp(min=1).int().tolist()
    counts[-1] += tokens - sum(counts)
    return counts


def check_steps(steps: int) -> None:
    """Raise a ValueError for fewer steps than the schedules and the ramps are defined for."""
    if steps < LEAST_STEPS:
        raise ValueError(f"steps is {steps}, but MaskGIT's schedules need at least {LEAST_STEPS}.")


def keep_masked(counts: list[int], masked: int) -> list[int]:
    """How many tokens are still masked after each step.

    Args:
        counts: tokens to unmask at each step.
        masked: tokens masked at the start. Where these are fewer than the counts add up to, the last steps have nothing to do.

    Raises:
        ValueError: tokens would stay masked.
    """
    keep = []
    for count in counts:
        keep.append(masked := max(0, masked - max(0, count)))
    if masked:
        raise ValueError(f"The counts of the schedule add up to {sum(counts)}, which leaves {masked} tokens masked. They must add up to all tokens of the canvas.")
    return keep
