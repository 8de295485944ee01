"""Text from a model that the host places: the rows of its output projection that only text needs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import comfy.model_management
import torch
from torch import Tensor, nn

from ...migm_core.diagnosis import named_culprit
from ...migm_core.families.lumina_dimoo.config import LuminaConfig
from ...migm_core.families.lumina_dimoo.text_output import read_text_output
from ...migm_core.families.lumina_dimoo.text_settings import TextSettings
from ...migm_core.sampling.guidance import LOGITS_AT_ONCE
from ...migm_core.threads import suited_threads
from .operations import operations
from .weights import LoadedModel, handle_of, is_dynamic, leave_files, reader_for, visiting_bytes


class TextOutput(nn.Module):
    """Every row of a base's output projection, as a model of its own: features (..., d_model) to logits (..., vocab_size)."""

    def __init__(self, linear: nn.Module):
        super().__init__()
        self.linear = linear

    def forward(self, features: Tensor) -> Tensor:
        return self.linear(features)


@contextmanager
def prepare_text(model: LoadedModel, rows: int, length: int, settings: TextSettings) -> Iterator[None]:
    """Have the host load what text needs; a block in which the model runs on the number of CPU threads that serves it.

    Args:
        rows, length: of the sequences that are computed at once, in tokens.

    Raises:
        CheckpointError: numbers in the block are not finite; it names what to blame.
    """
    handles = [model.base, _text_output(model)]
    if is_dynamic(model.base):
        handles.reverse()  # the first named keeps its place longest; the text rows run once a pass
    config = model.checkpoint.base.config
    needed = visiting_bytes(model) + text_bytes(config, model.dtype, rows, length, settings)
    comfy.model_management.load_models_gpu(handles, memory_required=needed)
    with named_culprit(model.checkpoint), suited_threads(config, model.device):
        yield


def text_bytes(config: LuminaConfig, dtype: torch.dtype, rows: int, length: int, settings: TextSettings) -> int:
    """Most bytes that a pass needs beside the weights: see ``prepare_text``."""
    positions = rows * length
    features = positions * config.width * dtype.itemsize + config.table_bytes(length)
    # Of one part of the tokens: each row's logits as they come and in float32; guided, the scores and their softmax in float64.
    logits = LOGITS_AT_ONCE * (rows * (dtype.itemsize + 4) + 3 * 8)
    noise = settings.block * config.vocab_size * 8 if settings.temperature > 0 else 0
    kept = config.cache_bytes(positions, dtype) if settings.cache else 0
    return features + kept + max(config.pass_bytes(positions, dtype), logits + noise)


def _text_output(model: LoadedModel):
    """The host's handle on the text rows, which are read when they are first needed.

    They are no part of the base's modules: so the host need not load the base anew, and can free the one without the other.
    """
    if not model.text:
        base, offload = model.checkpoint.base, model.base.offload_device
        dtype = base.wte.weight.dtype
        made = operations(dtype, model.dtype, model.device, offload)
        rows = TextOutput(read_text_output(model.checkpoint, dtype, offload, operations=made, reader=reader_for(model.device)))
        leave_files(rows)
        handle = handle_of(rows, model.device, offload)
        vars(base)["text_out"] = handle.model
        model.text.append(handle)
    return model.text[0]
