"""Parsers of the commands: one error like all others, and options that are only made for the command that runs."""

import argparse
from collections.abc import Callable


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
