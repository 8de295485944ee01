"""What every command of this project has: one sentence on stderr for what goes wrong, with its status; and a parser whose complaints are such
sentences, and whose options are only made for the command that runs."""

import argparse
import math
import sys
from collections.abc import Callable

from .writing import one_line


def answered(run: Callable[[], None], name: str) -> int:
    """Run a command; its exit status: 0, or 2 for an error that one line on stderr explains, or 130 for Ctrl-C, or 1 where nobody reads its output.

    Args:
        name: of the program, before that line.
    """
    try:
        run()
        sys.stdout.flush()
    except KeyboardInterrupt:
        # Every file is written whole or not at all, see ``writing``.
        return _fail(name, "Stopped. What was finished is kept, and the file that was being written is as it was before.", 130)
    except BrokenPipeError:
        return 1
    except OSError as error:
        return _fail(name, f"{error.filename}: {error.strerror}." if error.filename else f"{error.strerror or error}.")
    except ValueError as error:
        return _fail(name, str(error))
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and type(error).__name__ != "OutOfMemoryError":  # torch's, which is not imported for it
            raise
        return _fail(name, "There is not enough memory. Choose a smaller size, batch or dtype, or another --device.")
    return 0


def _fail(name: str, message: str, status: int = 2) -> int:
    print(f"{name}:", one_line(" ".join(message.split())), file=sys.stderr)
    return status


def whole(low: int, high: int = 2**31 - 1) -> Callable[[str], int]:
    """The type of an option that takes a whole number in a range."""

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text[:40]!r} is no whole number from {low} to {high}")
        return value

    return read


def number(low: float = 0.0, high: float = 1e6) -> Callable[[str], float]:
    """The type of an option that takes a number in a range."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text[:40]!r} is no number from {low:g} to {high:g}")
        return value

    return read


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are ValueErrors.

    Args:
        fill: adds the arguments, when there is something to parse. So a command may take its options from what imports torch, and
            `migm --help` does not wait for it.
    """

    def __init__(self, *args, fill: Callable[["Parser"], None] | None = None, **options):
        super().__init__(*args, **options)
        self._fill = fill

    def parse_known_args(self, args=None, namespace=None):
        if self._fill is not None:
            fill, self._fill = self._fill, None
            fill(self)
        found, rest = super().parse_known_args(args, namespace)
        for action in self._actions:
            value = getattr(found, action.dest, None)
            # Of "--option=--", which argparse takes for the end of the options.
            if action.nargs is None and (value == [] or isinstance(value, list) and [] in value):
                self.error(f"argument {'/'.join(action.option_strings) or action.metavar}: expected one argument")
        if rest and self._subparsers is None:  # otherwise the first parser would complain, and point to its own help
            self.error(f"unrecognized arguments: {' '.join(rest)}")
        return found, rest

    def error(self, message):
        raise ValueError(f"{message}. See {self.prog} --help.")
