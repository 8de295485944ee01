"""GGUF files of a base model, read by the ``gguf`` package, which only they need: ``pip install migm-shortcut[gguf]``.

A file has the published names, or those that llama.cpp gives its architecture. It holds the base alone: config, tokenizer and
image tokenizer lie beside it, as in the published folder. Quantised tensors are made whole as they are read.
"""

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from ..arguments import shown
from .errors import CheckpointError

PLAIN = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
ARCHITECTURE = "general.architecture"

# Of a header; what claims more is not handed to the package, which takes every entry apart.
MOST_FIELDS, MOST_TENSORS, MOST_ENTRIES, LONGEST_TEXT = 10_000, 20_000, 2**20, 2**24
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # bytes of a value, by its kind
_TEXT, _ARRAY = 8, 9


@dataclass(frozen=True)
class GgufNames:
    """What llama.cpp makes of the tensors of one architecture, all of them weights.

    Attributes:
        architecture: as the file's ``general.architecture`` has it.
        made_from: the kind of checkpoint, for messages.
        prefix: of the published names.
        outer: names outside the blocks, to published ones without the prefix.
        in_block: names in block N, after ``blk.N.``, to published ones after ``blocks.N.``.
        heads: of names in a block, the field with the number of heads, where llama.cpp's converter has reordered the rows for its rotary
            embedding, which pairs neighbours instead of halves. A field that a file lacks is that of the first.
    """

    architecture: str
    made_from: str
    prefix: str
    outer: Mapping[str, str]
    in_block: Mapping[str, str]
    heads: Mapping[str, str]

    def published(self, name: str) -> str | None:
        """The published name of one of llama.cpp's; None for any other."""
        block = re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", name)
        if block and block[2] in self.in_block:
            return f"{self.prefix}blocks.{block[1]}.{self.in_block[block[2]]}.weight"
        outer = name.removesuffix(".weight")
        return f"{self.prefix}{self.outer[outer]}.weight" if name != outer and outer in self.outer else None


class GgufFile:
    """An opened file. A tensor that is not asked for is not read.

    Attributes:
        bits: the fewest that a number takes in it, 16 where nothing is quantised.
        shapes, dtypes: by published name. What is quantised counts as bfloat16, which has as many digits as any of it.

    Raises:
        CheckpointError: the package is missing, or the file is damaged, of another architecture or in a format that the package
            cannot read.
    """

    def __init__(self, path: Path):
        from ..families import FAMILIES  # which import this package

        try:
            import gguf
        except ImportError:
            raise CheckpointError(
                f"{path}: reading GGUF needs the package gguf, which is not installed. Install it with: pip install migm-shortcut[gguf]"
            ) from None
        self.path, self._dequantise = path, gguf.quants.dequantize
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, torch.dtype] = {}
        known = [family.gguf_names for family in FAMILIES if family.gguf_names]
        wanted = {ARCHITECTURE, *(field for names in known for field in names.heads.values())}
        _check_header(path)
        try:
            reader = gguf.GGUFReader(path)
            self._fields = {name: reader.fields[name].contents() for name in wanted if name in reader.fields}
        except Exception as error:  # on a damaged file the reader fails in any way
            size = path.stat().st_size if path.is_file() else 0
            raise CheckpointError(f"{path} ({size:,} bytes) is damaged or not a GGUF file: {error}. It may be cut short: download it again.") from None
        architecture = self._fields.get(ARCHITECTURE)
        self._names = next((names for names in known if names.architecture == architecture), None)
        if self._names is None and any(names.published(tensor.name) for names in known for tensor in reader.tensors):
            expected, sources = (" or ".join(values) for values in zip(*((repr(names.architecture), names.made_from) for names in known)))
            raise CheckpointError(f"{path} is of the architecture {shown(architecture)}, expected {expected}. Use a GGUF file made from a checkpoint of {sources}.")
        blocks = [gguf.GGML_QUANT_SIZES[tensor.tensor_type] for tensor in reader.tensors if tensor.tensor_type.name not in PLAIN]  # numbers, bytes
        self.bits = min((8 * size // count for count, size in blocks), default=16)
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
                    raise CheckpointError(f"{self.path}: {key} is {shown(heads)}, which does not divide the {rows} rows of {tensor.name}. Convert or download it again.")

    def _heads_key(self, name: str) -> str | None:
        """The field that says how many heads a tensor's rows are of, where llama.cpp has reordered them."""
        written = self._tensors[name].name
        return self._names.heads.get(written.split(".")[-2]) if self._names and written != name and "." in written else None

    def _heads(self, key: str) -> object:
        return self._fields.get(key, self._fields.get(next(iter(self._names.heads.values()))))

    def get(self, name: str, rows: tuple[int, int] | None = None) -> Tensor:
        """A tensor, or some rows of it, made whole: in its dtype, or where it is quantised in float32."""
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
        """Map a tensor's name to the published one. Unknown names get the prefix and are refused by check_keys."""
        if self._names is None:
            return name
        first = self._names.prefix.partition(".")[0] + "."
        return self._names.published(name) or (name if name.startswith(first) else self._names.prefix + name)


def _check_header(path: Path) -> None:
    """Go through a header by its counts alone.

    Raises:
        CheckpointError: it claims more than a model has, or than the file holds.
    """
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            _, version, tensors, fields = struct.unpack("<4sIQQ", file.read(24))
            if version not in (2, 3):
                raise CheckpointError(f"{path} is GGUF of version {version}, expected 2 or 3 in little-endian order. Convert or download it again.")
            _bound(path, "tensors", tensors, MOST_TENSORS)
            _bound(path, "fields", fields, MOST_FIELDS)
            for _ in range(fields):
                _skip_text(path, file)
                (kind,) = struct.unpack("<I", file.read(4))
                if kind == _ARRAY:
                    kind, entries = struct.unpack("<IQ", file.read(12))
                    _bound(path, "entries of a field", entries, MOST_ENTRIES)
                    _skip(path, file, kind, entries)
                else:
                    _skip(path, file, kind, 1)
                if file.tell() > size:
                    raise struct.error
    except (struct.error, KeyError):
        raise CheckpointError(f"{path} ({size:,} bytes) is damaged: it ends within its header. It may be cut short: download it again.") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}.") from None


def _skip(path: Path, file: BinaryIO, kind: int, entries: int) -> None:
    """Pass over values of one kind."""
    if kind != _TEXT:
        file.seek(_SIZES[kind] * entries, 1)
        return
    for _ in range(entries):
        _skip_text(path, file)


def _skip_text(path: Path, file: BinaryIO) -> None:
    (length,) = struct.unpack("<Q", file.read(8))
    _bound(path, "bytes of a text", length, LONGEST_TEXT)
    file.seek(length, 1)


def _bound(path: Path, what: str, claimed: int, most: int) -> None:
    if claimed > most:
        raise CheckpointError(f"{path} claims {claimed:,} {what}, but no model known here has more than {most:,}. It may be damaged: download it again.")


def _halves_apart(weight: Tensor, heads: int) -> Tensor:
    """Undo llama.cpp's order of rows within each head: (heads, pairs, 2) back to (heads, 2, pairs)."""
    return weight.unflatten(0, (heads, -1, 2)).transpose(1, 2).flatten(0, 2)
