"""Training checkpoints saved by torch.save: the tensors of one table in them, mapped when they are asked for, so an optimizer's state is never read.

What a file lists is read by ``torch_pickle``, which runs nothing.
"""

import io
import struct
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from ..arguments import shown
from .errors import CheckpointError
from .torch_pickle import Damaged, Foreign, PickleReader, StoredTensor

# Under which key training programs keep the model, beside the optimizer's state and the like.
TABLES = ("model_state_dict", "state_dict")
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
LARGEST_PICKLE = 2**24  # bytes; a published checkpoint has under 1 MB beside its tensors


class TorchFile:
    """The tensors of one table in a training checkpoint.

    Attributes:
        path: of the file.
        shapes, dtypes: by name.
        mapped: keys of the storages that have been asked for.
    """

    def __init__(self, path: Path, content: np.memmap, tensors: dict[str, StoredTensor], places: dict[str, tuple[int, int]]):
        """
        Args:
            content: the file's bytes, read where they are touched. Copied on write: whoever changes a tensor changes his own.
            places: of each storage by its key, its first byte in the file and how many bytes there are.
        """
        self.path = path
        self.shapes = {name: tensor.shape for name, tensor in tensors.items()}
        self.dtypes = {name: tensor.storage.dtype for name, tensor in tensors.items()}
        self.mapped: set[str] = set()
        self._content, self._tensors, self._places = content, tensors, places
        for name, tensor in tensors.items():
            self._check(name, tensor)

    @classmethod
    def open(cls, path: Path, *, plain: bool = False) -> "TorchFile | None":
        """Open a training checkpoint; None for a file that is none, such as a plain state dict.

        Args:
            plain: take a plain state dict for one, too, where it is in the form of torch before 1.6, which torch.load reads whole.

        Raises:
            CheckpointError: it is one, but damaged, or in a form that is not supported.
        """
        try:
            with path.open("rb") as file:  # and no other: one that takes its place meanwhile has its numbers elsewhere
                content = np.memmap(file, np.uint8, "c")
                zipped = zipfile.is_zipfile(file)
                contents, places = _read_zip(file, path) if zipped else _read_legacy(file, path)
        except CheckpointError:
            raise
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read: {error.strerror or error}.") from None
        except Exception:  # on a damaged file the archive's reader fails in any way
            return None  # whoever reads plain state dicts says what is wrong with it
        if not isinstance(contents, dict):
            return None
        tables = [key for key in TABLES if isinstance(contents.get(key), dict)]
        if not tables:
            listed = plain and not zipped and contents and all(isinstance(name, str) and isinstance(tensor, StoredTensor) for name, tensor in contents.items())
            return cls(path, content, contents, places) if listed else None
        table = contents[tables[0]]
        odd = [name for name, tensor in table.items() if not isinstance(name, str) or not isinstance(tensor, StoredTensor)]
        if odd or not table:
            what = f"an entry {shown(odd[0].name if isinstance(odd[0], Foreign) else odd[0])} that is no named tensor" if odd else "no tensors"
            raise CheckpointError(f"{path} holds {what} under {tables[0]!r}. Expected a model's state dict there: save it again, or use a .safetensors file.")
        return cls(path, content, table, places)

    def get(self, name: str, rows: tuple[int, int] | None = None) -> Tensor:
        """A tensor, or some rows of it, as a view of the mapped file."""
        tensor = self._tensors[name]
        self.mapped.add(tensor.storage.key)
        start, _ = self._places[tensor.storage.key]
        if not tensor.storage.size:
            return torch.empty(tensor.shape, dtype=tensor.storage.dtype)
        numbers = self._content[start : start + tensor.storage.size * tensor.storage.dtype.itemsize]
        if start % tensor.storage.dtype.itemsize:  # as in files older than torch's alignment
            numbers = np.array(numbers)
        whole = torch.from_numpy(numbers).view(tensor.storage.dtype).as_strided(tensor.shape, tensor.stride, tensor.offset)
        return whole[rows[0] : rows[1]] if rows else whole

    def _check(self, name: str, tensor: StoredTensor) -> None:
        """Raise a CheckpointError where a tensor reaches past its numbers, or these past the file."""
        storage = tensor.storage
        start, size = self._places.get(storage.key, (0, -1))
        if min(size, len(self._content) - start) < storage.size * storage.dtype.itemsize:
            raise CheckpointError(f"{self.path} lacks the numbers of {name}. It may be cut short: download it again.")
        last = tensor.offset + sum((length - 1) * stride for length, stride in zip(tensor.shape, tensor.stride))
        if 0 not in tensor.shape and last >= storage.size:
            raise CheckpointError(f"{self.path}: {name} reaches past its numbers. The file is damaged: download it again.")


def _read_zip(file: BinaryIO, path: Path) -> tuple[Any, dict[str, tuple[int, int]]]:
    """What a file of today's form holds, and where its storages lie."""
    with zipfile.ZipFile(file) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        pickles = [name for name in entries if name == "data.pkl" or name.endswith("/data.pkl") and name.count("/") == 1]
        root = pickles[0].removesuffix("data.pkl") if len(pickles) == 1 else ""
        order = root + "byteorder"
        if len(pickles) != 1 or any(entries[name].file_size > LARGEST_PICKLE for name in (*pickles, order) if name in entries):
            raise Damaged
        if order in entries and archive.read(order).strip() != b"little":
            raise CheckpointError(f"{path} was saved on a machine with another order of bytes, which is not supported. Use a .safetensors file.")
        contents = PickleReader(archive.read(pickles[0]), path).value()
        places = {}
        for name, entry in entries.items():
            if name.startswith(root + "data/"):
                if entry.compress_type != zipfile.ZIP_STORED:
                    raise CheckpointError(f"{path} is compressed, which torch.save never does. Download it again.")
                places[name.removeprefix(root + "data/")] = (_first_byte(file, entry), entry.file_size)
    return contents, places


def _first_byte(file: BinaryIO, entry: zipfile.ZipInfo) -> int:
    """Where an entry's bytes begin: after its header, whose length only the header itself tells."""
    file.seek(entry.header_offset)
    header = file.read(30)
    if len(header) < 30 or header[:4] != b"PK\x03\x04":
        raise Damaged
    name, extra = struct.unpack("<HH", header[26:30])
    return entry.header_offset + 30 + name + extra


def _read_legacy(file: BinaryIO, path: Path) -> tuple[Any, dict[str, tuple[int, int]]]:
    """What a file of torch before 1.6 holds, and where its storages lie: a row of pickles, then each storage behind its length."""
    file.seek(0)
    if file.read(1) != b"\x80":
        raise Damaged
    file.seek(0)
    if PickleReader(file, path).value() != _LEGACY_MAGIC or PickleReader(file, path).value() != _LEGACY_PROTOCOL:
        raise Damaged
    system = PickleReader(file, path).value()
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise Damaged
    contents = PickleReader(file, path)
    value, keys = contents.value(), PickleReader(file, path).value()
    if not isinstance(keys, list):
        raise Damaged
    storages = {storage.key: storage for storage in contents.storages}
    places = {}
    for key in keys:
        length = file.read(8)
        if len(length) < 8 or key not in storages:
            raise Damaged
        count = int.from_bytes(length, "little") * storages[key].dtype.itemsize
        places[key] = (file.tell(), count)
        file.seek(count, io.SEEK_CUR)
    return value, places
