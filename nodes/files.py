"""Checkpoints and heads in the host's model folders: what the dropdowns list. A file that cannot be read is left out, and the log says why."""

from __future__ import annotations

import errno
import logging
import os
import re
from pathlib import Path

import folder_paths

from ..migm_core.checkpoints import CheckpointError, TensorSource
from ..migm_core.checkpoints.files import locate, read_json
from ..migm_core.checkpoints.load import check_head
from ..migm_core.checkpoints.names import TEXT_TOKENIZER_KEY
from ..migm_core.pipeline import DEMO, DEMO_HEAD
from ..migm_core.writing import readable

BUNDLED = "bundled demo"
FOLDER = "migm"  # under the host's models folder, and the key in extra_model_paths.yaml
OTHER_FOLDER = "diffusion_models"  # where people keep single files
SAFETENSORS = ".safetensors"
WEIGHTS = {SAFETENSORS, ".pth", ".pt", ".bin"}
HUB_CACHE = re.compile(r"models--(.+?)--(.+)")  # a repository's folder, as the Hugging Face cache names it
# Ends of the names of tensors by which a file is known; what stands before them differs from file to file.
BASE = 'wte.weight"'
TEXT_TOKENIZER = f'{TEXT_TOKENIZER_KEY}"'
HEAD = 'blocks.0.self_attn.ff_proj.weight"'
HEADER = 2**24  # bytes of a header that are looked at


def register_model_folder() -> None:
    """Make ``models/migm`` a model folder of the host, beside those that extra_model_paths.yaml gives it."""
    folder_paths.add_model_folder_path(FOLDER, os.path.join(folder_paths.models_dir, FOLDER))
    paths, extensions = folder_paths.folder_names_and_paths[FOLDER]
    folder_paths.folder_names_and_paths[FOLDER] = (paths, set(extensions) | WEIGHTS)


def models() -> dict[str, Path]:
    """Names and paths of the base models that are there, the bundled one first."""
    found = {BUNDLED: DEMO} if (DEMO / "config.json").exists() else {}
    files = _files(FOLDER)
    folders = _checkpoint_folders(files)
    for folder in folders:
        found.setdefault(_readable(folder), folder)
    found |= {name: path for name, path in files.items() if BASE in _holds(path) and not _of_checkpoint(path, folders)}
    found |= {f"{OTHER_FOLDER}/{name}": path for name, path in _files(OTHER_FOLDER).items() if {BASE, TEXT_TOKENIZER} <= _holds(path)}
    return found


def heads() -> dict[str, Path]:
    """Names and paths of the shortcut heads that are there, the bundled one first."""
    found = {BUNDLED: DEMO_HEAD} if DEMO_HEAD.exists() else {}
    files = _files(FOLDER)
    folders = _checkpoint_folders(files)
    for name, path in files.items():
        unknown = path.suffix.lower() != SAFETENSORS  # only reading it whole would tell
        if HEAD in _holds(path) or unknown and not _of_checkpoint(path, folders) and _is_file(path):
            found[name] = path
    return found


def look() -> None:
    """Read all headers once: the lists are made while the server waits."""
    models(), heads()


def chosen(name: str, among: dict[str, Path], what: str) -> Path:
    """The path of a dropdown's choice.

    Args:
        among: ``models()`` or ``heads()``.
        what: "model" or "shortcut head".

    Raises:
        ValueError: it is not, or no longer, there, or it is damaged.
    """
    if isinstance(name, str) and name in among:
        return among[name]
    there = ", ".join(among) or "nothing yet"
    path = _files(FOLDER).get(name) if isinstance(name, str) else None
    if path is not None and path.suffix.lower() == SAFETENSORS:  # there, but not listed: say what is wrong with it
        source = TensorSource.open(path)
        if what == "shortcut head":
            check_head(source)
        raise ValueError(f"{path} is no {what} by itself. Found: {there}.")
    raise ValueError(f"There is no {what} {name!r}. Found: {there}. Put it in models/{FOLDER}, press R to refresh, and choose it again.")


def generation_config(path: Path) -> dict:
    """What a checkpoint says of its own runs; {} where it says nothing.

    Raises:
        ValueError: its files are bad.
    """
    return _json(path, "generation_config.json", "generation_config", missing={})


def configs(path: Path) -> tuple[dict, dict]:
    """The config.json of a checkpoint's base model and that of its image tokenizer.

    Raises:
        ValueError: its files are bad.
    """
    return _json(path, "config.json", "config"), _json(path, "vqvae/config.json", "vqvae_config")


def stamp(path: Path) -> tuple:
    """What changes when a file, or a file of a checkpoint folder, is replaced; empty where nothing can be read."""
    found = []
    try:
        files = sorted(p for folder in (path, path / "vqvae") if folder.is_dir() for p in folder.iterdir()) or [path]
    except OSError:
        files = [path]
    for file in files:
        try:
            if file.is_file():
                found.append((str(file), file.stat().st_mtime_ns, file.stat().st_size))
        except OSError as error:
            _skip(file, error)
    return tuple(found)


def _json(path: Path, file: str, key: str, missing: dict | None = None) -> dict:
    """A JSON object of a checkpoint: a file of its folder, or an entry in the metadata of its single file."""
    if not path.is_dir():
        return TensorSource.open(path).metadata_json(key)
    return read_json(path / file) if missing is None or (path / file).exists() else missing


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


_held: dict[tuple, frozenset[str]] = {}


def _holds(path: Path) -> frozenset[str]:
    """Which of BASE, TEXT_TOKENIZER and HEAD a safetensors file holds, by its header; remembered until the file changes."""
    if path.suffix.lower() != SAFETENSORS:
        return frozenset()
    try:
        if not path.is_file():  # a broken link, or a pipe, which would be waited for
            return frozenset()
        key = (str(path), path.stat().st_mtime_ns, path.stat().st_size)
        if key not in _held:
            with path.open("rb") as file:
                header = file.read(min(int.from_bytes(file.read(8), "little"), HEADER))
            _held[key] = frozenset(name for name in (BASE, TEXT_TOKENIZER, HEAD) if name.encode() in header)
        return _held[key]
    except OSError as error:
        _skip(path, error)
        return frozenset()


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
