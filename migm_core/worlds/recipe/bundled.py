"""The bundled models as weights to go on from: the other way of ``assemble``."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from ...checkpoints import load_checkpoint, load_head
from ...checkpoints.quantised import SCALE, WEIGHT
from ...checkpoints.save import stored
from ...checkpoints.write import write_tensors
from ...loading import BUNDLED, BUNDLED_HEADS
from ...modules.quantised import dequantise

PARTS = {"demo": ("base", "head"), "demo-classes": ("classes", "class-head")}  # what the recipe calls a model and its head


def take_apart(folder: Path) -> list[str]:
    """Write the bundled models' parts to ``folder``, where they are not there yet; which were written.

    Raises:
        CheckpointError: a bundled file is missing or damaged.
    """
    parts: dict[str, Callable[[], nn.Module]] = {}
    for model, (base, head) in PARTS.items():
        checkpoint = load_checkpoint(BUNDLED[model], dtype="fp32", output_rows="all")
        parts.setdefault("tokenizer", lambda of=checkpoint: of.image_tokenizer)  # the VQGAN of the second is the same one
        parts |= {base: lambda of=checkpoint: of.base, head: lambda of=checkpoint, path=BUNDLED_HEADS[model]: load_head(path, of.base.config, dtype=torch.float32)}
    new = {name: part for name, part in parts.items() if not (folder / f"{name}.safetensors").exists()}
    for name, part in new.items():
        write_tensors(folder / f"{name}.safetensors", stored(_plain(part()), torch.float16), {})
    return list(new)


def _plain(model: nn.Module) -> dict[str, Tensor]:
    """A model's state without quantised weights."""
    state = model.state_dict()
    scales = {name: state.pop(name) for name in list(state) if name.endswith(SCALE)}
    for name, scale in scales.items():
        weight = name.removesuffix(SCALE) + WEIGHT
        state[weight] = dequantise(state[weight], scale, torch.float32)
    return state
