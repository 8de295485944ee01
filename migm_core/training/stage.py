"""A training stage that has so many seconds: where it stands, its checkpoint, its log.

The learning rate follows the share of the time that is over, so that a run ends well on whatever machine it is.
"""

import json
import time
from pathlib import Path

import torch
import torch.distributed as dist

from ..writing import append_line, replacing
from .distributed import World


class Stage:
    """A folder with ``checkpoint.pt``, to resume from at any moment, and ``log.jsonl``.

    Args:
        folder: made if missing.
        seconds: of training, over all calls.
        until: time.monotonic() at which to stop for now, whatever the share.
        every: seconds between checkpoints.

    Attributes:
        step: steps done so far.
        seen: what the stage learned from so far, in its own unit.
    """

    def __init__(self, folder: str | Path, seconds: float, *, until: float = float("inf"), every: float = 60, world: World = World()):
        self.folder, self.seconds, self.until, self.every, self.world = Path(folder), seconds, until, every, world
        self.step = self.seen = 0
        self._before = 0.0  # seconds of earlier calls
        self._began = self._saved = self._logged = time.monotonic()
        self._logged_seen = 0
        if world.first:
            self.folder.mkdir(parents=True, exist_ok=True)

    @property
    def path(self) -> Path:
        return self.folder / "checkpoint.pt"

    def resume(self) -> dict | None:
        """The saved state, or None for a fresh run."""
        if not self.path.exists():
            return None
        state = torch.load(self.path, map_location="cpu", weights_only=True)
        self.step, self.seen, self._before = state["step"], state["seen"], state["spent"]
        self._logged_seen = self.seen
        return state

    @property
    def spent(self) -> float:
        return self._before + time.monotonic() - self._began

    def progress(self) -> float:
        """The share of the time that is over, the same in all processes; 1 also where it is time to stop for now."""
        over = 1.0 if time.monotonic() >= self.until else min(1.0, self.spent / max(self.seconds, 1e-9))
        if self.world.size > 1:
            shared = torch.tensor([over], device=self.world.device)
            dist.all_reduce(shared, dist.ReduceOp.MAX)
            over = shared.item()
        return over

    def tick(self, seen: int) -> bool:
        """Count a step. Whether it is time to say something of it."""
        self.step += 1
        self.seen += seen
        return time.monotonic() - self._logged > 5

    def note(self, **values) -> None:
        """Add a line to the log, and print it."""
        now = time.monotonic()
        rate = (self.seen - self._logged_seen) / max(now - self._logged, 1e-9)
        self._logged, self._logged_seen = now, self.seen
        row = {"stage": self.folder.name, "seconds": round(self.spent, 1), "step": self.step, "seen": self.seen, "a_second": round(rate)}
        row |= {name: round(value, 5) if isinstance(value, float) else value for name, value in values.items()}
        if self.world.first:
            append_line(self.folder / "log.jsonl", json.dumps(row))
            print(json.dumps(row), flush=True)

    def save_now_and_then(self, state) -> bool:
        """Save ``state()`` where that is due; whether it was."""
        if time.monotonic() - self._saved < self.every:
            return False
        self.save(state())
        return True

    def save(self, state: dict) -> None:
        """Write the checkpoint, whole or not at all."""
        if self.world.first:
            with replacing(self.path) as file:
                torch.save({**state, "step": self.step, "seen": self.seen, "spent": self.spent}, file)
        self._saved = time.monotonic()


def rate(progress: float, step: int, level: float = 0.4, warm_up: int = 100) -> float:
    """Share of the peak learning rate: up over the first steps, level, and from ``level`` of the time on down to zero."""
    return min(1.0, (step + 1) / warm_up, max(0.0, (1 - progress) / (1 - level)))
