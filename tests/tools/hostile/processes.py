"""Whole processes: signals at random moments, and output streams that are closed, full or of few letters."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

from small_model import PROMPT

from .room import ROOT, Room, contents
from .trying import Attempt, Crash, Refusal, taken

ODD = "кот 🫠 ä"  # letters that cp1252 and ascii lack


def _environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "", "CUDA_VISIBLE_DEVICES": "", **more}


def _process(argv: list, **more) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-m", "migm_core", *map(str, argv)], env=_environment(**more.pop("environment", {})), **more)


def _commands(rng: random.Random, room: Room) -> tuple[str, list, Path]:
    """A command that works for a while: its name, arguments, and the folder that it writes into."""
    target = room.folder / "target"
    target.mkdir(exist_ok=True)
    return rng.choice(
        (
            ("generate", ["generate", PROMPT, "--model", room.model, "--head", room.head, "--steps", 1024, "--budget", 900, "--size", "256x256", "--out", target / "image.png"], target),
            ("generate", ["generate", PROMPT, "--model", room.model, "--head", room.head, "--steps", 2, "--budget", 2, "--out", target / "image.png"], target),
            ("convert", ["convert", room.model, target / "out.safetensors", "--dtype", "int8"], target),
            ("collect", ["collect", target, "--model", room.model, "--count", 500, "--steps", 8], target),
        )
    )


def plan_signals(rng: random.Random, room: Room) -> Attempt:
    name, argv, target = _commands(rng, room)
    kind = rng.choice((signal.SIGINT, signal.SIGINT, signal.SIGINT, signal.SIGTERM, signal.SIGKILL))
    delay = rng.uniform(0.1, 0.3) if rng.random() < 0.3 else rng.uniform(0.3, 5)
    return Attempt(f"{kind.name} after {delay:.2f} s of computing of {name}", lambda: _interrupted(argv, target, kind, delay), ("",), "either", bool)


def _interrupted(argv: list, target: Path, kind: signal.Signals, delay: float):
    process = _process(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 20
    while process.poll() is None and taken(process.pid)[1] < delay and time.monotonic() < deadline:  # a busy machine has not begun after 0.3 s
        time.sleep(0.01)
    process.send_signal(kind)
    try:
        _, err = process.communicate(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        raise Crash("it went on for 20 s") from None
    left = [name for name in contents(target) if name.endswith(".partial")]
    lines = [line for line in err.splitlines() if line.strip()]
    if process.returncode == 0:
        return True
    if "Traceback" in err:
        raise Crash(err[-500:])
    if kind == signal.SIGINT:
        if process.returncode != 130:
            raise Crash(f"status {process.returncode}, not 130: {err[-300:]}")
        if left:
            raise Refusal(f"left {left} behind\n")
        if not lines or not lines[-1].startswith("migm: Stopped") or not any(word in lines[-1] for word in ("kept", "Nothing was written")):
            raise Refusal(f"no word of what happened and what was kept\n{err[-200:]}")
        return True
    if process.returncode not in (-kind, 128 + kind):
        raise Crash(f"status {process.returncode}: {err[-300:]}")
    return not left or _cleaned(argv, target)


def _cleaned(argv: list, target: Path) -> bool:
    """Whether the next run removes what a killed one has left."""
    shorter = [{1024: 2, 900: 2, 500: 1}.get(each, each) for each in argv]
    done = _process(shorter, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    done.communicate(timeout=30)
    return done.returncode == 0 and not [name for name in contents(target) if name.endswith(".partial")]


def plan_streams(rng: random.Random, room: Room) -> Attempt:
    out = room.folder / "image.png"
    drawing = ["generate", PROMPT, "--model", room.model, "--head", room.head, "--steps", 2, "--budget", 2, "--out", out]
    odd = room.folder / f"{ODD}.png"
    odd_folder = room.folder / f"{ODD} model"
    shutil.copytree(room.model, odd_folder)
    name, argv = rng.choice(
        (
            ("generate", drawing),
            ("generate with odd letters", ["generate", ODD, "--model", odd_folder, "--steps", 2, "--out", odd]),
            ("inspect", ["inspect", odd_folder]),
            ("help", ["--help"]),
            ("a refusal", ["inspect", room.folder / ODD]),
        )
    )
    how = rng.choice(("cp1252", "ascii", "utf-16", "closed output", "closed errors", "both closed", "closed input", "a full disk", "a pipe that nobody reads", "no bytes"))
    expected = 2 if name == "a refusal" else 0
    return Attempt(f"{name}, {how}", lambda: _streamed(argv, how, expected), ("",), "either", bool)


def _streamed(argv: list, how: str, expected: int):
    environment = {"PYTHONIOENCODING": how} if how in ("cp1252", "ascii", "utf-16") else {}
    shell = {"closed output": ">&-", "closed errors": "2>&-", "both closed": ">&- 2>&-", "closed input": "<&-", "a full disk": ">/dev/full", "a pipe that nobody reads": "| true", "no bytes": "</dev/null"}
    full = [sys.executable, "-m", "migm_core", *map(str, argv)]
    if how in shell:
        status = "; exit ${PIPESTATUS[0]}"
        done = subprocess.run(["bash", "-c", f'"$@" {shell[how]}{status}', "bash", *full], env=_environment(**environment), capture_output=True, timeout=60)
    else:
        done = subprocess.run(full, env=_environment(**environment), capture_output=True, timeout=60)
    err = done.stderr.decode("utf-8", "replace")
    if "Traceback" in err or "Exception ignored" in err:
        raise Crash(err[-600:])
    cannot = {"a full disk": (0, 1, 2), "a pipe that nobody reads": (0, 1, 2)}.get(how, (expected,))
    if done.returncode not in cannot:
        raise Crash(f"status {done.returncode}, expected {expected}: {err[-400:]}")
    return SimpleNamespace(status=done.returncode, err=err)
