"""How far a long command is: a bar on a terminal; elsewhere, as in a job's log, a line now and then with the time that is left."""

import sys
import time
from pathlib import Path

from tqdm import tqdm

LINE_EVERY = 30  # seconds


class Progress:
    """Use it in a with block.

    Args:
        name: what it is of.
        total, unit: how much there is to do.
        done: of it, before this call.
        quiet: say nothing: for the processes of a distributed run other than the first.
    """

    def __init__(self, name: str, total: float, unit: str, done: float = 0, *, quiet: bool = False):
        self.name, self.total, self.unit, self.done, self.quiet = name, total, unit, done, quiet
        self._before, self._began = done, time.monotonic()
        self._said, self._note = self._began, ""
        on_terminal = sys.stderr.isatty() and not quiet
        self._bar = tqdm(total=total, initial=done, desc=name, unit=unit, bar_format=_FORMAT) if on_terminal else None

    def update(self, done: float, note: str = "") -> None:
        """Show that so much is done, with the latest ``note``: a few words on how it goes."""
        self.done, self._note, now = done, note or self._note, time.monotonic()
        if self._bar is not None:
            self._bar.set_postfix_str(self._note, refresh=False)
            self._bar.update(done - self._bar.n)
        elif not self.quiet and now - self._said >= LINE_EVERY:
            self._said = now
            speed = (done - self._before) / max(now - self._began, 1e-9)
            left = f"{duration((self.total - done) / speed)} left" if speed > 0 else "time left unknown"
            print(f"migm: {self.name}: {done:,.0f} of {self.total:,.0f} {self.unit}s, {left}{self._note and ', '}{self._note}", file=sys.stderr, flush=True)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_) -> None:
        if self._bar is not None:
            self._bar.close()


_FORMAT = "{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} [{elapsed}<{remaining}{postfix}]"


def say(text: str) -> None:
    """A line beside a bar, or into the log."""
    tqdm.write(f"migm: {text}", file=sys.stderr)
    sys.stderr.flush()


def say_written(path: str | Path) -> None:
    """Name a file that was written, with its size."""
    say(f"{path}: {size(Path(path).stat().st_size)}")


def duration(seconds: float) -> str:
    """For example "40 s", "12 min", "3.4 h", "2.1 days"."""
    for unit, length in (("days", 86400), ("h", 3600)):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds / 60:.0f} min" if seconds >= 60 else f"{seconds:.0f} s"


def size(count: float) -> str:
    """Bytes, for example "2.1 kB", "4.4 GB"."""
    for unit, length in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= length:
            return f"{count / length:.1f} {unit}"
    return f"{count:.0f} bytes"
