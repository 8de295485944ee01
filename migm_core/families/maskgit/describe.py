"""What a file of MaskGIT is, in words a person can use, and whether it loads."""

from __future__ import annotations

from pathlib import Path

from ...checkpoints.errors import CheckpointError
from ...checkpoints.files import find_file
from ...checkpoints.inspect import ignored, refusal, weights
from ...checkpoints.load import load_checkpoint
from ...checkpoints.source import TensorSource
from ...tokenizers.vqgan import unknown_keys
from .files import VQGAN_WEIGHTS, Located, build_vqgan, find_base, head_config, locate, open_vqgan, vqgan_config, without_loss
from .names import BASE_MARK, HEAD_MARK, IMAGE_TOKENIZER_MARK


def describe(path: Path, source: TensorSource | None) -> list[str] | None:
    """A base model with its VQGAN, a shortcut head or a VQGAN, in a few lines; None for anything else.

    The last line of a checkpoint's says that it is complete, or why it is not: exactly where it loads, or with what words it is refused.
    """
    if path.is_dir():
        if find_base(path) is not None:
            return _checkpoint(path, None)
        return _image_tokenizer_alone(path) if find_file(path, VQGAN_WEIGHTS).exists() else None
    if source is None:
        return None
    if BASE_MARK in source:
        return _checkpoint(path, source)
    if HEAD_MARK in source:
        return _head(source)
    return _image_tokenizer_alone(path) if IMAGE_TOKENIZER_MARK in source else None


def _checkpoint(path: Path, source: TensorSource | None) -> list[str]:
    problem = refusal(lambda: load_checkpoint(path, device="meta"))
    try:
        found = locate(path, source, data=False)
    except CheckpointError:  # something beside the base model is wrong
        base = source or TensorSource.open(find_base(path), data=False)
        return [f"{base.path}: MaskGIT base model", *weights(base), f"  not complete  {problem}"]
    image = found.image_tokenizer
    lines = [f"{found.base.path}: MaskGIT base model" + (" with image tokenizer" if image is not None and image.path == found.base.path else "")]
    # What is wrong has its own line, so that a part that cannot be described is left out.
    refusal(lambda: lines.extend(_sizes(found)))
    lines += weights(found.base)
    lines += _not_read(found.base if image is None or image.path != found.base.path else source)
    if image is not None:
        refusal(lambda: lines.extend(["", *_image_tokenizer(image, found.params, found.params_name)]))
    lines.append(f"  not complete  {problem}" if problem else "  complete      all that loading needs is there and fits together")
    return lines


def _sizes(found: Located) -> list[str]:
    config, factor = found.config(), found.vqgan_config().downscale_factor
    heads = "" if "n_heads" in found.said else " (assumed)" if found.doubt() else " (as published; a config.json beside it may say otherwise)"
    return [
        f"  architecture  {config.n_layers} layers, width {config.d_model}, {config.n_heads} heads{heads}, MLP {config.mlp_hidden_size}",
        f"  images        {config.grid * factor}x{config.grid * factor} pixels, {config.grid}x{config.grid} tokens",
        f"  vocabulary    {config.codebook_size} image codes, the mask, {config.n_classes} classes, no class",
        *([f"  note          {found.doubt()}"] if found.doubt() else []),
    ]


def _not_read(source: TensorSource) -> list[str]:
    """How much of a file is no weight, such as an optimizer's state."""
    rest = source.path.stat().st_size - source.bytes()
    return [f"  not read      {rest / 2**20:,.1f} MiB that only training needs, such as an optimizer's state"] if rest > source.bytes() / 2 else []


def _image_tokenizer_alone(path: Path) -> list[str]:
    weights_path = find_file(path, VQGAN_WEIGHTS) if path.is_dir() else path
    source = without_loss(TensorSource.open(weights_path, data=False))

    def build() -> None:
        opened, params, name = open_vqgan(path, data=False)
        build_vqgan(params, name, opened, device="meta")

    problem = refusal(build)
    lines: list[str] = []
    if refusal(lambda: lines.extend(_image_tokenizer(*open_vqgan(path, data=False)))):
        lines = _image_tokenizer(source, {}, "")
    return [*lines, f"  not complete  {problem}" if problem else "  complete      its config is there and fits"]


def _image_tokenizer(source: TensorSource, params: dict, name: str) -> list[str]:
    shape = source.shapes.get("quantize.embedding.weight", ())
    lines = [f"{source.path}: image tokenizer (VQGAN)"]
    if len(shape) == 2:
        lines.append(f"  codebook      {shape[0]} codes of {shape[1]} channels")
    if params:
        lines.append(f"  factor        {vqgan_config(params, name).downscale_factor} pixels a token along each side")
        lines += ignored(unknown_keys(params))
    return lines + weights(source)


def _head(source: TensorSource) -> list[str]:
    problem = refusal(lambda: head_config(source))
    if problem:
        return [f"{source.path}: MaskGIT shortcut head", *weights(source), f"  not complete  {problem}"]
    config = head_config(source)
    variant = [f"{config.n_blocks} block{'s' if config.n_blocks > 1 else ''}", f"bottleneck ratio {config.bottleneck_ratio:g}"]
    variant.append("time embedding" if config.time_embedding else "no time embedding")
    return [
        f"{source.path}: MaskGIT shortcut head",
        f"  variant       {', '.join(variant)}",
        f"  fits          a MaskGIT base model of width {config.d_model}",
        *weights(source),
    ]
