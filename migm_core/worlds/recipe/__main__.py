"""Train the models of the lakeside world: python -m migm_core.worlds.recipe STAGE FOLDER

Each stage goes on where it stopped, from a checkpoint in FOLDER; with weights there and no checkpoint, it begins with those. Under torchrun,
the processes share the work of a stage. `all` runs the stages in turn, in pieces of --piece seconds: call it again until it says that all is done.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import torch

from ...command import Parser, answered, number, whole
from ...training.distributed import World, joined_world
from ...writing import folder_for
from . import weights
from .allocator import keep_freed_memory
from .assemble import assemble
from .bundled import take_apart
from .dry_run import dry_run
from .pieces import TOTAL, Plan, pack, run_all
from .sizes import SIZES, Sizes
from .stages import STAGES
from .stages.judging import reader_as_before, use_reader
from .task import Task
from .timing import time_ways
from .warm_up import warm_up

TRAINED = Path(__file__).parent / "trained"  # weights that come with a size, in a folder of its name, as --out writes them
OTHERS = ("all", "pack", "assemble", "timing", "warm-up", "dry-run")


def main(argv: list[str] | None = None) -> None:
    """Run a stage.

    Raises:
        ValueError: an option that cannot be, a file that is damaged, or a stage before those that it needs.
        OSError: naming what cannot be read or written.
    """
    parser = Parser(prog="python -m migm_core.worlds.recipe", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=(*STAGES, *OTHERS))
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="where the stages meet")
    parser.add_argument("--seconds", type=number(), default=TOTAL, help=f"of the stage, or of all of them, over all pieces (default: {TOTAL})")
    parser.add_argument("--piece", type=number(), metavar="S", help="seconds after which to stop for now (default: no limit)")
    for name in STAGES:
        parser.add_argument(f"--{name}", type=number(), metavar="S", help=f"with all: seconds of {name}; 0 leaves it out (default: a share)")
    parser.add_argument("--count-work", action="store_true", help="seconds are what processors work, all added up, not what a clock tells: beside other work")
    parser.add_argument(
        "--init-from", type=Path, metavar="FOLDER", help="weights to begin with, as --out has written them, or demo: the bundled models (default: those that come with the size, if any)"
    )
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where weights in parts, sheets and logs go, at most eight files below 16 MiB")
    parser.add_argument("--size", choices=SIZES, default="card", help="default: card")
    parser.add_argument("--device", help="default: cuda where there is one")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, help="fuse the models' blocks (default: on a GPU)")
    parser.add_argument("--for", dest="warm", nargs="*", default=["tokenizer", "base", "sampling"], help="with warm-up: what to compile")
    parser.add_argument("--in-turn", action="store_true", help="with all: train the model of classes after the head, and not beside it")
    parser.add_argument("--int8", action="store_true", help="with assemble: store the base in 8 bits")
    parser.add_argument("--prompts", type=whole(1), default=512, help="of the evaluation (default: 512)")
    parser.add_argument("--split", choices=("test", "dev"), default="test", help="of the scenes that the evaluation asks for (default: test)")
    parser.add_argument("--seed", type=whole(0), default=0)
    args = parser.parse_args(argv)
    with folder_for(args.folder), reader_as_before():
        _run(args)


def _run(args: argparse.Namespace) -> None:
    sizes = SIZES[args.size]
    demo = args.init_from == Path("demo")
    if args.init_from is not None and not demo and not args.init_from.is_dir():
        raise ValueError(f"--init-from {args.init_from} is no folder. Give the one that --out has written, or demo, or leave it out.")
    begin = args.init_from or TRAINED / args.size
    if args.init_from is not None or begin.is_dir() and not weights.any_in(args.folder):
        new = take_apart(args.folder) if demo else weights.unpack(begin, args.folder)
        print(f"Begins with weights from {begin}:", ", ".join(new) or "none that are not there already", flush=True)
    use_reader(args.folder)
    if args.stage == "dry-run":
        print(dry_run(sizes))
    elif args.stage == "assemble":
        print(*assemble(args.folder, sizes, torch.int8 if args.int8 else torch.float16), sep="\n")
    elif args.stage == "timing":
        print(time_ways(args.folder, args.device))
    elif args.stage == "pack":
        pack(args.folder, args.out or args.folder / "out")
    else:
        with joined_world(args.device) as world:
            train(args, sizes, world)


def train(args: argparse.Namespace, sizes: Sizes, world: World) -> None:
    _prepare(world.device)
    wanted = world.device.type == "cuda" if args.compile is None else args.compile
    compiled = wanted and can_compile(world.device)
    if args.stage == "warm-up":
        warm_up(sizes, world.device, args.warm)
        return
    keep = (lambda: None) if args.out is None or not world.first else (lambda: pack(args.folder, args.out))
    task = Task(
        args.folder, sizes, args.seconds, world=world, seed=args.seed, compile=compiled, keep=keep, prompts=args.prompts, split=args.split,
        clock=(lambda: world.size * time.process_time()) if args.count_work else time.monotonic,
    )
    asked = {name: getattr(args, name.replace("-", "_")) for name in STAGES}
    plan = Plan(args.seconds if args.stage == "all" else None, asked, args.piece, args.in_turn)
    if args.stage == "all":
        run_all(task, plan, beside=lambda stage, *options: _beside(args, stage, *options))
    else:
        plan.run(args.stage, task, args.seconds)


def _beside(args: argparse.Namespace, stage: str, *options: str) -> subprocess.Popen:
    """Another process of the recipe on the same folder, on its own."""
    command = [sys.executable, "-m", "migm_core.worlds.recipe", stage, str(args.folder), "--size", args.size, "--seed", str(args.seed), *options]
    command += ["--device", args.device] * (args.device is not None) + ["--compile" if args.compile else "--no-compile"] * (args.compile is not None)
    alone = {name: value for name, value in os.environ.items() if name not in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}
    return subprocess.Popen(command, env={**alone, "OMP_NUM_THREADS": "1"})


def _prepare(device: torch.device) -> None:
    """Settings of the whole process that only a GPU wants: elsewhere nothing is left for a later caller to find."""
    if device.type != "cuda":
        return
    from torch import _dynamo  # slow to import

    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    _dynamo.config.suppress_errors = True  # what cannot be compiled runs as it is
    _dynamo.config.recompile_limit = 64


def can_compile(device: torch.device) -> bool:
    """Whether torch.compile works here; it needs a C compiler."""
    from torch import _dynamo  # slow to import

    try:
        with _dynamo.config.patch(suppress_errors=False):
            torch.compile(lambda x: (x * 2 + 1).relu())(torch.ones(64, device=device))
    except Exception as error:
        print("torch.compile does not work here; without it:", str(error)[:300], flush=True)
        return False
    return True


if __name__ == "__main__":
    keep_freed_memory()
    sys.exit(answered(main, "recipe"))
