"""The one training loop: a folder with a checkpoint and a log, a number of steps or of seconds, and what happens on the way.

    with Run(folder, steps=20000, world=world) as run:
        learner = Learner(...)
        for step in run.steps(learner=learner):
            loss = learner(...)
            learner.update(loss)
            run.count(loss=loss)
"""

import json
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from .. import arguments
from ..checkpoints import torch_load
from ..writing import append_line, locked, replacing
from .distributed import World
from .progress import Progress, say, say_written
from .stop import Stop

LOG_EVERY_SECONDS = 5  # of a run that counts seconds
LOOKS = 0.05  # of the time of a run that counts seconds, the share that may go into what is called after checkpoints
CHECKPOINT = "checkpoint.pt"
FORMAT = 2  # of it
PAUSED, ASKED = 2.0, 3.0  # what processes tell each other in place of the share that is over: the time for now is, or a signal came


class Stateful(Protocol):
    """What a checkpoint holds a part of."""

    def state_dict(self) -> dict: ...
    def load_state_dict(self, state: dict) -> object: ...


class Run:
    """A folder that holds ``checkpoint.pt``, to go on from at any moment, and ``log.jsonl``, a line of means now and then.

    Use it in a with block, which keeps a second run out of the folder. Ctrl-C and SIGTERM end the run after the step that is being done,
    with a checkpoint.

    Args:
        folder: made if missing.
        steps, seconds: how long the run is, over all calls: one of them.
        until: time.monotonic() at which to stop for now, whatever is left.
        clock: what ``seconds`` are read from; time.process_time counts those that processors worked, for a run beside other work.
        save_every: seconds between checkpoints.
        log_every: steps between lines of the log; seconds count instead where the run counts seconds.

    Attributes:
        step: steps done so far.
        seen: what was learned from so far, in the run's own unit.
        progress: share of the run that is over, the same in all processes.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        steps: int | None = None,
        seconds: float | None = None,
        until: float = float("inf"),
        clock: Callable[[], float] = time.monotonic,
        save_every: float = 120,
        log_every: int = 50,
        world: World = World(),
    ):
        if (steps is None) == (seconds is None):
            raise ValueError("A run takes a number of steps or of seconds, and not both.")
        self.folder, self.total_steps, self.seconds, self.until, self.world = Path(folder), steps, seconds, until, world
        self.clock, self.save_every, self.log_every = clock, save_every, log_every
        self.step = self.seen = 0
        self.progress = 0.0
        self._before = self._looked = 0.0  # seconds of earlier calls; of what was called after checkpoints
        self._began = clock()
        self._saved = self._logged = time.monotonic()
        self._logged_seen = 0
        self._sums: dict[str, list] = {}  # name to a sum and what it is divided by
        self._stop = Stop()
        self._held = ExitStack()

    def __enter__(self) -> "Run":
        if self.world.first:
            self._held.enter_context(locked(self.folder))
        return self

    def __exit__(self, *error) -> None:
        self._held.close()

    @property
    def path(self) -> Path:
        return self.folder / CHECKPOINT

    @property
    def spent(self) -> float:
        """Seconds of training, over all calls."""
        return self._before + self.clock() - self._began

    def steps(self, on_checkpoint: Callable[[], None] | None = None, **parts: Stateful) -> Iterator[int]:
        """Go on from the checkpoint, if there is one, and give the number of each step to do.

        Args:
            on_checkpoint: called in the first process after each checkpoint on the way; in a run that counts seconds, after fewer where it would take more than
                a twentieth of them.
            parts: what learns, by name: their states make up the checkpoint.

        Raises:
            ValueError: the checkpoint is none of such a run.
            KeyboardInterrupt, SystemExit: the run was asked to stop. Its checkpoint is written.
        """
        self._resume(parts)
        first = self.step
        with self._stop, self._bar() as bar:
            while self._look():
                yield self.step
                self.step += 1
                if self._due():
                    self._log(bar)
                bar.update(self.step if self.total_steps is not None else min(self.spent, self.seconds))
                if time.monotonic() - self._saved >= self.save_every:
                    self.save(parts)
                    if on_checkpoint is not None and self.world.first and (self.seconds is None or self._looked <= LOOKS * self.spent):
                        began = self.clock()
                        on_checkpoint()
                        self._looked += self.clock() - began
        fresh = self.step > first or not self.path.exists()
        if fresh:
            self.save(parts)
        if self.world.first:
            self._say_end(fresh)
        self._stop.obey()

    def _say_end(self, fresh: bool) -> None:
        if self._stop.asked_by is not None:
            say(f"Stopped after step {self.step:,}. {self.path} is written: the same command goes on from there.")
        elif fresh:
            say_written(self.path)
        elif self.progress >= 1:
            done = f"{self.step:,} steps" if self.total_steps is not None else f"{self.spent:.0f} seconds"
            say(f"{self.folder} is finished: it has had its {done}. Ask for more to go on, or choose another folder.")

    def count(self, seen: int = 0, **values) -> None:
        """Count what a step has seen, in all processes, and add to the means that the log tells.

        Args:
            values: numbers or 0-dimensional tensors; or pairs of a sum and what it is divided by.
        """
        self.seen += seen
        for name, value in values.items():
            total, count = value if isinstance(value, tuple) else (value, 1)
            sums = self._sums.setdefault(name, [0.0, 0.0])
            for k, part in enumerate((total, count)):
                sums[k] = sums[k] + (part.detach() if isinstance(part, Tensor) else part)  # on the device: nothing waits for it

    def note(self, **values) -> None:
        """Add a line to the log."""
        if self.world.first:
            rounded = {name: round(value, 6) if isinstance(value, float) else value for name, value in values.items()}
            append_line(self.folder / "log.jsonl", json.dumps({"step": self.step, **rounded}))

    def save(self, parts: dict[str, Stateful]) -> None:
        """Write the checkpoint, whole or not at all.

        Raises:
            OSError: naming the file.
        """
        self._saved = time.monotonic()
        if not self.world.first:
            return
        state = {"format": FORMAT, "step": self.step, "seen": self.seen, "spent": self.spent}
        with replacing(self.path) as file:
            try:
                torch.save({**state, **{name: part.state_dict() for name, part in parts.items()}}, file)
            except RuntimeError as error:  # torch closes its archive where the disk has refused a part, and fails once more
                raise (error.__context__ if isinstance(error.__context__, OSError) else error) from None

    def _resume(self, parts: dict[str, Stateful]) -> None:
        if not self.path.exists():
            return
        state = read_checkpoint(self.path)
        try:
            self.step, self.seen, self._before = int(state["step"]), int(state["seen"]), float(state["spent"])
            self.progress = self._share(self._before)  # before the parts, whose learning rates follow from it
            for name, part in parts.items():
                part.load_state_dict(state[name])
        except Exception as error:  # of a model, an optimiser or a schedule, each in its own words
            raise not_ours(self.path, error) from None
        self._began, self._logged_seen = self.clock(), self.seen

    def _look(self) -> bool:
        """Find out how much is over; whether to do a step. All processes agree: one alone would wait for the others for ever."""
        over = self._share(self.spent)
        if over < 1 and time.monotonic() >= self.until:
            over = PAUSED
        shared = self.world.largest(ASKED if self._stop.asked_by is not None else over)
        if shared == ASKED and self._stop.asked_by is None:
            self._stop.asked_by = signal.SIGINT  # another process was asked to stop
        if shared <= 1:
            self.progress = shared
        return shared < 1

    def _share(self, spent: float) -> float:
        """Share of the run that is over after so many seconds, at most 1."""
        if self.total_steps is not None:
            return min(1.0, self.step / self.total_steps) if self.total_steps else 1.0
        return min(1.0, spent / max(self.seconds, 1e-9))

    def _due(self) -> bool:
        if self.total_steps is not None:
            return self.step % self.log_every == 0 or self.step == self.total_steps
        return time.monotonic() - self._logged > LOG_EVERY_SECONDS

    def _log(self, bar: Progress) -> None:
        means = {name: float(total) / max(float(count), 1e-30) for name, (total, count) in self._sums.items()}
        now = time.monotonic()
        if self.seen:
            means |= {"seen": self.seen, "a_second": round((self.seen - self._logged_seen) / max(now - self._logged, 1e-9))}
        self.note(**means, seconds=round(self.spent, 1))
        bar.update(bar.done, ", ".join(f"{name} {value:.4g}" for name, value in means.items() if name not in ("seen", "a_second")))
        self._sums, self._logged, self._logged_seen = {}, now, self.seen

    def _bar(self) -> Progress:
        total, unit, done = (self.total_steps, "step", self.step) if self.total_steps is not None else (self.seconds, "second", self.spent)
        return Progress(self.folder.name, total, unit, done, quiet=not self.world.first)


def read_checkpoint(path: Path) -> dict:
    """The states of a checkpoint's parts, by name, on the CPU.

    Raises:
        ValueError: it is damaged, or none of this version.
    """
    if not path.is_file():  # opening a pipe would wait for ever
        raise not_ours(path, ValueError("it is no file"))
    try:
        state = torch_load.load(path)
        if state["format"] != FORMAT:
            raise ValueError(f"its format is {arguments.shown(state['format'])}, expected {FORMAT}")
        return state
    except Exception as error:  # what is no table, or lacks an entry, too
        raise not_ours(path, error) from None


def not_ours(path: Path, error: Exception) -> ValueError:
    """What to say of a checkpoint that cannot be gone on from."""
    reason = (str(error).removeprefix(str(path)).strip() or type(error).__name__).split("\n")[0].rstrip(".:")[:200]
    return ValueError(f"{path} is no checkpoint of this training by this version ({reason}). Remove it to begin anew, or choose another folder.")
