"""Step times that this process has measured, for a promise of the next run's speed-up."""

from __future__ import annotations

from typing import NamedTuple


class Size(NamedTuple):
    """What a step's time depends on, beside its kind and the machine.

    Attributes:
        model: the files' fingerprint.
        tokens: of one canvas.
        branches: of guidance, 2 with cfg and 1 without, one more with image_cfg.
        pictures: tokens of the pictures in a prompt that shows them.
    """

    model: tuple
    tokens: int
    branches: int
    pictures: int = 0


MOST = 256  # sizes that are remembered; a replaced file makes new ones
_seconds: dict[Size, dict[int, dict[str, float]]] = {}  # the last size measured last; by batch, likewise; medians by kind


def remember(size: Size, batch: int, seconds: dict[str, float]) -> None:
    """Keep the median step times of a run, by kind of step. A later run's replace an earlier one's."""
    of_batches = _seconds[size] = _seconds.pop(size, {})
    of_batches[batch] = {**of_batches.pop(batch, {}), **seconds}
    while len(_seconds) > MOST:
        del _seconds[next(iter(_seconds))]


def recall(size: Size, batch: int | None = None) -> dict[str, float]:
    """Median step times by kind: of that batch, or else of the last one of this size; empty where there is none."""
    of_batches = _seconds.get(size, {})
    return of_batches.get(batch) or next(reversed(of_batches.values()), {})
