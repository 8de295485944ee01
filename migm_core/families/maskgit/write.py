"""MaskGIT's models to files: one self-contained file, or a part of it by itself."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from ...checkpoints.convert import as_it_is, cast
from ...checkpoints.load import load_checkpoint
from ...checkpoints.source import TensorSource
from ...checkpoints.write import Pending
from ...modules.quantised import LARGEST
from .config import PUBLISHED_HEADS
from .files import build_vqgan, find_base, locate, open_vqgan, vqgan_config
from .names import BASE_MARK, IMAGE_TOKENIZER_PREFIX

KIND_FILE, KIND_BASE, KIND_IMAGE_TOKENIZER = "maskgit-checkpoint", "maskgit-base", "vqgan"


def convert(path: Path, source: TensorSource | None, dtype: torch.dtype | None) -> tuple[dict[str, Tensor | Pending], dict[str, str]]:
    """The tensors and the metadata of one file made from a base model and the VQGAN beside it, or from the one of them that is there.

    The base model's take the dtype, the VQGAN's stay as they are. What only training needs is left out.

    Raises:
        CheckpointError: the source does not hold together.
        ValueError: 8 bits are asked for.
    """
    if dtype in LARGEST:
        raise ValueError(f"{path} is a MaskGIT model, which is too small for 8 bits to save anything. Choose bf16 or fp16.")
    if source is not None and BASE_MARK not in source or path.is_dir() and find_base(path) is None:
        image_tokenizer, params, name = open_vqgan(path)
        build_vqgan(params, name, image_tokenizer)  # checks everything; mapped, and so hardly read
        tensors = {name: as_it_is(image_tokenizer, name) for name in image_tokenizer.shapes}
        return tensors, {"kind": KIND_IMAGE_TOKENIZER, "vqgan_config": json.dumps(vqgan_config(params, name).to_params())}
    found = locate(path, source)
    tensors = {name: cast(found.base, name, dtype) for name in found.base.shapes}
    heads = {} if found.doubt() else {"n_heads": PUBLISHED_HEADS}  # a guess stays one
    said = {"model_type": "maskgit", **heads, **found.said}
    generation = {"generation_config": json.dumps(found.generation)} if found.generation else {}
    if found.image_tokenizer is None:
        return tensors, {"kind": KIND_BASE, "config": json.dumps(said), **generation}
    load_checkpoint(path, dtype=found.base.dtype())
    said |= {name: value for name, value in found.config().to_json().items() if name != "n_heads" or not found.doubt()}
    tensors |= {IMAGE_TOKENIZER_PREFIX + name: as_it_is(found.image_tokenizer, name) for name in found.image_tokenizer.shapes}
    params = json.dumps(found.vqgan_config().to_params())
    return tensors, {"kind": KIND_FILE, "config": json.dumps(said), "vqgan_config": params, **generation}
