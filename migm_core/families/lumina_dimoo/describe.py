"""What a file of Lumina-DiMOO is, in words a person can use, and whether it loads."""

from pathlib import Path

from ...checkpoints.errors import CheckpointError
from ...checkpoints.files import find_file, read_json
from ...checkpoints.inspect import dtype_name, ignored, refusal, weights
from ...checkpoints.load import load_checkpoint
from ...checkpoints.names import TEXT_TOKENIZER_KEY
from ...checkpoints.quantised import plain_dtype, plainly_spelled, quantised_layers
from ...checkpoints.source import INDEX, SINGLE, TensorSource
from ...tokenizers.amused_vq import ImageTokenizerConfig
from ...tokenizers.amused_vq import unknown_keys as unknown_image_tokenizer_keys
from .config import LuminaConfig, unknown_keys
from .files import IMAGE_TOKENIZER_WEIGHTS, build_image_tokenizer, check_head, folder_of, head_config
from .names import BASE_PREFIX, IMAGE_TOKENIZER_PREFIX, is_image_tokenizer


def describe(path: Path, source: TensorSource | None) -> list[str] | None:
    """Describe a checkpoint folder or file, a shortcut head or an image tokenizer in a few lines; None for anything else.

    The last line of a checkpoint's says that it is complete, or why it is not: exactly where it loads, or with what words it is refused.
    """
    image_tokenizer = find_file(path, IMAGE_TOKENIZER_WEIGHTS) if path.is_dir() and not _holds_base(path) else None
    if image_tokenizer and image_tokenizer.exists():
        return _image_tokenizer_file(image_tokenizer)
    if source is None:
        return None
    if any(name.startswith(BASE_PREFIX) for name in source.shapes):
        return _checkpoint(path, source)
    if "blocks.0.self_attn.ff_proj.weight" in source:
        return _head(source)
    if "quantize.embedding.weight" in source and is_image_tokenizer(list(source.shapes)):
        return _image_tokenizer_file(path)
    return None


def _holds_base(folder: Path) -> bool:
    return any(find_file(folder, name).exists() for name in (SINGLE, INDEX))


def _checkpoint(path: Path, source: TensorSource) -> list[str]:
    base = plainly_spelled(source.prefixed(BASE_PREFIX))
    image = source.prefixed(IMAGE_TOKENIZER_PREFIX)
    lines = [f"{path}: Lumina-DiMOO base model" + (" with image tokenizer and text tokenizer" if image.shapes else "")]
    problem = refusal(lambda: load_checkpoint(path, device="meta"))
    # What is wrong has its own line, so that a part that cannot be described is left out.
    refusal(lambda: lines.extend(_config(path, source)))
    lines += weights(base)
    refusal(lambda: lines.extend(_quantised(base)))
    if base.shapes.get("wte.weight"):
        lines.append(f"  vocabulary    {base.shapes['wte.weight'][0]} rows")
    others = [name for name in source.shapes if not name.startswith((BASE_PREFIX, IMAGE_TOKENIZER_PREFIX)) and name != TEXT_TOKENIZER_KEY]
    if others:
        lines.append(f"  not read      {len(others)} other tensors, such as {', '.join(map(source.written, others[:3]))}")
    folder = folder_of(path)
    if image.shapes:
        refusal(lambda: lines.extend(["", *_image_tokenizer(image, source.metadata_json("vqvae_config"))]))
    elif folder and (vqvae := find_file(folder / "vqvae", IMAGE_TOKENIZER_WEIGHTS)).exists():
        refusal(lambda: lines.extend(["", *_image_tokenizer(TensorSource.open(vqvae, data=False), read_json(folder / "vqvae" / "config.json"))]))
    if path.is_dir():
        needed = [(path, "config.json"), (path, "tokenizer.json"), (path / "vqvae", IMAGE_TOKENIZER_WEIGHTS), (path / "vqvae", "config.json")]
        missing = [str((folder / name).relative_to(path)) for folder, name in needed if not find_file(folder, name).exists()]
        if missing:  # all of them; the refusal names the first
            lines.append(f"  missing       {', '.join(missing)}")
    lines.append(f"  not complete  {problem}" if problem else "  complete      all that loading needs is there and fits together")
    return lines


def _config(path: Path, source: TensorSource) -> list[str]:
    if folder := folder_of(path):
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
        *ignored(unknown_keys(values)),
    ]


def _quantised(base: TensorSource) -> list[str]:
    formats = [layer.format for layer in quantised_layers(base, BASE_PREFIX).values()]
    rest = dtype_name(plain_dtype(base))
    return [f"  quantised     {formats.count(name)} linear layers in {name}, each with its scales; the rest in {rest}" for name in dict.fromkeys(formats)]


def _image_tokenizer_file(path: Path) -> list[str]:
    """An image tokenizer by itself: with its config beside it, also whether it loads."""
    source, config = TensorSource.open(path, data=False), path.parent / "config.json"
    problem = refusal(lambda: build_image_tokenizer(read_json(config), str(config), source, device="meta"))
    lines: list[str] = []
    if refusal(lambda: lines.extend(_image_tokenizer(source, read_json(config)))):
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
        lines.append(f"  downscale     {config.downscale_factor} pixels a token along each side")
        lines += ignored(unknown_image_tokenizer_keys(values))
    return lines + weights(source)


def _head(source: TensorSource) -> list[str]:
    config = head_config(source)
    problem = refusal(lambda: check_head(source))
    variant = [f"{config.n_blocks} block{'s' if config.n_blocks > 1 else ''}", f"bottleneck ratio {config.bottleneck_ratio:g}"]
    variant.append("time embedding" if config.time_embedding else "no time embedding")
    variant.append("cross attention to new tokens" if config.cross_attention else "no cross attention")
    return [
        f"{source.path}: MIGM shortcut head",
        f"  variant       {', '.join(variant)}",
        f"  fits          a base model of width {config.d_model} (MLP {config.mlp_hidden_size})",
        *weights(source),
        *([f"  not complete  {problem}"] if problem else []),
    ]
