"""Models on Hugging Face by name: fetched when, and only when, a user names a repository.

    OWNER/NAME                    the files of a repository that are read here: weights, configurations, tokenizers
    OWNER/NAME:FOLDER/FILE.pth    one file of it, for example a shortcut head
    OWNER/NAME@REVISION           either, of a branch, tag or commit; the same as the argument ``revision``

What lies on disk wins: a file or folder of that name is never looked up, and what was fetched whole is not looked up again.
Files go into Hugging Face's cache or, from ComfyUI's own folder, into models/migm/OWNER/NAME. huggingface_hub does the
transfer, so its environment variables count (HF_HOME, HF_ENDPOINT, HF_HUB_OFFLINE, HF_TOKEN). Nothing fetched is run.
"""

import errno
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path, PurePosixPath

from .writing import readable, replacing

# In a pattern * stands for any letters, / included: the image tokenizer lies in a folder of its own.
FETCHED = ("*.safetensors", "*.json", "*.txt", "*.model", "*.pth", "*.ckpt", "*.yaml")
WEIGHTS = (".safetensors", ".gguf", ".pth", ".pt", ".bin", ".ckpt")
RETRIES = 3  # after a connection that breaks
RECORD = Path(".cache", "huggingface", "migm.json")  # in a folder: what was fetched into it, beside what huggingface_hub keeps there


class HubError(ValueError):
    """A repository that could not be fetched: one sentence on what was wrong and what to do."""

    def __init__(self, message: str):
        super().__init__(readable(message))


@dataclass(frozen=True)
class _Wanted:
    """What a name stands for: a repository, or one file of it, at a revision (None: the main branch)."""

    repository: str
    revision: str | None
    file: str | None

    def __str__(self) -> str:
        return self.repository + (f"@{self.revision}" if self.revision else "") + (f":{self.file}" if self.file else "")

    def select(self, files: list[str]) -> list[str]:
        """Those of a repository's files that are wanted."""
        from huggingface_hub.utils import filter_repo_objects

        if self.file:
            return [file for file in files if file == self.file]
        return list(filter_repo_objects(files, allow_patterns=list(FETCHED)))

    def under(self, folder: str | Path) -> Path:
        """The path to load, where the repository lies in a folder."""
        return Path(folder, self.file or "")


def is_repository(name: str | Path) -> bool:
    """Whether a name stands for a repository or a file of one. It asks the disk, not the network.

    A Path never does, nor the name of something on disk, nor one that ends like a weights file: that is a path with a slip in it.
    """
    return _parse(name) is not None and not os.path.lexists(name)


def resolve(name: str | Path, *, revision: str | None = None, folder: str | Path | None = None, progress: bool = True) -> Path:
    """The local path of a model: of a repository after fetching what is missing of it, of any other name that name itself.

    Args:
        revision: branch, tag or commit of a repository.
        folder: to fetch into; None for ComfyUI's model folder where that is, else Hugging Face's cache.
        progress: show bars on a terminal.

    Raises:
        HubError: a repository that is not here whole and could not be fetched.
    """
    if not is_repository(name):
        return Path(name)
    wanted = _parse(name, revision)
    folder = _target(wanted, folder)
    if found := _own(wanted, folder) or _fetched(wanted, folder):
        return found
    return _fetch(wanted, folder, progress, fall_back=True)


def download(name: str, folder: str | Path | None = None, revision: str | None = None, *, progress: bool = True) -> Path:
    """Fetch a repository or a file of one, or what has changed of it since, and return its path. Arguments as in ``resolve``.

    Unlike ``resolve`` it always asks the hub, and a file whose size is not the published one is fetched again.

    Raises:
        HubError: the name is none of a repository, or it could not be fetched.
    """
    wanted = _parse(name, revision)
    if wanted is None:
        raise HubError(f"{name!r} names no repository. Expected OWNER/NAME, or OWNER/NAME:FILE for one file of it, for example Alpha-VLLM/Lumina-DiMOO.")
    return _fetch(wanted, _target(wanted, folder), progress, fall_back=False)


def _parse(name: str | Path, revision: str | None = None) -> _Wanted | None:
    """Take a name apart; None where it has not the form of a repository's.

    Raises:
        HubError: two revisions that differ.
    """
    if not isinstance(name, str) or name.count("/") == 0 or "\\" in name:
        return None
    # What needs no library first: this runs for every path.
    match = re.fullmatch(r"([^/@:]+/[^/@:]+)(?:@([^:]+))?(?::(.+))?", name)
    if not match or PurePosixPath(match[1]).suffix.lower() in WEIGHTS:
        return None
    file = match[3]
    if file and (PurePosixPath(file).suffix.lower() not in WEIGHTS or not _stays_inside(file)):
        return None
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(match[1])
    except HFValidationError:
        return None
    if revision and match[2] and revision != match[2]:
        raise HubError(f"{name} names the revision {match[2]}, but revision {revision} was asked for too: give one of them.")
    return _Wanted(match[1], revision or match[2], file)


def _stays_inside(file: str) -> bool:
    path = PurePosixPath(file)
    return not path.is_absolute() and ".." not in path.parts and "\\" not in file and "\0" not in file


def _target(wanted: _Wanted, folder: str | Path | None) -> Path | None:
    """The folder to fetch into; None for Hugging Face's cache."""
    if folder is not None:
        return Path(folder).expanduser()
    here = Path.cwd()
    if all((here / part).exists() for part in ("main.py", "folder_paths.py", "models")):
        return here / "models" / "migm" / wanted.repository
    return None


def _own(wanted: _Wanted, folder: Path | None) -> Path | None:
    """What the user has put into the folder by other means, such as git."""
    if folder is None or wanted.revision or (folder / RECORD.parent).exists():
        return None
    path = wanted.under(folder)
    return path if path.is_file() or path.is_dir() and any(path.iterdir()) else None


def _fetched(wanted: _Wanted, folder: Path | None) -> Path | None:
    """What an earlier call has fetched, if all of it is still there: no network is needed then."""
    if folder is None:
        return _cached(wanted)
    record = _read_record(folder)
    if record.get("repository") != wanted.repository or (wanted.revision or "main") not in (record["revision"], record["commit"]):
        return None
    files = record["files"]
    if not (wanted.file in files if wanted.file else record["whole"]):
        return None
    return wanted.under(folder) if all(_size(folder / file) == files[file] for file in wanted.select(list(files))) else None


def _cached(wanted: _Wanted) -> Path | None:
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
    return wanted.under(snapshot) if files and all(_size(snapshot / file) == sizes[file] for file in files) else None


def _fetch(wanted: _Wanted, folder: Path | None, progress: bool, fall_back: bool) -> Path:
    """Fetch what is missing; where the hub cannot be reached, and if that will do, return what is there."""
    from huggingface_hub import HfApi, hf_hub_download, snapshot_download

    with _in_words(wanted, folder):
        try:
            info = HfApi().model_info(wanted.repository, revision=wanted.revision, files_metadata=True)
        except Exception as error:
            if fall_back and _is_unreachable(error) and (found := _left_behind(wanted, folder)):
                return found
            raise
        files = {sibling.rfilename: sibling.size for sibling in info.siblings or ()}
        chosen = _choose(wanted, list(files))
        here = {file: _local_file(wanted, folder, info.sha, file) for file in chosen}
        damaged = [file for file, path in here.items() if path and files[file] is not None and _size(path) != files[file]]
        if folder:
            _check_folder(wanted, folder, damaged)
        _check_room(wanted, folder, sum(files[file] or 0 for file, path in here.items() if not path or file in damaged))
        if folder:
            # First, so that a fetch that stops half way is known as such.
            _write_record(wanted, folder, info.sha, {}, whole=False)
        with _bars(progress):
            # One after another, and by hand: a stop takes effect at once and costs no more than the file on its way.
            for file in chosen:
                _patiently(hf_hub_download, wanted.repository, file, revision=info.sha, local_dir=folder, force_download=file in damaged)
        if folder is None:
            # All is there: this only notes which commit the revision is.
            with _bars(False):
                return wanted.under(snapshot_download(wanted.repository, revision=wanted.revision, allow_patterns=chosen))
        _write_record(wanted, folder, info.sha, {file: _size(folder / file) for file in chosen}, whole=wanted.file is None)
        return wanted.under(folder)


def _patiently(fetch: Callable[..., str], *args, **options) -> None:
    """Call again after a broken connection, which huggingface_hub itself does for some ways of breaking only."""
    for _ in range(RETRIES):
        try:
            fetch(*args, **options)
            return
        except Exception as error:
            if not _is_unreachable(error):
                raise
            time.sleep(1)
    fetch(*args, **options)


def _choose(wanted: _Wanted, files: list[str]) -> list[str]:
    chosen = wanted.select(files)
    if outside := [file for file in chosen if not _stays_inside(file)]:
        raise HubError(f"{wanted.repository} names a file outside its folder, {outside[0]!r}: it was not fetched.")
    if wanted.file and not chosen:
        weights = [file for file in files if PurePosixPath(file).suffix.lower() in WEIGHTS]
        near = get_close_matches(wanted.file, weights, n=3, cutoff=0.3) or weights[:3]
        raise HubError(f"{wanted.repository} has no file {wanted.file}. " + (f"It has {', '.join(near)}." if near else "It has no weights."))
    if not any(PurePosixPath(file).suffix.lower() in WEIGHTS for file in chosen):
        raise HubError(f"{wanted.repository} has no weights that are read here: expected a .safetensors, .pth or .ckpt file in it.")
    return chosen


def _local_file(wanted: _Wanted, folder: Path | None, commit: str, file: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    if folder:
        return folder / file if (folder / file).is_file() else None
    path = try_to_load_from_cache(wanted.repository, file, revision=commit)
    return Path(path) if isinstance(path, str) else None


def _check_folder(wanted: _Wanted, folder: Path, differing: list[str]) -> None:
    """Refuse to write over the files of another model."""
    of = _read_record(folder).get("repository", wanted.repository)
    if of != wanted.repository:
        raise HubError(f"{folder} holds {of}: choose another folder for {wanted.repository}.")
    if differing and not (folder / RECORD.parent).exists():
        raise HubError(f"{folder / differing[0]} is not that of {wanted.repository}: choose another folder, or remove that file.")


def _check_room(wanted: _Wanted, folder: Path | None, needed: int) -> None:
    """Refuse before the first byte what the disk cannot hold."""
    place = _place(folder)
    disk = next(path for path in (place, *place.parents) if path.exists())
    free = shutil.disk_usage(disk).free
    if needed > free:
        raise HubError(f"{place} has no room for {wanted}: it needs {needed / 1e9:,.1f} GB, and {free / 1e9:,.1f} GB are free. Free some, or choose another folder.")


def _place(folder: Path | None) -> Path:
    from huggingface_hub import constants

    return (folder or Path(constants.HF_HUB_CACHE)).absolute()


def _left_behind(wanted: _Wanted, folder: Path | None) -> Path | None:
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
    return None if _read_record(folder) else wanted.under(folder)


def _read_record(folder: Path) -> dict:
    """What was fetched into a folder: repository, revision, commit, files with their sizes, and whether those are all; {} where nothing was."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        valid = isinstance(record["files"], dict) and isinstance(record["whole"], bool) and all(isinstance(record[key], str) for key in ("repository", "revision", "commit"))
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return record if valid else {}


def _write_record(wanted: _Wanted, folder: Path, commit: str, sizes: dict[str, int | None], *, whole: bool) -> None:
    """Add files to what the record says of a commit; where it is of another one, it starts anew."""
    before = _read_record(folder)
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


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


@contextmanager
def _bars(shown: bool) -> Iterator[None]:
    """Progress bars on a terminal, or none; a choice that the user's program has made before counts again afterwards."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if shown or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


@contextmanager
def _in_words(wanted: _Wanted, folder: Path | None) -> Iterator[None]:
    try:
        yield
    except HubError:
        raise
    except Exception as error:
        said = _explain(error, wanted, _place(folder))
        if said is None:
            raise
        raise HubError(said) from error


def _explain(error: Exception, wanted: _Wanted, place: Path) -> str | None:
    """One sentence, and what to do; None for what no network and no disk can cause."""
    from huggingface_hub import constants, errors

    name = wanted.repository
    status = next((cause.response.status_code for cause in _causes(error) if getattr(cause, "response", None) is not None), None)
    if isinstance(error, errors.GatedRepoError):
        return f"{name} is gated: accept its terms at {constants.ENDPOINT}/{name}, then run `hf auth login` and try again."
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"{constants.ENDPOINT} shows no repository {name}, and nothing here has that name: check the name or, if it is private, run `hf auth login`."
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{name} has no revision {wanted.revision or 'main'}: expected one of its branches, tags or commits."
    if status in (401, 403):
        return f"{constants.ENDPOINT} refuses access to {name} (status {status}): run `hf auth login` with an account that may read it."
    if status == 416:
        return f"A part of {name} that an earlier download left in {place} is damaged: delete the .incomplete files there and start again."
    if status is not None:
        return f"{constants.ENDPOINT} answered with status {status} for {wanted}: try again later."
    if constants.HF_HUB_OFFLINE and _is_unreachable(error):
        return f"{wanted} is not here whole, and HF_HUB_OFFLINE forbids to fetch it: set it to 0, or fetch the model first."
    if _is_unreachable(error):
        return f"{constants.ENDPOINT} cannot be reached ({_first_line(error)}), and {wanted} is not here whole: check the network, then start again; finished files are kept."
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)):
        return f"The disk of {place} is full: free some room for {wanted}, then start again; finished files are kept."
    if isinstance(error, OSError) and error.errno:
        return f"{error.filename or place}: {error.strerror}."
    if isinstance(error, OSError) and "Consistency check" in str(error):
        return f"A file of {wanted} did not arrive whole: start again; finished files are kept."
    if isinstance(error, (OSError, RuntimeError)):
        return f"{wanted} could not be fetched: {_first_line(error)}."
    return None


def _is_unreachable(error: BaseException) -> bool:
    """Whether an error comes from the network, and not from a server that answered. huggingface_hub has used several libraries for that."""
    causes = list(_causes(error))
    if any(getattr(cause, "response", None) is not None for cause in causes):
        return False
    libraries = ("httpx", "httpx2", "requests", "urllib3")
    return any(isinstance(cause, (ConnectionError, TimeoutError)) or type(cause).__module__.partition(".")[0] in libraries for cause in causes)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those behind it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
