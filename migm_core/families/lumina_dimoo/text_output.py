"""The rows of the output projection that text needs: images need those of their codes only, and so no more are loaded at first."""

import torch
from torch import Tensor, nn

from ...checkpoints.checkpoint import Checkpoint
from ...checkpoints.errors import CheckpointError
from ...checkpoints.fill import copy_to_memory, fill
from ...checkpoints.quantised import plainly_spelled, quantised_layers, whole
from ...checkpoints.source import Reader, TensorSource, file_stat
from ...modules import uninitialised
from .names import BASE_PREFIX

_LAYER = "ff_out"


def load_text_output(checkpoint: Checkpoint) -> None:
    """Give a checkpoint's base ``text_out``, every row of its output projection, where it has not got them yet.

    For Lumina-DiMOO 8B these are 1.1 GB in 16-bit; on a CPU they stay memory-mapped where the file has the base's dtype.

    Raises:
        CheckpointError: the checkpoint's file is gone, damaged or another one than was loaded.
    """
    base = checkpoint.base
    if not base.has_text:
        rows = read_text_output(checkpoint, base.ff_out.weight.dtype, base.device)
        if not checkpoint.mapped:
            copy_to_memory(rows)
        base.text_out = rows


def read_text_output(checkpoint: Checkpoint, dtype: torch.dtype, device: torch.device, *, operations=uninitialised, reader: Reader | None = None) -> nn.Module:
    """Every row of the output projection as a layer: (..., d_model) to (..., vocab_size).

    Args:
        dtype, device: of its weight.
        operations: namespace with Linear.
        reader: a host's own way to map .safetensors files.

    Raises:
        CheckpointError: the checkpoint's file is gone, damaged or another one than was loaded.
    """
    base = checkpoint.base
    source = plainly_spelled(TensorSource.open(checkpoint.path, reader).prefixed(BASE_PREFIX))
    layers = quantised_layers(source, BASE_PREFIX)
    found, expected = source.shapes.get(f"{_LAYER}.weight"), (base.config.vocab_size, base.config.d_model)
    if _LAYER not in layers and found != expected:
        raise CheckpointError(f"{source.path}: {BASE_PREFIX}{_LAYER}.weight is {list(found or ())}, expected {list(expected)}. Has the file changed? Load it again.")

    def read(name: str) -> Tensor:
        return whole(source, _LAYER, None) if _LAYER in layers else source.get(f"{_LAYER}.{name}")

    linear = operations.Linear(base.config.d_model, base.config.vocab_size, bias=False, dtype=dtype, device=torch.device("meta"))
    filled = fill(linear, ["weight"], read, device, source.path)
    if not checkpoint.file_stats == source.file_stats == {path: file_stat(path) for path in source.file_stats}:  # else these are rows of another model
        raise CheckpointError(f"{checkpoint.path} was replaced after the model was loaded, and the rows that text needs are read only now. Load it again.")
    return filled
