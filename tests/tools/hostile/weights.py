"""Tensors: other dtypes, shapes, values, names and counts, in every format."""

import random
from pathlib import Path

import torch
from safetensors.torch import load_file

from migm_core.checkpoints import describe

from .room import HEAD, IMAGE_TOKENIZER, WEIGHTS, Room, drawn, edit, raw, save_raw
from .trying import Attempt, python

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
OTHERS = (torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.uint16, torch.uint32, torch.bool, torch.complex64)
RAW = ("F8_E8M0", "F8_E4M3", "F8_E5M2", "F4", "F6_E2M3", "C64", "U16", "I8", "BOOL", "MOON", 5, None, "")
NAMES = ("", "\n", "\x1b[31mred", "a\0b", "x" * 100_000, "\u202egnp", "..", "blocks.999999999.q_proj.weight", "blocks.-1.q_proj.weight", "model.transformer.", "__metadata__x")
SHAPES = ((), (0,), (1,), (3, 3), (2, 2, 2), (0, 32), (32, 0), (1,) * 60, (7,))
FILES = {"base": WEIGHTS, "head": HEAD, "image tokenizer": IMAGE_TOKENIZER}


def plan(rng: random.Random, room: Room) -> Attempt:
    return rng.choices((_edited, _header, _pickled, _many, _values, _gguf), (6, 4, 4, 1, 3, 2))[0](rng, room)


def _load(rng: random.Random, room: Room, **options):
    """Most often a run; sometimes a look."""
    return lambda: python(lambda: room.run(**options))


def _edited(rng: random.Random, room: Room) -> Attempt:
    """A tensor of another dtype, shape or name."""
    what, file = rng.choice(list(FILES.items()))
    path = room.folder / file
    tensors = load_file(path)
    name = rng.choice([name for name in tensors if tensors[name].is_floating_point()])
    tensor, expected = tensors[name], "refused"
    how = rng.choice(("dtype", "dtype", "shape", "gone", "added", "renamed"))
    if how == "dtype":
        dtype = rng.choice((*FLOATS, *OTHERS))
        tensors[name], expected = tensor.to(dtype), "right" if dtype in FLOATS else "refused"
        told = str(dtype)
    elif how == "shape":
        shape = rng.choice((*SHAPES, tuple(reversed(tensor.shape)), (*tensor.shape, 1)))
        if shape == tuple(tensor.shape):
            shape = (*shape, 1)
        tensors[name] = torch.ones(shape)
        told = str(shape)
    elif how == "gone":
        del tensors[name]
        told = ""
    else:
        new = rng.choice(NAMES)
        before = "model.transformer." if what == "base" and rng.random() < 0.5 else ""
        tensors[before + new] = tensors.pop(name) if how == "renamed" else tensor.clone()
        told, expected = ascii(new)[:30], "either"
    edit(path, lambda _: {key: value.contiguous() for key, value in tensors.items()})
    return Attempt(f"{what}: {name} {how} {told}", _load(rng, room), ((str(path.parent), path.name),), expected, drawn, room.folder)


def _header(rng: random.Random, room: Room) -> Attempt:
    """A header that is no header, or lies."""
    what, file = rng.choice(list(FILES.items()))
    path = room.folder / file
    header, data = raw(path)
    name = rng.choice([name for name in header if name != "__metadata__"])
    how = rng.choice(("dtype", "shape", "offsets", "metadata", "size", "cut", "flip", "text"))
    expected = "refused"
    if how == "dtype":
        header[name]["dtype"] = rng.choice(RAW)
        expected = "either"  # bytes of another kind may be as many
    elif how == "shape":
        header[name]["shape"] = rng.choice(([2**64 - 1, 0], [2**63], [-1], [0], [2**32, 2**32], [1.5], "x", None, [[]], [0] * 100_000, [2**62, 0, 4]))
    elif how == "offsets":
        begin, end = header[name]["data_offsets"]
        header[name]["data_offsets"] = rng.choice(([end, begin], [begin, 2**62], [0, len(data)], [-1, end], [begin + 1, end + 1], [begin], "x", [2**64 - 1, 2**64 + 3]))
        expected = "either"  # another tensor's bytes, if they are as many
    elif how == "metadata":
        header["__metadata__"] = rng.choice((None, [], "x", {"a": 1}, {"a": None}, {"config": {}}, {"format": "tf"}, {"a\n": "\x1b"}, {str(k): "" for k in range(100_000)}))
        expected = "either"
    content = None
    if how == "size":
        size = rng.choice((0, 1, 2**20, 2**40, 2**62, 2**64 - 1, 100 * 10**6))
        content = size.to_bytes(8, "little") + path.read_bytes()[8:]
    elif how == "cut":
        content = path.read_bytes()[: rng.randrange(path.stat().st_size)]
    elif how == "flip":
        content, expected = bytearray(path.read_bytes()), "either"
        for _ in range(rng.choice((1, 10, 1000))):
            content[rng.randrange(min(len(content), rng.choice((8, 4000, len(content)))))] = rng.randrange(256)
    elif how == "text":
        save_raw(path, rng.choice((b"", b"{}", b"null", b"[]", b"{" * 100_000, b'{"a":' * 100_000, b"{}" + b" " * 50_000_000, b"\xff\xfe", b"1")), b"")
    if content is not None:
        path.write_bytes(content)
    elif how != "text":
        save_raw(path, header, data)
    return Attempt(f"{what}: header, {how} of {name}", _load(rng, room), ((str(path.parent), path.name),), expected, drawn, room.folder)


def _pickled(rng: random.Random, room: Room) -> Attempt:
    """State dicts of a head that hold what no weight is."""
    path = room.folder / "shortcut.pth"
    state = dict(torch.load(path, weights_only=True))
    name = rng.choice(list(state))
    tensor = state[name]
    how, made, expected = rng.choice(
        (
            ("sparse", lambda: tensor.to_sparse(), "refused"),
            ("meta", lambda: tensor.to("meta"), "refused"),
            ("quantised", lambda: torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8), "refused"),
            ("nested", lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), "refused"),
            ("expanded", lambda: torch.ones(1).expand(10**6, 10**6), "refused"),
            ("expanded to its shape", lambda: torch.zeros(1).expand(tensor.shape), "either"),
            ("transposed", lambda: tensor.t().contiguous().t() if tensor.dim() == 2 else tensor, "right"),
            ("complex", lambda: tensor.to(torch.complex64), "refused"),
            ("conjugate", lambda: torch.ones(tensor.shape, dtype=torch.complex64).conj(), "refused"),
            ("integers", lambda: tensor.to(torch.int32), "refused"),
            ("booleans", lambda: tensor.bool(), "refused"),
            ("float8_e8m0", lambda: tensor.abs().to(torch.float8_e8m0fnu), "refused"),
            ("float64", lambda: tensor.double(), "right"),
            ("a parameter", lambda: torch.nn.Parameter(tensor), "right"),
            ("a number", lambda: 5, "refused"),
            ("a text", lambda: "x", "refused"),
            ("a table", lambda: {"a": tensor}, "refused"),
            ("nothing", lambda: None, "refused"),
            ("empty", lambda: torch.empty(0), "refused"),
            ("a scalar", lambda: torch.tensor(1.0), "refused"),
        )
    )
    state[name] = made()
    if rng.random() < 0.1:
        key = rng.choice((5, None, ("a",), "a\nb", "\x1b[31m", "\ud800", "x" * 10_000, b"bytes"))
        how, expected, state[key] = f"a name {ascii(key)[:20]}", "refused", tensor
    torch.save(state, path, _use_new_zipfile_serialization=rng.random() < 0.7)
    return Attempt(f"state dict: {name} {how}", _load(rng, room, head=path), (path.name,), expected, drawn, room.folder)


def _many(rng: random.Random, room: Room) -> Attempt:
    """More blocks, tensors or shards than a model has."""
    what = rng.choice(("blocks of the base", "blocks of the head", "stages", "names", "shards"))
    path = room.folder / {"blocks of the head": HEAD, "stages": IMAGE_TOKENIZER, "names": HEAD}.get(what, WEIGHTS)
    if what == "shards":
        index = room.folder / "sharded/model.safetensors.index.json"
        index.write_text('{"weight_map": {' + ",".join(f'"model.transformer.x{k}": "model-{k}.safetensors"' for k in range(100_000)) + "}}")
        return Attempt("100,000 shards", _load(rng, room, model=index.parent), (index.parent,), "refused", drawn, room.folder)
    header, data = raw(path)
    name = {
        "blocks of the base": "model.transformer.blocks.{}.ff_proj.weight",
        "blocks of the head": "blocks.{}.self_attn.ff_proj.weight",
        "stages": "encoder.down_blocks.{}.resnets.0.conv1.weight",
        "names": "moon.{}",
    }[what]
    count = rng.choice((1000, 100_000))
    for k in range(2, count):
        header.setdefault(name.format(k), {"dtype": "F32", "shape": [0], "data_offsets": [len(data), len(data)]})
    save_raw(path, header, data)
    return Attempt(f"{count:,} {what}", _load(rng, room), ((str(path.parent), path.name),), "refused", drawn, room.folder)


def _values(rng: random.Random, room: Room) -> Attempt:
    """Numbers that are none, or that the dtype of the run cannot hold."""
    what, file = rng.choice(list(FILES.items()))
    path = room.folder / file
    value = rng.choice((float("nan"), float("inf"), float("-inf"), 1e30, 3e38, 1e-45))
    name = rng.choice([name for name, tensor in load_file(path).items() if tensor.is_floating_point()])
    dtype = rng.choice(("fp32", "bf16", "fp16"))

    def damage(tensors):
        tensors[name].view(-1)[rng.randrange(tensors[name].numel())] = value
        return tensors

    edit(path, damage)
    return Attempt(f"{what}: {value} in {name}, {dtype}", _load(rng, room, dtype=dtype), ((str(path.parent), path.name, what, "shortcut head"),), "either", drawn, room.folder)


def _gguf(rng: random.Random, room: Room) -> Attempt:
    """GGUF files: counts and sizes that they do not hold."""
    import gguf

    path = room.model / "model.gguf"
    writer = gguf.GGUFWriter(path, "llada")
    for name, tensor in load_file(room.folder / WEIGHTS).items():
        writer.add_tensor(name, tensor.numpy())
    writer.add_array("tokens", [1, 2, 3])
    for step in ("header", "kv_data", "tensors"):
        getattr(writer, f"write_{step}_to_file")()
    writer.close()
    content = bytearray(path.read_bytes())
    how = rng.choice(("array", "tensors", "fields", "flip", "cut", "text", "version"))
    if how == "array":
        spot = content.index(b"tokens") + 6 + 4 + 4
        content[spot : spot + 8] = rng.choice((10**9, 2**40, 2**63)).to_bytes(8, "little")
    elif how == "tensors":
        content[8:16] = rng.choice((0, 10**6, 10**9, 2**63)).to_bytes(8, "little")
    elif how == "fields":
        content[16:24] = rng.choice((0, 10**6, 10**9, 2**63)).to_bytes(8, "little")
    elif how == "flip":
        for _ in range(rng.choice((1, 10, 100))):
            content[rng.randrange(4, 2000)] = rng.randrange(256)
    elif how == "cut":
        content = content[: rng.randrange(4, len(content))]
    elif how == "version":
        content[4:8] = rng.choice((0, 1, 2, 99, 2**31)).to_bytes(4, "little")
    else:
        spot = content.index(b"tokens") - 8
        content[spot : spot + 8] = rng.choice((10**9, 2**40, 2**63)).to_bytes(8, "little")
    path.write_bytes(content)
    look = rng.random() < 0.3
    action = (lambda: python(lambda: describe(path))) if look else _load(rng, room, model=path)
    return Attempt(f"GGUF: {how}", action, (path.name,), "either", bool if look else drawn, room.folder)


def sparse(path: Path, size: int) -> None:
    """A file of so many zero bytes that takes no room."""
    with path.open("wb") as file:
        file.truncate(size)
