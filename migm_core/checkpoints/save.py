"""Models back to files: the published folder layout, a self-contained single file, a head with its description."""

import json
from contextlib import ExitStack
from functools import cache, partial
from pathlib import Path

import torch
from torch import Tensor, nn

from ..models.image_tokenizer import ImageTokenizer
from ..models.lumina import Lumina
from ..models.quantized import LARGEST, quantise, row_scales, tensor_scale
from ..models.shortcut import ShortcutConfig, ShortcutHead
from ..writing import as_json, replacing
from .errors import CheckpointError
from .files import find_file, locate
from .load import BASE_PREFIX, IMAGE_TOKENIZER_PREFIX, IMAGE_TOKENIZER_WEIGHTS, TEXT_TOKENIZER_KEY, check_head, load_checkpoint
from .quantised import (
    COMPANIONS,
    DESCRIPTION,
    METADATA,
    SCALE,
    WEIGHT,
    QuantisedLayer,
    can_be_quantised,
    check_computable,
    description_bytes,
    plain_dtype,
    plainly_spelled,
    quantised_layers,
    whole,
)
from .source import SINGLE, TensorSource, read_json
from .write import Pending, put_tensors, write_tensors

KIND_BASE, KIND_FILE, KIND_HEAD = "lumina-base", "lumina-checkpoint", "migm-shortcut-head"


def save_checkpoint(
    folder: str | Path,
    base: Lumina,
    image_tokenizer: ImageTokenizer,
    tokenizer_json: str,
    settings: dict,
    *,
    dtype: torch.dtype | None = None,
) -> None:
    """Write a published-layout folder. Its files are swapped in when all of them are written.

    Args:
        base: with all output rows.
        tokenizer_json: the text tokenizer, as in its tokenizer.json.
        settings: sensible defaults of a run, for generation_config.json.
        dtype: to store weights in; None keeps theirs.

    Raises:
        OSError: naming the file that cannot be written.
    """
    folder = Path(folder)
    if (base.output_start, base.output_stop) != (0, base.config.vocab_size):
        raise ValueError(f"The base model holds output rows {base.output_start} to {base.output_stop} only; saving needs all {base.config.vocab_size}.")
    (folder / "vqvae").mkdir(parents=True, exist_ok=True)
    weights = {BASE_PREFIX + name: tensor for name, tensor in stored(base, dtype).items()}
    texts = {
        "config.json": _as_json(base.config.to_json()),
        "vqvae/config.json": _as_json(image_tokenizer.config.to_json()),
        "generation_config.json": _as_json(settings),
        "tokenizer.json": tokenizer_json,
        "tokenizer_config.json": _as_json({"tokenizer_class": "PreTrainedTokenizerFast"}),
    }
    with ExitStack() as files:
        put_tensors(files.enter_context(replacing(folder / SINGLE)), weights, {"kind": KIND_BASE})
        put_tensors(files.enter_context(replacing(folder / "vqvae" / IMAGE_TOKENIZER_WEIGHTS)), stored(image_tokenizer, dtype), {})
        for name, text in texts.items():
            files.enter_context(replacing(folder / name)).write(text.encode("utf-8"))


def save_head(path: str | Path, head: ShortcutHead, *, dtype: torch.dtype | None = None, extra: dict[str, str] | None = None) -> None:
    """Write a head to a .safetensors file that says what it is."""
    write_tensors(Path(path), stored(head, dtype), {**head_metadata(head.config), **(extra or {})})


def stored(model: nn.Module, dtype: torch.dtype | None) -> dict[str, Tensor]:
    """A model's tensors as they go into a file; what is quantised, and scales, as they are."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    return {name: tensor if tensor.dtype in LARGEST or name.endswith(SCALE) else tensor.to(dtype) for name, tensor in tensors.items()}


def convert(source_path: str | Path, target: str | Path, *, dtype: torch.dtype | None = None) -> None:
    """Convert a head to .safetensors, or a checkpoint folder to one self-contained .safetensors file.

    Args:
        source_path: a head (.pth or .safetensors), or a published-layout folder.
        target: the .safetensors file to write.
        dtype: to store floating-point weights in; None keeps theirs. float8_e4m3fn and int8, with scales, are for the base model's
            linear layers: what else it holds keeps its own, and so does the image tokenizer in any case.

    Raises:
        CheckpointError: the source is neither, or does not hold together.
        ValueError: the target is no .safetensors path, or one of the source's files, or a head is asked for in 8 bits.
        OSError: naming the target, which cannot be written.
    """
    source_path, target = locate(source_path), Path(target)
    if target.suffix.lower() != ".safetensors":
        raise ValueError(f"{target}: expected a path that ends in .safetensors to write to.")
    for file in _files(source_path):
        if target.exists() and target.samefile(file):
            what = "the source itself" if file == source_path else "one of the source's files" if file == target else f"the source's file {file}"
            raise ValueError(f"{target} is {what}. Choose another path to write to.")
    if source_path.is_dir():
        _convert_folder(source_path, target, dtype)
        return
    source = TensorSource.open(source_path)
    if any(name.startswith(BASE_PREFIX) for name in source.shapes):
        others = {name: _as_it_is(source, name) for name in source.shapes if not name.startswith(BASE_PREFIX)}
        metadata = {key: value for key, value in source.metadata.items() if dtype is None or key != METADATA}
        write_tensors(target, _base(source, dtype) | others, metadata)
        return
    config = check_head(source)
    if dtype in LARGEST:
        raise ValueError(f"{source_path} is a shortcut head: 8 bits are for base models. Choose bf16 or fp16.")
    write_tensors(target, {name: _cast(source, name, dtype) for name in source.shapes}, head_metadata(config))


def _files(source: Path) -> list[Path]:
    """The source; of a folder all that lies in it, whether a checkpoint needs it or not; beside a file what may be of its checkpoint."""
    if not source.exists():
        return []
    others = source.glob("*") if source.is_dir() else source.parent.glob("model*.safetensors")
    folder = source if source.is_dir() else source.parent
    return [source, *(file for file in (*others, *folder.glob("vqvae/*")) if file.exists())]


def _convert_folder(folder: Path, target: Path, dtype: torch.dtype | None) -> None:
    source = TensorSource.open(folder)
    if not any(name.startswith(BASE_PREFIX) for name in source.shapes):
        raise CheckpointError(f"{folder} holds no tensor {BASE_PREFIX}...: it is not a Lumina-DiMOO checkpoint.")
    load_checkpoint(folder, dtype=plain_dtype(source.prefixed(BASE_PREFIX)))  # checks everything; mapped, and so hardly read
    vqvae = TensorSource.open(find_file(folder / "vqvae", IMAGE_TOKENIZER_WEIGHTS))
    metadata = {
        "kind": KIND_FILE,
        "config": json.dumps(read_json(folder / "config.json")),
        "vqvae_config": json.dumps(read_json(folder / "vqvae" / "config.json")),
    }
    if (folder / "generation_config.json").exists():
        metadata["generation_config"] = json.dumps(read_json(folder / "generation_config.json"))
    tensors = _base(source, dtype) | {IMAGE_TOKENIZER_PREFIX + name: _as_it_is(vqvae, name) for name in vqvae.shapes}
    text = (folder / "tokenizer.json").read_bytes()
    tensors[TEXT_TOKENIZER_KEY] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
    write_tensors(target, tensors, metadata)


def _base(source: TensorSource, dtype: torch.dtype | None) -> dict[str, Tensor | Pending]:
    """The base model's tensors in another dtype, of whatever kind theirs is."""
    base = plainly_spelled(source.prefixed(BASE_PREFIX))
    layers = quantised_layers(base, BASE_PREFIX)
    if dtype is None:
        return {BASE_PREFIX + name: _as_it_is(base, name) for name in base.shapes}
    check_computable(base, layers, BASE_PREFIX)
    tensors: dict[str, Tensor | Pending] = {}
    for name, shape in base.shapes.items():
        layer = name.removesuffix(WEIGHT)
        if name.endswith(COMPANIONS):
            continue
        if dtype in LARGEST and can_be_quantised(name, shape):
            tensors |= _quantised(base, layer, layers.get(layer), dtype)
        elif layer in layers:
            kept = plain_dtype(base) if dtype in LARGEST else dtype
            tensors[name] = Pending(shape, kept, partial(_weight, base, layer, True, kept))
        else:
            tensors[name] = _as_it_is(base, name) if dtype in LARGEST else _cast(base, name, dtype)
    return {BASE_PREFIX + name: tensor for name, tensor in tensors.items()}


def _quantised(base: TensorSource, layer: str, now: QuantisedLayer | None, dtype: torch.dtype) -> dict[str, Tensor | Pending]:
    """A layer's weight in 8 bits, and what lies beside it.

    float8 has one scale for all of a weight, which is what products in float8 take, and int8 one a row. Inputs of products in float8 have no
    scale: those that come from a norm are far below its 448, but what the MLP's last layer takes may be anything, so that its
    products stay in 16 bits. Inputs of products in int8 are scaled row by row.
    """
    name, scales = layer + WEIGHT, row_scales if dtype == torch.int8 else tensor_scale
    shape = base.shapes[name]
    if now and base.dtypes[name] == dtype:
        kept = {each: _as_it_is(base, each) for each in (name, *now.companions.values())}
        return {layer + DESCRIPTION: description_bytes(now.description), **kept}
    description = {"format": "int8_tensorwise" if dtype == torch.int8 else _format(dtype)}
    if dtype != torch.int8 and layer.endswith("ff_out"):
        description["full_precision_matrix_mult"] = True

    @cache
    def scale() -> Tensor:
        made = scales(_weight(base, layer, now is not None, torch.float32), dtype)
        if not made.isfinite().all():
            raise CheckpointError(f"{base.path}: {BASE_PREFIX}{name} holds values that are not finite. The file may be damaged: download it again.")
        return made

    return {
        name: Pending(shape, dtype, lambda: quantise(_weight(base, layer, now is not None, torch.float32), scale(), dtype)),
        layer + SCALE: Pending((shape[0], 1) if dtype == torch.int8 else (), torch.float32, scale),
        layer + DESCRIPTION: description_bytes(description),
    }


def _weight(base: TensorSource, layer: str, is_quantised: bool, dtype: torch.dtype) -> Tensor:
    """A layer's weight, whether the file keeps it quantised or not."""
    return (whole(base, layer) if is_quantised else base.get(layer + WEIGHT)).to(dtype)


def _format(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _as_it_is(source: TensorSource, name: str) -> Pending:
    return Pending(source.shapes[name], source.dtypes[name], partial(source.get, name))


def _cast(source: TensorSource, name: str, dtype: torch.dtype | None) -> Pending:
    """A tensor in another dtype, if it is floating point."""
    wanted = dtype if dtype and source.dtypes[name].is_floating_point else source.dtypes[name]
    return Pending(source.shapes[name], wanted, lambda: source.get(name).to(wanted))


def head_metadata(config: ShortcutConfig) -> dict[str, str]:
    """What a head's file says of itself."""
    return {
        "kind": KIND_HEAD,
        "base_d_model": str(config.d_model),
        "blocks": str(config.n_blocks),
        "bottleneck_ratio": f"{config.bottleneck_ratio:g}",
        "time_embedding": str(config.time_embedding).lower(),
        "cross_attention": str(config.cross_attention).lower(),
    }


def _as_json(values: dict) -> str:
    return as_json(values, indent=2, sort_keys=True) + "\n"
