"""The command `migm`: generate images, answer questions on pictures, look into files, convert and download them, train and measure.

torch is imported by the commands, so that `migm --help` and `migm --version` answer at once.
"""

import sys

from .. import __version__
from ..writing import one_line
from . import ask, bench, files, generate, training
from .parser import Parser


def main(argv: list[str] | None = None) -> int:
    """Run a command; its exit status: 0, or 2 for an error that one line on stderr explains, or 130 for Ctrl-C, or 1 where nobody reads its output."""
    try:
        args = make_parser().parse_args(argv)
        args.run(args)
        sys.stdout.flush()
    except KeyboardInterrupt:
        # Every file is written whole or not at all, see ``writing``.
        return _fail("Stopped. What was finished is kept, and the file that was being written is as it was before.", 130)
    except BrokenPipeError:
        return 1
    except OSError as error:
        return _fail(f"{error.filename}: {error.strerror}." if error.filename else f"{error.strerror or error}.")
    except ValueError as error:
        return _fail(str(error))
    return 0


def make_parser() -> Parser:
    """The parser of all commands."""
    parser = Parser(prog="migm", description="Generate images with a masked image generation model, sped up by a shortcut head.")
    parser.add_argument("--version", action="version", version=f"migm {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for group in (generate, ask, files, training, bench):
        group.add_commands(commands)
    return parser


def _fail(message: str, status: int = 2) -> int:
    print("migm:", one_line(" ".join(message.split())), file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
