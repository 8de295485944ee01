"""The commands about files: `migm inspect`, `convert`, `download`."""

from pathlib import Path


def add_commands(commands) -> None:
    inspect = commands.add_parser("inspect", help="say what a checkpoint, head or image tokenizer is, and whether it is complete")
    inspect.add_argument("path", metavar="PATH", help="a folder or a weights file, OWNER/NAME on Hugging Face, or demo or demo-classes, the bundled models")
    inspect.set_defaults(run=_inspect)
    convert = commands.add_parser("convert", help="a head .pth, or a checkpoint folder, to one .safetensors file")
    convert.add_argument("source", metavar="SRC", help="a head, or the folder of a checkpoint; either may be OWNER/NAME or OWNER/NAME:FILE on Hugging Face")
    convert.add_argument("target", metavar="DST", type=Path, help="the .safetensors file to write")
    convert.add_argument(
        "--dtype", choices=("bf16", "fp16", "fp32", "fp8", "int8"), help="to store weights in (default: theirs); fp8 and int8 are for base models"
    )
    convert.set_defaults(run=_convert)
    summary = "fetch a model from Hugging Face, or what has changed of it, and print where it is"
    download = commands.add_parser("download", help=summary, description=f"{summary.capitalize()}. A download that stopped goes on.")
    download.add_argument("name", metavar="NAME", help="OWNER/NAME, or OWNER/NAME:FOLDER/FILE for one file of it, for example a head")
    download.add_argument("--to", metavar="FOLDER", type=Path, help="default: models/migm in ComfyUI's own folder, elsewhere Hugging Face's cache")
    download.add_argument("--revision", metavar="R", help="a branch, tag or commit (default: main)")
    download.set_defaults(run=_download)


def _inspect(args) -> None:
    from .. import hub
    from ..checkpoints import describe
    from ..loading import BUNDLED

    print(describe(BUNDLED.get(args.path) or hub.resolve(args.path)))


def _convert(args) -> None:
    from .. import hub
    from ..checkpoints import QUANTISED, convert
    from ..devices import resolve_dtype

    convert(hub.resolve(args.source), args.target, dtype=QUANTISED.get(args.dtype) or args.dtype and resolve_dtype(args.dtype, "cpu"))
    print(f"{args.target}: {args.target.stat().st_size / 2**20:,.1f} MiB")


def _download(args) -> None:
    from .. import hub

    print(hub.download(args.name, args.to, args.revision))
