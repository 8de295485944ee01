"""The trained weights in 16 bits: one file a model, and all of them in parts that are small enough to carry."""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ...checkpoints.save import stored
from ...checkpoints.write import write_tensors

MODELS = ("reader", "tokenizer", "base", "head", "classes", "class-head")
PART_BYTES = int(15.8 * 2**20)


def save(folder: Path, name: str, model: nn.Module) -> None:
    """Write a model's weights to ``folder/name.safetensors``, in float16."""
    write_tensors(folder / f"{name}.safetensors", stored(model, torch.float16), {})


def load(folder: Path, name: str) -> dict[str, Tensor] | None:
    """What ``save`` wrote, in float32; None where there is nothing."""
    path = folder / f"{name}.safetensors"
    return {key: value.float() for key, value in load_file(path).items()} if path.exists() else None


def pack(folder: Path, out: Path) -> None:
    """Write all models' weights to ``out/weights-1.safetensors`` and so on, each below 16 MiB unless one tensor is larger."""
    found = {}
    for name in MODELS:
        if (folder / f"{name}.safetensors").exists():
            found |= {f"{name}.{key}": value for key, value in load_file(folder / f"{name}.safetensors").items()}
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


def unpack(source: Path, folder: Path) -> list[str]:
    """Write the models' files again from the parts in ``source``, where they are not there yet; which models were found."""
    found: dict[str, dict[str, Tensor]] = {}
    for path in sorted(source.glob("weights-*.safetensors")):
        for key, value in load_file(path).items():
            name, key = key.split(".", 1)
            found.setdefault(name, {})[key] = value
    for name, weights in found.items():
        if not (folder / f"{name}.safetensors").exists():
            write_tensors(folder / f"{name}.safetensors", weights, {})
    return list(found)
