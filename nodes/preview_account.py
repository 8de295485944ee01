"""When a preview may be made: previews take a share of the sampling time, over all runs of one size together."""

from __future__ import annotations

from dataclasses import dataclass

SHARE = 0.045  # of the sampling time; the rest up to 5% is for previews that take longer than the shortest one did
UNKNOWN_AFTER = 1.0  # seconds of a run before the first preview of all, or its end if that comes sooner


@dataclass
class PreviewAccount:
    """Seconds, of canvases of one size.

    Attributes:
        sampled: that all runs have sampled so far.
        spent: that their previews have taken.
        least: that the shortest preview took; None before the first.
    """

    sampled: float = 0.0
    spent: float = 0.0
    least: float | None = None

    def affords(self, run_seconds: float, *, last: bool, shown: bool) -> bool:
        """Whether there is time for a preview now.

        Args:
            run_seconds: sampled in this run.
            last: the run has ended.
            shown: this run has had a preview, which must not stay there unfinished.
        """
        if self.least is None:
            return last or run_seconds >= UNKNOWN_AFTER
        if last and shown:
            return True  # its time was kept free
        return self.spent + self.least * (1 if last else 2) <= SHARE * self.sampled

    def pay(self, seconds: float) -> None:
        """A preview was made."""
        self.spent += seconds
        self.least = min(seconds, self.least or seconds)
