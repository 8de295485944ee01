"""Weights on disk, opened but not read: names, shapes and dtypes from the headers, tensors when they are asked for."""

import math
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .. import arguments
from . import torch_load
from .errors import CheckpointError
from .files import find_file, locate, read_json
from .gguf_file import GgufFile
from .json_text import parse_object
from .names import map_names
from .recognise import SUFFIXES, UNFINISHED, detect_format, explain_absence, recognise
from .torch_file import TorchFile
from .version import check_version

Reader = Callable[[Path], Mapping[str, Tensor]]
FileStat = tuple[int, int]  # when it was last written, in nanoseconds, and its bytes

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
MOST_TENSORS = 20_000
LARGEST_HEADER = 2**24  # bytes; 20,000 tensors take 3 MB
LONGEST_NAME = 300
MOST_AXES = 8
MOST_NUMBERS = 2**44  # of a tensor


class TensorSource:
    """A set of named tensors in one or more safetensors files, in a GGUF file, or in a file of torch.save.

    Files are memory-mapped: a tensor that is not asked for is not read. Names are the published ones, see ``names``.

    Attributes:
        path: the file or folder, for messages.
        data: False where tensors come on the device meta, without values, except rows of bytes, which hold texts.
        metadata: the string metadata of the (first) safetensors file.
        shapes: name to shape.
        dtypes: name to torch dtype.
        file_stats: what tells whether its files have been replaced since they were opened, see ``file_stat``.
    """

    def __init__(self, path: Path, reader: Reader | None = None, *, data: bool = True):
        self.path = path
        self.data = data
        self._reader = reader
        self.metadata: dict[str, str] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, torch.dtype] = {}
        self.file_stats: dict[Path, FileStat | None] = {}
        self._files: dict[str, tuple[object, str]] = {}  # name to the open file and the name there
        self._paths: dict[str, Path] = {}
        self._state: dict[str, Tensor] = {}
        self._written: dict[str, str] = {}  # name to the name in the file

    @classmethod
    def open(cls, path: Path, reader: Reader | None = None, *, data: bool = True) -> "TensorSource":
        """Open a .safetensors or .gguf file, a folder with the former or with shards and their index, or what torch.save wrote: a .pth,
        .pt, .bin or .ckpt with a state dict, or with one in a training checkpoint.

        Args:
            reader: a host's own way to map the tensors of a .safetensors file, by name; called when the first of them is asked for.

        Raises:
            CheckpointError: nothing there, a shard missing, or a file that is damaged, is something else or carries code.
        """
        path = locate(path)
        source = cls(path, cache(reader) if reader else None, data=data)
        suffix = path.suffix.lower()
        if path.is_file():
            source.file_stats[path] = file_stat(path)
        if path.is_dir():
            source._open_folder(path)
        elif suffix in SUFFIXES["safetensors"]:
            source._add(path)
        elif suffix in SUFFIXES["gguf"]:
            source._open_gguf(path)
        elif suffix in SUFFIXES["torch"]:
            if detect_format(path) == "safetensors":  # which is safe to read under any name
                source._add(path)
            elif file := TorchFile.open(path, plain=not data):
                source._open_other(file)
            else:
                source._read_state_dict(path)
        elif suffix in UNFINISHED:
            raise CheckpointError(f"{path} is a download that did not finish. Start it again.")
        else:
            raise CheckpointError(f"{path} is not a weights file: expected .safetensors, .pth or a folder with model.safetensors.")
        source._check()
        return source.renamed({name: new for new, name in map_names(source.shapes, path).items()})

    def __contains__(self, name: str) -> bool:
        return name in self.shapes

    def prefixed(self, prefix: str) -> "TensorSource":
        """The tensors whose names start with ``prefix``, without it."""
        return self.renamed({name: name.removeprefix(prefix) for name in self.shapes if name.startswith(prefix)})

    def renamed(self, names: dict[str, str]) -> "TensorSource":
        """Some of the tensors under new names: ``names`` maps old to new."""
        part = TensorSource(self.path, self._reader, data=self.data)
        part.metadata, part.file_stats = self.metadata, self.file_stats
        for name, new in names.items():
            part.shapes[new], part.dtypes[new], part._written[new] = self.shapes[name], self.dtypes[name], self.written(name)
            if name in self._state:
                part._state[new] = self._state[name]
            else:
                part._files[new], part._paths[new] = self._files[name], self.file(name)
        return part

    def written(self, name: str, prefix: str = "") -> str:
        """A tensor's name in the file, for messages; for a missing tensor, its published name with a prefix."""
        return self._written.get(name, prefix + name)

    def file(self, name: str) -> Path:
        """The file, of several, that holds a tensor."""
        return self._paths.get(name, self.path)

    def get(self, name: str, rows: tuple[int, int] | None = None) -> Tensor:
        """A tensor, or some rows of it, as a view of the mapped file."""
        if not self.data and not (self.dtypes[name] in (torch.uint8, torch.int8) and len(self.shapes[name]) == 1):
            whole = torch.empty(self.shapes[name], dtype=self.dtypes[name], device="meta")
            return whole[rows[0] : rows[1]] if rows else whole
        if name in self._state:
            tensor = self._state[name]
            return tensor[rows[0] : rows[1]] if rows else tensor
        file, stored = self._files[name]
        if isinstance(file, (GgufFile, TorchFile)):
            return file.get(stored, rows)
        if self._reader:
            tensor = self._reader(self.file(name))[stored]
            return tensor[rows[0] : rows[1]] if rows else tensor
        if rows:
            return file.get_slice(stored)[rows[0] : rows[1]]
        return file.get_tensor(stored)

    def metadata_json(self, key: str) -> dict:
        """The JSON object under a key of the metadata; empty where there is none.

        Raises:
            CheckpointError: it is no JSON object, or holds numbers that are none.
        """
        return parse_object(self.metadata.get(key, "{}"), f"{self.path}: {key} in its metadata")

    def bytes(self) -> int:
        """Size of all tensors as stored."""
        return sum(torch.Size(shape).numel() * self.dtypes[name].itemsize for name, shape in self.shapes.items())

    def bits(self) -> int:
        """The fewest that a floating-point number takes in its files; 16 where that is more."""
        narrow = any(dtype.is_floating_point and dtype.itemsize == 1 for dtype in self.dtypes.values())
        return min((file.bits for file, _ in self._files.values() if isinstance(file, GgufFile)), default=8 if narrow else 16)

    def dtype(self) -> torch.dtype:
        """The dtype that most of the numbers have; float32 where there are none."""
        totals: dict[torch.dtype, int] = {}
        for name, shape in self.shapes.items():
            totals[self.dtypes[name]] = totals.get(self.dtypes[name], 0) + torch.Size(shape).numel()
        return max(totals, key=totals.get, default=torch.float32)

    def _check(self) -> None:
        """Refuse what no model has, whatever it is to be: more tensors, longer names, more axes or larger sizes."""
        if len(self.shapes) > MOST_TENSORS:
            raise CheckpointError(f"{self.path} holds {len(self.shapes):,} tensors, but no model known here has more than {MOST_TENSORS:,}. Download it again.")
        for name, shape in self.shapes.items():
            if len(name) > LONGEST_NAME:
                raise CheckpointError(f"{self.file(name)} names a tensor in {len(name):,} letters, {name[:80]!r}... Download it again.")
            if len(shape) > MOST_AXES or math.prod(filter(None, shape)) > MOST_NUMBERS:
                raise CheckpointError(f"{self.file(name)}: {name} has the shape {str(list(shape))[:80]}, which no tensor of a model has. Download it again.")

    def _open_folder(self, folder: Path) -> None:
        index_path, single = find_file(folder, INDEX), find_file(folder, SINGLE)
        if not index_path.exists():
            if not single.exists():
                raise CheckpointError(_no_weights(folder))
            self._add(single)
            return
        weight_map = read_json(index_path).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(v, str) for v in weight_map.values()):
            raise CheckpointError(f"{index_path}: weight_map is missing or not a table of tensor names to files. Download it again.")
        for shard in sorted(set(weight_map.values())):
            if Path(shard).name != shard or shard in ("", "..") or "\0" in shard or len(shard) > 255:
                raise CheckpointError(f"{index_path} names a shard outside its folder: {shard[:300]!r}. Expected a plain file name.")
            if not (folder / shard).is_file():
                raise CheckpointError(f"{folder} lacks the shard {shard}, which {INDEX} names. " + explain_absence(folder / shard, "Download that file again."))
            self._add(folder / shard)
        for name, shard in weight_map.items():
            if name not in self.shapes:
                raise CheckpointError(f"{folder / shard} lacks the tensor {name}, which {INDEX} places there. Download that file again.")

    def _open_gguf(self, path: Path) -> None:
        if wrong := recognise(path, "gguf"):
            raise CheckpointError(wrong)
        self._open_other(GgufFile(path))

    def _open_other(self, file: GgufFile | TorchFile) -> None:
        self.shapes, self.dtypes = dict(file.shapes), dict(file.dtypes)
        self._files = {name: (file, name) for name in file.shapes}

    def _add(self, path: Path) -> None:
        self.file_stats[path] = file_stat(path)
        check_safetensors(path)
        try:
            file = safe_open(path, framework="pt", device="cpu")
        except (SafetensorError, OSError) as error:
            if wrong := recognise(path, "safetensors"):
                raise CheckpointError(wrong) from None
            size = path.stat().st_size if path.is_file() else 0
            raise CheckpointError(
                f"{path} ({size:,} bytes) is damaged or not a safetensors file: {error}. It may be cut short: download it again."
            ) from None
        metadata = dict(file.metadata() or {})
        check_version(metadata, path)
        self.metadata = self.metadata or metadata
        for name in file.keys():
            if name in self.shapes:
                raise CheckpointError(f"{path} holds the tensor {name}, which {self._paths[name].name} holds too. Download both again.")
            piece = file.get_slice(name)
            stored = piece.get_dtype()
            if stored not in DTYPES:
                raise CheckpointError(f"{path}: tensor {name} has the dtype {stored}, which is not supported. Expected {', '.join(DTYPES)}.")
            self.shapes[name], self.dtypes[name] = tuple(piece.get_shape()), DTYPES[stored]
            self._files[name], self._paths[name] = (file, name), path

    def _read_state_dict(self, path: Path) -> None:
        torch_load.check_version(path)
        state = torch_load.load(path)
        if not isinstance(state, dict) or not state or not all(_is_named_tensor(*item) for item in state.items()):
            nested = [arguments.shown(key) for key, value in state.items() if isinstance(value, dict)] if isinstance(state, dict) else []
            hint = f" It holds tables under {', '.join(nested[:5])}: save the model's alone." if nested else ""
            raise CheckpointError(f"{path} is not a plain state dict: expected a table of names to tensors.{hint}")
        for name, tensor in state.items():
            if problem := _not_plain(tensor):
                raise CheckpointError(f"{path}: {name[:LONGEST_NAME]} is {problem}, expected a plain tensor of {', '.join(_PLAIN_NAMES)}. Save the file again.")
            self._state[name] = tensor
            self.shapes[name], self.dtypes[name] = tuple(tensor.shape), tensor.dtype


def file_stat(path: Path) -> FileStat | None:
    """What changes when a file is replaced. None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


def check_safetensors(path: Path) -> None:
    """What must hold before a safetensors file is opened.

    Raises:
        CheckpointError: it is missing, no regular file, or has a larger header than a model: that would be taken apart in memory.
    """
    if not path.is_file():  # a pipe would be waited for
        raise CheckpointError(explain_absence(path, "Download it again."))
    try:
        with path.open("rb") as file:
            claimed = int.from_bytes(file.read(8), "little")
        size = path.stat().st_size
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}.") from None
    if LARGEST_HEADER < claimed <= size - 8:
        raise CheckpointError(f"{path} has a header of {claimed:,} bytes, but no model known here has one of more than {LARGEST_HEADER:,}. Download it again.")


def _is_named_tensor(name: object, tensor: object) -> bool:
    return isinstance(name, str) and isinstance(tensor, Tensor)


def _not_plain(tensor: Tensor) -> str | None:
    """What a tensor of a state dict is that no weight is; None for a plain one."""
    if tensor.is_nested or tensor.layout != torch.strided:
        return "nested" if tensor.is_nested else "sparse"
    if tensor.is_quantized or tensor.dtype not in DTYPES.values():
        return str(tensor.dtype).removeprefix("torch.")
    if tensor.device.type != "cpu":
        return f"without its numbers, on the device {tensor.device.type}"
    if tensor.numel() * tensor.itemsize > tensor.untyped_storage().nbytes():
        return f"{list(tensor.shape)} of fewer numbers than that"
    return None


def _no_weights(folder: Path) -> str:
    """What to say of a folder without the published weights."""
    said = explain_absence(find_file(folder, SINGLE), f"Nor does {INDEX}. Expected the folder of a checkpoint.")
    suffixes = [suffix for of in SUFFIXES.values() for suffix in of]
    others = sorted(str(path.relative_to(folder)) for pattern in ("*", "*/*") for path in folder.glob(pattern) if path.suffix.lower() in suffixes)
    return said + (f" It holds {', '.join(others[:5])}: give such a file's own path where that is what you mean." if others else "")


DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_PLAIN_NAMES = tuple(str(dtype).removeprefix("torch.") for dtype in DTYPES.values() if dtype.is_floating_point)
