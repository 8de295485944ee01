"""Python's arguments of foreign kinds: of Pipeline, Canvas, the image tokenizer, loading, converting and inspecting."""

import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image
from small_model import PROMPT

from migm_core.canvas import Canvas, touched_tokens
from migm_core.checkpoints import convert, describe, load_checkpoint, load_head

from .room import STEPS, Room
from .trying import Attempt, python

FOREIGN: tuple[Callable[[], object], ...] = (
    *(lambda value=value: value for value in (None, True, False, "", "64", "large", "\ud800", b"64", 0, -1, 1, 3, 1.5, 32.0, -0.0, 2**31, 2**63, 2**64, 10**400)),
    *(lambda value=value: value for value in (float("nan"), float("inf"), 1e300, 1j, (), (1, 2), [1], {}, {"a": 1}, {1}, object, print, Path("x"), range(3))),
    object,
    lambda: np.int64(32),
    lambda: np.float32(2),
    lambda: np.array([1, 2]),
    lambda: torch.tensor(32),
    lambda: torch.tensor(2.0),
    lambda: torch.zeros(3),
    lambda: Image.new("RGB", (32, 32)),
    lambda: SimpleNamespace(shape=(1, 4, 4)),
)
SETTINGS = ("width", "height", "steps", "budget", "guidance_scale", "temperature", "seed", "batch", "method")
TENSORS: tuple[Callable[[], torch.Tensor], ...] = (
    *(lambda shape=shape: torch.rand(shape) for shape in ((), (0,), (3,), (32, 32), (3, 32, 32), (1, 32, 32, 3), (1, 1, 32, 32), (1, 4, 32, 32), (1, 3, 0, 32), (0, 3, 32, 32))),
    *(lambda shape=shape: torch.rand(shape) for shape in ((1, 3, 33, 32), (1, 3, 32, 32, 1), (1, 3, 32, 32))),
    *(lambda dtype=dtype: torch.ones(1, 3, 32, 32).to(dtype) for dtype in (torch.uint8, torch.int64, torch.bool, torch.float64, torch.float16, torch.bfloat16, torch.complex64)),
    *(lambda value=value: torch.full((1, 3, 32, 32), value) for value in (float("nan"), float("inf"), -1.0, 255.0)),
    lambda: torch.rand(1, 3, 32, 32, device="meta"),
    lambda: torch.rand(1, 3, 32, 32).to_sparse(),
)


def plan(rng: random.Random, room: Room) -> Attempt:
    makers = (_generate, _settings, _canvas_codes, _encode, _decode, _canvas, _load, _files, _mask)
    return rng.choices(makers, (6, 3, 4, 4, 3, 4, 4, 3, 3))[0](rng, room)


def _shown(value: object) -> str:
    if isinstance(value, torch.Tensor):
        return f"{tuple(value.shape)} of {value.dtype} on {value.device}, {value.layout}"
    if isinstance(value, int) and abs(value) > 10**50:
        return "10**400"
    return f"{type(value).__name__} {ascii(value)[:40]}"


def _asked(result, asked: dict) -> bool:
    """Whether a run did what was asked for."""
    settings = result.settings
    return all(
        value is None or type(value) is type(getattr(settings, name)) or float(value) == float(getattr(settings, name))
        for name, value in asked.items()
        if hasattr(settings, name) and not isinstance(value, (bool, torch.Tensor))
    )


def _generate(rng: random.Random, room: Room) -> Attempt:
    pipeline = room.load()
    name = rng.choice(("prompt", "negative", *SETTINGS, "seeds", "canvas", "callback", "moon"))
    value = rng.choice(FOREIGN)()
    asked = {"prompt": PROMPT, "steps": STEPS, "budget": 2, name: value}
    if name == "negative":
        asked["guidance_scale"] = 1.0
    whole = name in ("width", "height", "steps", "budget", "seed", "batch")
    sensible = not whole or value is None or isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    about = ("prompt", "Prompt", name) if name in ("prompt", "negative") else (name, name.rstrip("s"))
    about = (*about, "size", "image", "images") if name in ("width", "height", "batch") else about
    return Attempt(
        f"generate({name}={_shown(value)})",
        lambda: python(lambda: pipeline.generate(**asked)),
        (about,),
        "either",
        lambda result: sensible and _asked(result, asked) and name != "moon" and torch.is_tensor(result.tokens),
    )


def _settings(rng: random.Random, room: Room) -> Attempt:
    pipeline = room.load()
    name, value = rng.choice((*SETTINGS, "interval", "moon", "")), rng.choice(FOREIGN)()
    sensible = value is None or isinstance(value, (int, float, str, np.number)) and not isinstance(value, bool)
    about = (name, "size", "setting", "budget") if name in ("width", "height", "moon", "", "steps") else (name,)
    return Attempt(f"settings({name}={_shown(value)})", lambda: python(lambda: pipeline.settings(**{name: value})), (about,), "either", lambda made: sensible or made is None)


def _codes(rng: random.Random) -> object:
    return rng.choice(
        (
            lambda: torch.full((1, 4, 4), rng.choice((-1, 32, 2**40, -(2**63)))),
            lambda: torch.zeros(1, 4, 4),
            lambda: torch.zeros(1, 4, 4, dtype=rng.choice((torch.int32, torch.uint8, torch.bool, torch.complex64, torch.float16))),
            lambda: torch.zeros(4, 4, dtype=torch.int64),
            lambda: torch.zeros(1, 0, 4, dtype=torch.int64),
            lambda: torch.zeros(0, 4, 4, dtype=torch.int64),
            lambda: torch.zeros(1, 4, 4, 1, dtype=torch.int64),
            lambda: torch.full((1, 4, 4), float("nan")),
            lambda: torch.zeros(1, 4, 4, dtype=torch.int64, device="meta"),
            lambda: torch.zeros(1, 4, 4, dtype=torch.int64).to_sparse(),
            *FOREIGN,
        )
    )()


def _canvas_codes(rng: random.Random, room: Room) -> Attempt:
    """A canvas of odd codes or masks, to generate on."""
    pipeline = room.load()
    codes, masked = _codes(rng), rng.choice((torch.ones(1, 4, 4, dtype=torch.bool), torch.zeros(1, 4, 4, dtype=torch.bool), *(each() for each in FOREIGN[:8]), torch.ones(1, 4, 4)))

    def run():
        return pipeline.generate(PROMPT, canvas=Canvas(codes, masked), steps=STEPS, budget=2)

    whole = isinstance(codes, torch.Tensor) and codes.dtype == torch.int64
    return Attempt(f"Canvas({_shown(codes)}, {_shown(masked)})", lambda: python(run), (("canvas", "Canvas"),), "either", lambda result: whole)


def _encode(rng: random.Random, room: Room) -> Attempt:
    pipeline = room.load()
    images = rng.choice((*TENSORS, *TENSORS, *FOREIGN))()
    plain = isinstance(images, torch.Tensor) and images.layout == torch.strided and images.device.type == "cpu"
    good = plain and images.dim() == 4 and images.shape[1] == 3 and images.is_floating_point() and bool(images.isfinite().all())
    return Attempt(f"encode({_shown(images)})", lambda: python(lambda: pipeline.encode(images)), (("image", "Image"),), "either", lambda canvas: good and canvas.codes.max() < 32)


def _decode(rng: random.Random, room: Room) -> Attempt:
    pipeline = room.load()
    codes = _codes(rng)
    canvas = rng.choice((lambda: Canvas(codes, torch.zeros(codes.shape, dtype=torch.bool)), *FOREIGN[:8])) if isinstance(codes, torch.Tensor) else lambda: codes
    good = isinstance(codes, torch.Tensor) and codes.dtype == torch.int64
    return Attempt(f"decode({_shown(codes)})", lambda: python(lambda: pipeline.decode(canvas())), (("canvas", "Canvas"),), "either", lambda pixels: good and bool(pixels.isfinite().all()))


def _canvas(rng: random.Random, room: Room) -> Attempt:
    canvas, value = Canvas.empty(1, 4, 4), rng.choice((*FOREIGN, *TENSORS))()
    name, action, about = rng.choice(
        (
            ("repeat", lambda: canvas.repeat(value), ("batch",)),
            ("varied", lambda: canvas.varied(value, 0), ("share",)),
            ("varied by seed", lambda: canvas.varied(0.5, value), ("seed",)),
            ("masked_with", lambda: canvas.masked_with(value), ("mask",)),
            ("empty", lambda: Canvas.empty(1, value, 4), ("height", "Canvas", "canvas")),
            ("empty of images", lambda: Canvas.empty(value, 4, 4), ("batch", "Canvas", "canvas")),
            ("stacked", lambda: Canvas.stacked(value), ("canvases", "canvas")),
            ("stacked of one", lambda: Canvas.stacked([canvas, value]), ("canvases", "canvas", "image")),
            ("check_codes", lambda: canvas.check_codes(value) or canvas, ("codebook_size",)),
        )
    )
    return Attempt(f"Canvas.{name}({_shown(value)})", lambda: python(action), (about,), "either", lambda made: isinstance(made, Canvas) and min(made.shape) > 0)


def _mask(rng: random.Random, room: Room) -> Attempt:
    mask = rng.choice((*TENSORS, lambda: torch.ones(1, 32, 32), lambda: torch.full((1, 32, 32), float("nan")), lambda: torch.ones(1, 32, 32) * 1j, *FOREIGN))()
    size = rng.choice(((4, 4), (4, 4), (0, 4), (-1, 4), ("4", 4), (4.0, 4)))

    def touched():
        return touched_tokens(mask, *size)

    return Attempt(f"touched_tokens({_shown(mask)}, {size})", lambda: python(touched), (("mask", "height", "width"),), "either", lambda made: made.dtype == torch.bool and made.dim() == 3 and min(made.shape) > 0)


def _load(rng: random.Random, room: Room) -> Attempt:
    name, value = rng.choice(("model", "head", "dtype", "device", "revision", "stream", "switches")), rng.choice(FOREIGN)()
    asked = {"model": str(room.model), "head": str(room.head), "dtype": "fp32", "device": "cpu", name: value}
    from migm_core.pipeline import Pipeline

    about = {"model": ("model", str(value)[:40] or ".", "path"), "head": ("head", str(value)[:40], "path"), "dtype": ("dtype",), "device": ("device", "Device")}.get(name, (name,))
    sensible = value is None or isinstance(value, bool) and name == "stream"
    return Attempt(f"load({name}={_shown(value)})", lambda: python(lambda: Pipeline.load(**asked)), (about,), "either", lambda made: sensible)


def _files(rng: random.Random, room: Room) -> Attempt:
    value = rng.choice(FOREIGN)()
    target = room.folder / "out.safetensors"
    base = room.load().checkpoint.base.config
    name, action = rng.choice(
        (
            ("describe", lambda: describe(value)),
            ("convert from", lambda: convert(value, target)),
            ("convert to", lambda: convert(room.head, value)),
            ("convert in", lambda: convert(room.head, target, dtype=value)),
            ("load_head", lambda: load_head(value, base)),
            ("load_head for", lambda: load_head(room.head, value)),
            ("load_checkpoint", lambda: load_checkpoint(value)),
        )
    )
    sensible = name == "convert in" and value is None
    about = ("path", "Path", str(value)[:40] or ".", "dtype", "base")
    return Attempt(f"{name}({_shown(value)})", lambda: python(lambda: action() or True), (about,), "right" if sensible else "refused", bool, None if sensible else room.folder)
