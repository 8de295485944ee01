"""What a file is, in words a person can use; nothing but headers and configs is read."""

from pathlib import Path

import torch

from ..config import LuminaConfig
from ..models.image_tokenizer import ImageTokenizerConfig
from .errors import CheckpointError
from .load import BASE_PREFIX, IMAGE_TOKENIZER_PREFIX, IMAGE_TOKENIZER_WEIGHTS, head_config
from .quantised import COMPANIONS, plain_dtype, plainly_spelled, quantised_layers
from .source import TensorSource, read_json


def describe(path: str | Path) -> str:
    """Describe a checkpoint folder or file, an image tokenizer or a shortcut head, in a few lines.

    Raises:
        CheckpointError: it is none of these, or is damaged.
    """
    path = Path(path)
    if path.is_dir() and not _holds_base(path) and (path / IMAGE_TOKENIZER_WEIGHTS).exists():
        return "\n".join(_image_tokenizer(TensorSource.open(path / IMAGE_TOKENIZER_WEIGHTS), read_json(path / "config.json")))
    source = TensorSource.open(path)
    names = source.shapes
    if any(name.startswith(BASE_PREFIX) for name in names):
        return "\n".join(_checkpoint(path, source))
    if "blocks.0.self_attn.ff_proj.weight" in names:
        return "\n".join(_head(source))
    if "quantize.embedding.weight" in names:
        config = path.parent / "config.json"
        return "\n".join(_image_tokenizer(source, read_json(config) if config.exists() else None))
    raise CheckpointError(
        f"{path} is none of the kinds known here: its first tensors are {', '.join(list(names)[:3])}. "
        "Expected a Lumina-DiMOO checkpoint, a shortcut head or an image tokenizer."
    )


def _holds_base(folder: Path) -> bool:
    return any((folder / name).exists() for name in ("model.safetensors", "model.safetensors.index.json"))


def _checkpoint(path: Path, source: TensorSource) -> list[str]:
    base = plainly_spelled(source.prefixed(BASE_PREFIX))
    image = source.prefixed(IMAGE_TOKENIZER_PREFIX)
    lines = [f"{path}: Lumina-DiMOO base model" + (" with image tokenizer and text tokenizer" if image.shapes else "")]
    values = None
    if path.is_dir() and (path / "config.json").exists():
        values = read_json(path / "config.json")
    elif "config" in source.metadata:
        values = source.metadata_json("config")
    if values is not None:
        config = LuminaConfig.from_json(values, source=str(path))
        tokens = config.tokens
        lines.append(
            f"  architecture  {config.n_layers} layers, width {config.d_model}, {config.n_heads} heads"
            f"{'' if config.n_heads == config.n_kv_heads else f' ({config.n_kv_heads} key-value)'}, MLP {config.mlp_hidden_size}"
        )
        lines.append(f"  codebook      {tokens.codebook_size} image codes, from token {tokens.image_codes}")
    lines += _weights(base)
    formats = [layer.format for layer in quantised_layers(base, BASE_PREFIX).values()]
    for name in dict.fromkeys(formats):
        lines.append(f"  quantised     {formats.count(name)} linear layers in {name}, each with its scales; the rest in {_name(plain_dtype(base))}")
    if "wte.weight" in base:
        lines.append(f"  vocabulary    {base.shapes['wte.weight'][0]} rows")
    folder = path / "vqvae"
    if image.shapes:
        lines += ["", *_image_tokenizer(image, source.metadata_json("vqvae_config"))]
    elif (folder / IMAGE_TOKENIZER_WEIGHTS).exists():
        lines += ["", *_image_tokenizer(TensorSource.open(folder / IMAGE_TOKENIZER_WEIGHTS), read_json(folder / "config.json"))]
    if path.is_dir():
        missing = [n for n in ("config.json", "tokenizer.json", f"vqvae/{IMAGE_TOKENIZER_WEIGHTS}", "vqvae/config.json") if not (path / n).exists()]
        lines.append(f"  missing       {', '.join(missing)}: the checkpoint does not load without" if missing else "  complete      all files that loading needs are there")
    return lines


def _image_tokenizer(source: TensorSource, values: dict | None) -> list[str]:
    codes, channels = source.shapes["quantize.embedding.weight"]
    lines = [f"{source.path}: image tokenizer (VQ)", f"  codebook      {codes} codes of {channels} channels"]
    if values:
        config = ImageTokenizerConfig.from_json(values, str(source.path))
        lines.append(f"  factor        {config.factor} pixels a token along each side")
    return lines + _weights(source)


def _head(source: TensorSource) -> list[str]:
    config = head_config(source)
    variant = [f"{config.n_blocks} block{'s' if config.n_blocks > 1 else ''}", f"bottleneck ratio {config.bottleneck_ratio:g}"]
    variant.append("time embedding" if config.time_embedding else "no time embedding")
    variant.append("cross attention to new tokens" if config.cross_attention else "no cross attention")
    return [
        f"{source.path}: MIGM shortcut head",
        f"  variant       {', '.join(variant)}",
        f"  fits          a base model of width {config.d_model} (MLP {config.mlp_hidden_size})",
        *_weights(source),
    ]


def _weights(source: TensorSource) -> list[str]:
    shapes = [shape for name, shape in source.shapes.items() if not name.endswith(COMPANIONS)]
    count = sum(torch.Size(shape).numel() for shape in shapes)
    return [f"  parameters    {_count(count)} in {len(shapes)} tensors, {_name(source.dtype())}, {source.bytes() / 2**20:,.1f} MiB"]


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _count(n: int) -> str:
    for unit, size in (("B", 10**9), ("M", 10**6), ("k", 10**3)):
        if n >= size:
            return f"{n / size:.2f} {unit}"
    return str(n)
