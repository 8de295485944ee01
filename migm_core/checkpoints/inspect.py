"""What a file is, in words a person can use, and whether it loads; of weights nothing but headers is read."""

from collections.abc import Callable
from pathlib import Path

import torch

from ..config import LuminaConfig, unknown_keys
from ..models.image_tokenizer import ImageTokenizerConfig
from ..models.image_tokenizer import unknown_keys as unknown_image_tokenizer_keys
from .errors import CheckpointError
from .files import find_file, locate, read_json
from .load import IMAGE_TOKENIZER_WEIGHTS, build_image_tokenizer, check_head, head_config, load_checkpoint
from .names import BASE_PREFIX, IMAGE_TOKENIZER_PREFIX, TEXT_TOKENIZER_KEY
from .quantised import COMPANIONS, plain_dtype, plainly_spelled, quantised_layers
from .recognise import SUFFIXES
from .source import INDEX, SINGLE, TensorSource


def describe(path: str | Path) -> str:
    """Describe a checkpoint folder or file, an image tokenizer or a shortcut head, in a few lines.

    The last line of a checkpoint's says that it is complete, or why it is not: exactly where ``load_checkpoint`` loads it, or with
    what words it refuses it.

    Raises:
        CheckpointError: it is none of these, or is damaged.
    """
    path = locate(path)
    image_tokenizer = find_file(path, IMAGE_TOKENIZER_WEIGHTS) if path.is_dir() and not _holds_base(path) else None
    if image_tokenizer and image_tokenizer.exists():
        return "\n".join(_image_tokenizer_file(image_tokenizer))
    source = TensorSource.open(path, data=False)
    if any(name.startswith(BASE_PREFIX) for name in source.shapes):
        return "\n".join(_checkpoint(path, source))
    if "blocks.0.self_attn.ff_proj.weight" in source:
        return "\n".join(_head(source))
    if "quantize.embedding.weight" in source:
        return "\n".join(_image_tokenizer_file(path))
    raise CheckpointError(
        f"{path} is none of the kinds known here: its first tensors are {', '.join(list(source.shapes)[:3]) or 'none'}. "
        "Expected a Lumina-DiMOO checkpoint, a shortcut head or an image tokenizer."
    )


def _holds_base(folder: Path) -> bool:
    return any(find_file(folder, name).exists() for name in (SINGLE, INDEX))


def _checkpoint(path: Path, source: TensorSource) -> list[str]:
    base = plainly_spelled(source.prefixed(BASE_PREFIX))
    image = source.prefixed(IMAGE_TOKENIZER_PREFIX)
    lines = [f"{path}: Lumina-DiMOO base model" + (" with image tokenizer and text tokenizer" if image.shapes else "")]
    problem = _refusal(lambda: load_checkpoint(path, device="meta"))
    # What is wrong has its own line, so that a part that cannot be described is left out.
    _refusal(lambda: lines.extend(_config(path, source)))
    lines += _weights(base)
    _refusal(lambda: lines.extend(_quantised(base)))
    if base.shapes.get("wte.weight"):
        lines.append(f"  vocabulary    {base.shapes['wte.weight'][0]} rows")
    others = [name for name in source.shapes if not name.startswith((BASE_PREFIX, IMAGE_TOKENIZER_PREFIX)) and name != TEXT_TOKENIZER_KEY]
    if others:
        lines.append(f"  not read      {len(others)} other tensors, such as {', '.join(map(source.written, others[:3]))}")
    folder = _folder_of(path)
    if image.shapes:
        _refusal(lambda: lines.extend(["", *_image_tokenizer(image, source.metadata_json("vqvae_config"))]))
    elif folder and (weights := find_file(folder / "vqvae", IMAGE_TOKENIZER_WEIGHTS)).exists():
        _refusal(lambda: lines.extend(["", *_image_tokenizer(TensorSource.open(weights, data=False), read_json(folder / "vqvae" / "config.json"))]))
    if path.is_dir():
        needed = [(path, "config.json"), (path, "tokenizer.json"), (path / "vqvae", IMAGE_TOKENIZER_WEIGHTS), (path / "vqvae", "config.json")]
        missing = [str((folder / name).relative_to(path)) for folder, name in needed if not find_file(folder, name).exists()]
        if missing:  # all of them; the refusal names the first
            lines.append(f"  missing       {', '.join(missing)}")
    lines.append(f"  not complete  {problem}" if problem else "  complete      all that loading needs is there and fits together")
    return lines


def _refusal(action: Callable) -> str | None:
    """The words with which an action refuses a file; None where it does not."""
    try:
        action()
    except CheckpointError as error:
        return str(error)
    return None


def _folder_of(path: Path) -> Path | None:
    """Where the config and the tokenizers of a base model lie; None for a file, which should hold them itself."""
    return path if path.is_dir() else path.parent if path.suffix.lower() in SUFFIXES["gguf"] else None


def _config(path: Path, source: TensorSource) -> list[str]:
    if folder := _folder_of(path):
        values, name = read_json(folder / "config.json"), str(folder / "config.json")
    elif "config" in source.metadata:
        values, name = source.metadata_json("config"), f"{path}: config"
    else:
        return []
    try:
        config = LuminaConfig.from_json(values, source=name)
    except (ValueError, TypeError) as error:
        raise CheckpointError(str(error)) from None
    tokens = config.tokens
    return [
        f"  architecture  {config.n_layers} layers, width {config.d_model}, {config.n_heads} heads"
        f"{'' if config.n_heads == config.n_kv_heads else f' ({config.n_kv_heads} key-value)'}, MLP {config.mlp_hidden_size}",
        f"  codebook      {tokens.codebook_size} image codes, from token {tokens.image_codes}",
        *_ignored(unknown_keys(values)),
    ]


def _quantised(base: TensorSource) -> list[str]:
    formats = [layer.format for layer in quantised_layers(base, BASE_PREFIX).values()]
    rest = _name(plain_dtype(base))
    return [f"  quantised     {formats.count(name)} linear layers in {name}, each with its scales; the rest in {rest}" for name in dict.fromkeys(formats)]


def _image_tokenizer_file(path: Path) -> list[str]:
    """An image tokenizer by itself: with its config beside it, also whether it loads."""
    source, config = TensorSource.open(path, data=False), path.parent / "config.json"
    problem = _refusal(lambda: build_image_tokenizer(read_json(config), str(config), source, device="meta"))
    lines: list[str] = []
    if _refusal(lambda: lines.extend(_image_tokenizer(source, read_json(config)))):
        lines = _image_tokenizer(source, {})
    return [*lines, f"  not complete  {problem}" if problem else "  complete      its config is there and fits"]


def _image_tokenizer(source: TensorSource, values: dict) -> list[str]:
    shape = source.shapes.get("quantize.embedding.weight", ())
    lines = [f"{source.path}: image tokenizer (VQ)"]
    if len(shape) == 2:
        lines.append(f"  codebook      {shape[0]} codes of {shape[1]} channels")
    if values:
        try:
            config = ImageTokenizerConfig.from_json(values, str(source.path))
        except (ValueError, TypeError) as error:
            raise CheckpointError(str(error)) from None
        lines.append(f"  factor        {config.factor} pixels a token along each side")
        lines += _ignored(unknown_image_tokenizer_keys(values))
    return lines + _weights(source)


def _head(source: TensorSource) -> list[str]:
    config = head_config(source)
    problem = _refusal(lambda: check_head(source))
    variant = [f"{config.n_blocks} block{'s' if config.n_blocks > 1 else ''}", f"bottleneck ratio {config.bottleneck_ratio:g}"]
    variant.append("time embedding" if config.time_embedding else "no time embedding")
    variant.append("cross attention to new tokens" if config.cross_attention else "no cross attention")
    return [
        f"{source.path}: MIGM shortcut head",
        f"  variant       {', '.join(variant)}",
        f"  fits          a base model of width {config.d_model} (MLP {config.mlp_hidden_size})",
        *_weights(source),
        *([f"  not complete  {problem}"] if problem else []),
    ]


def _ignored(keys: list[str]) -> list[str]:
    """Of a config's keys that are not known here: whoever made the model may have meant something by them."""
    return [f"  ignored       in its config, not known here: {', '.join(keys)}"] if keys else []


def _weights(source: TensorSource) -> list[str]:
    shapes = [shape for name, shape in source.shapes.items() if not name.endswith(COMPANIONS)]
    if not shapes:
        return []
    count = sum(torch.Size(shape).numel() for shape in shapes)
    return [f"  parameters    {_count(count)} in {len(shapes)} tensors, {_name(source.dtype())}, {source.bytes() / 2**20:,.1f} MiB"]


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _count(n: int) -> str:
    for unit, size in (("B", 10**9), ("M", 10**6), ("k", 10**3)):
        if n >= size:
            return f"{n / size:.2f} {unit}"
    return str(n)
