"""The trained weights in 16 bits: one file a model, and all of them in parts that are small enough to carry."""

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from ...checkpoints.errors import CheckpointError
from ...checkpoints.save import stored
from ...checkpoints.source import check_safetensors
from ...checkpoints.write import write_tensors

MODELS = ("reader", "tokenizer", "base", "tasks", "head", "classes", "class-head")
PART_BYTES = int(15.8 * 2**20)


def save(folder: Path, name: str, model: nn.Module) -> None:
    """Write a model's weights to ``folder/name.safetensors``, in float16."""
    write_tensors(folder / f"{name}.safetensors", stored(model, torch.float16), {})


def load(folder: Path, name: str, model: nn.Module) -> dict[str, Tensor] | None:
    """What ``save`` wrote, in float32; None where there is nothing.

    Raises:
        CheckpointError: the file is damaged, or does not hold the tensors of such a model.
    """
    path = folder / f"{name}.safetensors"
    return read_for(path, model) if path.exists() else None


def read_for(path: Path, model: nn.Module) -> dict[str, Tensor]:
    """A model's state from a file, what is floating point in float32.

    Args:
        model: on any device; nothing is written into it.

    Raises:
        CheckpointError: the file is damaged, or does not hold the tensors of such a model.
    """
    found, expected = read(path), model.state_dict()
    for name in (*expected, *found):
        theirs, ours = (tuple(each[name].shape) if name in each else None for each in (found, expected))
        if theirs != ours:
            said = "lacks" if theirs is None else "holds"
            shapes = "" if theirs is None or ours is None else f" in the shape {list(theirs)}, expected {list(ours)}"
            raise CheckpointError(f"{path} {said} {name}{shapes}: it is of another model, or of another --size. Remove it, or choose another folder.")
    return {name: value.float() if value.is_floating_point() else value for name, value in found.items()}


def read(path: Path) -> dict[str, Tensor]:
    """A .safetensors file's tensors.

    Raises:
        CheckpointError: it is damaged, or something else.
    """
    check(path)
    return load_file(path)


def check(path: Path) -> None:
    """Refuse what is no .safetensors file, by its header.

    Raises:
        CheckpointError: it is damaged, or something else.
    """
    check_safetensors(path)
    try:
        with safe_open(path, "pt"):
            pass
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged or not a safetensors file: {error}. Remove it, or choose another folder.") from None


def pack(folder: Path, out: Path) -> None:
    """Write all models' weights to ``out/weights-1.safetensors`` and so on, each below 16 MiB unless one tensor is larger."""
    found = {}
    for name in MODELS:
        if name == "base" and (folder / "tasks.safetensors").exists():
            continue  # which knows more
        if (folder / f"{name}.safetensors").exists():
            found |= {f"{name}.{key}": value for key, value in read(folder / f"{name}.safetensors").items()}
    parts: list[dict[str, Tensor]] = [{}]
    filled = 0
    for key, value in found.items():
        if filled + value.nbytes > PART_BYTES and parts[-1]:
            parts.append({})
            filled = 0
        parts[-1][key] = value
        filled += value.nbytes
    for number, part in enumerate(parts, 1):
        write_tensors(out / f"weights-{number}.safetensors", part, {})


def any_in(folder: Path) -> bool:
    """Whether a model has learned here."""
    return any((folder / f"{name}.safetensors").exists() or (folder / name).exists() for name in MODELS)


def unpack(source: Path, folder: Path) -> list[str]:
    """Write the models' files again from the parts in ``source``, where they are not there yet; which models were written."""
    found: dict[str, dict[str, Tensor]] = {}
    for path in sorted(source.glob("weights-*.safetensors")):
        for key, value in read(path).items():
            name, _, key = key.partition(".")
            if name not in MODELS or not key:
                raise CheckpointError(f"{path} holds {name}.{key}, but expected names that begin with one of {', '.join(MODELS)}. Choose a folder that --out has written.")
            found.setdefault(name, {})[key] = value
    new = {name: weights for name, weights in found.items() if not (folder / f"{name}.safetensors").exists()}
    for name, weights in new.items():
        write_tensors(folder / f"{name}.safetensors", weights, {})
    return list(new)
