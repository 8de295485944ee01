"""A folder with a tiny model for one try, and what can be done to its files."""

import ctypes
import json
import os
import shutil
import struct
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from small_model import PROMPT, shard

from migm_core.checkpoints import convert
from migm_core.pipeline import Pipeline

WEIGHTS, HEAD, IMAGE_TOKENIZER = "model/model.safetensors", "shortcut.safetensors", "model/vqvae/diffusion_pytorch_model.safetensors"
TOKENS = "tokens.safetensors"  # of a run of the undamaged model
ROOT = Path(__file__).resolve().parents[3]
WORK = "work"
STEPS = 4  # of a try's run


@dataclass(frozen=True)
class Room:
    """``folder``: the try's own; ``models``: with what is copied into it, see ``make_models``."""

    folder: Path
    models: Path

    def make(self) -> None:
        shutil.copytree(self.models, self.folder, ignore=shutil.ignore_patterns(WORK))

    def work(self) -> Path:
        """A working folder of training, see ``commands.make_work``, copied when it is asked for."""
        return shutil.copytree(self.models / WORK, self.folder / WORK)

    def same(self, result) -> bool:
        """Whether a run gave what the undamaged model gives."""
        return torch.equal(result.tokens, load_file(self.models / TOKENS)["tokens"])

    @property
    def model(self) -> Path:
        return self.folder / "model"

    @property
    def head(self) -> Path:
        return self.folder / HEAD

    @property
    def single(self) -> Path:
        """The model as one file, where ``make_models`` has put it."""
        return self.folder / "single.safetensors"

    def load(self, model: Path | None = None, head: Path | str | None = "its own", **options) -> Pipeline:
        return Pipeline.load(model or self.model, self.head if head == "its own" else head, **{"dtype": "fp32", "device": "cpu", **options})

    def run(self, model: Path | None = None, head: Path | str | None = "its own", prompt: str = PROMPT, **options):
        """Load and generate; the result."""
        return self.load(model, head, **options).generate(prompt, steps=STEPS, method="shortcut", budget=2)


def make_models(folder: Path, model: Path, head: Path) -> None:
    """Everything that a room is copied from."""
    shutil.copytree(model, folder / "model")
    shutil.copytree(model, folder / "sharded")
    shard(folder / "sharded")
    shutil.copy(head, folder / HEAD)
    torch.save(load_file(head), folder / "shortcut.pth")
    convert(model, folder / "single.safetensors")
    save_file({"tokens": Room(folder, folder).run().tokens}, folder / TOKENS)


def contents(folder: Path) -> dict[str, int]:
    """What lies in a folder: names and sizes."""
    return {str(path.relative_to(folder)): path.lstat().st_size for path in folder.rglob("*")}


def drawn(result) -> bool:
    """Whether a run gave an image of numbers."""
    return len(result.images) == 1 and result.images[0].size == (32, 32)


def save_raw(path: Path, header: object, data: bytes) -> None:
    """A safetensors file of any header: an object, or the bytes of one."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode("utf-8", "surrogatepass")
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def raw(path: Path) -> tuple[dict, bytes]:
    """Header and data of a safetensors file."""
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + size]), content[8 + size :]


def edit_metadata(path: Path, **values: str) -> None:
    """Write other metadata into a safetensors file; its tensors stay."""
    header, data = raw(path)
    header["__metadata__"] = {**header.get("__metadata__", {}), **values}
    save_raw(path, header, data)


def edit(path: Path, change) -> None:
    """Rewrite a safetensors file, its metadata kept: ``change`` gets the table of tensors and returns another."""
    about = raw(path)[0].get("__metadata__")
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    save_file(change(tensors), path, about)


def read_only(folder: Path) -> None:
    """Let nothing be written into a folder, not even by root: this process gives up its right to override permissions."""
    for path in [folder, *folder.rglob("*")]:
        if path.is_dir():
            path.chmod(0o555)
    if os.geteuid() == 0:
        _drop_override()


def _drop_override() -> None:
    """Give up CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH (Linux)."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    data = (ctypes.c_uint32 * 6)()
    if libc.capget(header, data):
        raise OSError(ctypes.get_errno(), "capget")
    data[0] &= ~0b110
    if libc.capset(header, data):
        raise OSError(ctypes.get_errno(), "capset")
