"""What came of a run: whether its result is the one alone, and whether its client heard of it and of no other."""

from dataclasses import dataclass

import numpy as np
from client import Outcome
from PIL import Image, ImageOps

from .requests import Request

ENDS = {"execution_success": "finished", "execution_interrupted": "cancelled", "execution_error": "failed"}
PREVIEW = 512  # pixels that the host scales the longer side of a preview to
ALIKE = 25  # of 255, on average, between a preview and its picture: it was a JPEG, larger. Two pictures of noise are some 50 apart


@dataclass
class Seen:
    """A finished run's result, to be compared."""

    run: int
    request: Request
    variants: dict[str, set[int]]
    result: list[np.ndarray] | str


def problems_of_messages(outcome: Outcome, steps: int | None, result: list[np.ndarray] | None = None) -> list[str]:
    """Whether a client heard of its own run, and of no other: its steps, all of one size, previews of that size, and a last one of its own picture.

    Args:
        steps: that it must have heard of; None where it was stopped.
        result: the pictures; None where there are none, or where they are joined with others after the last preview.
    """
    told, found = outcome.of("migm.step"), []
    sizes = {(data["width"], data["height"]) for data in told}
    if steps is not None and len(told) != steps:
        found.append(f"its client heard of {len(told)} steps, expected {steps}.")
    if len(sizes) > 1:
        found.append(f"its client heard of steps of several sizes, {sizes}.")
    expected = {ImageOps.contain(Image.new("1", size), (PREVIEW, PREVIEW)).size for size in sizes}
    if foreign := {preview.size for preview in outcome.previews} - expected:
        found.append(f"its client saw a preview of {foreign}, expected {expected}.")
    elif outcome.previews and result is not None:
        off = min(distance(outcome.previews[-1], picture) for picture in result)
        if off > ALIKE:
            found.append(f"the last preview that its client saw is {off:.0f} of 255 away from its picture.")
    return found


def distance(preview: Image.Image, picture: np.ndarray) -> float:
    """How far a preview is from a picture, of 255, on average over pixels and colours."""
    small = np.asarray(preview.convert("RGB").resize(picture.shape[1::-1], Image.Resampling.BOX)).astype(int)
    return float(np.abs(small - picture).mean())


def combinations(variants: dict[str, set[int]]) -> list[dict[str, int]]:
    """Each choice of one variant a file."""
    found: list[dict[str, int]] = [{}]
    for name, each in variants.items():
        found = [{**chosen, name: variant} for chosen in found for variant in sorted(each)]
    return found


def difference(seen: list[np.ndarray] | str, expected: dict[str, np.ndarray]) -> str | None:
    """How a result differs from the one alone; None where it is the same to the last bit."""
    if isinstance(seen, str):
        return None if seen == str(expected["text"]) else f"{seen!r} instead of {str(expected['text'])!r}"
    if len(seen) != len(expected):
        return f"{len(seen)} pictures instead of {len(expected)}"
    for number, picture in enumerate(seen):
        own = expected[str(number)]
        if picture.shape != own.shape:
            return f"picture {number} has the shape {picture.shape} instead of {own.shape}"
        if not np.array_equal(picture, own):
            off = np.abs(picture.astype(int) - own.astype(int))
            return f"picture {number} differs in {(off > 0).any(-1).mean():.1%} of its pixels, by up to {off.max()}"
    return None
