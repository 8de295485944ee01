"""Memory, handles, threads and times of a host: how they are measured, and whether they grow."""

import os
import re
import statistics
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

# What may be added over 1,000 runs and still counts as none: caches that fill once, a pool that grows by a thread.
# PSS is left out: it depends on which other processes have mapped the same libraries.
LIMITS = {
    "RSS MB": 24,
    "anonymous MB": 24,
    "handles": 6,
    "threads": 4,
    "deleted files": 3,
    "models": 0,
    "heads": 1,
    "objects": 30_000,
    "tensors": 100,
    "tensor MB": 4,
    "step times": 400,
}
SLOWER = 0.1  # of a run's processor time, over 1,000 runs
SURE = 3.0  # standard errors by which a trend must pass its limit


@dataclass(frozen=True)
class Mark:
    """The host between two runs.

    Attributes:
        runs: before it.
        rest: figures after all models were unloaded and caches emptied, by name.
        work: figures after one run of each kind that followed.
        left: names of the models that the host still holds at rest.
        pace: by kind of request, the seconds on the processor that the host took for that run, and those that the engine alone took right after it.
    """

    runs: int
    rest: dict[str, float]
    work: dict[str, float]
    left: list[str]
    pace: dict[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Timed:
    """A finished run's time.

    Attributes:
        run: its number.
        kind: of its request.
        seconds: from its start to its end; processor: of the host's time on the processor meanwhile, None where another run was queued.
    """

    run: int
    kind: str
    seconds: float
    processor: float | None


def of_process(process: int) -> dict[str, float]:
    """Memory in MB, open handles, threads, and model files that are mapped but no longer there, of a process (Linux).

    RSS counts all resident pages, PSS those that are shared with other processes by its share, anonymous memory those that no file holds.
    """
    folder = Path(f"/proc/{process}")
    sizes = {name: int(size) / 1024 for name, size in re.findall(r"^(\w+):\s+(\d+) kB", (folder / "smaps_rollup").read_text(), re.MULTILINE)}
    handles = os.listdir(folder / "fd")
    mapped = {line.split(maxsplit=5)[5] for line in (folder / "maps").read_text().splitlines() if line.endswith(" (deleted)")}
    return {
        "RSS MB": sizes["Rss"],
        "PSS MB": sizes["Pss"],
        "anonymous MB": sizes["Anonymous"],
        "handles": len(handles),
        "threads": len(os.listdir(folder / "task")),
        "deleted files": sum("models/" in path for path in mapped),
    }


def processor_seconds(process: int) -> float:
    """Time that a process's threads have spent on the processor."""
    return sum(int(thread.read_text().split()[0]) for thread in Path(f"/proc/{process}/task").glob("*/schedstat")) / 1e9


def slope(x: Sequence[float], y: Sequence[float], groups: Sequence[Hashable]) -> tuple[float, float]:
    """Least squares of y on x within groups, each with a mean of its own: the slope and its standard error; infinite where nothing can be said."""
    places: dict[Hashable, list[int]] = defaultdict(list)
    for place, group in enumerate(groups):
        places[group].append(place)
    x, y = np.array(x, float), np.array(y, float)
    for rows in places.values():
        x[rows] -= x[rows].mean()
        y[rows] -= y[rows].mean()
    spread, free = float(x @ x), len(x) - len(places) - 1
    if free < 1 or not spread:
        return 0.0, float("inf")
    found = float(x @ y) / spread
    rest = y - found * x
    return found, float(np.sqrt(rest @ rest / free / spread))


def grown(marks: Sequence[Mark], first: int = 100) -> list[str]:
    """What grows, one sentence each: a trend over the marks from run ``first`` on that passes its limit for sure, or runs that become slower."""
    found = []
    late = [mark for mark in marks if mark.runs >= first]
    for name, limit in LIMITS.items():
        for state in ("rest", "work"):
            values = [getattr(mark, state)[name] for mark in late if name in getattr(mark, state)]
            if len(values) < 4:
                continue
            steep, error = slope([mark.runs for mark in late][: len(values)], values, [0] * len(values))
            if 1000 * (steep - SURE * error) > limit:
                found.append(f"At {state} the host gains {1000 * steep:.1f} +- {1000 * error:.1f} {name} every 1,000 runs.")
    if left := next((mark for mark in reversed(marks) if mark.left), None):
        found.append(f"After {left.runs} runs the host still held {', '.join(left.left)} when all was unloaded.")
    change, error = slower(marks)
    if change - SURE * error > SLOWER:
        found.append(f"Beside the engine alone, the same runs take {change:+.0%} +- {error:.0%} of the processor's time every 1,000 runs.")
    return found


def slower(marks: Sequence[Mark]) -> tuple[float, float]:
    """How much longer the marks' runs take after 1,000 others, as a share, with its standard error: against the engine alone, right after each, as a busy
    machine makes both slower."""
    taken = [(mark.runs, kind, *seconds) for mark in marks for kind, seconds in mark.pace.items() if min(seconds) > 0]
    if not taken:
        return 0.0, float("inf")
    runs, kinds, host, alone = zip(*taken)
    found, error = slope(runs, np.log(host) - np.log(alone), kinds)
    return 1000 * found, 1000 * error


def memory_table(marks: Sequence[Mark]) -> list[str]:
    """Figures at the mark of run 100, or the first one, and at the last."""
    if not marks:
        return []
    first, last = next((mark for mark in marks if mark.runs >= 100), marks[0]), marks[-1]
    lines = [f"| | after {first.runs} runs | after {last.runs} runs | a 1,000 runs |", "|---|--:|--:|--:|"]
    between = [mark for mark in marks if first.runs <= mark.runs]
    for state, about in (("rest", "unloaded"), ("work", "at work")):
        for name in getattr(last, state):
            steep, error = slope([mark.runs for mark in between], [getattr(mark, state)[name] for mark in between], [0] * len(between))
            ends = f"{getattr(first, state)[name]:,.0f} | {getattr(last, state)[name]:,.0f}"
            lines.append(f"| {name}, {about} | {ends} | {1000 * steep:+,.1f} ± {1000 * error:,.1f} |")
    change, error = slower(marks)
    return [*lines, f"| processor time of a run, beside that of the engine alone | | | {change:+.0%} ± {error:.0%} |"]


def time_table(timed: Sequence[Timed]) -> list[str]:
    """A row for each kind: medians of the first and of the last third of its runs."""
    lines = ["| kind | runs | seconds, first third | last third | processor, first third | last third |", "|---|--:|--:|--:|--:|--:|"]
    for kind in dict.fromkeys(each.kind for each in timed):
        of_kind = [each for each in timed if each.kind == kind]
        of_processor = [each.processor for each in of_kind if each.processor]
        cells = [f"{value:.2f}" for values in ([each.seconds for each in of_kind], of_processor) for value in thirds(values)]
        lines.append(f"| {' | '.join([kind, str(len(of_kind)), *cells])} |")
    return lines


def thirds(values: Sequence[float]) -> tuple[float, float]:
    """The median of the first third and that of the last."""
    third = max(1, len(values) // 3)
    return (statistics.median(values[:third]), statistics.median(values[-third:])) if values else (float("nan"), float("nan"))
