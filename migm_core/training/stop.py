"""Ctrl-C and SIGTERM, heard when what is being done is done."""

import signal
import threading


class Stop:
    """Within a with block the first SIGINT or SIGTERM is noted and nothing else; a second one has its usual effect. One that is ignored, as in a script's
    background jobs, stays so.

    Attributes:
        asked_by: the signal's number; None as long as nobody asked.
    """

    def __init__(self):
        self.asked_by: int | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> "Stop":
        if threading.current_thread() is threading.main_thread():  # handlers are set by no other
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) is signal.SIG_IGN:
                    continue
                self._before[number] = signal.signal(number, self._note) or signal.SIG_DFL
        return self

    def __exit__(self, *_) -> None:
        while self._before:
            signal.signal(*self._before.popitem())

    def _note(self, number: int, _) -> None:
        self.asked_by = number
        self.__exit__()

    def obey(self) -> None:
        """Raise what the signal would have raised, if there was one.

        Raises:
            KeyboardInterrupt, SystemExit: for SIGINT, and for SIGTERM.
        """
        if self.asked_by is not None:
            raise KeyboardInterrupt if self.asked_by == signal.SIGINT else SystemExit(128 + self.asked_by)
