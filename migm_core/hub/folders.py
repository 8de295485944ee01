"""Where what was fetched lies: in a folder, with a record of it, or in Hugging Face's cache."""

import json
from pathlib import Path

from ..writing import replacing
from .names import Wanted

RECORD = Path(".cache", "huggingface", "migm.json")  # in a folder: what was fetched into it, beside what huggingface_hub keeps there


def target(wanted: Wanted, folder: str | Path | None) -> Path | None:
    """The folder to fetch into; None for Hugging Face's cache."""
    if folder is not None:
        return Path(folder).expanduser()
    here = Path.cwd()
    if all((here / part).exists() for part in ("main.py", "folder_paths.py", "models")):
        return here / "models" / "migm" / wanted.repository
    return None


def own(wanted: Wanted, folder: Path | None) -> Path | None:
    """What the user has put into the folder by other means, such as git."""
    if folder is None or wanted.revision or (folder / RECORD.parent).exists():
        return None
    path = wanted.under(folder)
    return path if path.is_file() or path.is_dir() and any(path.iterdir()) else None


def fetched(wanted: Wanted, folder: Path | None) -> Path | None:
    """What an earlier call has fetched, if all of it is still there: no network is needed then."""
    if folder is None:
        return _cached(wanted)
    record = read_record(folder)
    if record.get("repository") != wanted.repository or (wanted.revision or "main") not in (record["revision"], record["commit"]):
        return None
    files = record["files"]
    if not (wanted.file in files if wanted.file else record["whole"]):
        return None
    return wanted.under(folder) if all(size(folder / file) == files[file] for file in wanted.select(list(files))) else None


def _cached(wanted: Wanted) -> Path | None:
    """The same in Hugging Face's cache. It keeps lists of what belongs to a snapshot only in recent versions of huggingface_hub."""
    try:
        from huggingface_hub import get_cached_repo_tree, snapshot_download
        from huggingface_hub.errors import CachedRepoTreeNotFoundError, LocalEntryNotFoundError
    except ImportError:
        return None
    try:
        sizes = {entry.path: entry.size for entry in get_cached_repo_tree(wanted.repository, revision=wanted.revision)}
        files = wanted.select(list(sizes))
        snapshot = Path(snapshot_download(wanted.repository, revision=wanted.revision, allow_patterns=files, local_files_only=True))
    except (CachedRepoTreeNotFoundError, LocalEntryNotFoundError):
        return None
    return wanted.under(snapshot) if files and all(size(snapshot / file) == sizes[file] for file in files) else None


def left_behind(wanted: Wanted, folder: Path | None) -> Path | None:
    """What is here of a repository that cannot be asked whether that is all of it. What is missing the loader will say."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    if folder is None:
        try:
            path = wanted.under(snapshot_download(wanted.repository, revision=wanted.revision, local_files_only=True))
        except LocalEntryNotFoundError:
            return None
        return path if path.exists() else None
    # Of which revision it is, an unfinished folder does not say.
    if wanted.revision or not wanted.select([path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]):
        return None
    return None if read_record(folder) else wanted.under(folder)


def place_of(folder: Path | None) -> Path:
    from huggingface_hub import constants

    return (folder or Path(constants.HF_HUB_CACHE)).absolute()


def read_record(folder: Path) -> dict:
    """What was fetched into a folder: repository, revision, commit, files with their sizes, and whether those are all; {} where nothing was."""
    if not (folder / RECORD).is_file():
        return {}
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        valid = isinstance(record["files"], dict) and isinstance(record["whole"], bool) and all(isinstance(record[key], str) for key in ("repository", "revision", "commit"))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}
    return record if valid else {}


def write_record(wanted: Wanted, folder: Path, commit: str, sizes: dict[str, int | None], *, whole: bool) -> None:
    """Add files to what the record says of a commit; where it is of another one, it starts anew."""
    before = read_record(folder)
    same = before.get("commit") == commit
    record = {
        "repository": wanted.repository,
        "revision": wanted.revision or "main",
        "commit": commit,
        "files": {**(before["files"] if same else {}), **sizes},
        "whole": whole or same and before["whole"],
    }
    (folder / RECORD).parent.mkdir(parents=True, exist_ok=True)
    with replacing(folder / RECORD) as file:
        file.write(json.dumps(record, indent=1).encode())


def size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None
