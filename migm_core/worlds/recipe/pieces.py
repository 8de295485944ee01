"""All stages in turn, in pieces that begin where the last one stopped."""

import json
import math
import shutil
import subprocess
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from ...checkpoints.files import read_file
from . import weights
from .sizes import Sizes
from .stages import STAGES
from .task import Task

# Seconds on one H100, of two pieces of 525 and 215; a minute and more is left for starting, compiling and looking. For other times they are shares.
SHARES = {"reader": 0, "tokenizer": 125, "base": 345, "tasks": 0, "trajectories": 11, "head": 106, "classes": 67, "class-head": 31, "evaluation": 73}
COUNT_THEMSELVES = {"reader", "tokenizer", "base", "tasks", "head", "classes", "class-head"}  # their checkpoints tell how much of their time is over
BESIDE = {"classes", "class-head"}  # run beside the head's training, in a process of their own
TOTAL = sum(seconds for name, seconds in SHARES.items() if name not in BESIDE)
PACKING = 6  # seconds, at the end of a piece
# Beside the weights and the report, each with what stands in for it; few files.
CARRIED = {"pictures.jpg": ("base.jpg",), "details.jpg": ("tasks.jpg", "tokenizer.jpg"), "curve.png": ()}


@dataclass
class Plan:
    """How long each stage runs, and how much of that is over.

    Args:
        seconds: of all stages, over all pieces; None where one stage runs by itself.
        asked: of each stage, where it is said.
        piece: seconds of this call; None for no limit.
        in_turn: whether no stage runs beside another.
    """

    seconds: float | None
    asked: dict[str, float | None]
    piece: float | None
    in_turn: bool = False
    began: float = field(default_factory=time.monotonic)

    @property
    def until(self) -> float:
        return self.began + self.piece - PACKING if self.piece is not None else float("inf")

    def of(self, folder: Path, sizes: Sizes) -> dict[str, float]:
        """Seconds of each stage. A stage whose weights were brought along is left out, unless it is asked for; so are models that the size has not."""
        seconds = dict(self.asked)
        if sizes.classes is None:
            seconds |= dict.fromkeys(BESIDE, 0.0)
        for name in ("reader", "tokenizer"):
            began = (folder / f"{name}.spent").exists() or (folder / name / "checkpoint.pt").exists()
            if seconds[name] is None and (folder / f"{name}.safetensors").exists() and not began:
                seconds[name] = 0.0
        beside = [name for name in SHARES if name not in BESIDE]
        left = self.seconds - sum(seconds[name] or 0.0 for name in beside)
        total = sum(SHARES[name] for name in beside if seconds[name] is None)
        scale = max(0.0, left) / max(total, 1)
        return {name: SHARES[name] * scale if seconds[name] is None else seconds[name] for name in SHARES}

    def run(self, name: str, task: Task, seconds: float) -> bool:
        """Run a stage, or go on with it; whether it is finished."""
        world, before = task.world, spent(task.folder, name)
        left = -world.largest(-min(seconds - before, self.until - time.monotonic()))
        if world.first:
            processes = f"{world.size} process{'es' if world.size > 1 else ''}"
            over = f"{before:.0f} of them over, {max(left, 0):.0f} now" if before or left < seconds else "all of them now"
            print(f"{name}: {seconds:.0f} seconds, {over}, on {world.device}, {processes}. Writes {task.folder / name}*.", flush=True)
        if left <= 0:
            return before >= seconds
        began = time.monotonic()
        STAGES[name](replace(task, seconds=seconds if name in COUNT_THEMSELVES else left, until=self.until))
        done = world.largest(float(time.monotonic() >= self.until)) == 0
        took = max(before + time.monotonic() - began, seconds) if done else min(before + time.monotonic() - began, seconds - 1)
        if world.first:
            _write_spent(task.folder, name, took)
        world.wait()
        return done


def spent(folder: Path, name: str) -> float:
    """Seconds that a stage has run, over all pieces; of a finished one, all.

    Raises:
        ValueError: its file holds no such number.
    """
    path = folder / f"{name}.spent"
    if not path.exists():
        return 0.0
    try:
        seconds = float(read_file(path, "", most=100))
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise ValueError(f"{path} holds no number of seconds. Remove it, and the stage {name} counts anew.")
    return seconds


def _write_spent(folder: Path, name: str, seconds: float) -> None:
    (folder / f"{name}.spent").write_text(f"{max(seconds, 0):.1f}\n", encoding="utf-8")


def run_all(task: Task, plan: Plan, beside: Callable[..., subprocess.Popen]) -> None:
    """Run the stages in turn until the piece is over; what fails is told, and the next ones go on with what there is.

    Args:
        beside: starts another process of the recipe, given a stage and options.
    """
    folder, world = task.folder, task.world
    seconds = plan.of(folder, task.sizes)
    if world.first:
        over = {name: round(spent(folder, name)) for name in seconds}
        print("Seconds of each stage:", {name: round(value) for name, value in seconds.items()}, "over:", over, flush=True)
    warming = other = None
    in_turn = plan.in_turn or world.size > 1
    if task.compile and world.first and (wanted := _to_compile(folder, seconds, task.sizes)):
        warming = beside("warm-up", "--for", *wanted)
    try:
        for name in SHARES:
            if seconds[name] <= 0 or spent(folder, name) >= seconds[name] or name in BESIDE and not in_turn:
                continue
            if world.largest(float(time.monotonic() >= plan.until)):
                break
            if warming is not None and name not in ("reader", "tokenizer"):
                task = replace(task, compile=_waited(warming, min(60.0, 0.3 * seconds[name])))
                warming = None
            if name in ("trajectories", "head", "evaluation") and not in_turn and other is None:
                other = _start_beside(task, plan, seconds, beside)
            if name == "evaluation" and other is not None:
                with suppress(subprocess.TimeoutExpired):
                    other.wait(max(1.0, plan.until - time.monotonic() - 0.7 * seconds[name]) if plan.piece is not None else None)
            lacking = any(spent(folder, each) < seconds[each] for each in BESIDE)  # now, when an evaluation would begin
            task = _run(plan, name, task, seconds[name])
            if name == "evaluation" and world.first and lacking:
                _write_spent(folder, name, min(spent(folder, name), seconds[name] - 10))  # again, when these models are there
            if world.first:
                print(f"{name} ended at {time.monotonic() - plan.began:.0f} s of this piece.", flush=True)
                task.keep()
            if world.device.type == "cuda":
                torch.cuda.empty_cache()
        if other is not None:
            with suppress(subprocess.TimeoutExpired):
                other.wait(max(1.0, plan.until - time.monotonic()) if plan.piece is not None else None)
    finally:
        for process in (warming, other):
            if process is not None and process.poll() is None:
                process.terminate()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(3)
    if world.first:
        task.keep()
        unfinished = [name for name in SHARES if seconds[name] > 0 and spent(folder, name) < seconds[name]]
        done = ", ".join(name for name in SHARES if seconds[name] > 0)
        print(f"Not finished: {', '.join(unfinished)}. The same command goes on." if unfinished else f"All is done: {done}.", flush=True)


def _run(plan: Plan, name: str, task: Task, seconds: float) -> Task:
    """Run a stage; the task for the next ones. One that fails is told and tried again without torch.compile, and then left to the next piece."""
    try:
        plan.run(name, task, seconds)
    except Exception:
        if task.world.size > 1:
            raise  # the others wait for this process
        traceback.print_exc()
        if task.compile:
            print(f"{name} is tried without torch.compile.", flush=True)
            return _run(plan, name, replace(task, compile=False), seconds)
    return task


def _to_compile(folder: Path, seconds: dict[str, float], sizes: Sizes) -> list[str]:
    """What a process beside should compile first for the stages that are ahead: of the stage that begins at once, which compiles for itself, what it needs last."""
    ahead = [name for name in SHARES if seconds[name] > 0 and spent(folder, name) < seconds[name]]
    wanted = [name for name in ("tokenizer", "base") if name in ahead and (ahead[0] != name or name == "tokenizer" and sizes.outer_last)]
    samples = {"trajectories", "head", "evaluation"} & set(ahead)
    return wanted + ["sampling"] * bool(samples and ahead[0] not in samples)


def _waited(process: subprocess.Popen, seconds: float) -> bool:
    """Whether compiling beside has succeeded, or goes on after so many seconds."""
    with suppress(subprocess.TimeoutExpired):
        if process.wait(max(1.0, seconds)):
            print("Compiling failed; without it.", flush=True)
            return False
    return True


def _start_beside(task: Task, plan: Plan, seconds: dict[str, float], beside: Callable[..., subprocess.Popen]) -> subprocess.Popen | None:
    """The stages of the model of classes, one after the other, while this process trains the head."""
    wanted = {name: seconds[name] for name in ("classes", "class-head") if spent(task.folder, name) < seconds[name]}
    if not wanted:
        return None
    options = [part for name in SHARES for part in (f"--{name}", f"{wanted.get(name, 0.0):.0f}")]
    return beside("all", *options, "--seconds", f"{sum(wanted.values()):.0f}", "--piece", f"{min(plan.until - time.monotonic(), 10**6):.0f}", "--in-turn")


def pack(folder: Path, out: Path) -> None:
    """Write what is worth keeping to ``out``: weights in parts, sheets, one report with the logs."""
    out.mkdir(parents=True, exist_ok=True)
    weights.pack(folder, out)
    for name, others in CARRIED.items():
        if source := next((path for path in (folder / each for each in (name, *others)) if path.exists()), None):
            shutil.copy(source, out / name)
    report = [path.read_text(encoding="utf-8") for path in (folder / "evaluation.md", folder / "evaluation.json") if path.exists()]
    report.append(json.dumps({name: spent(folder, name) for name in STAGES}))
    report += [f"{path.parent.name}\n{path.read_text(encoding='utf-8')}" for path in sorted(folder.glob("*/log.jsonl"))]
    (out / "report.txt").write_text("\n".join(report), encoding="utf-8")
