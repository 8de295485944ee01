"""Run a real ComfyUI for long under random requests, cancels, unloads, swapped files and two clients, and see what grows.

    python tests/tools/soak.py                               1,000 runs on the newest host that tests/hosts.py finds
    python tests/tools/soak.py --host ~/ComfyUI-0.8.0 --runs 100 --dynamic

Every finished run's pictures, or its answer, are held against those that the engine generates alone, without the host and in a process of its own: they are
the same to the last bit. Prints figures every 50 runs and tables in the end, also where it is stopped by Ctrl-C. The status is 1 if a result differs,
a run fails, or memory, handles, threads or times grow. Needs Linux.
"""

import argparse
import os
import random
import signal
import sys
import tempfile
import traceback
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS / path) for path in ("host", "tools", "", "..")]

import hosts
from client import Client
from hosts import Setting, make_base, python_of, serving
from soaking.figures import grown, memory_table, time_table
from soaking.files import Files
from soaking.references import References
from soaking.requests import make_requests, write_pictures
from soaking.results import ENDS
from soaking.rounds import MARK, REPLACED, Soak

PROBE = TESTS / "tools/soaking/probe.py"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--host", metavar="PATH", type=Path, help="a checkout of ComfyUI (default: the newest that is found)")
    parser.add_argument("--dynamic", action="store_true", help="with the host's dynamic memory")
    parser.add_argument("--runs", metavar="N", type=int, default=1000, help="default: 1000")
    parser.add_argument("--seed", metavar="S", type=int, default=0, help="default: 0")
    parser.add_argument("--of-each", metavar="N", type=int, default=8, help="how many requests of each kind there are to choose from (default: 8)")
    parser.add_argument("--mark", metavar="N", type=int, default=MARK, help=f"measure after so many runs (default: {MARK})")
    parser.add_argument("--record", metavar="FILE", type=Path, help="write a line of JSON for each finished run")
    parser.add_argument("--option", metavar="OPTION", action="append", default=[], help="of the host's main.py, for example --option=--disable-mmap")
    args = parser.parse_args()
    setting = Setting((args.host or hosts.hosts()[0]).expanduser().resolve(), args.dynamic)
    for each in (signal.SIGINT, signal.SIGTERM):  # in the background a shell has the first ignored
        signal.signal(each, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        soak = run(setting, Path(folder), args)
    problems = [*soak.wrong, *grown(soak.marks)]
    print("\n".join(summary(soak, str(setting))))
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


def run(setting: Setting, folder: Path, args: argparse.Namespace) -> Soak:
    """The soak that was asked for, or what there is of it where it is interrupted."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    own = python_of(setting.path)
    python = str(own) if own.exists() else sys.executable
    base = make_base(setting, folder / "base")
    for name in ("made", "alone"):
        (folder / name).mkdir()
    (base / "custom_nodes/soak_probe").mkdir()
    (base / "custom_nodes/soak_probe/__init__.py").write_text(PROBE.read_text())
    files = Files(base / "models/migm", folder / "made")
    write_pictures(base / "input")
    rng = random.Random(args.seed)
    options = ["--database-url", f"sqlite:///{base / 'host.db'}", *args.option]  # the host lists what it saves: on disk, not in memory
    alone = References(python, files, base / "input", folder / "alone", environment)
    with serving(setting, base, python, environment, options) as (client, log, process), alone as references:
        second = Client(int(client.url.rpartition(":")[2]))
        soak = Soak([client, second], process, files, make_requests(rng, args.of_each), references, rng, say=say, record=args.record)
        try:
            soak.go_on(args.runs, args.mark)
        except KeyboardInterrupt:
            say("Stopped.")
        except Exception:  # what there is so far counts, too
            soak.wrong.append(f"The soak broke off: {traceback.format_exc()}")
        _, *tracebacks = log.read_text(errors="replace").split("Traceback")
        soak.wrong += [f"The host's log holds a traceback: {each[:2000]}" for each in tracebacks if REPLACED not in each]
    return soak


def say(text: str) -> None:
    print(text, flush=True)


def summary(soak: Soak, setting: str) -> list[str]:
    """What happened, as a sentence and two tables."""
    counts = soak.counts
    ends = (*ENDS.values(), "refused", "equal", "different")
    happened = ", ".join(f"{name} {count}" for name, count in counts.items() if name not in ends)
    return [
        f"ComfyUI {setting}: {soak.runs} runs, {counts['cancelled']} cancelled, {counts['refused']} refused, {counts['finished']} finished, "
        f"{counts['failed']} failed; of the finished {counts['equal']} equal and {counts['different']} different. {len(soak.wrong)} wrong.",
        f"Besides: {happened}.",
        "",
        *memory_table(soak.marks),
        "",
        *time_table(soak.timed),
    ]


if __name__ == "__main__":
    sys.exit(main())
