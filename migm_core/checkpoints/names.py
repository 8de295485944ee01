"""Names of tensors as files write them, to the published ones: what training and hosts put before them is taken off.

    model.transformer.blocks.0.q_proj.weight            the base model, as published
    vqvae.encoder.conv_in.weight                        the image tokenizer in the base model's file; in its own, without vqvae.
    blocks.0.self_attn.q_proj.weight                    a shortcut head
    model.diffusion_model.blocks.0.q_proj.weight        as single files of ComfyUI begin: the base model
    module._orig_mod.blocks.0.self_attn.q_proj.weight   as distributed and compiled training leave it: a head
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .errors import CheckpointError

BASE_PREFIX = "model.transformer."
IMAGE_TOKENIZER_PREFIX = "vqvae."
TEXT_TOKENIZER_KEY = "tokenizer_json"  # in a single file: tokenizer.json as bytes
FP8_MARKER = "scaled_fp8"

WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}  # anywhere in a name: PyTorch's own
_BEFORE = r"((?:[^.]+\.)*?)"
_IN_BLOCK = "attn_norm|q_proj|k_proj|v_proj|attn_out|ff_norm|ff_proj|up_proj|ff_out"


@dataclass(frozen=True)
class _Part:
    """One kind of model in a file.

    Attributes:
        pattern: of its names, what stands before them as the first group and the name itself as the second.
        mark: the name, or its end, by which it is known.
        before: what may stand before its names, between dots.
        example: a published name, for messages.
    """

    what: str
    pattern: re.Pattern
    mark: str
    before: frozenset[str]
    example: str


_BASE = _Part(
    "base model",
    re.compile(rf"{_BEFORE}((?:wte|ln_f|ff_out)\.\w+|blocks\.\d+\.(?:{_IN_BLOCK})\..+)"),
    "wte.weight",
    frozenset({"model", "transformer", "diffusion_model"}),
    BASE_PREFIX + "wte.weight",
)
_IMAGE_TOKENIZER = _Part(
    "image tokenizer",
    re.compile(
        rf"{_BEFORE}((?:encoder|decoder)\.(?:conv_in|down_blocks|mid_block|up_blocks|conv_norm_out|conv_out)\..+"
        r"|quantize\.embedding\..+|(?:post_)?quant_conv\..+)"
    ),
    "quantize.embedding.weight",
    frozenset({"model", "vqvae", "vae", "vq_model", "first_stage_model"}),
    "quantize.embedding.weight",
)
_HEAD = _Part(
    "shortcut head",
    re.compile(
        rf"{_BEFORE}(blocks\.\d+\.(?:self_attn|cross_attn)\..+|ln_f\.weight|(?:new_token_)?proj_(?:in|out)\..+"
        r"|time_embedder\.mlp\..+|adaLN_modulation\..+)"
    ),
    "blocks.0.self_attn.ff_proj.weight",
    frozenset({"model", "transformer", "diffusion_model", "head", "shortcut"}),
    "blocks.0.self_attn.ff_proj.weight",
)
_OF_A_HEAD = re.compile(r"(?:.+\.)?blocks\.\d+\.(?:self_attn|cross_attn)\..+")


def map_names(names: Iterable[str], path: Path) -> dict[str, str]:
    """Published names to the names in a file. Names of nothing known here stay as they are.

    Raises:
        CheckpointError: two names mean one tensor, or an unknown prefix stands before all of a model's names.
    """
    plain = {name: ".".join(part for part in name.split(".") if part not in WRAPPERS) for name in names}
    base = _base_or_head(plain.values())
    targets = {part: "" for part in (_IMAGE_TOKENIZER, base) if part}
    if base is _BASE:
        targets = {_IMAGE_TOKENIZER: IMAGE_TOKENIZER_PREFIX, _BASE: BASE_PREFIX}
    prefixes = {part: _prefixes(part, plain, path) for part in targets}
    found: dict[str, str] = {}
    for name, short in plain.items():
        ours = _published(short, targets, prefixes) or name
        if ours in found:
            raise CheckpointError(f"{path} holds {found[ours]} and {name}, which are one tensor here, {ours}. Expected one of them: save the model without the other.")
        found[ours] = name
    return found


def _base_or_head(names: Iterable[str]) -> _Part | None:
    """A head's blocks have parts, self_attn and cross_attn; a base model has an embedding table, or blocks without parts."""
    names = list(names)
    if any(_is_or_ends(name, _BASE.mark) for name in names):
        return _BASE
    if any(_OF_A_HEAD.fullmatch(name) for name in names):
        return _HEAD
    return _BASE if any(_BASE.pattern.fullmatch(name) and "blocks." in name for name in names) else None


def _prefixes(part: _Part, plain: dict[str, str], path: Path) -> list[str]:
    """What stands before the names of a part in this file, of what is known, the longest first."""
    found = {match[1]: name for name, short in plain.items() if (match := part.pattern.fullmatch(short))}
    known = [prefix for prefix in found if part.before.issuperset(prefix.split(".")[:-1])]
    marks = [name for name, short in plain.items() if _is_or_ends(short, part.mark)]
    if marks and not known:
        raise CheckpointError(
            f"{path} names the {part.what}'s tensors in an unknown way: {marks[0]}. Expected {part.example}, or one of "
            f"{', '.join(sorted(part.before | WRAPPERS))} before it: rename them."
        )
    return sorted(known, key=len, reverse=True)


def _published(short: str, targets: dict[_Part, str], prefixes: dict[_Part, list[str]]) -> str | None:
    for part, target in targets.items():
        match = part.pattern.fullmatch(short)
        if match and match[1] in prefixes[part]:
            return target + match[2]
    if short == TEXT_TOKENIZER_KEY:
        return short
    if short == FP8_MARKER and _BASE in targets:
        return BASE_PREFIX + short
    # What else lies under a model's prefix is named as one of its tensors, and refused as such.
    under = [(prefix, target) for part, target in targets.items() for prefix in prefixes[part] if short.startswith(prefix)]
    if not under:
        return None
    prefix, target = max(under, key=lambda pair: len(pair[0]))
    return target + short.removeprefix(prefix)


def _is_or_ends(name: str, mark: str) -> bool:
    return name == mark or name.endswith("." + mark)
