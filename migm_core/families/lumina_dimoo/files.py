"""Load Lumina-DiMOO's files. Every key is checked before the first tensor is read."""

import os
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from ...checkpoints.checkpoint import Checkpoint
from ...checkpoints.errors import CheckpointError
from ...checkpoints.files import find_file, read_file, read_json
from ...checkpoints.fill import fill
from ...checkpoints.generation import run_settings, trained_for
from ...checkpoints.names import TEXT_TOKENIZER_KEY
from ...checkpoints.quantised import (
    DESCRIPTION,
    SCALE,
    WEIGHT,
    check_computable,
    description_bytes,
    plainly_spelled,
    quantised_layers,
    whole,
)
from ...checkpoints.recognise import SUFFIXES
from ...checkpoints.shapes import check_keys, check_sizes, count_parts, require, size_of
from ...checkpoints.source import Reader, TensorSource
from ...devices import resolve_dtype
from ...modules import quantised, uninitialised
from ...tokenizers.amused_vq import ImageTokenizer, ImageTokenizerConfig
from ..family import Family
from .backbone import Lumina
from .config import LuminaConfig
from .head import ShortcutConfig, ShortcutHead
from .names import BASE_PREFIX, IMAGE_TOKENIZER_PREFIX, QUANTISABLE
from .prompts import PromptEncoder

IMAGE_TOKENIZER_WEIGHTS = "diffusion_pytorch_model.safetensors"


def load(
    family: Family,
    path: Path,
    source: TensorSource,
    *,
    dtype: str | torch.dtype = "auto",
    device: torch.device | str = "cpu",
    for_device: torch.device | str = "cpu",
    output_rows=None,
    operations=uninitialised,
    image_operations=uninitialised,
    reader: Reader | None = None,
) -> Checkpoint:
    """Load a published-layout folder, a single self-contained .safetensors file, or a .gguf file beside such a folder's others.

    Arguments and errors as ``checkpoints.load_checkpoint``.
    """
    weights = sum(torch.Size(shape).numel() for shape in source.prefixed(BASE_PREFIX).shapes.values())
    dtype = resolve_dtype(dtype, for_device, weights)
    if folder := folder_of(path):
        config = read_json(folder / "config.json"), str(folder / "config.json")
        image_config = read_json(folder / "vqvae" / "config.json"), str(folder / "vqvae" / "config.json")
        image_source = TensorSource.open(find_file(folder / "vqvae", IMAGE_TOKENIZER_WEIGHTS), reader, data=source.data)
        text_path = folder / "tokenizer.json"
        text_tokenizer = read_file(text_path, "Expected the checkpoint's fast tokenizer: download the whole folder.")
    else:
        _require_self_contained(source)
        config = source.metadata_json("config"), f"{path}: config"
        image_config = source.metadata_json("vqvae_config"), f"{path}: vqvae_config"
        image_source = source.prefixed(IMAGE_TOKENIZER_PREFIX)
        text_tokenizer, text_path = source.get(TEXT_TOKENIZER_KEY).numpy().tobytes(), path
    base = build_base(*config, source.prefixed(BASE_PREFIX), output_rows=output_rows, dtype=dtype, device=device, operations=operations)
    image_tokenizer = build_image_tokenizer(*image_config, image_source, device=device, operations=image_operations)
    codes = image_tokenizer.config.num_vq_embeddings
    if codes != base.config.tokens.codebook_size:
        raise CheckpointError(
            f"{path}: the image tokenizer has {codes} codes, the base model {base.config.tokens.codebook_size}. They are not of one checkpoint."
        )
    prompts = PromptEncoder.read(text_tokenizer, base.config.tokens, text_path)
    check_token_ids(prompts.trusted, base.config, str(text_path), config[1])
    generation, generation_name = generation_config(path, source)
    own = generation, generation_name, image_tokenizer.config.downscale_factor
    return Checkpoint(path, family, base, image_tokenizer, prompts, run_settings(family, *own), trained_for(*own), file_stats=source.file_stats)


def generation_config(path: Path, source: TensorSource | None) -> tuple[dict[str, Any], str]:
    """What a checkpoint says of its own runs, in a folder's generation_config.json or in the metadata of ``source``; and where that comes from."""
    if folder := folder_of(path):
        file = folder / "generation_config.json"
        return read_json(file) if os.path.lexists(file) else {}, str(file)
    return source.metadata_json("generation_config"), f"{path}: generation_config in its metadata"


def folder_of(path: Path) -> Path | None:
    """Where the config and the tokenizers of a base model lie; None for a file, which should hold them itself."""
    return path if path.is_dir() else path.parent if path.suffix.lower() in SUFFIXES["gguf"] else None


def check_token_ids(tokenizer: Tokenizer, config: LuminaConfig, tokenizer_name: str, config_name: str) -> None:
    """Check that every token that a prompt may hold is a row of the embedding table.

    Raises:
        CheckpointError: naming the first that is not.
    """
    for name, token in asdict(config.tokens).items():
        if token is not None and token >= config.vocab_size and name != "codebook_size":
            raise CheckpointError(f"{config_name}: tokens.{name} is {token}, but the embedding table has {config.vocab_size} rows.")
    last = max(tokenizer.get_vocab().values(), default=0)
    if last >= config.vocab_size:
        raise CheckpointError(
            f"{tokenizer_name} has a token {last}, but the embedding table has {config.vocab_size} rows. They are not of one checkpoint."
        )


def build_base(
    values: dict, config_name: str, source: TensorSource, *, output_rows=None, dtype=None, device="cpu", operations=uninitialised
) -> Lumina:
    """Build the base model from its config and tensors, in evaluation mode.

    Raises:
        CheckpointError: a config that asks for another architecture, or tensors that do not fit it.
    """
    try:
        config = LuminaConfig.from_json(values, source=config_name)
    except (ValueError, TypeError) as error:
        raise CheckpointError(str(error)) from None
    # These bound the model that is built.
    require(source, ("wte.weight", "blocks.0.ff_proj.weight"), what="Lumina-DiMOO base model", prefix=BASE_PREFIX)
    # The table may be padded past what the config says: the file is right.
    config = replace(config, vocab_size=size_of(source, "wte.weight", 0))
    codes_end = config.tokens.image_codes + config.tokens.codebook_size
    if codes_end > config.vocab_size:
        raise CheckpointError(
            f"{source.path}: the embedding table has {config.vocab_size} rows, but the image codes end at token {codes_end}. "
            f"Is {config_name} of another model? A model with other token ids names them there under \"tokens\"."
        )
    source = plainly_spelled(source)
    check_sizes(config_name, source, {
        "n_layers": (config.n_layers, count_parts(source, "blocks.")),
        "d_model": (config.d_model, size_of(source, "wte.weight", 1)),
        "mlp_hidden_size": (config.mlp_hidden_size, size_of(source, "blocks.0.ff_proj.weight", 0)),
    })  # fmt: skip
    plan = Lumina(config, output_rows=output_rows, dtype=dtype, device="meta", operations=uninitialised)
    expected = {name: tuple(t.shape) for name, t in plan.state_dict().items()}
    expected["ff_out.weight"] = (config.vocab_size, config.d_model)
    layers = quantised_layers(source, BASE_PREFIX)
    packed = {name for layer, about in layers.items() for name in (layer + WEIGHT, *about.companions.values())}
    for layer, about in layers.items():
        if layer + WEIGHT in expected:
            expected |= {name: source.shapes[name] for name in about.companions.values()}
            if about.format not in quantised.FORMATS:
                expected[layer + WEIGHT] = source.shapes[layer + WEIGHT]  # packed, as only its format knows
    check_keys(source, expected, what="Lumina-DiMOO base model", prefix=BASE_PREFIX, packed=packed)
    inner = {layer: about for layer, about in layers.items() if QUANTISABLE.holds(layer + WEIGHT, expected[layer + WEIGHT])}
    by_host = getattr(operations, "loads_quantised", False)
    check_computable(source, {layer: about for layer, about in layers.items() if not (by_host and layer in inner)}, BASE_PREFIX)
    model = Lumina(config, output_rows=output_rows, dtype=dtype, device="meta", operations=quantised if inner and operations is uninitialised else operations)
    model.stored_bits = min(source.bits(), 8 if layers else 16)
    rows = {"ff_out.weight": (model.output_start, model.output_stop)}
    made = {layer + DESCRIPTION: description_bytes(about.description) for layer, about in inner.items()}
    names = [*plan.state_dict()]
    for layer, module in model.blocks.named_modules(prefix="blocks"):
        if layer in inner and isinstance(module, quantised.QuantisedLinear):
            module.keep_quantised(source.dtypes[layer + WEIGHT], source.shapes[layer + SCALE])
            names.append(layer + SCALE)
        elif layer in inner:
            names += {*inner[layer].companions.values(), layer + DESCRIPTION}

    def read(name: str) -> Tensor:
        layer = name.removesuffix(WEIGHT)
        if layer in layers and layer not in inner:
            return whole(source, layer, rows.get(name))
        return made[name] if name in made else source.get(name, rows.get(name))

    return fill(model, names, read, device, source.path)


def build_image_tokenizer(values: dict, config_name: str, source: TensorSource, *, device="cpu", operations=uninitialised) -> ImageTokenizer:
    """Build the image tokenizer from its config and tensors, always in float32: its activations overflow float16 (force_upcast).

    Raises:
        CheckpointError: a config that asks for another architecture, or tensors that do not fit it.
    """
    try:
        config = ImageTokenizerConfig.from_json(values, config_name)
    except (ValueError, TypeError) as error:
        raise CheckpointError(str(error)) from None
    require(source, ("encoder.conv_out.weight", "quantize.embedding.weight"), what="image tokenizer")
    check_sizes(config_name, source, {
        "the length of block_out_channels": (len(config.block_out_channels), count_parts(source, "encoder.down_blocks.")),
        "layers_per_block": (config.layers_per_block, count_parts(source, "encoder.down_blocks.0.resnets.")),
        "latent_channels": (config.latent_channels, size_of(source, "encoder.conv_out.weight", 0)),
        "num_vq_embeddings": (config.num_vq_embeddings, size_of(source, "quantize.embedding.weight", 0)),
    })  # fmt: skip
    try:
        plan = ImageTokenizer(config, dtype=torch.float32, device="meta", operations=uninitialised)
    except (ValueError, TypeError, RuntimeError) as error:  # groups that do not divide the channels, sizes past all bounds
        raise CheckpointError(f"{config_name}: {error}.") from None
    names = {name: tuple(t.shape) for name, t in plan.state_dict().items()}
    check_keys(source, names, what="image tokenizer")
    return fill(ImageTokenizer(config, dtype=torch.float32, device="meta", operations=operations), names, source.get, device, source.path)


def build_head(source: TensorSource, base: LuminaConfig, *, dtype=None, device="cpu", operations=uninitialised) -> ShortcutHead:
    """Build a head from its tensors. Their names and shapes give the architecture, the base the number of attention heads."""
    config = head_config(source, base)
    model = ShortcutHead(config, dtype=dtype, device="meta", operations=operations)
    return fill(model, _check_head_keys(source, config), source.get, device, source.path)


def check_head(source: TensorSource, base: LuminaConfig | None = None) -> ShortcutConfig:
    """Read a head's architecture, as ``head_config``, and check every key.

    Raises:
        CheckpointError: it is no head, or an incomplete one.
    """
    config = head_config(source, base)
    _check_head_keys(source, config)
    return config


def _check_head_keys(source: TensorSource, config: ShortcutConfig) -> Iterable[str]:
    """Compare the names of a head's tensors with the file's, and return them."""
    names = {name: tuple(t.shape) for name, t in ShortcutHead(config, device="meta", operations=uninitialised).state_dict().items()}
    check_keys(source, names, what="shortcut head")
    return names


def head_config(source: TensorSource, base: LuminaConfig | None = None) -> ShortcutConfig:
    """Read a head's architecture off its keys and shapes."""
    shapes = source.shapes
    if "ln_f.weight" not in shapes or "blocks.0.self_attn.ff_proj.weight" not in shapes:
        raise CheckpointError(f"{source.path} is not a shortcut head: it lacks ln_f.weight or blocks.0.self_attn.ff_proj.weight.")
    width = size_of(source, "ln_f.weight", 0)
    d_model = size_of(source, "proj_in.weight", 1) or width
    mlp = size_of(source, "blocks.0.self_attn.ff_proj.weight", 0)
    try:
        base = base or LuminaConfig(d_model=d_model, n_heads=1, n_kv_heads=1, n_layers=1, mlp_hidden_size=mlp)
    except ValueError as error:
        raise CheckpointError(f"{source.path} fits no base model: {error}. Download it again.") from None
    if d_model != base.d_model:
        raise CheckpointError(
            f"{source.path} was trained for a base model of width {d_model}, but this base has width {base.d_model}. "
            "Load the head that belongs to this base."
        )
    if width % base.n_heads or (width // base.n_heads) % 2:
        raise CheckpointError(
            f"{source.path} has width {width}, which does not divide into the base's {base.n_heads} heads. Load the head that belongs to this base."
        )
    # Without projections a file cannot tell by its keys whether the first block reads new tokens; ours say it in
    # their metadata, and the published ablation without cross attention has projections.
    said = source.metadata.get("cross_attention")
    cross = said == "true" if said else ("new_token_proj_in.weight" in shapes or "proj_in.weight" not in shapes)
    return ShortcutConfig(
        d_model=d_model,
        n_heads=base.n_heads,
        mlp_hidden_size=mlp,
        rms_norm_eps=base.rms_norm_eps,
        rope_theta=base.rope_theta,
        n_blocks=count_parts(source, "blocks."),
        bottleneck_ratio=d_model / width,
        time_embedding="adaLN_modulation.weight" in shapes,
        cross_attention=cross,
    )


def _require_self_contained(source: TensorSource) -> None:
    needed = [key for key in ("config", "vqvae_config") if key not in source.metadata]
    folder = source.path.parent
    if needed or TEXT_TOKENIZER_KEY not in source:
        raise CheckpointError(
            f"{source.path} holds weights only, without the config, tokenizer and image tokenizer that belong to them. "
            f"Load the folder of the checkpoint{f', {folder},' if (folder / 'config.json').exists() else ''} or a file made from it with "
            "`migm convert FOLDER FILE.safetensors`."
        )
    if source.dtypes[TEXT_TOKENIZER_KEY] != torch.uint8 or len(source.shapes[TEXT_TOKENIZER_KEY]) != 1:
        raise CheckpointError(f"{source.path}: {TEXT_TOKENIZER_KEY} is no row of bytes, but should be tokenizer.json as uint8. Convert or download it again.")
