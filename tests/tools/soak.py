"""Run a real ComfyUI for a long time with random settings, cancels, unloads, swapped files and two clients, and see what grows.

    python tests/tools/soak.py                               1,000 runs on the newest host that tests/hosts.py finds
    python tests/tools/soak.py --host ~/ComfyUI-0.8.0 --runs 30 --dynamic

Every finished run's picture is held against the one that the engine generates alone. Prints a table of the first and the last third of the runs. The
status is 1 if a picture differs, a run fails, or memory, handles or times grow.
"""

import argparse
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS / path) for path in ("host", "", "..")]

import hosts
import numpy as np
from api import assert_same, text_to_image
from client import Client
from hosts import Setting, make_base, python_of, serving
from small_model import make_small_head, small_config

from migm_core.pipeline import Pipeline

PROMPTS = ("a large red heart on a navy background", "a small yellow star", "cat", "a blue circle left of a red square")
GROWTH = {"MB": 60, "handles": 8}  # that is still none: a cache that fills once
SLOWER = 1.6  # times, from the first third to the last


@dataclass
class Soak:
    """What has happened so far: of each finished run its seconds, and after it the host's memory in MB and open handles."""

    seconds: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)
    handles: list[int] = field(default_factory=list)
    cancelled: int = 0
    unloaded: int = 0
    swapped: int = 0
    wrong: list[str] = field(default_factory=list)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--host", metavar="PATH", type=Path, help="a checkout of ComfyUI (default: the newest that is found)")
    parser.add_argument("--dynamic", action="store_true", help="with the host's dynamic memory")
    parser.add_argument("--runs", metavar="N", type=int, default=1000, help="default: 1000")
    parser.add_argument("--seed", metavar="S", type=int, default=0, help="default: 0")
    parser.add_argument("--option", metavar="OPTION", action="append", default=[], help="of the host's main.py, for example --option=--disable-mmap")
    args = parser.parse_args()
    path = (args.host or hosts.hosts()[0]).resolve()
    setting = Setting(path, args.dynamic)
    own = python_of(path)
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        base = make_base(setting, Path(folder))
        heads = [base / "models/migm/small.safetensors", make_small_head(base / "made/other.safetensors", small_config(), seed=9)]
        heads[0] = Path(shutil.copy(heads[0], base / "made/first.safetensors"))
        with serving(setting, base, str(own) if own.exists() else sys.executable, environment, args.option) as (client, log, process), Client(int(client.url.rpartition(":")[2])) as second:
            soak = run(random.Random(args.seed), (client, second), base, heads, process, args.runs)
            if "Traceback" in log.read_text(errors="replace"):
                soak.wrong.append("the host's log holds a traceback")
    print(table(soak, str(setting)))
    for problem in [*soak.wrong, *grown(soak)]:
        print(problem, file=sys.stderr)
    return 1 if soak.wrong or grown(soak) else 0


def run(rng: random.Random, clients: tuple[Client, Client], base: Path, heads: list[Path], process: int, runs: int) -> Soak:
    """So many runs, one after the other or two at once."""
    soak, model, place = Soak(), base / "models/migm/small", base / "models/migm/small.safetensors"
    engines = [Pipeline.load(model, head, dtype="fp32", device="cpu") for head in heads]
    now = 0  # the head that lies in the host's folder
    while len(soak.seconds) + soak.cancelled < runs:
        event = rng.choices(("run", "two", "cancel", "unload", "swap"), (12, 4, 2, 1, 2))[0]
        if event == "unload":
            clients[0]._open("/free", b'{"unload_models": true, "free_memory": true}')
            soak.unloaded += 1
        elif event == "swap":  # as a file is replaced safely: a new one, renamed
            now = 1 - now
            shutil.copy(heads[now], place.with_suffix(".new"))
            os.replace(place.with_suffix(".new"), place)
            soak.swapped += 1
        elif event == "cancel":
            cancel(rng, clients[0])
            soak.cancelled += 1
        else:
            asked = [settings(rng) for _ in range(2 if event == "two" else 1)]
            began = time.perf_counter()
            queued = [(client, client.queue(graph(each))) for client, each in zip(clients, asked)]
            outcomes = [client.wait(prompt) for client, prompt in queued]
            soak.seconds += [(time.perf_counter() - began) / len(asked)] * len(asked)
            for (client, _), outcome, each in zip(queued, outcomes, asked):
                check(soak, client, outcome, each, engines[now])
        memory, handles = taken(process)
        soak.memory.append(memory)
        soak.handles.append(handles)
    return soak


def settings(rng: random.Random) -> dict:
    """A random run: settings as ``Pipeline.generate`` takes them."""
    steps = rng.choice((1, 2, 4, 8, 13))
    return {
        "prompt": rng.choice(PROMPTS),
        "seed": rng.randrange(2**64 - 4),
        "steps": steps,
        "budget": rng.randint(2, steps) if steps > 1 else 2,
        "method": rng.choice(("shortcut", "vanilla", "ml-cache")) if steps > 1 else "vanilla",
        "guidance_scale": rng.choice((0.0, 2.0, 7.5)),
        "temperature": rng.choice((0.0, 0.5, 1.0)),
        "width": 8 * rng.randint(2, 8),
        "height": 8 * rng.randint(2, 8),
        "batch": rng.choice((1, 1, 1, 3)),
    }


def graph(asked: dict) -> dict:
    empty = {name: asked[name] for name in ("width", "height", "batch")}
    sampler = {"steps": asked["steps"], "budget": asked["budget"], "method": asked["method"], "cfg": asked["guidance_scale"], "temperature": asked["temperature"]}
    made = text_to_image(asked["seed"], empty=empty, **sampler)
    made["prompt"]["inputs"]["text"] = asked["prompt"]
    return made


def cancel(rng: random.Random, client: Client) -> None:
    """Begin a long run and stop it at some step."""
    last = rng.randrange(6)
    long = text_to_image(rng.randrange(2**60), empty={"width": 256, "height": 256}, method="vanilla", steps=600)
    client.run(long, on_message=lambda kind, data: client.post("/interrupt") if kind == "migm.step" and data["step"] == last else None)


def check(soak: Soak, client: Client, outcome, asked: dict, engine: Pipeline) -> None:
    """Hold a run's pictures against those that the engine generates alone."""
    if outcome.messages[-1][0] != "execution_success":
        soak.wrong.append(f"{asked} ended with {outcome.messages[-1]}"[:500])
        return
    values = {**asked, "budget": None} if asked["method"] == "vanilla" else asked
    expected = engine.generate(values["prompt"], **{name: value for name, value in values.items() if name != "prompt"}).images
    seen = client.images(outcome, "save")
    if len(seen) != len(expected):
        soak.wrong.append(f"{asked} gave {len(seen)} pictures")
    for picture, own in zip(seen, expected):
        try:
            assert_same(picture, own)
        except AssertionError:
            off = np.abs(picture.astype(int) - np.asarray(own).astype(int)).max() if picture.shape == np.asarray(own).shape else picture.shape
            soak.wrong.append(f"{asked} gave another picture than the engine alone: {off}")


def taken(process: int) -> tuple[float, int]:
    """Memory in MB and open handles of the host (Linux)."""
    resident = int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return resident / 2**20, len(os.listdir(f"/proc/{process}/fd"))


def thirds(values: list) -> tuple[float, float]:
    """Medians of the first and the last third; the first of all runs is left out, as the host loads what it needs once."""
    third = max(1, len(values) // 3)
    return statistics.median(values[1 : third + 1] or values), statistics.median(values[-third:])


def grown(soak: Soak) -> list[str]:
    """What grows, one sentence each."""
    found = []
    for name, values in (("MB", soak.memory), ("handles", soak.handles)):
        first, last = thirds(values)
        if last - first > GROWTH[name]:
            found.append(f"The host grew from {first:.0f} to {last:.0f} {name}.")
    first, last = thirds(soak.seconds)
    if last > SLOWER * first:
        found.append(f"A run took {first:.2f} s at first and {last:.2f} s in the end.")
    return found


def table(soak: Soak, setting: str) -> str:
    rows = [("seconds a run", soak.seconds, ".2f"), ("memory, MB", soak.memory, ".0f"), ("handles", soak.handles, ".0f")]
    lines = [
        f"ComfyUI {setting}: {len(soak.seconds)} runs finished, {soak.cancelled} cancelled, {soak.unloaded} unloads, {soak.swapped} swaps of the head's file; "
        f"{len(soak.wrong)} wrong.",
        "",
        "| median of | the first third | the last third |",
        "|---|--:|--:|",
    ]
    return "\n".join([*lines, *(f"| {name} | {first:{form}} | {last:{form}} |" for name, values, form in rows for first, last in [thirds(values)])])


if __name__ == "__main__":
    sys.exit(main())
