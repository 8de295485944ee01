"""Fetch what is missing of a repository: ask, check, transfer file by file, and note what is there."""

import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path, PurePosixPath

from .errors import HubError
from .explain import in_words, is_unreachable
from .folders import RECORD, left_behind, place_of, read_record, size, write_record
from .names import WEIGHTS, Wanted, stays_inside

MOST_FILES = 1000  # of a repository
RETRIES = 3  # after a connection that breaks


def fetch(wanted: Wanted, folder: Path | None, progress: bool, fall_back: bool) -> Path:
    """Fetch what is missing; where the hub cannot be reached, and if that will do, return what is there."""
    from huggingface_hub import hf_hub_download, snapshot_download

    with in_words(wanted, folder):
        try:
            commit, files = _ask(wanted)
        except Exception as error:
            if fall_back and is_unreachable(error) and (found := left_behind(wanted, folder)):
                return found
            raise
        chosen = _choose(wanted, list(files))
        here = {file: _local_file(wanted, folder, commit, file) for file in chosen}
        damaged = [file for file, path in here.items() if path and files[file] is not None and size(path) != files[file]]
        if folder:
            _check_folder(wanted, folder, damaged)
        check_room(wanted, folder, sum(files[file] or 0 for file, path in here.items() if not path or file in damaged))
        if folder:
            # First, so that a fetch that stops half way is known as such.
            write_record(wanted, folder, commit, {}, whole=False)
        with _bars(progress):
            # One after another, and by hand: a stop takes effect at once and costs no more than the file on its way.
            for file in chosen:
                _patiently(hf_hub_download, wanted.repository, file, revision=commit, local_dir=folder, force_download=file in damaged)
        if folder is None:
            # All is there: this only notes which commit the revision is.
            with _bars(False):
                return wanted.under(snapshot_download(wanted.repository, revision=wanted.revision, allow_patterns=chosen))
        write_record(wanted, folder, commit, {file: size(folder / file) for file in chosen}, whole=wanted.file is None)
        return wanted.under(folder)


def _ask(wanted: Wanted) -> tuple[str, dict[str, int | None]]:
    """The commit of a repository's revision and its files with their sizes.

    Raises:
        HubError: the hub's answer is not understood.
    """
    from huggingface_hub import HfApi, constants

    try:
        info = HfApi().model_info(wanted.repository, revision=wanted.revision, files_metadata=True)
        files = {sibling.rfilename: sibling.size for sibling in info.siblings or ()}
        understood = re.fullmatch("[0-9a-f]{7,64}", info.sha) and all(isinstance(name, str) and isinstance(size, (int, type(None))) for name, size in files.items())
    except (TypeError, AttributeError, LookupError, ValueError, RecursionError) as error:  # JSON of another form, or none
        if getattr(error, "response", None) is not None or isinstance(error, OSError):
            raise
        understood = False
    if not understood:
        raise HubError(f"{constants.ENDPOINT} gave an answer for {wanted} that is not understood: check HF_ENDPOINT, or try again later.")
    return info.sha, files


def _patiently(transfer: Callable[..., str], *args, **options) -> None:
    """Call again after a broken connection, which huggingface_hub itself does for some ways of breaking only."""
    for _ in range(RETRIES):
        try:
            transfer(*args, **options)
            return
        except Exception as error:
            if not is_unreachable(error):
                raise
            time.sleep(1)
    transfer(*args, **options)


def _choose(wanted: Wanted, files: list[str]) -> list[str]:
    chosen = wanted.select(files)
    if outside := [file for file in chosen if not stays_inside(file)]:
        raise HubError(f"{wanted.repository} names a file outside its folder, {outside[0]!r}: it was not fetched.")
    if wanted.file and not chosen:
        weights = [file for file in files if PurePosixPath(file).suffix.lower() in WEIGHTS]
        near = get_close_matches(wanted.file, weights, n=3, cutoff=0.3) or weights[:3]
        raise HubError(f"{wanted.repository} has no file {wanted.file}. " + (f"It has {', '.join(near)}." if near else "It has no weights."))
    if len(chosen) > MOST_FILES:
        raise HubError(f"{wanted.repository} has {len(chosen):,} files to fetch, but no model known here has more than {MOST_FILES:,}: name one of them, as OWNER/NAME:FILE.")
    if not any(PurePosixPath(file).suffix.lower() in WEIGHTS for file in chosen):
        raise HubError(f"{wanted.repository} has no weights that are read here: expected a .safetensors, .pth or .ckpt file in it.")
    return chosen


def _local_file(wanted: Wanted, folder: Path | None, commit: str, file: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    if folder:
        return folder / file if (folder / file).is_file() else None
    path = try_to_load_from_cache(wanted.repository, file, revision=commit)
    return Path(path) if isinstance(path, str) else None


def _check_folder(wanted: Wanted, folder: Path, differing: list[str]) -> None:
    """Refuse to write over the files of another model."""
    of = read_record(folder).get("repository", wanted.repository)
    if of != wanted.repository:
        raise HubError(f"{folder} holds {of}: choose another folder for {wanted.repository}.")
    if differing and not (folder / RECORD.parent).exists():
        raise HubError(f"{folder / differing[0]} is not that of {wanted.repository}: choose another folder, or remove that file.")


def check_room(wanted: Wanted, folder: Path | None, needed: int) -> None:
    """Refuse before the first byte what the disk cannot hold."""
    place = place_of(folder)
    disk = next(path for path in (place, *place.parents) if path.exists())
    free = shutil.disk_usage(disk).free
    if needed > free:
        raise HubError(f"{place} has no room for {wanted}: it needs {needed / 1e9:,.1f} GB, and {free / 1e9:,.1f} GB are free. Free some, or choose another folder.")


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
