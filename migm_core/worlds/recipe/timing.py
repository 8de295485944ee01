"""How long a picture takes in the product itself, on this machine, in each way that the evaluation has judged."""

import json
import platform
import statistics
from pathlib import Path

import torch

from ...pipeline import Pipeline
from .assemble import SHORTCUT
from .evaluation import Row, read_report
from .figure import points, save_curve

REPEATS = 3


def time_ways(folder: Path, device: str | None) -> str:
    """Time the ways of ``folder/evaluation.json`` with ``folder/checkpoint``; writes times.json, and draws the curve over these times.

    Raises:
        ValueError: a file is missing, or holds no accuracies.
    """
    for path, stage in ((folder / "evaluation.json", "evaluation"), (folder / "checkpoint", "assemble")):
        if not path.exists():
            raise ValueError(f"{path} does not exist. Run {stage} first.")
    report = read_report(folder / "evaluation.json")
    rows = [Row(**row) for row in report["rows"]]
    head = folder / "checkpoint" / SHORTCUT
    pipeline = Pipeline.load(folder / "checkpoint", head if head.exists() else None, device=device)
    ways = [row for values in points(rows).values() for _, row in values]
    if not ways:
        raise ValueError(f"{folder / 'evaluation.json'} has no accuracies: the judge's reader was missing. Run reader and evaluation first.")
    taken: dict[str, list[float]] = {row.way: [] for row in ways}
    for repeat in range(REPEATS + 1):  # in turn, so that a machine's moods meet all of them; the first is to warm up
        for row in ways:
            budget, steps = row.settings["budget"], row.settings["steps"]
            way = {"method": "shortcut", "budget": budget} if budget else {"method": "vanilla"}
            options = {name: row.settings[name] for name in ("guidance_scale", "temperature")}
            result = pipeline.generate(report["prompts"][repeat % len(report["prompts"])], seed=repeat, steps=steps, **way, **options)
            if repeat:
                taken[row.way].append(result.seconds)
    seconds = {way: statistics.median(values) for way, values in taken.items()}
    machine = {"device": str(pipeline.device), "processor": platform.processor() or platform.machine(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    (folder / "times.json").write_text(json.dumps({"machine": machine, "seconds": seconds}, indent=1), encoding="utf-8")
    save_curve(folder / "curve.png", rows, seconds)
    first = seconds[rows[0].way]
    return "\n".join([str(machine), *(f"{way}: {value:.2f} s, {first / value:.2f} times the first's speed" for way, value in seconds.items())])
