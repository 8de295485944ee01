"""Checkpoints and heads in the host's model folders: what the dropdowns list."""

from __future__ import annotations

import os
from pathlib import Path

import folder_paths

from ..migm_core.checkpoints import TensorSource
from ..migm_core.checkpoints.load import BASE_PREFIX, SETTINGS, TEXT_TOKENIZER_KEY
from ..migm_core.checkpoints.source import read_json
from ..migm_core.pipeline import DEMO, DEMO_HEAD

BUNDLED = "bundled demo"
FOLDER = "migm"  # under the host's models folder, and the key in extra_model_paths.yaml
OTHER_FOLDER = "diffusion_models"  # where people keep single files
WEIGHTS = {".safetensors", ".pth", ".pt", ".bin"}
# Tensors by which a file is known, as its header names them.
BASE = f'"{BASE_PREFIX}wte.weight"'
TEXT_TOKENIZER = f'"{TEXT_TOKENIZER_KEY}"'
HEAD = '"blocks.0.self_attn.ff_proj.weight"'


def register_model_folder() -> None:
    """Make ``models/migm`` a model folder of the host, beside those that extra_model_paths.yaml gives it."""
    folder_paths.add_model_folder_path(FOLDER, os.path.join(folder_paths.models_dir, FOLDER))
    paths, extensions = folder_paths.folder_names_and_paths[FOLDER]
    folder_paths.folder_names_and_paths[FOLDER] = (paths, set(extensions) | WEIGHTS)


def models() -> dict[str, Path]:
    """Names and paths of the base models that are there, the bundled one first."""
    found = {BUNDLED: DEMO} if (DEMO / "config.json").exists() else {}
    files = _files(FOLDER)
    for name in _checkpoint_folders(files):
        found[name] = next(path.parent for file, path in files.items() if _folder(file) == name)
    found |= {name: path for name, path in files.items() if BASE in _holds(path) and not _in_checkpoint(name, found)}
    found |= {f"{OTHER_FOLDER}/{name}": path for name, path in _files(OTHER_FOLDER).items() if {BASE, TEXT_TOKENIZER} <= _holds(path)}
    return found


def heads() -> dict[str, Path]:
    """Names and paths of the shortcut heads that are there, the bundled one first."""
    found = {BUNDLED: DEMO_HEAD} if DEMO_HEAD.exists() else {}
    files = _files(FOLDER)
    folders = _checkpoint_folders(files)
    for name, path in files.items():
        unknown = path.suffix != ".safetensors"  # only reading it whole would tell
        if HEAD in _holds(path) or unknown and not _in_checkpoint(name, folders):
            found[name] = path
    return found


def chosen(name: str, among: dict[str, Path], what: str) -> Path:
    """The path of a dropdown's choice.

    Raises:
        ValueError: it is not, or no longer, there.
    """
    if name not in among:
        there = ", ".join(among) or "nothing yet"
        raise ValueError(f"There is no {what} {name!r}. Found: {there}. Put it in models/{FOLDER}, press R to refresh, and choose it again.")
    return among[name]


def own_settings(path: Path) -> dict:
    """A checkpoint's own settings of a run, without loading it.

    Raises:
        ValueError: its files are bad.
    """
    file = path / "generation_config.json"
    if path.is_dir():
        said = read_json(file) if file.exists() else {}
    else:
        said = TensorSource.open(path).metadata_json("generation_config")
    return SETTINGS | {name: said[name] for name in SETTINGS if said.get(name) is not None}


def stamp(path: Path) -> tuple:
    """What changes when a file, or a file of a checkpoint folder, is replaced."""
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    return tuple((str(p), p.stat().st_mtime_ns, p.stat().st_size) for p in files if p.exists())


def _files(folder: str) -> dict[str, Path]:
    names = [name for name in folder_paths.get_filename_list(folder) if Path(name).suffix in WEIGHTS]
    paths = ((name, folder_paths.get_full_path(folder, name)) for name in names)
    return {name.replace(os.sep, "/"): Path(path) for name, path in paths if path}


def _folder(name: str) -> str:
    return name.rpartition("/")[0]


def _checkpoint_folders(files: dict[str, Path]) -> list[str]:
    """Folders in the published layout: config.json beside model.safetensors or its shards."""
    weights = ((_folder(name), path) for name, path in files.items() if path.name.startswith("model") and path.suffix == ".safetensors")
    return sorted({folder for folder, path in weights if folder and (path.parent / "config.json").exists()})


def _in_checkpoint(name: str, folders) -> bool:
    return any(f"{parent}".replace(os.sep, "/") in folders for parent in Path(name).parents)


_held: dict[tuple, frozenset[str]] = {}


def _holds(path: Path) -> frozenset[str]:
    """Which of BASE, TEXT_TOKENIZER and HEAD a safetensors file holds, by its header; remembered until the file changes."""
    key = stamp(path)
    if path.suffix != ".safetensors" or not key:
        return frozenset()
    if key not in _held:
        with path.open("rb") as file:
            header = file.read(min(int.from_bytes(file.read(8), "little"), 2**24))
        _held[key] = frozenset(name for name in (BASE, TEXT_TOKENIZER, HEAD) if name.encode() in header)
    return _held[key]
