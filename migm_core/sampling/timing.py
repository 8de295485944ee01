"""How long each step took, measured without making the device wait."""

import statistics
import time

import torch

from .loop import StepReport
from .schedules import SKIPPED


class StepTimer:
    """Times each step: by the clock on a CPU, by events in the stream on CUDA.

    Call ``start()`` before sampling and after a callback has returned, and ``lap(report)`` when a step ends.
    """

    def __init__(self, device: torch.device):
        self._device = device
        self._laps: list[tuple[str, object, object]] = []
        self._began = None

    def start(self) -> None:
        self._began = self._now()

    def lap(self, report: StepReport) -> None:
        self._laps.append((report.kind, self._began, self._now()))

    def _now(self):
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))  # else of the current device, which need not be this one
        return event

    def seconds(self) -> list[tuple[str, float]]:
        """Kind and duration of each step, in order. On CUDA this waits for the device."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
            return [(kind, begin.elapsed_time(end) / 1000) for kind, begin, end in self._laps]
        return [(kind, end - begin) for kind, begin, end in self._laps]


def median_seconds(steps: list[tuple[str, float]]) -> dict[str, float]:
    """Median duration of each kind of step, from (kind, duration) pairs; the lower of the two middle ones."""
    kinds: dict[str, list[float]] = {}
    for kind, seconds in steps:
        kinds.setdefault(kind, []).append(seconds)
    return {kind: statistics.median_low(values) for kind, values in kinds.items()}


def speed_up(steps: list[tuple[str, float]], passes: int, probed: bool = False) -> float | None:
    """The time of ``passes`` full steps / the time of all steps, each counted at the median of its kind.

    None without a full step, or where probed full steps took no longer than the head's: then times of a small model say nothing.

    Medians ignore the slow first steps of a process, such as the loading of CUDA's kernels, which would burden any method.

    Args:
        probed: whether the full steps also ran the head, see ``probe``. That is work of this run and not of the vanilla one, whose steps are
            taken to be shorter by a step of the head.
    """
    medians = median_seconds(steps)
    if "full" not in medians:
        return None
    of_head = min((seconds for kind, seconds in medians.items() if kind not in ("full", SKIPPED)), default=0.0) if probed else 0.0
    if medians["full"] <= of_head:
        return None
    return (medians["full"] - of_head) * passes / sum(medians[kind] for kind, _ in steps)
