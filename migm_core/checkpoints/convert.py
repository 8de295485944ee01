"""Files to files: tensors in another dtype or quantised, read and written one at a time."""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .. import arguments
from ..modules.quantised import LARGEST, per_channel_scales, per_tensor_scale, quantise
from .errors import CheckpointError
from .files import locate
from .fill import converted
from .quantised import (
    COMPANIONS,
    DESCRIPTION,
    SCALE,
    WEIGHT,
    Quantisable,
    QuantisedLayer,
    check_computable,
    description_bytes,
    plain_dtype,
    plainly_spelled,
    quantised_layers,
    whole,
)
from .source import TensorSource
from .write import Pending, write_tensors

if TYPE_CHECKING:
    from ..families import Family

STORED = (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2, torch.int8)  # dtypes to convert to


def convert(source_path: str | Path, target: str | Path, *, dtype: torch.dtype | None = None) -> None:
    """Convert a head to .safetensors, or a checkpoint to one self-contained .safetensors file.

    Args:
        source_path: a head (.pth or .safetensors), or a checkpoint in a published layout.
        target: the .safetensors file to write.
        dtype: to store floating-point weights in; None keeps theirs. float8_e4m3fn and int8, with scales, are for the base model's
            linear layers: what else it holds keeps its own, and so does the image tokenizer in any case.

    Raises:
        CheckpointError: the source is neither, or does not hold together.
        ValueError: the target is no .safetensors path, or one of the source's files, or a quantised head is asked for.
        OSError: naming the target, which cannot be written.
    """
    from ..families import FAMILIES, detect

    source_path, target = locate(source_path), arguments.path("target", target)
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype in STORED):
        raise ValueError(f"dtype is {arguments.shown(dtype)}, expected {', '.join(map(str, STORED))} or None.")
    if target.suffix.lower() != ".safetensors":
        raise ValueError(f"{target}: expected a path that ends in .safetensors to write to.")
    source = TensorSource.open(source_path) if source_path.is_file() else None
    if source and (family := next((family for family in FAMILIES if family.is_head(source)), None)):
        _check_target(target, source_path, family)
        metadata = family.head_metadata(family.head_config(source))
        if dtype in LARGEST:
            raise ValueError(f"{source_path} is a shortcut head, but only base models are quantised. Choose bf16 or fp16.")
        write_tensors(target, {name: cast(source, name, dtype) for name in source.shapes}, metadata)
        return
    family, source = detect(source_path)
    _check_target(target, source_path, family)
    write_tensors(target, *family.convert(source_path, source, dtype))


def _check_target(target: Path, source_path: Path, family: Family) -> None:
    """Raise a ValueError if the target is one of the source's files, by whatever link."""
    for file in family.files(source_path) if target.exists() else ():
        if file.exists() and target.samefile(file):
            what = "the source itself" if file == source_path else "one of the source's files" if file == target else f"the source's file {file}"
            raise ValueError(f"{target} is {what}. Choose another path to write to.")


def base_tensors(source: TensorSource, prefix: str, dtype: torch.dtype | None, quantisable: Quantisable) -> dict[str, Tensor | Pending]:
    """Convert a base model's tensors, quantised or not, to a dtype or a quantised format.

    Args:
        quantisable: which of them may be quantised.
    """
    base = plainly_spelled(source.prefixed(prefix))
    layers = quantised_layers(base, prefix)
    if dtype is None:
        return {prefix + name: as_it_is(base, name) for name in base.shapes}
    check_computable(base, layers, prefix)
    tensors: dict[str, Tensor | Pending] = {}
    for name, shape in base.shapes.items():
        layer = name.removesuffix(WEIGHT)
        if name.endswith(COMPANIONS):
            continue
        if dtype in LARGEST and quantisable.holds(name, shape):
            tensors |= _quantised(base, layer, layers.get(layer), dtype, prefix, bool(quantisable.wide_inputs.fullmatch(layer)))
        elif layer in layers:
            kept = plain_dtype(base) if dtype in LARGEST else dtype
            tensors[name] = Pending(shape, kept, partial(_weight, base, layer, True, kept))
        else:
            tensors[name] = as_it_is(base, name) if dtype in LARGEST else cast(base, name, dtype)
    return {prefix + name: tensor for name, tensor in tensors.items()}


def _quantised(
    base: TensorSource, layer: str, now: QuantisedLayer | None, dtype: torch.dtype, prefix: str, wide_inputs: bool
) -> dict[str, Tensor | Pending]:
    """Quantise a layer: its weight, scales and description.

    float8 has one scale for the whole weight, as products in float8 need; int8 has one scale per row. Products in float8 take their inputs
    unscaled: inputs from a norm are far below its largest number, 448, but those of a layer with ``wide_inputs`` may not be, so its
    products stay in 16 bits. Products in int8 scale their inputs row by row.
    """
    name, scales = layer + WEIGHT, per_channel_scales if dtype == torch.int8 else per_tensor_scale
    shape = base.shapes[name]
    if now and base.dtypes[name] == dtype:
        kept = {each: as_it_is(base, each) for each in (name, *now.companions.values())}
        return {layer + DESCRIPTION: description_bytes(now.description), **kept}
    description = {"format": "int8_tensorwise" if dtype == torch.int8 else _format(dtype)}
    if dtype != torch.int8 and wide_inputs:
        description["full_precision_matrix_mult"] = True

    @cache
    def scale() -> Tensor:
        made = scales(_weight(base, layer, now is not None, torch.float32), dtype)
        if not made.isfinite().all():
            raise CheckpointError(f"{base.path}: {prefix}{name} holds values that are not finite. The file may be damaged: download it again.")
        return made

    return {
        name: Pending(shape, dtype, lambda: quantise(_weight(base, layer, now is not None, torch.float32), scale(), dtype)),
        layer + SCALE: Pending((shape[0], 1) if dtype == torch.int8 else (), torch.float32, scale),
        layer + DESCRIPTION: description_bytes(description),
    }


def _weight(base: TensorSource, layer: str, is_quantised: bool, dtype: torch.dtype) -> Tensor:
    """A layer's weight, dequantised where the file has it quantised."""
    return (whole(base, layer) if is_quantised else base.get(layer + WEIGHT)).to(dtype)


def _format(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def as_it_is(source: TensorSource, name: str) -> Pending:
    """A tensor in the dtype that its file counts it as; what GGUF quantises is read in another."""
    return cast(source, name, None)


def cast(source: TensorSource, name: str, dtype: torch.dtype | None) -> Pending:
    """Convert a floating-point tensor to a dtype; others stay as they are."""
    wanted = dtype if dtype and source.dtypes[name].is_floating_point else source.dtypes[name]
    return Pending(source.shapes[name], wanted, lambda: converted(source.get(name), wanted, f"{source.file(name)}: {source.written(name)}"))
