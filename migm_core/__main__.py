"""The process of `migm`, and of `python -m migm_core`: its streams and its end. What a command does is in ``cli``."""

import os
import signal
import sys

UNBEGUN = "migm: Stopped before it began. Nothing was written."


def main() -> int | str | None:
    """Run a command of this process's arguments; its exit status, as ``cli.main`` says."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # otherwise it is to be ignored, as under nohup
        signal.signal(signal.SIGINT, _interrupt)
    try:
        _open_streams()
        from .cli import main as run  # takes a moment, in which Ctrl-C is heard, too

        status = run()
    except KeyboardInterrupt:
        print(UNBEGUN, file=sys.stderr)
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


def _interrupt(number: int, frame) -> None:
    """Answer Ctrl-C. While PyTorch is imported its C++ code runs Python, and would abort the process where that raises KeyboardInterrupt."""
    torch = sys.modules.get("torch")
    if torch is not None and getattr(torch.__spec__, "_initializing", False):
        os.write(2, f"{UNBEGUN}\n".encode())
        os._exit(130)
    signal.default_int_handler(number, frame)


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
