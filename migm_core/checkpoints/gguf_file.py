"""GGUF files of a base model, read by the ``gguf`` package, which only they need: ``pip install migm-shortcut[gguf]``.

A file has the published names, or those that llama.cpp gives a model of the LLaDA kind. It holds the base alone: config,
tokenizer and image tokenizer lie beside it, as in the published folder. Quantised tensors are made whole as they are read.
"""

import re
from pathlib import Path

import torch
from torch import Tensor

from .errors import CheckpointError

SUFFIX = ".gguf"
PUBLISHED = "model.transformer."
OUTER = {"token_embd": "wte", "output_norm": "ln_f", "output": "ff_out"}
IN_BLOCK = {
    "attn_norm": "attn_norm",
    "attn_q": "q_proj",
    "attn_k": "k_proj",
    "attn_v": "v_proj",
    "attn_output": "attn_out",
    "ffn_norm": "ff_norm",
    "ffn_gate": "ff_proj",
    "ffn_up": "up_proj",
    "ffn_down": "ff_out",
}
# llama.cpp's converter reorders the rows of these for its rotary embedding, which pairs neighbours instead of halves.
HEADS = {"attn_q": "llada.attention.head_count", "attn_k": "llada.attention.head_count_kv"}
PLAIN = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


class GgufFile:
    """An opened file. A tensor that is not asked for is not read.

    Attributes:
        shapes, dtypes: by published name. What is quantised counts as bfloat16, which has as many digits as any of it.

    Raises:
        CheckpointError: the package is missing, or the file is damaged or of another architecture.
    """

    def __init__(self, path: Path):
        try:
            import gguf
        except ImportError:
            raise CheckpointError(
                f"{path}: reading GGUF needs the package gguf, which is not installed. Install it with: pip install migm-shortcut[gguf]"
            ) from None
        self.path, self._dequantise = path, gguf.quants.dequantize
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, torch.dtype] = {}
        try:
            reader = gguf.GGUFReader(path)
            self._fields = {name: reader.fields[name].contents() for name in ("general.architecture", *HEADS.values()) if name in reader.fields}
        except Exception as error:  # on a damaged file the reader fails in any way
            size = path.stat().st_size if path.is_file() else 0
            raise CheckpointError(f"{path} ({size:,} bytes) is damaged or not a GGUF file: {error}. It may be cut short: download it again.") from None
        self._tensors = {self._published(tensor.name): tensor for tensor in reader.tensors}
        for name, tensor in self._tensors.items():
            self.shapes[name] = tuple(int(size) for size in reversed(tensor.shape))
            self.dtypes[name] = PLAIN.get(tensor.tensor_type.name, torch.bfloat16)

    def get(self, name: str, rows: tuple[int, int] | None = None) -> Tensor:
        """A tensor, or some rows of it, made whole.

        Raises:
            CheckpointError: in a format that the package cannot read.
        """
        tensor = self._tensors[name]
        heads = HEADS.get(tensor.name.split(".")[-2]) if tensor.name != name else None
        if heads and rows:  # which are of one head, but not side by side in the file
            return self.get(name)[slice(*rows)]
        kind = tensor.tensor_type
        stored = tensor.data[slice(*rows)] if rows else tensor.data
        if kind.name == "BF16":  # as bytes, (..., columns * 2)
            whole = torch.from_numpy(stored.copy()).view(torch.bfloat16)
        elif kind.name in PLAIN:
            whole = torch.from_numpy(stored.copy())
        else:
            try:
                whole = torch.from_numpy(self._dequantise(stored, kind))
            except NotImplementedError:
                raise CheckpointError(f"{self.path}: tensor {name} is in {kind.name}, which the package gguf cannot read. Use a file in Q8_0, or newer gguf.") from None
        return self._halves_apart(tensor.name, heads, whole) if heads else whole

    def _published(self, name: str) -> str:
        """The published name of a tensor; one that no model has where it is unknown, so that the check of all names refuses it."""
        parts = re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight|(\w+)\.weight", name)
        layer, inner, outer = parts.groups() if parts else (None, None, None)
        if inner not in IN_BLOCK and outer not in OUTER:
            return name if name.startswith("model.") else PUBLISHED + name
        architecture = self._fields.get("general.architecture")
        if architecture != "llada":
            raise CheckpointError(f"{self.path} is of the architecture {architecture!r}, expected 'llada'. Use a GGUF file made from a Lumina-DiMOO checkpoint.")
        return PUBLISHED + (f"{OUTER[outer]}.weight" if outer else f"blocks.{layer}.{IN_BLOCK[inner]}.weight")

    def _halves_apart(self, name: str, key: str, weight: Tensor) -> Tensor:
        """Undo llama.cpp's order of rows within each head: (heads, pairs, 2) back to (heads, 2, pairs)."""
        heads = self._fields.get(key, self._fields.get(HEADS["attn_q"]))
        if not isinstance(heads, int) or heads < 1 or weight.shape[0] % (2 * heads):
            raise CheckpointError(f"{self.path}: {key} is {heads!r}, which does not divide the {weight.shape[0]} rows of {name}. Convert or download it again.")
        return weight.unflatten(0, (heads, -1, 2)).transpose(1, 2).flatten(0, 2)
