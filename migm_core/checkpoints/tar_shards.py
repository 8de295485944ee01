"""Tensors in tar files, as webdataset keeps them: members KEY.NAME.pth, those of one record one after the other.

A record may have one more member, KEY.run.json: what is known of it. A shard is indexed once, by its headers. A tensor is read when
it is asked for, and of a large one only the rows that are. Nothing is unpacked on the disk, and nothing but tensors and JSON is
accepted of a file.
"""

import io
import itertools
import json
import os
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from ..writing import folder_for, replacing
from .errors import CheckpointError
from .json_text import parse_object
from .torch_load import check_version, load_part

MOST_RECORDS, MOST_BYTES = 40, 10 * 2**30  # of a shard, as published
MOST_TEXT = 2**20  # bytes of JSON that are read
SUFFIX, ABOUT = ".pth", "run.json"


class TarShard:
    """A shard, indexed.

    Attributes:
        path: the file.
        members: for each record's key, where its members are: name, without .pth, to (offset, size) in bytes.

    Raises:
        CheckpointError: the file is no tar archive, or ends early.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        check_version(self.path)
        self.members: dict[str, dict[str, tuple[int, int]]] = {}
        try:
            length = self.path.stat().st_size
            if not self.path.is_file():  # opening a pipe would wait for ever
                raise CheckpointError(f"{self.path} is no file, expected a tar archive.")
            with tarfile.open(self.path, "r:") as archive:
                for info in archive:
                    folder, _, base = info.name.rpartition("/")
                    key, _, name = base.partition(".")
                    if not info.isfile() or not name.endswith((SUFFIX, ABOUT)):
                        continue
                    if info.offset_data + info.size > length:
                        raise CheckpointError(f"{self.path} ends in the middle of its member {info.name}. Copy or download it again.")
                    record = self.members.setdefault(f"{folder}/{key}" if folder else key, {})
                    record[name.removesuffix(SUFFIX)] = (info.offset_data, info.size)
        except tarfile.TarError as error:
            raise CheckpointError(f"{self.path} is no whole tar archive ({error}). Copy or download it again.") from None
        except OSError as error:
            raise CheckpointError(f"{self.path} cannot be read: {error.strerror or error}.") from None

    def tensor(self, key: str, name: str) -> Tensor:
        """A whole member.

        Raises:
            CheckpointError: it is missing or damaged, or holds something else than a tensor.
        """
        with self._open(key, name) as member:
            return self._load(member, key, name)

    def shape(self, key: str, name: str) -> tuple[int, ...]:
        """Shape of a member, of which no number is read."""
        with self._open(key, name) as member:
            return tuple(self._outline(member, key, name).shape)

    def row(self, key: str, name: str, index: int) -> Tensor:
        """``tensor(key, name)[index]``, of which nothing else is read.

        Raises:
            CheckpointError: as ``tensor``, or there is no such row.
        """
        with self._open(key, name) as member:
            outline = self._outline(member, key, name)
            if not outline.dim() or not 0 <= index < len(outline):
                raise CheckpointError(f"{self._said(key, name)} has the shape {tuple(outline.shape)}; expected a row {index} in it.")
            stored = _stored_numbers(member) if outline.is_contiguous() and outline.storage_offset() == 0 else None
            if stored is None or stored[1] < outline.numel() * outline.itemsize:  # a view, or packed: unusual, and right all the same
                member.seek(0)
                return self._load(member, key, name)[index]
            size = outline[0].numel() * outline.itemsize
            member.seek(stored[0] + index * size)
            return torch.frombuffer(bytearray(member.read(size)), dtype=outline.dtype).view(outline.shape[1:])

    def about(self, key: str) -> dict | None:
        """What a record's run.json says; None where it has none.

        Raises:
            CheckpointError: it is no JSON object, or holds numbers that are none.
        """
        if ABOUT not in self.members[key]:
            return None
        with self._open(key, ABOUT) as member:
            return parse_object(member.read(MOST_TEXT), self._said(key, ABOUT), "Copy or download the file again.")

    def _outline(self, member: BinaryIO, key: str, name: str) -> Tensor:
        with FakeTensorMode():  # shape, strides and dtype without the numbers
            return self._load(member, key, name)

    def _load(self, member: BinaryIO, key: str, name: str) -> Tensor:
        found = load_part(member, self._said(key, name))
        if not isinstance(found, Tensor):
            raise CheckpointError(f"{self._said(key, name)} holds a {type(found).__name__}, expected a tensor.")
        return found

    def _open(self, key: str, name: str) -> BinaryIO:
        try:
            offset, size = self.members[key][name]
        except KeyError:
            raise CheckpointError(f"{self.path} has no member {_file(key, name)}. Copy or download the file again, or leave it out.") from None
        try:
            return io.BufferedReader(_Part(self.path, offset, size))
        except OSError as error:
            raise CheckpointError(f"{self.path} cannot be read: {error.strerror or error}.") from None

    def _said(self, key: str, name: str) -> str:
        return f"{self.path}: the member {_file(key, name)}"


def _file(key: str, name: str) -> str:
    return f"{key}.{name}" if name == ABOUT else f"{key}.{name}{SUFFIX}"


class _Part(io.RawIOBase):
    """Some bytes of a file, as a file."""

    def __init__(self, path: Path, offset: int, size: int):
        self._file, self._offset, self._size, self._at = open(path, "rb", buffering=0), offset, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = max(0, offset + (0, self._at, self._size)[whence])
        return self._at

    def readinto(self, buffer) -> int:
        self._file.seek(self._offset + self._at)
        count = self._file.readinto(memoryview(buffer)[: max(0, self._size - self._at)])
        self._at += count
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


def _stored_numbers(member: BinaryIO) -> tuple[int, int] | None:
    """Where the numbers of the one tensor that torch.save wrote begin, and how many bytes they are; None where they are packed."""
    member.seek(0)
    with zipfile.ZipFile(member) as archive:
        entries = [entry for entry in archive.infolist() if entry.filename.split("/")[1:] == ["data", "0"]]
    if len(entries) != 1 or entries[0].compress_type != zipfile.ZIP_STORED:
        return None
    member.seek(entries[0].header_offset + 26)  # of the entry's own header, which may differ in length from the one in the directory
    name, extra = (int.from_bytes(member.read(2), "little") for _ in range(2))
    return entries[0].header_offset + 30 + name + extra, entries[0].file_size


class TarWriter:
    """Records into shards ``FOLDER/%06d.tar``, each written whole or not at all. The folder is made for the first of them.

    A shard is full at MOST_RECORDS records, or before the record that would take it above MOST_BYTES. Use it in a with block: what is
    complete when the block ends, however it ends, is kept; a failing disk keeps the shards before.

    Args:
        numbers: of the shards to write, ascending; those that are there already are passed over.
    """

    def __init__(self, folder: str | Path, numbers: Iterator[int] | None = None, *, most_records: int = MOST_RECORDS, most_bytes: int = MOST_BYTES):
        self.folder, self.most_records, self.most_bytes = Path(folder), most_records, most_bytes
        self._numbers = itertools.count() if numbers is None else numbers
        self._open = ExitStack()
        self._archive: tarfile.TarFile | None = None
        self._records = self._bytes = 0

    def add(self, key: str, tensors: Mapping[str, Tensor], about: dict | None = None) -> None:
        """Write a record: its members' names without ``.pth``, and their tensors; and what is known of it.

        Raises:
            OSError: naming the file.
        """
        members = {_file(key, name): _saved(tensor) for name, tensor in tensors.items()}
        if about is not None:
            members[_file(key, ABOUT)] = json.dumps(about).encode()
        size = sum(map(len, members.values()))
        if self._archive is not None and (self._records >= self.most_records or self._bytes + size > self.most_bytes):
            self.finish()
        if self._archive is None:
            path = next(path for path in map(self._path, self._numbers) if not path.exists())
            self._open.enter_context(folder_for(self.folder))
            self._archive = self._open.enter_context(tarfile.open(fileobj=self._open.enter_context(replacing(path)), mode="w"))
        whole = self._archive.offset
        try:
            for name, content in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                self._archive.addfile(info, io.BytesIO(content))
        except OSError:
            raise  # the disk fails: the shard is given up
        except BaseException:  # such as a second Ctrl-C: half a member would make all of the shard unreadable
            self._archive.fileobj.seek(whole)
            self._archive.fileobj.truncate()
            self._archive.offset = whole
            raise
        self._records, self._bytes = self._records + 1, self._bytes + size

    def finish(self) -> None:
        """Put the shard that is being written in its place."""
        self._archive, self._records, self._bytes = None, 0, 0
        self._open.close()

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06d}.tar"

    def __enter__(self) -> "TarWriter":
        return self

    def __exit__(self, kind, error, trace) -> None:
        if isinstance(error, OSError) or error is not None and not self._records:
            self._open.__exit__(kind, error, trace)  # half a record may lie in the shard, or none at all
        else:
            self.finish()


def _saved(tensor: Tensor) -> bytes:
    """As torch.save writes a tensor of its own, without what else its storage holds."""
    buffer = io.BytesIO()
    torch.save(tensor.detach().cpu().contiguous().clone(), buffer)
    return buffer.getvalue()
