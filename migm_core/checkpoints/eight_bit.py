"""How files name weights in 8 bits: as ComfyUI names its scaled fp8.

    blocks.0.q_proj.weight        float8_e4m3fn or int8 (out, in)
    blocks.0.q_proj.scale_weight  float32 (out, 1), one a row; files of others may have one for all: (), (1,)
    scaled_fp8                    empty, float8_e4m3fn: says that the file is of this kind; with int8 there is none
"""

import torch

from ..models.quantized import LARGEST
from .errors import CheckpointError
from .source import TensorSource

EIGHT_BIT = {"fp8": torch.float8_e4m3fn, "int8": torch.int8}
SCALE = ".scale_weight"
MARKER = "scaled_fp8"


def scaled_layers(source: TensorSource, prefix: str = "") -> dict[str, torch.dtype]:
    """The layers of an opened base model whose weights are in 8 bits beside their scales, and in which dtype.

    A file in fp8 without a marker or a single scale was cast as it is: nothing in it needs one. ``prefix`` is for messages.

    Raises:
        CheckpointError: a weight in 8 bits without its scale, or a scale without such a weight.
    """
    layers = [name.removesuffix(SCALE) for name in source.shapes if name.endswith(SCALE)]
    weights = [name for name in source.shapes if source.dtypes[name] in LARGEST and name != MARKER]
    if layers or MARKER in source or any(source.dtypes[name] == torch.int8 for name in weights):
        for name in weights:
            if name.removesuffix(".weight") not in layers:
                raise CheckpointError(
                    f"{source.path}: {prefix}{name} is {_name(source.dtypes[name])} without its scale, {prefix}{name.removesuffix('.weight')}{SCALE}. "
                    "The file may be incomplete: convert or download it again."
                )
    for layer in layers:
        dtype = source.dtypes.get(layer + ".weight", torch.int8)  # a missing weight is named with all that is missing
        if dtype not in LARGEST:
            raise CheckpointError(
                f"{source.path}: {prefix}{layer}{SCALE} is the scale of a weight in {_name(dtype)}, expected {' or '.join(map(_name, LARGEST))}. "
                "The file was not converted as a whole: convert or download it again."
            )
    return {layer: source.dtypes[layer + ".weight"] for layer in layers if layer + ".weight" in source}


def can_be_scaled(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a tensor of the base model is kept in 8 bits: the linear layers' weights in the blocks.

    Not the embedding, whose rows are looked up, and not the output projection: the one is no faster for it, and the other's
    errors would go into every logit.
    """
    return name.startswith("blocks.") and len(shape) == 2


def plain_dtype(source: TensorSource) -> torch.dtype:
    """The dtype of a base model's numbers but for those in 8 bits with a scale: what it was converted from."""
    if "wte.weight" in source and any(name.endswith(SCALE) for name in source.shapes):
        return source.dtypes["wte.weight"]
    return source.dtype()


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
