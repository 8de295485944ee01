"""What every training command shares: a folder with a checkpoint and a log, resumed where it stopped."""

import functools
import json
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import torch
from tqdm import tqdm

from ..writing import append_line, locked, replacing
from .distributed import World


class TrainingRun:
    """A folder that holds ``checkpoint.pt`` (the state to resume from) and ``log.jsonl`` (a line of losses now and then).

    The owner gives a ``state`` function that returns everything needed to go on, and calls ``tick`` after each step.

    Args:
        folder: made if missing.
        steps: length of the run; the run is over at this step, also when resumed.
        checkpoint_seconds: wall-clock time between checkpoints.
        quiet: no bar, no files: for the ranks of a distributed run other than the first.
    """

    def __init__(self, folder: str | Path, steps: int, *, checkpoint_seconds: float = 120, quiet: bool = False):
        self.folder = Path(folder)
        self.steps = steps
        self.step = 0
        self.quiet = quiet
        self._checkpoint_seconds = checkpoint_seconds
        self._saved_at = time.monotonic()
        self._sums: dict[str, float] = {}
        self._count = 0
        if not quiet:
            self.folder.mkdir(parents=True, exist_ok=True)

    @property
    def checkpoint_path(self) -> Path:
        return self.folder / "checkpoint.pt"

    def resume(self) -> dict | None:
        """The saved state, with ``self.step`` set from it, or None for a fresh run."""
        if not self.checkpoint_path.exists():
            return None
        state = torch.load(self.checkpoint_path, map_location="cpu", weights_only=True)
        self.step = state["step"]
        return state

    def save(self, state: dict) -> None:
        """Write the checkpoint, whole or not at all, so that a kill on the way loses nothing.

        Raises:
            OSError: naming the file.
        """
        if self.quiet:
            return
        with replacing(self.checkpoint_path) as file:
            try:
                torch.save({**state, "step": self.step}, file)
            except RuntimeError as error:  # torch closes its archive where the disk has refused a part, and fails once more
                raise error.__context__ if isinstance(error.__context__, OSError) else error
        self._saved_at = time.monotonic()

    def steps_left(self):
        """Iterate over the steps to go, with a progress bar."""
        bar = tqdm(total=self.steps, initial=self.step, desc=self.folder.name, disable=self.quiet or None)
        with bar:
            while self.step < self.steps:
                yield self.step
                bar.update()

    def tick(self, losses: dict[str, float], state, *, log_every: int = 50) -> None:
        """Count a finished step: log the losses' means every ``log_every`` steps, save ``state()`` when it is time."""
        self.step += 1
        self._count += 1
        for name, value in losses.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        if self.step % log_every == 0 or self.step == self.steps:
            means = {name: round(total / self._count, 6) for name, total in self._sums.items()}
            self.note({"step": self.step, **means, "time": round(time.time(), 1)})
            self._sums, self._count = {}, 0
        if self.step == self.steps or time.monotonic() - self._saved_at > self._checkpoint_seconds:
            self.save(state())

    def note(self, row: dict) -> None:
        """Add a line to the log."""
        if not self.quiet:
            append_line(self.folder / "log.jsonl", json.dumps(row))


def alone_in_folder(train: Callable) -> Callable:
    """Keep a second call of a training function out of the folder, its first argument, as long as the first goes on.

    Raises:
        ValueError: another training is at work there.
    """

    @functools.wraps(train)
    def alone(folder: str | Path, *args, world: World = World(), **kw):
        with locked(folder) if world.first else nullcontext():
            return train(folder, *args, world=world, **kw)

    return alone
