"""The command `migm`: draw images, look into files, convert them, train and evaluate.

torch is imported inside the commands, so that `migm --help` and a mistyped option answer at once.
"""

import argparse
import os
import re
import sys
from pathlib import Path

from .training.commands import add_commands


def main(argv: list[str] | None = None) -> int:
    """Run a command; its exit status: 0, or 2 for an error that one line on stderr explains, or 130 for Ctrl-C."""
    try:
        args = _parser().parse_args(argv)
        args.run(args)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read our output has seen enough; Python would complain once more when it flushes at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        return _fail(f"{error.filename}: {error.strerror}." if error.filename else str(error))
    except ValueError as error:
        return _fail(str(error))
    return 0


def _fail(message: str) -> int:
    print("migm:", " ".join(message.split()), file=sys.stderr)
    return 2


class _Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are errors like all others."""

    def error(self, message):
        raise ValueError(f"{message}. See {self.prog} --help.")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="migm", description="Draw images with a masked image generation model, sped up by a shortcut head.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_generate(commands)
    inspect = commands.add_parser("inspect", help="say what a checkpoint, head or image tokenizer is, and whether it is complete")
    inspect.add_argument("path", metavar="PATH", type=Path, help="a folder or a weights file, or demo, the bundled model")
    inspect.set_defaults(run=_inspect)
    convert = commands.add_parser("convert", help="a head .pth, or a checkpoint folder, to one .safetensors file")
    convert.add_argument("source", metavar="SRC", type=Path, help="a head, or the folder of a checkpoint")
    convert.add_argument("target", metavar="DST", type=Path, help="the .safetensors file to write")
    convert.add_argument("--dtype", choices=("bf16", "fp16", "fp32", "fp8", "int8"), help="to store weights in (default: theirs); the last two: of a base model")
    convert.set_defaults(run=_convert)
    add_commands(commands)
    return parser


def _add_generate(commands) -> None:
    parser = commands.add_parser("generate", help="draw images of a prompt", epilog="Settings that are not given come with the model.")
    parser.add_argument("prompt", metavar="PROMPT", help="what to draw")
    parser.add_argument("--negative", metavar="TEXT", default="", help="what to steer away from, with guidance above 0")
    parser.add_argument("--model", metavar="PATH", default="demo", help="a checkpoint folder, or a .safetensors or .gguf file (default: demo, the bundled model)")
    parser.add_argument("--head", metavar="PATH", default="auto", help="a shortcut head, or none (default: the bundled model's own)")
    parser.add_argument("--size", metavar="WxH", type=_size, default=(None, None), help="of the image, in pixels")
    parser.add_argument("--steps", metavar="N", type=int, help="passes over the image")
    parser.add_argument("--budget", metavar="B", type=int, help="how many of them run the base model, with the shortcut method")
    parser.add_argument("--method", choices=("vanilla", "shortcut", "ml-cache"), help="default: shortcut where there is a head")
    parser.add_argument("--guidance", metavar="G", type=float, help="how closely to follow the prompt; 0 halves the work")
    parser.add_argument("--temperature", metavar="T", type=float, help="how freely to draw; 0 takes the likeliest codes")
    parser.add_argument("--seed", metavar="S", type=int, default=0, help="of the first image; the next ones count up (default: 0)")
    parser.add_argument("--batch", metavar="K", type=int, default=1, help="images to draw at once (default: 1)")
    parser.add_argument("--device", metavar="D", help="cpu, cuda, cuda:1, mps (default: cuda where there is one)")
    parser.add_argument("--dtype", metavar="T", default="auto", help="auto, bf16, fp16 or fp32 (default: auto)")
    parser.add_argument("--compile", action="store_true", help="compile the base model's blocks: faster steps, after a slow first run")
    parser.add_argument("--channels-last", action="store_true", help="another memory layout of the image tokenizer, which takes less memory on a GPU")
    parser.add_argument("--tile", metavar="PX", type=int, default=0, help="decode larger images in parts of PX x PX pixels, 64 or more: less memory, the same image")
    parser.add_argument("--tf32", action="store_true", help="CUDA, with dtype fp32: matrix products with fewer digits, and faster")
    parser.add_argument("--out", metavar="PATH", type=Path, default=Path("migm.png"), help="default: migm.png; of a batch: migm-0.png, ...")
    parser.add_argument("--report", metavar="PATH", type=Path, help="write the run's settings and times to a .json file")
    parser.set_defaults(run=_generate)


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,9})[xX](\d{1,9})", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; expected WIDTHxHEIGHT in pixels, for example 1024x768")
    return int(match[1]), int(match[2])


def _generate(args) -> None:
    from .outputs import check_writable, image_paths, report, save_images, write_report

    check_writable(args.out, ".png")
    if args.report:
        check_writable(args.report, ".json")

    import torch
    from tqdm import tqdm

    from .pipeline import Pipeline
    from .switches import Switches

    switches = Switches(compile=args.compile, channels_last=args.channels_last, tile=args.tile, tf32=args.tf32)
    pipeline = Pipeline.load(args.model, None if args.head == "none" else args.head, dtype=args.dtype, device=args.device, switches=switches)
    names = ("steps", "budget", "method", "guidance", "temperature", "seed", "batch")
    asked = {"width": args.size[0], "height": args.size[1], **{name: getattr(args, name) for name in names}}
    settings = pipeline.settings(**asked)
    paths = image_paths(args.out, settings.batch)
    for path in paths:
        check_writable(path, ".png")
    for caution in pipeline.cautions(settings, args.prompt, args.negative):
        print("migm:", caution, file=sys.stderr)
    try:
        with tqdm(total=settings.steps, unit="step", leave=False, disable=None) as bar:  # None: on a terminal only
            result = pipeline.generate(args.prompt, args.negative, callback=lambda _: bar.update(), **asked)
    except torch.OutOfMemoryError:
        raise ValueError(f"{pipeline.device} has not enough memory for this run. Choose a smaller size or batch, dtype bf16, or --tile 256.") from None
    head = args.head if args.head != "auto" else "demo" if args.model == "demo" else "none"
    save_images(result, paths, {"prompt": args.prompt, "negative": args.negative, "model": args.model, "head": head})
    if args.report:
        write_report(args.report, report(result, pipeline, paths, args.prompt, args.negative))
    print(f"{', '.join(map(str, paths))}: {_summary(result)}")


def _summary(result) -> str:
    """For example "3.2 s, 5 full and 11 shortcut steps, 2.4 times as fast as 16 full steps": those of the vanilla method."""
    kinds = [kind for kind, _ in result.step_seconds]
    counts = [f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(sorted(kinds, key="skipped".__eq__))]
    listed = " and ".join(filter(None, [", ".join(counts[:-1]), *counts[-1:]]))
    parts = [f"{result.seconds:.2f} s", f"{listed or 'no'} steps"]
    if set(kinds) - {"full", "skipped"}:
        parts.append(f"{result.speed_up:.2f} times as fast as {result.vanilla_passes} full steps")
    return ", ".join(parts)


def _inspect(args) -> None:
    from .checkpoints import describe
    from .pipeline import DEMO

    print(describe(DEMO if str(args.path) == "demo" else args.path))


def _convert(args) -> None:
    from .checkpoints import EIGHT_BIT, convert, resolve_dtype

    convert(args.source, args.target, dtype=EIGHT_BIT.get(args.dtype) or args.dtype and resolve_dtype(args.dtype, "cpu"))
    print(f"{args.target}: {args.target.stat().st_size / 2**20:,.1f} MiB")


if __name__ == "__main__":
    sys.exit(main())
