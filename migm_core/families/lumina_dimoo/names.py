"""Names of Lumina-DiMOO's tensors, as published, and what files put before them.

    model.transformer.blocks.0.q_proj.weight            the base model
    vqvae.encoder.conv_in.weight                        the image tokenizer in the base model's file; in its own, without vqvae.
    blocks.0.self_attn.q_proj.weight                    a shortcut head
"""

import re

from ...checkpoints.gguf_file import GgufNames
from ...checkpoints.names import BEFORE, Part, is_or_ends
from ...checkpoints.quantised import MARKER, Quantisable

BASE_PREFIX = "model.transformer."
IMAGE_TOKENIZER_PREFIX = "vqvae."
BASE_MARK, HEAD_MARK = "wte.weight", "blocks.0.self_attn.ff_proj.weight"
_IN_BLOCK = "attn_norm|q_proj|k_proj|v_proj|attn_out|ff_norm|ff_proj|up_proj|ff_out"

# Not the embedding, whose rows are looked up, and not the output projection: the one is no faster for it, and the other's errors would
# go into every logit. What the MLP's last layer takes comes from no norm.
QUANTISABLE = Quantisable(layers=re.compile(r"blocks\..+"), wide_inputs=re.compile(r".+\.ff_out"))

GGUF_NAMES = GgufNames(
    architecture="llada",
    made_from="Lumina-DiMOO",
    prefix=BASE_PREFIX,
    outer={"token_embd": "wte", "output_norm": "ln_f", "output": "ff_out"},
    in_block={
        "attn_norm": "attn_norm",
        "attn_q": "q_proj",
        "attn_k": "k_proj",
        "attn_v": "v_proj",
        "attn_output": "attn_out",
        "ffn_norm": "ff_norm",
        "ffn_gate": "ff_proj",
        "ffn_up": "up_proj",
        "ffn_down": "ff_out",
    },
    heads={"attn_q": "llada.attention.head_count", "attn_k": "llada.attention.head_count_kv"},
)

_BASE = Part(
    "base model",
    re.compile(rf"{BEFORE}((?:wte|ln_f|ff_out)\.\w+|blocks\.\d+\.(?:{_IN_BLOCK})\..+)"),
    BASE_MARK,
    frozenset({"model", "transformer", "diffusion_model"}),
    BASE_PREFIX + BASE_MARK,
    frozenset({MARKER}),
)
_IMAGE_TOKENIZER = Part(
    "image tokenizer",
    re.compile(
        rf"{BEFORE}((?:encoder|decoder)\.(?:conv_in|down_blocks|mid_block|up_blocks|conv_norm_out|conv_out)\..+"
        r"|quantize\.embedding\..+|(?:post_)?quant_conv\..+)"
    ),
    "quantize.embedding.weight",
    frozenset({"model", "vqvae", "vae", "vq_model", "first_stage_model"}),
    "quantize.embedding.weight",
)
_HEAD = Part(
    "shortcut head",
    re.compile(
        rf"{BEFORE}(blocks\.\d+\.(?:self_attn|cross_attn)\..+|ln_f\.weight|(?:new_token_)?proj_(?:in|out)\..+"
        r"|time_embedder\.mlp\..+|adaLN_modulation\..+)"
    ),
    HEAD_MARK,
    frozenset({"model", "transformer", "diffusion_model", "head", "shortcut"}),
    HEAD_MARK,
)
_OF_A_HEAD = re.compile(rf"(?:.+\.)?blocks\.\d+\.(?:self_attn|cross_attn)\.(?:{_IN_BLOCK})\..+")
_OF_A_VQGAN = re.compile(r"(?:.+\.)?(?:encoder\.down\.\d+|decoder\.up\.\d+|decoder\.norm_out)\..+")  # some of whose names aMUSEd's tokenizer has, too


def parts(names: list[str]) -> dict[Part, str]:
    """The parts that a file with such names has, each with what stands before its published names there; empty for other files.

    A head's blocks have parts, self_attn and cross_attn; a base model has an embedding table, or blocks without parts.
    """
    if any(is_or_ends(name, _BASE.mark) for name in names):
        base = _BASE
    elif any(_OF_A_HEAD.fullmatch(name) for name in names):
        base = _HEAD
    else:
        base = _BASE if any(_BASE.pattern.fullmatch(name) and "blocks." in name for name in names) else None
    if base is _BASE:
        return {_IMAGE_TOKENIZER: IMAGE_TOKENIZER_PREFIX, _BASE: BASE_PREFIX}
    if base is None and not is_image_tokenizer(names):
        return {}
    return {part: "" for part in (_IMAGE_TOKENIZER, base) if part}


def is_image_tokenizer(names: list[str]) -> bool:
    """Whether a file has tensors of aMUSEd's image tokenizer, and is not another VQ model."""
    return any(map(_IMAGE_TOKENIZER.pattern.fullmatch, names)) and not any(map(_OF_A_VQGAN.fullmatch, names))
