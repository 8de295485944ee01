"""Checkpoints and heads in the host's model folders: what the dropdowns list. A file that cannot be read is left out, and the log says why."""

from __future__ import annotations

import errno
import logging
import os
import re
import zipfile
from collections.abc import Collection
from pathlib import Path

import folder_paths

from ...migm_core import arguments
from ...migm_core.checkpoints import CheckpointError, TensorSource, check_head
from ...migm_core.checkpoints.files import locate
from ...migm_core.checkpoints.names import is_or_ends
from ...migm_core.checkpoints.recognise import detect_format
from ...migm_core.checkpoints.source import FileStat, file_stat
from ...migm_core.checkpoints.torch_file import TorchFile
from ...migm_core.families import FAMILIES, Family
from ...migm_core.loading import BUNDLED, BUNDLED_HEADS
from ...migm_core.writing import readable

DEMO = "bundled demo"
_TITLES = {"demo": DEMO, "demo-classes": f"{DEMO} (MaskGIT)"}  # of the bundled models and their heads
FOLDER = "migm"  # under the host's models folder, and the key in extra_model_paths.yaml
OTHER_FOLDER = "diffusion_models"  # where people keep single files
SAFETENSORS = ".safetensors"
WEIGHTS = {SAFETENSORS, ".pth", ".pt", ".bin"}
HUB_CACHE = re.compile(r"models--(.+?)--(.+)")  # a repository's folder, as the Hugging Face cache names it
MARKS = frozenset(mark for family in FAMILIES for mark in (family.base_mark, family.whole_mark, family.head_mark))
HEADER = 2**24  # bytes of a header that are looked at
LARGEST_READ = 2**28  # bytes of a file that is read whole for a list


def register_model_folder() -> None:
    """Make ``models/migm`` a model folder of the host, beside those that extra_model_paths.yaml gives it."""
    folder_paths.add_model_folder_path(FOLDER, os.path.join(folder_paths.models_dir, FOLDER))
    paths, extensions = folder_paths.folder_names_and_paths[FOLDER]
    folder_paths.folder_names_and_paths[FOLDER] = (paths, set(extensions) | WEIGHTS)


def models(*families: Family) -> dict[str, Path]:
    """Names and paths of the base models that are there, of some families or of all, the bundled ones first.

    A checkpoint folder that does not tell its family is listed with each.
    """
    families = families or FAMILIES
    files = _files(FOLDER)
    folders = _checkpoint_folders(files)
    found = {_TITLES[name]: path for name, path in BUNDLED.items() if (path / "config.json").exists() and family_of(path) in families}
    for folder in folders:
        if family_of(folder) in (None, *families):
            found.setdefault(_readable(folder), folder)
    found |= {name: path for name, path in files.items() if _is_base(path, families) and not _of_checkpoint(path, folders)}
    found |= {f"{OTHER_FOLDER}/{name}": path for name, path in _files(OTHER_FOLDER).items() if _is_base(path, families, whole=True)}
    return found


def heads() -> dict[str, Path]:
    """Names and paths of the shortcut heads that are there, the bundled ones first."""
    found = {_TITLES[name]: path for name, path in BUNDLED_HEADS.items() if path.exists()}
    files = _files(FOLDER)
    folders = _checkpoint_folders(files)
    for name, path in files.items():
        holds = _holds(path)
        untold = holds is None and path.suffix.lower() != SAFETENSORS  # loading it will tell
        if any(family.head_mark in (holds or ()) for family in FAMILIES) or untold and not _of_checkpoint(path, folders) and _is_file(path):
            found[name] = path
    return found


def look() -> None:
    """Read all headers once: the lists are made while the server waits."""
    models(), heads()


def chosen(name: str, among: dict[str, Path], what: str) -> Path:
    """The path of a dropdown's choice.

    Args:
        among: of ``models`` or ``heads``.
        what: "model" or "shortcut head".

    Raises:
        ValueError: it is not, or no longer, there, or it is damaged.
    """
    if isinstance(name, str) and name in among:
        return among[name]
    if what == "model" and isinstance(name, str) and (other := models().get(name)):
        raise ValueError(f"{name!r} is a model of the family {family_of(other).title}. Load it with MIGM Load {family_of(other).title}.")
    there = ", ".join(among) or "nothing yet"
    path = _files(FOLDER).get(name) if isinstance(name, str) else None
    if path is not None and path.suffix.lower() == SAFETENSORS:  # there, but not listed: say what is wrong with it
        source = TensorSource.open(path)
        if what == "shortcut head":
            check_head(source)
        raise ValueError(f"{path} is no {what} by itself. Found: {there}.")
    raise ValueError(f"There is no {what} {arguments.shown(name)}. Found: {there}. Put it in models/{FOLDER}, press R to refresh, and choose it again.")


def family_of(path: Path) -> Family | None:
    """The family of a checkpoint's folder or file, by the names of its tensors; None where they do not tell."""
    files = [file for file in _inside(path) if _is_model_part(file)] if path.is_dir() else [path]
    return next((family for file in files for family in FAMILIES if family.base_mark in (_holds(file) or ())), None)


def fingerprint(path: Path) -> tuple:
    """What changes when a file, or a file of a checkpoint, is replaced; empty where nothing can be read."""
    found = []
    family = family_of(path)
    try:
        files = sorted(file for folder in (path, path / "vqvae") for file in _inside(folder)) or [path]
        files += sorted(family.companions(path)) if family else []
    except OSError:
        files = [path]
    for file in files:
        try:
            if file.is_file():
                found.append((str(file), file.stat().st_mtime_ns, file.stat().st_size))
        except OSError as error:
            _skip(file, error)
    return tuple(found)


def _inside(folder: Path) -> list[Path]:
    """What lies in a folder; nothing where it is none, or cannot be read."""
    try:
        return list(folder.iterdir()) if folder.is_dir() else []
    except OSError as error:
        _skip(folder, error)
        return []


def _files(folder: str) -> dict[str, Path]:
    """Weight files of a model folder by their names in it."""
    try:
        names = [(name, folder_paths.get_full_path(folder, name)) for name in folder_paths.get_filename_list(folder)]
    except OSError as error:  # one folder within takes the host's own list away
        _skip(folder, error)
        names = [(os.path.relpath(path, root), path) for root in folder_paths.get_folder_paths(folder) for path in _walk(root)]
    found = {name.replace(os.sep, "/"): Path(path) for name, path in names if path and Path(name).suffix.lower() in WEIGHTS}
    return {name: path for name, path in found.items() if _is_text(path)}


def _is_text(path: Path) -> bool:
    """Whether a path is text, as the libraries that read files and the host's log ask for."""
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError:
        _skip(path, OSError(errno.EILSEQ, "Its name is no text in UTF-8. Rename it"))
        return False
    return True


def _walk(root: str) -> list[str]:
    return [os.path.join(folder, name) for folder, _, names in os.walk(root, followlinks=True) for name in names]


def _checkpoint_folders(files: dict[str, Path]) -> list[Path]:
    """Folders in the published layout: config.json beside model.safetensors or its shards. Any of the model folders may itself be one."""
    roots = [Path(root) for root in folder_paths.get_folder_paths(FOLDER)]
    direct = [root for root in roots if _is_file(root / "model.safetensors") or _is_file(root / "model.safetensors.index.json")]
    folders = sorted({path.parent for path in files.values() if _is_model_part(path)} - set(roots))
    return [folder for folder in (*direct, *folders) if _is_file(folder / "config.json")]


def _is_model_part(path: Path) -> bool:
    return path.name.startswith("model") and path.suffix.lower() == SAFETENSORS


def _readable(folder: Path) -> str:
    """A checkpoint folder's name in the list: its path within the model folder, or its own name where it is the model folder.

    That of a snapshot in Hugging Face's cache is its repository's; with a commit's where the cache has several and names none of them.
    """
    if folder.parent.name == "snapshots" and (hub := HUB_CACHE.fullmatch(folder.parents[1].name)):
        try:
            current = locate(folder.parents[1]) == folder
        except CheckpointError:
            current = False
        return f"{hub[1]}/{hub[2]}" + ("" if current else f" {folder.name[:7]}")
    roots = [Path(root) for root in folder_paths.get_folder_paths(FOLDER)]
    return next((folder.relative_to(root).as_posix() for root in roots if root in folder.parents), folder.name)


def _of_checkpoint(path: Path, folders: list[Path]) -> bool:
    """Whether a file belongs to one of the checkpoint folders. In a model folder itself other files lie beside a checkpoint's."""
    roots = {Path(root) for root in folder_paths.get_folder_paths(FOLDER)}
    inside = [folder for folder in folders if folder in path.parents]
    if not set(inside) <= roots:
        return True
    return bool(inside) and (_is_model_part(path) or path.name.startswith("pytorch_model") or path.parent.name == "vqvae")


def _is_base(path: Path, families: Collection[Family], whole: bool = False) -> bool:
    """Whether a file holds a base model of one of the families; and all else of a checkpoint, where that is asked."""
    holds = _holds(path) or frozenset()
    return any(family.base_mark in holds and (family.whole_mark in holds or not whole) for family in families)


_held: dict[str, tuple[FileStat | None, frozenset[str] | None]] = {}  # by path: its file_stat then, and the marks


def _holds(path: Path) -> frozenset[str] | None:
    """Which of MARKS a file's tensors have at the end of their names, remembered until the file changes; None where it does not tell."""
    try:
        if not path.is_file():  # a broken link, or a pipe, which would be waited for
            return None
        now = file_stat(path)
        seen, marks = _held.get(str(path), (None, None))
        if seen != now:
            marks = _marks(path)
            _held[str(path)] = (now, marks)
        return marks
    except OSError as error:
        _skip(path, error)
        return None


def _marks(path: Path) -> frozenset[str] | None:
    if path.suffix.lower() == SAFETENSORS:
        with path.open("rb") as file:
            header = file.read(min(int.from_bytes(file.read(8), "little"), HEADER))
        return frozenset(mark for mark in MARKS if f'{mark}"'.encode() in header)
    try:
        if _is_read_whole(path):
            return None
        names = TensorSource.open(path, data=False).shapes
    except CheckpointError:
        return None
    return frozenset(mark for mark in MARKS if any(is_or_ends(name, mark) for name in names))


def _is_read_whole(path: Path) -> bool:
    """Whether only torch.load would tell a large file's names, in the form of torch before 1.6: it reads all of it, which the host's start would wait for."""
    old = path.stat().st_size > LARGEST_READ and detect_format(path) == "torch" and not zipfile.is_zipfile(path)
    return old and TorchFile.open(path, plain=True) is None


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError as error:
        _skip(path, error)
        return False


_skipped: set[str] = set()


def _skip(path: object, error: OSError) -> None:
    """Log once that something is left out."""
    if str(path) not in _skipped:
        _skipped.add(str(path))
        logging.warning("MIGM-Shortcut: %s is left out of the lists, as it cannot be read: %s", readable(str(path)), error.strerror or error)
