"""How files keep a base model's weights quantised: as ComfyUI does, in any of its spellings.

    blocks.0.q_proj.weight        float8 or int8 (out, in); other formats pack their own
    blocks.0.q_proj.weight_scale  float32: one for all, one a row, or one a block
    blocks.0.q_proj.comfy_quant   JSON as uint8, {"format": "int8_tensorwise"}; or the same for all layers in the file's metadata

Read, too: ``scale_weight`` with a marker ``scaled_fp8``, ComfyUI's older form; ``weight_scale_inv``, blocks' scales; and the inputs' scales,
``scale_input`` or ``input_scale``, which only quantised products use.
"""

import json
import re
from dataclasses import dataclass

import torch
from torch import Tensor

from ..modules.quantised import FORMATS, LARGEST, dequantise, fits
from .errors import CheckpointError
from .json_text import parse_object
from .source import TensorSource

QUANTISED = {"fp8": torch.float8_e4m3fn, "int8": torch.int8}
WEIGHT, SCALE, DESCRIPTION = ".weight", ".weight_scale", ".comfy_quant"
SPELLINGS = {".scale_weight": SCALE, ".weight_scale_inv": SCALE, ".scale_input": ".input_scale"}
COMPANIONS = (SCALE, DESCRIPTION, ".weight_scale_2", ".input_scale", ".pre_quant_scale", ".weight_s_rel", ".weight_s_channel", ".weight_codebook")
MARKER = "scaled_fp8"
METADATA = "_quantization_metadata"


@dataclass(frozen=True)
class QuantisedLayer:
    """One linear layer of a file.

    Attributes:
        format: ComfyUI's name of it; FORMATS are those that we compute ourselves.
        companions: names of the tensors beside the weight, by suffix in the usual spelling.
        description: of the format, as ``comfy_quant`` has it; from the file, or made for one that has none.
    """

    format: str
    companions: dict[str, str]
    description: dict


def plainly_spelled(source: TensorSource) -> TensorSource:
    """The same tensors, with scales under their usual names and without the marker."""
    names = {}
    for name in source.shapes:
        old = next((suffix for suffix in SPELLINGS if name.endswith(suffix)), None)
        if name != MARKER:
            names[name] = name.removesuffix(old) + SPELLINGS[old] if old else name
    return source.renamed(names)


def quantised_layers(source: TensorSource, prefix: str = "") -> dict[str, QuantisedLayer]:
    """The quantised layers of an opened base model, ``plainly_spelled``, by name.

    A file in fp8 without a single scale was cast, not quantised: it has no quantised layers. ``prefix`` is for messages.

    Raises:
        CheckpointError: a quantised weight without its scale, a scale without such a weight, or a description that is none.
    """
    described = _descriptions(source, prefix)
    beside: dict[str, dict[str, str]] = {}
    for name in source.shapes:
        suffix = next((each for each in COMPANIONS if name.endswith(each)), None)
        if suffix:
            beside.setdefault(name.removesuffix(suffix), {})[suffix] = name
    layers = {}
    for layer in dict.fromkeys([*beside, *described]):
        dtype = source.dtypes.get(layer + WEIGHT)
        if dtype is None:
            raise CheckpointError(
                f"{source.path}: {prefix}{layer} is described as quantised, but its weight {prefix}{layer}{WEIGHT} is not there. "
                "The file may be incomplete: convert or download it again."
            )
        description = described.get(layer) or _guessed(source, layer, beside.get(layer, {}), dtype, prefix)
        layers[layer] = QuantisedLayer(description["format"], beside.get(layer, {}), description)
    for name, dtype in source.dtypes.items():
        if name.endswith(WEIGHT) and (dtype == torch.int8 or layers and dtype in LARGEST):
            layer = name.removesuffix(WEIGHT)
            if layer not in layers or SCALE not in layers[layer].companions:
                raise CheckpointError(
                    f"{source.path}: {prefix}{name} is {_name(dtype)} without its scale, {prefix}{layer}{SCALE}. "
                    "The file may be incomplete: convert or download it again."
                )
    return layers


def check_computable(source: TensorSource, layers: dict[str, QuantisedLayer], prefix: str = "") -> None:
    """Check that our own layers compute all of these.

    Raises:
        CheckpointError: naming the first layer that they do not compute, and why.
    """
    for layer, about in layers.items():
        name = f"{source.path}: {prefix}{layer}{WEIGHT}"
        rotated = about.description.get("convrot", (about.description.get("params") or {}).get("convrot", False))
        if about.format not in FORMATS or rotated or ".pre_quant_scale" in about.companions:
            kind = f"{about.format} with a rotation" if rotated else about.format
            raise CheckpointError(
                f"{name} is in the format {kind}, which is not computed here. Expected {', '.join(FORMATS)}. "
                "Use it in a ComfyUI that knows the format, or another file of the model."
            )
        dtype, scale = source.dtypes[layer + WEIGHT], source.shapes[about.companions[SCALE]]
        if dtype != FORMATS[about.format]:
            raise CheckpointError(f"{name} is {_name(dtype)}, but its format {about.format} keeps {_name(FORMATS[about.format])}. Convert or download it again.")
        shape = source.shapes[layer + WEIGHT]
        if len(shape) != 2:
            raise CheckpointError(f"{name} has the shape {list(shape)} and a scale, but only matrices are quantised. Convert or download it again.")
        if not fits(scale, shape):
            raise CheckpointError(
                f"{source.path}: {prefix}{layer}{SCALE} has the shape {list(scale)}, but the weight {list(shape)} needs one scale, "
                f"[{shape[0]}, 1], or one for each of equal blocks. Convert or download it again."
            )


def whole(source: TensorSource, layer: str, rows: tuple[int, int] | None = None) -> Tensor:
    """Dequantise a weight, or some of its rows, to float32 (rows, in)."""
    stored, scale = source.get(layer + WEIGHT), source.get(layer + SCALE).float()
    weight = dequantise(stored, scale, torch.float32)
    return weight[rows[0] : rows[1]] if rows else weight


def description_bytes(description: dict) -> Tensor:
    """A layer's description as a file holds it: uint8 (n,)."""
    return torch.frombuffer(bytearray(json.dumps(description).encode()), dtype=torch.uint8)


@dataclass(frozen=True)
class Quantisable:
    """Which linear layers of a family's base are kept quantised where that is asked for.

    Attributes:
        layers: pattern of their names.
        wide_inputs: of those layers whose inputs may exceed float8's range; their products stay in 16 bits.
    """

    layers: re.Pattern
    wide_inputs: re.Pattern

    def holds(self, name: str, shape: tuple[int, ...]) -> bool:
        """Whether a tensor of the base is the weight of such a layer."""
        return name.endswith(WEIGHT) and len(shape) == 2 and bool(self.layers.fullmatch(name.removesuffix(WEIGHT)))


def plain_dtype(source: TensorSource) -> torch.dtype:
    """The dtype that most of a base model's numbers have, but for its quantised layers: what it was converted from."""
    layers = {name.rpartition(".")[0] for name in source.shapes if name.endswith((SCALE, *SPELLINGS))}
    plain = [name for name in source.shapes if name.rpartition(".")[0] not in layers]
    return source.renamed({name: name for name in plain}).dtype() if layers and plain else source.dtype()


def _descriptions(source: TensorSource, prefix: str) -> dict[str, dict]:
    """What the file says of its layers, by name: in tensors of their own, or all together in its metadata."""
    found = {}
    together = source.metadata_json(METADATA).get("layers") if METADATA in source.metadata else None
    ours = {source.written(name): name for name in source.shapes}  # the metadata has the names of the file
    for name, values in (together if isinstance(together, dict) else {}).items():
        if name + WEIGHT in ours:
            found[ours[name + WEIGHT].removesuffix(WEIGHT)] = values
    for name in source.shapes:
        if name.endswith(DESCRIPTION):
            found[name.removesuffix(DESCRIPTION)] = _json(source, name, prefix)
    for layer, values in found.items():
        if not isinstance(values, dict) or not isinstance(values.get("format"), str):
            raise CheckpointError(f"{source.path}: what it says of {prefix}{layer} names no format. Convert or download it again.")
    return found


def _json(source: TensorSource, name: str, prefix: str) -> dict:
    what = f"{source.path}: {prefix}{name}"
    if source.dtypes[name] not in (torch.uint8, torch.int8) or len(source.shapes[name]) != 1:
        raise CheckpointError(f"{what} is not valid JSON: it is no row of bytes. Convert or download it again.")
    return parse_object(source.get(name).to(torch.uint8).numpy().tobytes(), what, "Convert or download it again.")


def _guessed(source: TensorSource, layer: str, companions: dict[str, str], dtype: torch.dtype, prefix: str) -> dict:
    """The description of a layer that its file only gives scales for."""
    if ".weight_scale_2" in companions:
        return {"format": "nvfp4"}
    for name, kept in FORMATS.items():
        if dtype == kept and SCALE in companions:
            return {"format": name}
    raise CheckpointError(
        f"{source.path}: {prefix}{layer}{next(iter(companions))} belongs to a weight in {_name(dtype)}, "
        f"expected {', '.join(map(_name, FORMATS.values()))}. The file was not converted as a whole: convert or download it again."
    )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
