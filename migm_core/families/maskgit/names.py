"""The names of our modules' tensors, and those of the published state dicts.

    blocks.0.attention.q_proj.weight        transformer.layers.0.0.fn.mha.in_proj_weight, the first third of its rows
    blocks.0.attention.kv_proj.weight       the same, the other two
    blocks.0.cross_attn_ff.up_proj.bias     blocks.0.cross_attn_ff.fn.net.0.bias, in a shortcut head
    encoder.down.1.block.0.conv_shortcut    encoder.down.1.block.0.nin_shortcut, in the image tokenizer

Files keep the published names, whoever writes them. In a file with all of a checkpoint the image tokenizer's begin with ``vqgan.``.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...checkpoints.names import BEFORE, Part, is_or_ends

IMAGE_TOKENIZER_PREFIX = "vqgan."  # in a file with all of a checkpoint

_BASE = Part(
    "MaskGIT base model",
    re.compile(rf"{BEFORE}(pos_emb|bias|tok_emb\.weight|(?:first|last)_layer\.\d+\.\w+|transformer\.layers\.\d+\..+)"),
    "transformer.layers.0.0.fn.mha.in_proj_weight",
    frozenset({"model", "maskgit", "diffusion_model"}),
    "transformer.layers.0.0.fn.mha.in_proj_weight",
)
_HEAD = Part(
    "MaskGIT shortcut head",
    re.compile(
        rf"{BEFORE}(blocks\.\d+\.(?:self|cross)_attn(?:_ff)?\.(?:norm|fn)\..+|last_layer\.\d+\.\w+|(?:new_token_)?proj_(?:in|out)\.\w+"
        r"|time_embedder\.mlp\..+|adaLN_modulation\.\w+)"
    ),
    "blocks.0.cross_attn_ff.fn.net.0.weight",
    frozenset({"model", "diffusion_model", "head", "shortcut"}),
    "blocks.0.cross_attn_ff.fn.net.0.weight",
)
_IMAGE_TOKENIZER = Part(
    "VQGAN",
    re.compile(
        rf"{BEFORE}((?:encoder|decoder)\.(?:conv_in|conv_out|norm_out|mid|down|up)\..+|quantize\.embedding\.weight|(?:post_)?quant_conv\.\w+)"
    ),
    "decoder.norm_out.weight",
    frozenset({"model", "vqgan", "vqvae", "vae", "vq_model", "first_stage_model"}),
    "decoder.norm_out.weight",
)
BASE_MARK, HEAD_MARK, IMAGE_TOKENIZER_MARK = _BASE.mark, _HEAD.mark, _IMAGE_TOKENIZER.mark


def parts(names: list[str]) -> dict[Part, str]:
    """The parts that a file with such names has, each with what stands before its published names there; empty for other files."""
    found = [part for part in (_BASE, _HEAD, _IMAGE_TOKENIZER) if any(is_or_ends(name, part.mark) for name in names)]
    if _BASE in found:
        return {_IMAGE_TOKENIZER: IMAGE_TOKENIZER_PREFIX, _BASE: ""}
    return dict.fromkeys(found, "")


# Published state dicts number layers as they lie in a torch.nn.Sequential, dropout and GELU included.
_LAYERS = (
    (r"\.(?:q|kv)_proj\.", r".fn.mha.in_proj_"),
    (r"\.out_proj\.", r".fn.mha.out_proj."),
    (r"\.up_proj\.", r".fn.net.0."),
    (r"\.down_proj\.", r".fn.net.3."),
)
BACKBONE = (
    (r"^first_layer\.norm_in", "first_layer.0"),
    (r"^first_layer\.proj_in", "first_layer.2"),
    (r"^first_layer\.norm_out", "first_layer.4"),
    (r"^first_layer\.proj_out", "first_layer.6"),
    (r"^last_layer\.norm_in", "last_layer.0"),
    (r"^last_layer\.proj", "last_layer.2"),
    (r"^last_layer\.norm_out", "last_layer.4"),
    (r"^blocks\.(\d+)\.attention", r"transformer.layers.\1.0"),
    (r"^blocks\.(\d+)\.feed_forward", r"transformer.layers.\1.1"),
    *_LAYERS,
)
HEAD = (
    (r"^last_layer\.norm_in", "last_layer.0"),
    (r"^last_layer\.proj", "last_layer.1"),
    (r"^last_layer\.norm_out", "last_layer.3"),
    *_LAYERS,
)
IMAGE_TOKENIZER = ((r"\.conv_shortcut\.", ".nin_shortcut."),)


@dataclass(frozen=True)
class Stored:
    """Where a file keeps a module's tensor.

    Attributes:
        name: published name of the tensor there.
        rows: (first, last + 1) of its rows, or None for the whole.
    """

    name: str
    rows: tuple[int, int] | None = None


class Layout:
    """How the tensors of a model lie in a published state dict.

    Attributes:
        shapes: published name to shape.
        stored: the model's own name to the place in the file.
    """

    def __init__(self, model: nn.Module, names: tuple[tuple[str, str], ...]):
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.stored: dict[str, Stored] = {}
        for own, tensor in model.state_dict().items():
            published, shape = own, tuple(tensor.shape)
            for pattern, replacement in names:
                published = re.sub(pattern, replacement, published)
            rows = None
            if ".fn.mha.in_proj_" in published:  # queries come before keys and values, in the model and in the file
                first = self.shapes.get(published, (0,))[0]
                rows = (first, first + shape[0])
                shape = (rows[1], *shape[1:])
            self.shapes[published], self.stored[own] = shape, Stored(published, rows)

    def published(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """A model's tensors under the published names."""
        parts: dict[str, list[Tensor]] = {}
        for own, place in self.stored.items():
            parts.setdefault(place.name, []).append(tensors[own])
        return {name: torch.cat(of) if len(of) > 1 else of[0] for name, of in parts.items()}

    def read(self, get: Callable[..., Tensor]) -> dict[str, Tensor]:
        """A model's tensors from a file: ``get(published name, rows)`` gives one, or some rows of it."""
        return {own: get(place.name, place.rows) for own, place in self.stored.items()}
