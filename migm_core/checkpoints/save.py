"""Models back to files: the published folder layout, a self-contained single file, a head with its description."""

import json
import os
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from ..models.image_tokenizer import ImageTokenizer
from ..models.lumina import Lumina
from ..models.shortcut import ShortcutHead
from .errors import CheckpointError
from .load import BASE_PREFIX, IMAGE_TOKENIZER_PREFIX, IMAGE_TOKENIZER_WEIGHTS, TEXT_TOKENIZER_KEY, check_head, load_checkpoint
from .source import SINGLE, TensorSource, read_json

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
    """Write a published-layout folder.

    Args:
        base: with all output rows.
        tokenizer_json: the text tokenizer, as in its tokenizer.json.
        settings: sensible defaults of a run, for generation_config.json.
        dtype: to store weights in; None keeps theirs.
    """
    folder = Path(folder)
    if (base.output_start, base.output_stop) != (0, base.config.vocab_size):
        raise ValueError(f"The base model holds output rows {base.output_start} to {base.output_stop} only; saving needs all {base.config.vocab_size}.")
    (folder / "vqvae").mkdir(parents=True, exist_ok=True)
    weights = {BASE_PREFIX + name: tensor for name, tensor in stored(base, dtype).items()}
    _write(folder / SINGLE, weights, {"kind": KIND_BASE})
    _write(folder / "vqvae" / IMAGE_TOKENIZER_WEIGHTS, stored(image_tokenizer, dtype), {})
    _write_json(folder / "config.json", base.config.to_json())
    _write_json(folder / "vqvae" / "config.json", image_tokenizer.config.to_json())
    _write_json(folder / "generation_config.json", settings)
    (folder / "tokenizer.json").write_text(tokenizer_json, encoding="utf-8")
    _write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"})


def save_head(path: str | Path, head: ShortcutHead, *, dtype: torch.dtype | None = None, extra: dict[str, str] | None = None) -> None:
    """Write a head to a .safetensors file that says what it is."""
    _write(Path(path), stored(head, dtype), {**_head_metadata(head.config), **(extra or {})})


def stored(model: nn.Module, dtype: torch.dtype | None) -> dict[str, Tensor]:
    """A model's tensors as they go into a file."""
    return {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in model.state_dict().items()}


def convert(source_path: str | Path, target: str | Path, *, dtype: torch.dtype | None = None) -> None:
    """Convert a head to .safetensors, or a checkpoint folder to one self-contained .safetensors file.

    Args:
        source_path: a head (.pth or .safetensors), or a published-layout folder.
        target: the .safetensors file to write.
        dtype: to store floating-point weights in; None keeps theirs. The image tokenizer keeps its own.

    Raises:
        CheckpointError: the source is neither, or does not hold together.
        ValueError: the target is no .safetensors path, or is the source itself.
    """
    source_path, target = Path(source_path), Path(target)
    if target.suffix != ".safetensors":
        raise ValueError(f"{target}: expected a path that ends in .safetensors to write to.")
    if target.exists() and source_path.exists() and target.samefile(source_path):
        raise ValueError(f"{target} is the source itself. Choose another path to write to.")
    if source_path.is_dir():
        _convert_folder(source_path, target, dtype)
        return
    source = TensorSource.open(source_path)
    if any(name.startswith(BASE_PREFIX) for name in source.shapes):
        _write(target, _cast_all(source, dtype, keep=(IMAGE_TOKENIZER_PREFIX, TEXT_TOKENIZER_KEY)), source.metadata)
        return
    _write(target, _cast_all(source, dtype), _head_metadata(check_head(source)))


def _convert_folder(folder: Path, target: Path, dtype: torch.dtype | None) -> None:
    source = TensorSource.open(folder)
    if not any(name.startswith(BASE_PREFIX) for name in source.shapes):
        raise CheckpointError(f"{folder} holds no tensor {BASE_PREFIX}...: it is not a Lumina-DiMOO checkpoint.")
    load_checkpoint(folder, dtype=source.dtype())  # checks everything; mapped, and so hardly read
    vqvae = TensorSource.open(folder / "vqvae" / IMAGE_TOKENIZER_WEIGHTS)
    metadata = {
        "kind": KIND_FILE,
        "config": json.dumps(read_json(folder / "config.json")),
        "vqvae_config": json.dumps(read_json(folder / "vqvae" / "config.json")),
    }
    if (folder / "generation_config.json").exists():
        metadata["generation_config"] = json.dumps(read_json(folder / "generation_config.json"))
    tensors = _cast_all(source, dtype)
    tensors |= {IMAGE_TOKENIZER_PREFIX + name: tensor for name, tensor in _cast_all(vqvae, None).items()}
    text = (folder / "tokenizer.json").read_bytes()
    tensors[TEXT_TOKENIZER_KEY] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
    _write(target, tensors, metadata)


def _cast_all(source: TensorSource, dtype: torch.dtype | None, keep: tuple[str, ...] = ("\0",)) -> dict[str, Tensor]:
    tensors = {name: source.get(name) for name in source.shapes}
    if dtype is None:
        return tensors
    return {
        name: tensor.to(dtype) if tensor.is_floating_point() and not name.startswith(keep) else tensor
        for name, tensor in tensors.items()
    }


def _head_metadata(config) -> dict[str, str]:
    return {
        "kind": KIND_HEAD,
        "base_d_model": str(config.d_model),
        "blocks": str(config.n_blocks),
        "bottleneck_ratio": f"{config.bottleneck_ratio:g}",
        "time_embedding": str(config.time_embedding).lower(),
        "cross_attention": str(config.cross_attention).lower(),
    }


def _write(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write beside the target and swap, so that a failure leaves what was there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    try:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, partial, {"format": "pt", **metadata})
        umask = os.umask(0)
        os.umask(umask)
        partial.chmod(0o666 & ~umask)  # safetensors writes for the owner only; a shared model folder is for all
        os.replace(partial, path)
    except SafetensorError as error:
        raise OSError(f"{path} cannot be written: {error}.") from None
    finally:
        partial.unlink(missing_ok=True)


def _write_json(path: Path, values: dict) -> None:
    path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")
