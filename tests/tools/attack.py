"""Attack the engine with damaged files, foreign arguments, full disks and signals, and count what becomes of it.

    python tests/tools/attack.py                         some 2,000 tries of every kind
    python tests/tools/attack.py --kind json --tries 50 --seed 3
    python tests/tools/attack.py --kind files --only 17  one try again, with what it said

Each try runs in a child of its own, with a limit on time and one on memory. A try holds where what is asked for is right, or is refused in
one sentence that names its thing and leaves nothing behind. Needs Linux. The status is 1 if a try did not hold.
"""

import argparse
import json
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # no pool of threads that a fork would lose
os.environ["RUST_BACKTRACE"] = "0"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
sys.path[:0] = [str(Path(__file__).resolve().parents[level]) for level in (0, 1, 2)]

import torch

torch.set_num_threads(1)

from hostile import KINDS, hosted
from hostile.commands import make_work
from hostile.room import WORK, make_models
from hostile.trying import VERDICTS, Outcome, Try
from small_model import make_small_model


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kind", action="append", choices=KINDS, help="of tries; may be given more than once (default: all)")
    parser.add_argument("--tries", metavar="N", type=int, help="of each kind (default: the kind's own number)")
    parser.add_argument("--seed", metavar="S", type=int, default=0, help="default: 0")
    parser.add_argument("--jobs", metavar="N", type=int, default=1, help="tries at once (default: 1)")
    parser.add_argument("--only", metavar="N", type=int, action="append", help="the number of a try to make again")
    parser.add_argument("--out", metavar="PATH", type=Path, help="a .json file for all outcomes")
    parser.add_argument("--host", metavar="PATH", type=Path, help="a checkout of ComfyUI for the tries of nodes (default: the newest that tests/hosts.py finds)")
    parser.add_argument("--inside", metavar="BASE", type=Path, help=argparse.SUPPRESS)  # this is the host's own Python: its base directory
    args = parser.parse_args()
    if args.inside:
        hosted.enter(args.inside)
    numbers = {name: args.only or range(args.tries or KINDS[name].tries) for name in args.kind or KINDS}
    here = [name for name in numbers if args.inside or not KINDS[name].hosted]
    waiting = [(name, number) for name in here for number in numbers[name]]
    running, outcomes = [], []
    with Models(any(KINDS[name].works for name in numbers)) as folder:
        while waiting or running:
            while waiting and len(running) < args.jobs:
                name, number = waiting.pop(0)
                running.append(Try(name, KINDS[name].plan, number, args.seed, folder))
            for each in running[:]:
                if outcome := each.poll():
                    running.remove(each)
                    outcomes.append(outcome)
                    tell(outcome, everything=bool(args.only))
    for name in numbers.keys() - here:
        if host := args.host or hosted.newest():
            some = hosted.outcomes(host, name, numbers[name], args.seed, args.jobs)
            outcomes += some
            for outcome in some:
                tell(outcome, everything=bool(args.only))
        else:
            print(f"No ComfyUI found, so no tries of {name}: set COMFYUI_PATH, or give --host.", file=sys.stderr)
    print(table(outcomes))
    if args.out:
        args.out.write_text(json.dumps([vars(outcome) for outcome in outcomes], indent=1))
    return 0 if all(outcome.held for outcome in outcomes) else 1


class Models:
    """A folder of the models that tries are made with, gone at the end; with a working folder of training where that is asked for."""

    def __init__(self, work: bool):
        self.work = work

    def __enter__(self) -> Path:
        self.folder = tempfile.TemporaryDirectory(prefix="attack-models-")
        root = Path(self.folder.name)
        made = make_small_model(root / "made")
        make_models(root / "models", made.folder, made.head)
        if self.work:
            make_work(root / "models" / WORK, made.folder, made.head)
        return root / "models"

    def __exit__(self, *error) -> None:
        self.folder.cleanup()


def tell(outcome: Outcome, everything: bool) -> None:
    """Say which tries did not hold."""
    if everything or not outcome.held:
        print(f"{outcome.kind} {outcome.number}, {outcome.name}: {outcome.verdict}: {outcome.words}", file=sys.stderr, flush=True)


def table(outcomes: list[Outcome]) -> str:
    """Verdicts by kind, as Markdown."""
    lines = [f"| kind | tries | {' | '.join(VERDICTS)} |", "|---|--:|" + "--:|" * len(VERDICTS)]
    by_kind = {kind: Counter(outcome.verdict for outcome in outcomes if outcome.kind == kind) for kind in dict.fromkeys(outcome.kind for outcome in outcomes)}
    for name, counts in [*by_kind.items(), ("all", Counter(outcome.verdict for outcome in outcomes))]:
        lines.append(f"| {name} | {counts.total()} | {' | '.join(str(counts[verdict]) for verdict in VERDICTS)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
