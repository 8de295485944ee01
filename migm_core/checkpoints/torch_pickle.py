"""The pickles of torch.save, read without running anything.

A pickle is a small program that may call what it names. The reader here knows the instructions that make tables, lists and numbers, and
rebuilds tensors itself. Whatever else a file names, such as a callback's class, becomes a placeholder: nothing is imported, nothing is called.
"""

import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch

from .errors import CheckpointError

MOST_INSTRUCTIONS = 10**6  # of a pickle; a tensor takes forty
_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_MARK = object()


@dataclass(frozen=True)
class Storage:
    """Numbers in the file: their type, key there, and how many there are."""

    dtype: torch.dtype
    key: str
    size: int


@dataclass(frozen=True)
class StoredTensor:
    """A view of a storage, in numbers."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(frozen=True)
class Foreign:
    """What the file names and this reader does not know, or what it would have made of that."""

    name: str


class Damaged(ValueError):
    """The file is not what torch.save writes."""


class PickleReader:
    """A pickle's value, made without calling anything that it names.

    Args:
        pickled: its bytes, or a file that stands at its beginning.
        name: of the file, for messages.

    Attributes:
        storages: those that it mentions.
    """

    def __init__(self, pickled: bytes | BinaryIO, name: str | Path = "The file"):
        self._name = name
        self.storages: list[Storage] = []
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._pickled = pickled

    def value(self) -> Any:
        """
        Raises:
            Damaged: it is no pickle, or one that no torch.save writes.
        """
        try:
            for count, (opcode, argument, _) in enumerate(pickletools.genops(self._pickled)):
                if count > MOST_INSTRUCTIONS:
                    raise CheckpointError(f"{self._name} lists its contents in more than {MOST_INSTRUCTIONS:,} instructions, which no weights need. Download it again.")
                if opcode.name == "STOP":
                    return self._stack.pop()
                _INSTRUCTIONS[opcode.name](self, argument)
        except CheckpointError:
            raise
        except Exception as error:  # a damaged pickle fails in any way
            raise Damaged(str(error)) from None
        raise Damaged

    def push(self, value: Any) -> None:
        self._stack.append(value)

    def pop(self) -> Any:
        return self._stack.pop()

    def top(self) -> Any:
        return self._stack[-1]

    def to_mark(self) -> list[Any]:
        """Take all that lies above the last mark, and the mark."""
        index = len(self._stack) - 1
        while self._stack[index] is not _MARK:
            index -= 1
            if index < 0:
                raise Damaged
        values = self._stack[index + 1 :]
        del self._stack[index:]
        return values

    def keep(self, place: int | None) -> None:
        self._memo[len(self._memo) if place is None else place] = self.top()

    def recall(self, place: int) -> None:
        self.push(self._memo[place])

    def stored(self, named: Any) -> Storage:
        """A storage from what the file says of it: ("storage", type, key, device, size), and in old files a view of another."""
        kind, of, key, _, size = named[:5]
        dtype = _DTYPES.get(of.name.split()[-1]) if isinstance(of, Foreign) else None
        if kind != "storage" or dtype is None or not isinstance(key, str) or not _is_count(size) or named[5:] not in ((), (None,)):
            raise Damaged
        storage = Storage(dtype, key, size)
        self.storages.append(storage)
        return storage

    def called(self, function: Any, arguments: Any) -> Any:
        """What a call would give: a tensor, a table, or a placeholder."""
        name = function.name if isinstance(function, Foreign) else ""
        if name == "torch._utils _rebuild_tensor_v2":
            storage, offset, shape, stride = arguments[:4]
            counts = isinstance(shape, tuple) and isinstance(stride, tuple) and all(map(_is_count, (offset, *shape, *stride)))
            if not isinstance(storage, Storage) or not counts or len(shape) != len(stride):
                raise Damaged
            return StoredTensor(storage, offset, shape, stride)
        if name == "torch._utils _rebuild_parameter":
            return arguments[0]
        if name == "collections OrderedDict":
            return {_key(key): value for key, value in arguments[0]} if arguments else {}
        return Foreign(f"{name}()")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**62


def _pushing(make: Callable[[Any], Any]) -> Callable[[PickleReader, Any], None]:
    return lambda reader, argument: reader.push(make(argument))


def _append(reader: PickleReader, values: list[Any]) -> None:
    if isinstance(reader.top(), list):
        reader.top().extend(values)
    elif isinstance(reader.top(), set):
        reader.top().update(map(_key, values))
    elif not isinstance(reader.top(), Foreign):
        raise Damaged


def _table(values: list[Any]) -> dict:
    """Of keys and values in turn."""
    return dict(zip(map(_key, values[::2]), values[1::2], strict=True))


def _key(value: Any) -> Any:
    """A value as a key: a placeholder for all but plain ones, since the hash of a deep tuple has no bottom."""
    return value if value is None or isinstance(value, (str, bytes, int, float, Foreign)) else Foreign(type(value).__name__)


def _set_items(reader: PickleReader, values: list[Any]) -> None:
    if isinstance(reader.top(), dict):
        reader.top().update(_table(values))
    elif not isinstance(reader.top(), Foreign):
        raise Damaged


def _call(reader: PickleReader, _: Any) -> None:
    arguments, function = reader.pop(), reader.pop()
    reader.push(reader.called(function, arguments))


def _new_with_names(reader: PickleReader, _: Any) -> None:
    reader.pop()
    _call(reader, None)


def _two(reader: PickleReader) -> list[Any]:
    second = reader.pop()
    return [reader.pop(), second]


def _named_on_stack(reader: PickleReader, _: Any) -> None:
    module, name = _two(reader)
    reader.push(Foreign(f"{module} {name}"))


def _instance(reader: PickleReader, argument: Any) -> None:
    reader.to_mark()
    reader.push(Foreign(f"{argument}()"))


def _tuple_of(count: int) -> Callable[[PickleReader, Any], None]:
    def make(reader: PickleReader, _: Any) -> None:
        reader.push(tuple(reversed([reader.pop() for _ in range(count)])))

    return make


_INSTRUCTIONS: dict[str, Callable[[PickleReader, Any], None]] = {
    **{name: lambda reader, argument: None for name in ("PROTO", "FRAME")},
    **{name: _pushing(lambda argument: argument) for name in ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT")},
    **{name: _pushing(lambda argument: argument) for name in ("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8")},
    **{name: _pushing(lambda argument: argument) for name in ("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8")},
    "NONE": _pushing(lambda _: None),
    "NEWTRUE": _pushing(lambda _: True),
    "NEWFALSE": _pushing(lambda _: False),
    "EMPTY_DICT": _pushing(lambda _: {}),
    "EMPTY_LIST": _pushing(lambda _: []),
    "EMPTY_SET": _pushing(lambda _: set()),
    "EMPTY_TUPLE": _pushing(lambda _: ()),
    "MARK": _pushing(lambda _: _MARK),
    "LIST": lambda reader, _: reader.push(reader.to_mark()),
    "TUPLE": lambda reader, _: reader.push(tuple(reader.to_mark())),
    "FROZENSET": lambda reader, _: reader.push(frozenset(map(_key, reader.to_mark()))),
    "TUPLE1": _tuple_of(1),
    "TUPLE2": _tuple_of(2),
    "TUPLE3": _tuple_of(3),
    "DICT": lambda reader, _: reader.push(_table(reader.to_mark())),
    "APPEND": lambda reader, _: _append(reader, [reader.pop()]),
    "APPENDS": lambda reader, _: _append(reader, reader.to_mark()),
    "ADDITEMS": lambda reader, _: _append(reader, reader.to_mark()),
    "SETITEM": lambda reader, _: _set_items(reader, _two(reader)),
    "SETITEMS": lambda reader, _: _set_items(reader, reader.to_mark()),
    "POP": lambda reader, _: reader.pop() and None,
    "POP_MARK": lambda reader, _: reader.to_mark() and None,
    "DUP": lambda reader, _: reader.push(reader.top()),
    **{name: lambda reader, place: reader.keep(place) for name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE")},
    **{name: lambda reader, place: reader.recall(place) for name in ("GET", "BINGET", "LONG_BINGET")},
    "GLOBAL": _pushing(Foreign),
    "STACK_GLOBAL": _named_on_stack,
    "REDUCE": _call,
    "NEWOBJ": _call,
    "NEWOBJ_EX": _new_with_names,
    "INST": _instance,
    "OBJ": _instance,
    "BUILD": lambda reader, _: reader.pop() and None,  # state of a placeholder, or a state dict's _metadata
    "BINPERSID": lambda reader, _: reader.push(reader.stored(reader.pop())),
}
