"""When a preview may be made: previews take a share of the sampling time, over all runs of one size together."""

from __future__ import annotations

from dataclasses import dataclass

SHARE = 0.045  # of the sampling time; the rest up to 5% is for previews that take longer than the shortest one did
UNKNOWN_AFTER = 1.0  # seconds of sampling before the first preview of all, or the end if that comes sooner


@dataclass
class PreviewAccount:
    """Seconds, of canvases of one size.

    Attributes:
        sampled: that all runs have sampled so far.
        first: that the first preview took; None before it. It waits for what a process needs once, so it counts for itself.
        spent: that the others have taken.
        least: that the shortest took.
    """

    sampled: float = 0.0
    first: float | None = None
    spent: float = 0.0
    least: float = 0.0

    def affords(self, *, last: bool, shown: bool) -> bool:
        """Whether there is time for a preview now.

        Args:
            last: nothing is masked any more.
            shown: there has been a preview of what is generated now, which must not stay there unfinished.
        """
        if self.first is None:
            return last or self.sampled >= UNKNOWN_AFTER
        if last and shown:
            return True  # its time was kept free
        return self.spent + self.least * (1 if last else 2) <= SHARE * self.sampled

    def pay(self, seconds: float) -> None:
        """A preview was made."""
        if self.first is None:
            self.first = self.least = seconds
        else:
            self.spent += seconds
            self.least = min(seconds, self.least)
