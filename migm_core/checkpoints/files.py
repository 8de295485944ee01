"""Folders and small files on disk: the snapshot in a cache folder, names in other letters, JSON; every failure in words."""

import json
from pathlib import Path

from .errors import CheckpointError
from .recognise import explain_absence, recognise


def locate(path: str | Path) -> Path:
    """A path as given, or, for a folder of Hugging Face's cache (models--...), that of the snapshot in it.

    That is the one that refs/main names, or the only one.

    Raises:
        CheckpointError: nothing there, or a cache folder without a snapshot, or with several to choose from.
    """
    path = Path(path)
    try:
        if not path.exists():
            raise CheckpointError(explain_absence(path, "Check the path, or download the model first."))
        snapshots = path / "snapshots"
        if not snapshots.is_dir() or (path / "config.json").exists():
            return path
        names = sorted(folder.name for folder in snapshots.iterdir() if folder.is_dir())
        main = path / "refs" / "main"
        said = main.read_text(encoding="utf-8", errors="replace").strip() if main.is_file() else ""
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


def find_file(folder: Path, name: str) -> Path:
    """A file of a folder, whatever the case of its letters there; the path as asked for where there is none."""
    if (folder / name).exists():
        return folder / name
    try:
        return next((path for path in sorted(folder.iterdir()) if path.name.lower() == name.lower()), folder / name)
    except OSError:
        return folder / name


def read_file(path: Path, advice: str) -> bytes:
    """The bytes of a small file.

    Raises:
        CheckpointError: it is missing or cannot be read, or is a Git LFS pointer, a web page or the like.
    """
    if not path.is_file():
        raise CheckpointError(explain_absence(path, advice))
    if wrong := recognise(path, "JSON"):
        raise CheckpointError(wrong)
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}.") from None


def read_json(path: Path) -> dict:
    """A JSON object from a file.

    Raises:
        CheckpointError: the file is missing, no JSON, or not an object.
    """
    content = read_file(path, "Expected it beside the weights: download the whole folder.")
    try:
        values = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}. Download it again.") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {type(values).__name__}.")
    return values
