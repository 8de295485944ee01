"""Folders and small files on disk: the snapshot in a cache folder, names in other letters, JSON; every failure in words."""

from pathlib import Path
from typing import Any

from .. import arguments
from .errors import CheckpointError
from .json_text import LARGEST, parse_object
from .recognise import explain_absence, recognise


def locate(path: str | Path) -> Path:
    """Resolve a path: as given, or, for a folder of Hugging Face's cache (models--...), the snapshot in it.

    Of several snapshots, refs/main names the one.

    Raises:
        CheckpointError: nothing there, or a cache folder without a snapshot, or with several to choose from.
    """
    path = arguments.path("path", path)
    try:
        if not path.exists():
            raise CheckpointError(explain_absence(path, "Check the path, or download the model first."))
        snapshots = path / "snapshots"
        if not snapshots.is_dir() or (path / "config.json").exists():
            return path
        names = sorted(folder.name for folder in snapshots.iterdir() if folder.is_dir())
        main = path / "refs" / "main"
        said = _first_letters(main) if main.is_file() else ""
    except (OSError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.") from None
    if said in names:
        return snapshots / said
    if len(names) == 1:
        return snapshots / names[0]
    if not names:
        raise CheckpointError(f"{snapshots} is empty: the download did not finish. Start it again.")
    raise CheckpointError(f"{path} holds several snapshots, and refs/main names none of them. Choose one: {', '.join(str(snapshots / name) for name in names)}.")


def _first_letters(path: Path) -> str:
    """What a file says that should hold a commit's name."""
    with path.open("rb") as file:
        return file.read(1000).decode("utf-8", "replace").strip()


def find_file(folder: Path, name: str) -> Path:
    """Find a file in a folder, ignoring the case of its name; without one, return the path as asked for."""
    if (folder / name).exists():
        return folder / name
    try:
        return next((path for path in sorted(folder.iterdir()) if path.name.lower() == name.lower()), folder / name)
    except OSError:
        return folder / name


def read_file(path: Path, advice: str, most: int = LARGEST) -> bytes:
    """Read a small file.

    Args:
        advice: what to do where it is missing.
        most: bytes that it may have. A larger one is not read.

    Raises:
        CheckpointError: it is missing, too large or cannot be read, or is a Git LFS pointer, a web page or the like.
    """
    if not path.is_file():
        raise CheckpointError(explain_absence(path, advice))
    if wrong := recognise(path, "JSON"):
        raise CheckpointError(wrong)
    try:
        with path.open("rb") as file:
            content = file.read(most + 1)
        if len(content) <= most:
            return content
        size = path.stat().st_size
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}.") from None
    raise CheckpointError(f"{path} has {size:,} bytes, but no such file has more than {most:,}. Download it again.")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file.

    Raises:
        CheckpointError: the file is missing, too large, no JSON, not an object, or holds numbers that are none.
    """
    return parse_object(read_file(path, "Expected it beside the weights: download the whole folder."), str(path))
