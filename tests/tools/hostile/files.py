"""Files that are no files, that hold something else, or claim and inflate to more than they are."""

import gzip
import io
import os
import pickle
import random
import shutil
import socket
import struct
import zipfile
import zlib
from pathlib import Path

import torch

from migm_core.checkpoints import convert, describe

from .room import Room, drawn
from .trying import Attempt, python
from .weights import sparse

FILES = (
    *("model/config.json", "model/tokenizer.json", "model/generation_config.json", "model/vqvae/config.json", "model/model.safetensors"),
    *("model/vqvae/diffusion_pytorch_model.safetensors", "sharded/model.safetensors.index.json", "sharded/model-00002-of-00003.safetensors"),
    *("shortcut.safetensors", "shortcut.pth", "single.safetensors", "model/model.gguf"),
)
BLOCK, COPIES = 2**24, 224  # bytes, and how often they stand in what inflates: 3.5 GB in all


def plan(rng: random.Random, room: Room) -> Attempt:
    file = rng.choice(FILES)
    path = room.folder / file
    makers = STATE_DICTS if path.suffix == ".pth" and rng.random() < 0.7 else OTHER_THINGS
    what = rng.choice(list(makers))
    if path.exists():
        path.unlink()
    makers[what](rng, path)
    expected = "either" if what in HARMLESS or path.name == "generation_config.json" else "refused"
    return Attempt(f"{file}: {what}", _action(rng, room, path), ((path.name, str(room.folder / Path(file).parts[0])),), expected, bool, room.folder)


def _action(rng: random.Random, room: Room, path: Path):
    """Load what the file belongs to, or look at it, or convert it."""
    top = room.folder / path.relative_to(room.folder).parts[0]
    target = room.folder / "out.safetensors"
    if path.suffix == ".gguf":
        actions = (lambda: drawn(room.run(path)), lambda: describe(path))
    elif path.name.startswith("shortcut"):
        actions = (lambda: drawn(room.run(head=path)), lambda: describe(path), lambda: convert(path, target))
    else:
        actions = (lambda: drawn(room.run(top)), lambda: convert(top, target), lambda: drawn(room.run(top)))
    action = rng.choice(actions)
    return lambda: python(lambda: action() or True)


def _pipe(rng, path: Path) -> None:
    os.mkfifo(path)


def _socket(rng, path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # a socket's path may have 108 letters
    socket.socket(socket.AF_UNIX).bind(path.name)
    os.chdir(here)


def _link(target: str):
    return lambda rng, path: path.symlink_to(target)


def _loop(rng, path: Path) -> None:
    path.symlink_to(path.name)


def _folder(rng, path: Path) -> None:
    path.mkdir()
    (path / "inside").write_text("x")


def _bytes(make):
    return lambda rng, path: path.write_bytes(make(rng))


def _claim(rng) -> bytes:
    """A header's length that the file may or may not hold, and text."""
    return rng.choice((2**20, 2**27, 2**33, 2**40)).to_bytes(8, "little") + b'{"a":' * 1000


def _header_of_100_mb(rng, path: Path) -> None:
    entries = b",".join(b'"moon.%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % k for k in range(1_200_000))
    text = b"{" + entries + b"}"
    path.write_bytes(struct.pack("<Q", len(text)) + text)


def _sparse_header(rng, path: Path) -> None:
    """Spaces of a header take no room on disk, but in memory."""
    sparse(path, BLOCK * COPIES)
    with path.open("r+b") as file:
        file.write(struct.pack("<Q", rng.choice((90 * 10**6, BLOCK * COPIES - 8))) + b"{")


OTHER_THINGS = {
    "a pipe": _pipe,
    "a socket": _socket,
    "a folder": _folder,
    "a link to itself": _loop,
    "a link to nothing": _link("nowhere"),
    "/dev/zero": _link("/dev/zero"),
    "/dev/random": _link("/dev/random"),
    "/dev/full": _link("/dev/full"),
    "/dev/null": _link("/dev/null"),
    "/dev/stdin": _link("/dev/stdin"),
    "/proc/self/mem": _link("/proc/self/mem"),
    "nothing": _bytes(lambda rng: b""),
    "a byte": _bytes(lambda rng: b"{"),
    "noise": _bytes(lambda rng: rng.randbytes(rng.choice((7, 100, 10**6)))),
    "zeros": _bytes(lambda rng: bytes(10**6)),
    "100 GB of nothing": lambda rng, path: sparse(path, 100 * 2**30),
    "a claim": _bytes(_claim),
    "a header of 100 MB": _header_of_100_mb,
    "a header of nothing": _sparse_header,
    "a gzip": _bytes(lambda rng: gzip.compress(bytes(10**7))),
    "a zip": lambda rng, path: _zip(path, {"model.safetensors": b"x"}),
    "a page": _bytes(lambda rng: b"<!doctype html>" + b"<p>" * 10**6),
    "a pointer": _bytes(lambda rng: b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 16\n"),
    "text": _bytes(lambda rng: "Entry not found \u202e\u0085 \x7f".encode()),
    "a GGUF of nothing": _bytes(lambda rng: b"GGUF\3\0\0\0" + bytes(16)),
    "a GGUF of 10^9 strings": _bytes(lambda rng: b"GGUF\3\0\0\0" + struct.pack("<QQ", 0, 1) + struct.pack("<Q", 1) + b"a" + struct.pack("<IIQ", 9, 8, 10**9) + bytes(60)),
    "a GGUF of 10^9 numbers": _bytes(lambda rng: b"GGUF\3\0\0\0" + struct.pack("<QQ", 0, 1) + struct.pack("<Q", 1) + b"a" + struct.pack("<IIQ", 9, 4, 10**9) + bytes(60)),
    "a GGUF of nested arrays": _bytes(
        lambda rng: b"GGUF\3\0\0\0" + struct.pack("<QQ", 0, 1) + struct.pack("<Q", 1) + b"a" + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 100_000 + bytes(60)
    ),
}
HARMLESS = ("a GGUF of nothing", "another suffix")


def _zip(path: Path, files: dict[str, bytes], compression=zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)


def _inflating(rng, path: Path) -> None:
    """A state dict whose tensor inflates to gigabytes."""
    content = io.BytesIO()
    torch.save({"ln_f.weight": torch.zeros(1)}, content)
    with zipfile.ZipFile(content) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    _large_zip(path, {name: bytes(BLOCK) if name.endswith("data/0") else entries[name] for name in entries})


def _inflating_pickle(rng, path: Path) -> None:
    """A zip whose pickle, or another record, inflates to gigabytes."""
    names = {"archive/data.pkl": b"N.", "archive/version": b"3\n", "archive/byteorder": b"little", "archive/.data/serialization_id": b"1"}
    large = rng.choice(list(names))
    _large_zip(path, {**names, large: (b"N0" if large.endswith("pkl") else b"3 ") * (BLOCK // 2)})


def _large_zip(path: Path, entries: dict[str, bytes]) -> None:
    """A zip in which each entry of a whole BLOCK stands COPIES times in a row."""
    with path.open("wb") as file:
        listed = []
        for name, content in entries.items():
            copies = COPIES if len(content) == BLOCK else 1
            deflater = zlib.compressobj(1, zlib.DEFLATED, -15)
            body = (deflater.compress(content) + deflater.flush(zlib.Z_FULL_FLUSH)) * copies + b"\x03\x00"
            fields = struct.pack("<HHHHHIIIHH", 20, 0, zipfile.ZIP_DEFLATED, 0, 0x21, zlib.crc32(content) if copies == 1 else 0, len(body), copies * len(content), len(name), 0)
            listed.append(b"PK\1\2" + struct.pack("<H", 20) + fields + struct.pack("<HHHII", 0, 0, 0, 0, file.tell()) + name.encode())
            file.write(b"PK\3\4" + fields + name.encode() + body)
        start, size = file.tell(), sum(map(len, listed))
        file.write(b"".join(listed) + b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, len(listed), len(listed), size, start, 0))


def _pickle(rng, path: Path, content: bytes) -> None:
    if rng.random() < 0.5:
        path.write_bytes(content)
    else:
        _zip(path, {"archive/data.pkl": content, "archive/version": b"3\n", "archive/byteorder": b"little"})


def _laughs(rng, path: Path) -> None:
    """Lists of lists: 60 levels of ten."""
    _pickle(rng, path, b"\x80\x02]q\0" + b"".join(b"]q" + bytes([k + 1]) + b"(" + (b"h" + bytes([k])) * 10 + b"e" for k in range(60)) + b".")


def _deep(rng, path: Path) -> None:
    _pickle(rng, path, b"\x80\x02" + b"]" * 10**6 + b"a" * (10**6 - 1) + b".")


def _claimed_text(rng, path: Path) -> None:
    opcode = rng.choice((b"\x8d" + struct.pack("<Q", 2**40), b"X" + struct.pack("<I", 2**32 - 1), b"\x8e" + struct.pack("<Q", 2**35), b"\x8b" + struct.pack("<I", 2**31 - 1)))
    _pickle(rng, path, b"\x80\x04" + opcode + b"abc.")


def _code(rng, path: Path) -> None:
    _pickle(rng, path, pickle.dumps(os.getcwd, protocol=rng.choice((2, 4))).replace(b"getcwd", b"system"))


def _noise_pickle(rng, path: Path) -> None:
    _pickle(rng, path, b"\x80\x02" + rng.randbytes(rng.choice((10, 1000))))


def _flipped(rng, path: Path) -> None:
    content = io.BytesIO()
    torch.save({"ln_f.weight": torch.ones(16), "blocks.0.self_attn.ff_proj.weight": torch.ones(64, 16)}, content, _use_new_zipfile_serialization=rng.random() < 0.6)
    changed = bytearray(content.getvalue())
    for _ in range(rng.choice((1, 5, 50))):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    path.write_bytes(changed)


def _storage(rng, path: Path) -> None:
    """A tensor that is larger than its storage, or lies past it."""
    content = io.BytesIO()
    torch.save({"ln_f.weight": torch.ones(16)}, content)
    with zipfile.ZipFile(content) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    name = next(name for name in files if name.endswith("data.pkl"))
    size = rng.choice((b"J\xff\xff\xff\x7f", b"\x8a\x08" + struct.pack("<q", 2**62), b"J\xff\xff\xff\xff", b"K\xff"))
    files[name] = files[name].replace(b"K\x10", size, rng.choice((1, 2)))
    _zip(path, files)


def _names(rng, path: Path) -> None:
    torch.save({rng.choice(("a\n" * 1000, "\x1b[31m", "x" * 10**6, "\ud800")): torch.ones(1)}, path)


def _many(rng, path: Path) -> None:
    one = torch.ones(1)
    torch.save({f"moon.{k}": one for k in range(100_000)}, path)


STATE_DICTS = {
    "a zip that inflates to 3.5 GB": _inflating,
    "a pickle that inflates to 3.5 GB": _inflating_pickle,
    "lists of lists": _laughs,
    "a million lists in each other": _deep,
    "a text of 2^40 letters claimed": _claimed_text,
    "code": _code,
    "a pickle of noise": _noise_pickle,
    "bytes changed": _flipped,
    "a storage that is too small": _storage,
    "odd names": _names,
    "100,000 names": _many,
    "a checkpoint of training": lambda rng, path: torch.save({"model": {"a": torch.ones(1)}, "step": 3}, path),
    "no table": lambda rng, path: torch.save([torch.ones(1)], path),
    "another suffix": lambda rng, path: shutil.copy(path.with_suffix(".safetensors").parent / "single.safetensors", path),
}
