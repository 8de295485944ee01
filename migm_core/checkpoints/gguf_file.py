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
        CheckpointError: the package is missing, or the file is damaged, of another architecture or in a format that the package
            cannot read.
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
        if len(self._tensors) != len(reader.tensors):
            raise CheckpointError(f"{path} holds a tensor under two names, the published one and llama.cpp's. Convert or download it again.")
        for name, tensor in self._tensors.items():
            self.shapes[name] = tuple(int(size) for size in reversed(tensor.shape))
            self.dtypes[name] = PLAIN.get(tensor.tensor_type.name, torch.bfloat16)
        self._check()

    def _check(self) -> None:
        """What ``get`` would fail at: a format that the package cannot read, or a number of heads that fits no rows."""
        examples = {tensor.tensor_type.name: (name, tensor) for name, tensor in self._tensors.items() if tensor.tensor_type.name not in PLAIN}
        for name, tensor in examples.values():
            try:
                self._dequantise(tensor.data[:1], tensor.tensor_type)
            except Exception as error:  # NotImplementedError, or what a format does with rows of another size
                raise CheckpointError(
                    f"{self.path}: tensor {name} is in {tensor.tensor_type.name}, which the package gguf cannot read ({error}). Use a file in Q8_0, or newer gguf."
                ) from None
        for name, tensor in self._tensors.items():
            if key := self._heads_key(name):
                heads, rows = self._heads(key), self.shapes[name][0] if self.shapes[name] else 0
                if not isinstance(heads, int) or heads < 1 or rows % (2 * heads):
                    raise CheckpointError(f"{self.path}: {key} is {heads!r}, which does not divide the {rows} rows of {tensor.name}. Convert or download it again.")

    def _heads_key(self, name: str) -> str | None:
        """The field that says how many heads a tensor's rows are of, where llama.cpp has reordered them."""
        written = self._tensors[name].name
        return HEADS.get(written.split(".")[-2]) if written != name and "." in written else None

    def _heads(self, key: str) -> object:
        return self._fields.get(key, self._fields.get(HEADS["attn_q"]))

    def get(self, name: str, rows: tuple[int, int] | None = None) -> Tensor:
        """A tensor, or some rows of it, made whole."""
        tensor = self._tensors[name]
        heads = self._heads_key(name)
        if heads and rows:  # which are of one head, but not side by side in the file
            return self.get(name)[slice(*rows)]
        kind = tensor.tensor_type
        stored = tensor.data[slice(*rows)] if rows else tensor.data
        if kind.name == "BF16":  # as bytes, (..., columns * 2)
            whole = torch.from_numpy(stored.copy()).view(torch.bfloat16)
        elif kind.name in PLAIN:
            whole = torch.from_numpy(stored.copy())
        else:
            whole = torch.from_numpy(self._dequantise(stored, kind))
        return _halves_apart(whole, self._heads(heads)) if heads else whole

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


def _halves_apart(weight: Tensor, heads: int) -> Tensor:
    """Undo llama.cpp's order of rows within each head: (heads, pairs, 2) back to (heads, 2, pairs)."""
    return weight.unflatten(0, (heads, -1, 2)).transpose(1, 2).flatten(0, 2)
