"""MaskGIT's files and requests: YAML, training checkpoints, what a checkpoint says of itself, classes."""

import json
import random
import shutil
from pathlib import Path

import yaml

from migm_core.checkpoints import convert, describe
from migm_core.pipeline import Pipeline

from .files import OTHER_THINGS, STATE_DICTS
from .json_files import VALUES, _changed, _hostile_text, _path
from .room import ROOT, Room
from .trying import Attempt, python

DATA = ROOT / "tests/data/maskgit"
BASE, VQGAN, YAML, HEAD, CONFIG = "MaskGIT_ImageNet_tiny.pth", "VQGAN/last.ckpt", "VQGAN/model.yaml", "maskgit-shortcut.pth", "config.json"
HEADS = 4  # of the data's model
TEXTS = {
    "laughs": "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}, *{a}, *{a}, *{a}, *{a}, *{a}, *{a}]\n" for a, b in zip("abcdefghijkl", "bcdefghijklm")) + "model: {params: *m}\n",
    "laughs in a key": "a: &a {x: y}\nb: &b {? *a : *a}\nmodel: {params: *b}\n",
    "itself": "model: &m\n  params: *m\n",
    "a tag of Python": "model: !!python/object/apply:os.getcwd []\n",
    "an unknown tag": "model: !moon {params: {}}\n",
    "deep": "model: " + "[" * 2000 + "]" * 2000,
    "deep blocks": "".join(" " * k + "a:\n" for k in range(1500)),
    "many digits": "model: {params: {embed_dim: " + "9" * 6000 + "}}",
    "infinity": "model: {params: {embed_dim: .inf, n_embed: .nan, ddconfig: {ch: 1e400}}}",
    "a date": "model: {params: {embed_dim: 2026-99-99}}",
    "sixty": "model: {params: {embed_dim: 1:1:1:1:1:1, ddconfig: 0b11}}",
    "a set": "model: !!set {params}",
    "bytes": "model: {params: !!binary AAAA}",
    "merged": "a: &a {params: 5}\nmodel: {<<: *a, params: {}}",
    "two documents": "model: {}\n---\nmodel: {}\n",
    "a tab": "model:\n\tparams: 1\n",
    "nothing": "",
    "a megabyte": "x: y\n" * 200_000,
    "a key of a list": "? [a, b]\n: c\n",
    "a zero byte": "model: \0",
}
REQUESTS = ("0", "9", "10", "-1", "1e3", "", " ", ",", "3;4", "٣", "moon", "3 " * 5000, "1," * 10**6, "a" * 20_000_000, "9" * 20_000_000, "\ud800", "goldfish (1)", "(" * 10**5, "\n" * 10**6)


def plan(rng: random.Random, room: Room) -> Attempt:
    folder = make_maskgit(room)
    return rng.choices((_yaml_value, _yaml_text, _flipped, _said, _request, _thing), (4, 3, 4, 3, 3, 3))[0](rng, room, folder)


def make_maskgit(room: Room) -> Path:
    """The tiny MaskGIT of the tests' data as published, in the room; its folder."""
    folder = room.folder / "maskgit"
    if not folder.exists():
        shutil.copytree(DATA / "vqgan", folder / "VQGAN", ignore=shutil.ignore_patterns("*callback*"))
        for name in (BASE, HEAD):
            shutil.copy(DATA / name, folder / name)
        (folder / CONFIG).write_text(json.dumps({"n_heads": HEADS}))
    return folder


def _run(folder: Path, condition: object = 3, head: bool = True):
    pipeline = Pipeline.load(folder, folder / HEAD if head else None, dtype="fp32", device="cpu")
    return pipeline.generate(condition, steps=4, method="shortcut" if head else "vanilla", **({"budget": 2} if head else {}))


def _given(result) -> bool:
    return all(image.size == (24, 24) for image in result.images) and len(result.images) > 0


def _yaml_value(rng: random.Random, room: Room, folder: Path) -> Attempt:
    path = folder / YAML
    values, where, value = _changed(rng, yaml.safe_load(path.read_text()))
    path.write_text(yaml.safe_dump(values, allow_unicode=True), "utf-8", "surrogatepass")
    name = f"{_path(where)} = {ascii(value)[:40] if not isinstance(value, int) else str(value)[:40]}"
    return Attempt(name, lambda: python(lambda: _run(folder)), ((path.name, VQGAN.split("/")[1], "VQGAN"),), "either", _given, room.folder)


def _yaml_text(rng: random.Random, room: Room, folder: Path) -> Attempt:
    what = rng.choice(list(TEXTS))
    (folder / YAML).write_text(TEXTS[what])
    look = rng.random() < 0.3
    action = (lambda: describe(folder)) if look else (lambda: _run(folder))
    return Attempt(f"YAML: {what}", lambda: python(action), (("model.yaml",),), "either" if look else "refused", bool, room.folder)


def _flipped(rng: random.Random, room: Room, folder: Path) -> Attempt:
    path = folder / rng.choice((BASE, VQGAN, HEAD))
    content = bytearray(path.read_bytes())
    if rng.random() < 0.4:
        content = content[: rng.randrange(len(content))]
    else:
        pickled = max(content.find(b"\x80\x02"), 0)
        for _ in range(rng.choice((1, 3, 30))):
            content[min(len(content) - 1, pickled + rng.randrange(rng.choice((20, 3000, len(content)))))] = rng.randrange(256)
    path.write_bytes(content)
    look = rng.random() < 0.2
    action = (lambda: convert(folder, room.folder / "out.safetensors") or True) if look else (lambda: _run(folder))
    return Attempt(f"{path.name}: bytes changed or cut", lambda: python(action), ((path.name, str(folder)),), "either", bool, room.folder)


def _said(rng: random.Random, room: Room, folder: Path) -> Attempt:
    path = folder / rng.choice((CONFIG, "generation_config.json"))
    if path.name == CONFIG and rng.random() < 0.6:
        key = rng.choice(("n_heads", "codebook_size", "n_classes", "class_names", "model_type", "moon"))
        path.write_text(json.dumps({"n_heads": HEADS, key: rng.choice(VALUES)}), "utf-8", "surrogatepass")
        what = key
    else:
        what, content = _hostile_text(rng, json.dumps({"n_heads": HEADS, "steps": 4, "schedule": "arccos", "randomize": "linear"}))
        path.write_bytes(content)
    about = (path.name, BASE, str(folder))
    return Attempt(f"{path.name}: {what}", lambda: python(lambda: _run(folder)), (about,), "either", _given, room.folder)


def _request(rng: random.Random, room: Room, folder: Path) -> Attempt:
    pipeline = Pipeline.load(folder, None, dtype="fp32", device="cpu")
    text = rng.choice(REQUESTS) if rng.random() < 0.8 else "".join(chr(rng.randrange(0x11000)) for _ in range(rng.choice((1, 10, 300))))
    negative = rng.choice(("", "", "people"))
    return Attempt(
        f"class {ascii(text)[:40]}", lambda: python(lambda: pipeline.generate(text, negative, steps=2)), (("class", "Class", "negative", "prompt", "batch"),), "either", _given, seconds=2
    )


def _thing(rng: random.Random, room: Room, folder: Path) -> Attempt:
    path = folder / rng.choice((BASE, VQGAN, YAML, HEAD))
    makers = STATE_DICTS if path.suffix in (".pth", ".ckpt") and rng.random() < 0.6 else OTHER_THINGS
    what = rng.choice([name for name in makers if name != "another suffix"])
    path.unlink()
    makers[what](rng, path)
    return Attempt(f"{path.name}: {what}", lambda: python(lambda: _run(folder)), ((path.name, str(folder), "VQGAN"),), "refused", bool, room.folder)
