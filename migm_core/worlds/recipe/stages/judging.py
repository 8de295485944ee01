"""The stage reader."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...lakeside import reader as judges_reader
from .. import lessons, weights
from ..reader import save, train
from ..task import Task


def reader(task: Task) -> None:
    """Train the judge's reader on the renderer's own pictures, from the weights that it has."""
    path, world = task.folder / "reader.safetensors", task.world

    def keep(found: judges_reader.Reader) -> None:
        save(found, path)
        use_reader(task.folder)
        task.keep()

    start = judges_reader.Reader()
    if judges_reader.WEIGHTS.exists():
        start.load_state_dict(weights.read_for(judges_reader.WEIGHTS, start))
    found = train(
        task.folder / "reader", start, lambda step: lessons.spoilt_pictures(task.sizes, task.seed + 1, world, step), **task.time, on_checkpoint=keep, world=world
    )
    if world.first:
        keep(found)


@contextmanager
def reader_as_before() -> Iterator[None]:
    """After it the judge reads with the reader that it had: ``use_reader`` holds for one command, and not for the process that ran it."""
    before = judges_reader.WEIGHTS
    try:
        yield
    finally:
        if judges_reader.WEIGHTS != before:
            judges_reader.WEIGHTS = before
            judges_reader.load_reader.cache_clear()


def use_reader(folder: Path) -> None:
    """Let the judge read with the folder's reader, if one was trained there."""
    if (folder / "reader.safetensors").exists():
        judges_reader.WEIGHTS = folder / "reader.safetensors"
        judges_reader.load_reader.cache_clear()
