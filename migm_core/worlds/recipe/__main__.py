"""Train the models of the lakeside world: python -m migm_core.worlds.recipe STAGE FOLDER

Each stage goes on where it stopped, from a checkpoint in FOLDER; with other weights there and no checkpoint, it begins with those. Under
torchrun, the processes share the work of a stage.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path

import torch

from ...training.distributed import World, joined_world
from . import weights
from .dry_run import dry_run
from .sizes import SIZES, Sizes
from .stages import STAGES, assemble, use_reader
from .warm_up import warm_up

SHARES = {"reader": 0.1, "tokenizer": 0.27, "base": 0.47, "head": 0.12, "evaluation": 0.09}  # of the seconds of a run of all stages
PACKING = 8  # seconds, at the end


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m migm_core.worlds.recipe", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=(*STAGES, "all", "pack", "assemble", "warm-up", "dry-run"))
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="where the stages meet")
    parser.add_argument("--seconds", type=float, default=480, help="of the stage, or of all of them (default: 480)")
    for name in STAGES:
        parser.add_argument(f"--{name}", type=float, metavar="S", help=f"with all: seconds of {name}; 0 leaves it out (default: a share)")
    parser.add_argument("--init-from", type=Path, metavar="FOLDER", help="weights to begin with, as --out has written them")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="with all and pack: where weights in parts, sheets and logs go, few files below 15 MiB")
    parser.add_argument("--size", choices=SIZES, default="card", help="default: card")
    parser.add_argument("--device", help="default: cuda where there is one")
    parser.add_argument("--no-compile", action="store_true", help="do not fuse the base's blocks, which is on by default on a GPU")
    parser.add_argument("--sampling-only", action="store_true", help="with warm-up: leave the training of the base out")
    parser.add_argument("--prompts", type=int, default=512, help="of the evaluation (default: 512)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    args.began = time.monotonic()
    args.folder.mkdir(parents=True, exist_ok=True)
    sizes = SIZES[args.size]
    if args.init_from is not None and args.init_from.is_dir():
        print("Found weights of:", ", ".join(weights.unpack(args.init_from, args.folder)) or "nothing", flush=True)
    use_reader(args.folder)
    if args.stage == "dry-run":
        print(dry_run(sizes))
        return
    if args.stage == "assemble":
        print(assemble(args.folder, sizes))
        return
    if args.stage == "pack":
        pack(args.folder, args.out or args.folder / "out")
        return
    with joined_world(args.device) as world:
        args.compile = world.device.type == "cuda" and not args.no_compile
        _prepare(world.device)
        args.compile = args.compile and can_compile(world.device)
        if args.stage == "warm-up":
            warm_up(sizes, world.device, training=not args.sampling_only)
        elif args.stage == "all":
            run_all(args, sizes, world)
        else:
            run_stage(args.stage, args, sizes, args.seconds, float("inf"), world)


def _prepare(device: torch.device) -> None:
    """Settings of the whole process that only a GPU wants: elsewhere nothing is left for a later caller to find."""
    if device.type != "cuda":
        return
    from torch import _dynamo  # slow to import

    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    _dynamo.config.suppress_errors = True  # what cannot be compiled runs as it is
    _dynamo.config.recompile_limit = 32


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


def run_stage(name: str, args, sizes: Sizes, seconds: float, until: float, world: World) -> None:
    if world.first:
        print(f"{name}: {seconds:.0f} seconds, writes {args.folder / name}* on {world.device}, {world.size} process(es).", flush=True)
    options = {"prompts": args.prompts} if name == "evaluation" else {}
    keep = (lambda: None) if args.out is None or not world.first else (lambda: pack(args.folder, args.out))
    STAGES[name](args.folder, sizes, seconds, until, world, args.seed, args.compile, keep, **options)


def run_all(args, sizes: Sizes, world: World) -> None:
    """Run the stages in turn within the time; what fails is told, and the next ones go on with what there is."""
    began = args.began
    end = began + args.seconds - PACKING
    asked = {name: getattr(args, name) for name in STAGES}
    for name in ("tokenizer", "base", "head"):
        done = (args.folder / f"{name}.safetensors").exists()
        if asked[name] is None and name == "tokenizer" and done:
            asked[name] = 0.0  # the base depends on its codes
    if asked["reader"] is None and (args.folder / "reader.safetensors").exists():
        asked["reader"] = 0.0
    left = args.seconds - PACKING - sum(value for value in asked.values() if value is not None)
    total = sum(share for name, share in SHARES.items() if asked[name] is None)
    plan = {name: asked[name] if asked[name] is not None else max(0.0, left * SHARES[name] / total) for name in STAGES}
    if world.first:
        print("Plan:", {name: round(value) for name, value in plan.items()}, flush=True)
    helper = None
    if args.compile and world.first and plan["base"] + plan["head"] > 0:
        command = [sys.executable, "-m", "migm_core.worlds.recipe", "warm-up", str(args.folder), "--size", args.size]
        command += ["--sampling-only"] * (plan["tokenizer"] <= 0)  # the base trains at once, and compiles for itself
        helper = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        for k, (name, seconds) in enumerate(plan.items()):
            if seconds <= 0:
                continue
            if helper is not None and name not in ("reader", "tokenizer") and (name != "base" or plan["tokenizer"] > 0):
                with suppress(subprocess.TimeoutExpired):
                    if helper.wait(max(1.0, 0.2 * seconds)):
                        print("Compiling failed; without it.", flush=True)
                        args.compile = False
            until = end - sum(list(plan.values())[k + 1 :])
            try:
                run_stage(name, args, sizes, min(seconds, max(1.0, until - time.monotonic())), until, world)
            except Exception:
                traceback.print_exc()
            if world.first:
                print(f"{name} ended at {time.monotonic() - began:.0f} s.", flush=True)
                if args.out is not None:
                    pack(args.folder, args.out)
            if world.device.type == "cuda":
                torch.cuda.empty_cache()
    finally:
        if helper is not None:
            helper.kill()


def pack(folder: Path, out: Path) -> None:
    """Write what is worth keeping to ``out``: weights in parts, sheets, one report with the logs."""
    out.mkdir(parents=True, exist_ok=True)
    weights.pack(folder, out)
    for name in ("tokenizer.png", "pictures.png" if (folder / "pictures.png").exists() else "base.png"):
        if (folder / name).exists():
            shutil.copy(folder / name, out / ("pictures.png" if name == "base.png" else name))
    report = []
    if (folder / "evaluation.json").exists():
        report.append((folder / "evaluation.json").read_text(encoding="utf-8"))
    report += [path.read_text(encoding="utf-8") for path in sorted(folder.glob("*/log.jsonl"))]
    (out / "report.txt").write_text("\n".join(report), encoding="utf-8")


if __name__ == "__main__":
    main()
