"""The process of `migm`, and of `python -m migm_core`: its streams and its end. What a command does is in ``cli``."""

import os
import signal
import sys


def main() -> int | str | None:
    """Run a command of this process's arguments; its exit status, as ``cli.main`` says."""
    try:
        _open_streams()
        from .cli import main as run  # takes a moment, in which Ctrl-C is heard, too

        status = run()
    except KeyboardInterrupt:
        print("migm: Stopped before it began. Nothing was written.", file=sys.stderr)
        status = 130
    except SystemExit as end:  # of --help, and of SIGTERM
        status = end.code
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # what there was to do is done; the interpreter's end takes a moment
    _close_output()
    if status == 130:
        # Where Ctrl-C fell into a library's exec() of a text, the interpreter would end by that signal all the same.
        sys.stderr.flush()
        os._exit(status)
    return status


def _open_streams() -> None:
    """Let every text be printed, in a terminal of few letters as escapes; and give a closed stream a place where what is printed is lost.

    Without the latter the next file that is opened would take the stream's number, and what is printed would go into it.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
            setattr(sys, name, open(number, "w" if number else "r", encoding="utf-8", closefd=False))
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")


def _close_output() -> None:
    """Write out what is printed but still kept back. Where nobody takes it, Python would complain once more at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


if __name__ == "__main__":
    sys.exit(main())
