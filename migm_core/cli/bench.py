"""The commands that hold methods against each other: `migm compare`, `evaluate`."""

import argparse
import sys
from pathlib import Path

from ..command import Parser, whole

METHODS_HELP = "separated by semicolons, the first is what the others are compared with"


def add_commands(commands) -> None:
    summary = "measure methods side by side, on a prompt or a task: time, memory, how near each comes to the first"
    commands.add_parser("compare", help=summary, description=f"{summary.capitalize()}.", fill=_fill_compare).set_defaults(run=_compare)
    summary = "measure the accuracy of methods on unseen scenes of the bundled models' world"
    commands.add_parser("evaluate", help=summary, description=f"{summary.capitalize()}.", fill=_fill_evaluate).set_defaults(run=_evaluate)


def _fill_compare(parser: Parser) -> None:
    from .generate import PROMPT
    from .options import add_model, add_prompts, add_settings
    from .tasks import add_task

    add_prompts(parser, PROMPT)
    add_task(parser)
    parser.add_argument("--methods", metavar="TEXT", help=f"{METHODS_HELP} (default: all that the model can run)")
    parser.add_argument(
        "--same-time",
        action=argparse.BooleanOptionalAction,
        help="add the vanilla method at as few steps as cost the time of each other method (default: on a --task, where no --methods are named)",
    )
    parser.add_argument("--rounds", metavar="N", type=whole(1), default=5, help="images of each method that are timed (default: 5)")
    parser.add_argument("--seed", metavar="S", type=int, default=0, help="of the first round; the next ones count up (default: 0)")
    parser.add_argument("--report", metavar="PATH", type=Path, help="a .json file for the numbers")
    add_settings(parser, method=False)
    add_model(parser)


def _compare(args) -> None:
    from dataclasses import asdict

    from ..bench.compare import compare, table
    from ..bench.ways import parse_ways
    from ..outputs import check_writable, write_report
    from ..sampling.methods import METHODS
    from .options import asked, load_pipeline, named_as_options
    from .tasks import look_at, prompts_for_task, read_task

    if args.report:
        check_writable(args.report, ".json")
    task, ways = read_task(args), parse_ways(args.methods) if args.methods is not None else None
    lines = list(prompts_for_task(args).values())
    pipeline = load_pipeline(args)
    if ways is None:
        usable = [name for name, method in METHODS.items() if (_head_serves(pipeline, args) or not method.needs_head) and (method.compiles or not args.compile)]
        ways = {name: {"method": name} for name in usable}
    given = asked(args, pipeline.checkpoint.family)
    ways = {name: {**given, **way} for name, way in ways.items()}
    inputs = look_at(pipeline, task, lines[0], args.negative)
    for note in inputs.notes if inputs is not None else ():
        print("migm:", note, file=sys.stderr)
    same_time = args.methods is None and inputs is not None if args.same_time is None else args.same_time
    request = None if inputs is None else task.request(lines[0], args.negative)
    with named_as_options():
        rows = compare(pipeline, lines, ways, negative=args.negative, seed=args.seed, rounds=args.rounds, request=request, same_time=same_time)
    print(table(rows, pipeline))
    if args.report:
        write_report(args.report, [asdict(row) for row in rows])


def _head_serves(pipeline, args) -> bool:
    """Whether there is a head, and a second step for it: the first runs the base."""
    return pipeline.head is not None and (args.steps or pipeline.checkpoint.settings["steps"]) > 1


def _fill_evaluate(parser: Parser) -> None:
    from .options import add_model, add_settings

    parser.add_argument("folder", metavar="FOLDER", type=Path, nargs="?", help="a working folder of migm train-head, whose head is taken where --head names none")
    add_model(parser)
    parser.add_argument("--methods", metavar="TEXT", help=f"{METHODS_HELP} (default: vanilla and, with a head and two steps or more, shortcut)")
    parser.add_argument("--prompts", metavar="K", type=whole(1, 100000), default=100, help="how many (default: 100)")
    parser.add_argument("--split", choices=("train", "dev", "test"), default="test", help="default: test, scenes that training never shows")
    parser.add_argument("--seed", metavar="S", type=whole(0, 2**63 - 1), default=0, help="default: 0")
    parser.add_argument("--out", metavar="PATH", type=Path, help="a .json file for the numbers")
    add_settings(parser, method=False)


def _evaluate(args) -> None:
    from ..bench.ways import parse_ways
    from ..outputs import check_writable
    from ..worlds.evaluate import evaluate, round_trip, save, table
    from .options import asked, load_pipeline, named_as_options

    if args.out:
        check_writable(args.out, ".json")
    ways = parse_ways(args.methods) if args.methods is not None else None
    if args.folder is not None and args.head == "auto":
        args.head = args.folder / "head" / "shortcut.safetensors"
        if not args.head.exists():
            raise ValueError(f"{args.head} does not exist. Run `migm train-head {args.folder}` first, or leave {args.folder} out.")
    pipeline = load_pipeline(args)
    if ways is None:
        ways = parse_ways("vanilla; shortcut" if _head_serves(pipeline, args) else "vanilla")
    given = asked(args, pipeline.checkpoint.family)
    ways = {name: {**given, **way} for name, way in ways.items()}
    with named_as_options():
        rows = evaluate(pipeline, ways, prompts=args.prompts, split=args.split, seed=args.seed)
    print(table(rows, pipeline))
    tokenizer = round_trip(pipeline, args.prompts, args.split, args.seed, rows[0].settings["width"])
    print(
        f"\nThe judge finds no fault in {tokenizer['rendered']:.1%} of the renderer's own images, and in {tokenizer['tokenized']:.1%} of them "
        f"after the image tokenizer ({tokenizer['psnr']:.1f} dB)."
    )
    if args.out:
        save(rows, args.out)
