"""The command `migm`: generate images, answer questions on pictures, look into files, convert and download them, train and measure.

torch is imported by the commands, so that `migm --help` and `migm --version` answer at once.
"""

import sys

from .. import __version__
from ..command import Parser, answered
from . import ask, bench, files, generate, training


def main(argv: list[str] | None = None) -> int:
    """Run a command; its exit status, see ``command.answered``."""
    return answered(lambda: _run(argv), "migm")


def _run(argv: list[str] | None) -> None:
    args = make_parser().parse_args(argv)
    args.run(args)


def make_parser() -> Parser:
    """The parser of all commands."""
    parser = Parser(prog="migm", description="Generate images with a masked image generation model, sped up by a shortcut head.")
    parser.add_argument("--version", action="version", version=f"migm {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for group in (generate, ask, files, training, bench):
        group.add_commands(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
