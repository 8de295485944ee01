"""The nodes, called inside a real host with foreign kinds of input: what a link, another pack or the API may bring.

Runs in the host's own Python, see ``hosted``.
"""

import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image

from .arguments import FOREIGN, _shown
from .room import Room
from .trying import Attempt, python

PIXELS: tuple[Callable[[], object], ...] = (
    *FOREIGN[:34],
    *(
        lambda shape=shape: torch.rand(shape)
        for shape in (
            *((1, 32, 32, 4), (1, 32, 32, 1), (1, 32, 32, 2), (1, 32, 32, 5), (32, 32, 3), (0, 32, 32, 3), (70, 16, 16, 3), (1, 0, 32, 3), (1, 8, 8, 3), (1, 7, 7, 3), (3, 32, 32, 3)),
            *((1, 33, 40, 3), (1, 16, 9000, 3), (1, 3, 32, 32), (1, 32, 32, 3, 1), (), (5,), (1, 32, 32), (2, 16, 16), (32, 32), (1, 1, 1)),
        )
    ),
    *(lambda dtype=dtype: torch.ones(1, 32, 32, 3).to(dtype) for dtype in (torch.uint8, torch.int64, torch.bool, torch.float16, torch.bfloat16, torch.float64, torch.complex64)),
    *(lambda value=value: torch.full((1, 32, 32, 3), value) for value in (float("nan"), float("inf"), -3.0, 255.0, 1e30)),
    *(lambda value=value: torch.full((1, 32, 32), value) for value in (float("nan"), float("inf"), -3.0, 255.0, 0.0, 1.0)),
    lambda: torch.rand(1, 32, 32, 3, device="meta"),
    lambda: torch.rand(1, 32, 32, 3).to_sparse(),
    lambda: torch.rand(1, 32, 32, 3, requires_grad=True),
    lambda: np.zeros((1, 32, 32, 3), np.float32),
    lambda: Image.new("RGB", (32, 32)),
    lambda: [torch.rand(1, 32, 32, 3)],
    lambda: {"samples": torch.zeros(1, 4, 4, 4)},
)


def plan(rng: random.Random, room: Room) -> Attempt:
    from .hosted import extension

    nodes = _Nodes(extension)
    return rng.choices((_input, _names, _validation, _mixed), (12, 2, 3, 4))[0](rng, nodes)


class _Nodes:
    """The extension's nodes, with what their inputs take."""

    def __init__(self, extension: Callable):
        loaders, canvas, maskgit, tasks = (extension(f"nodes.{name}") for name in ("loaders", "canvas", "maskgit", "tasks"))
        self.classes = {
            "LoadLumina": loaders.LoadLumina,
            "LoadMaskGIT": loaders.LoadMaskGIT,
            "LoadShortcutHead": loaders.LoadShortcutHead,
            "Prompt": extension("nodes.prompt").Prompt,
            "EmptyCanvas": canvas.EmptyCanvas,
            "EncodeImageToCanvas": canvas.EncodeImageToCanvas,
            "DecodeCanvas": canvas.DecodeCanvas,
            "ShortcutSampler": extension("nodes.sampler").ShortcutSampler,
            "CompareMethods": extension("nodes.compare").CompareMethods,
            "MaskGITClass": maskgit.MaskGITClass,
            "MaskGITSampler": maskgit.MaskGITSampler,
            "EditImage": tasks.EditImage,
            "ImageTask": tasks.ImageTask,
            "Outpaint": extension("nodes.outpaint").Outpaint,
            "AskAboutImage": extension("nodes.understand").AskAboutImage,
        }

    def run(self, name: str, **inputs) -> tuple:
        return self.classes[name].execute(**inputs).args

    def links(self) -> dict[str, Any]:
        """One of everything that a link carries, of both families."""
        model, other = self.run("LoadLumina", model="small", dtype="fp32")[0], self.run("LoadMaskGIT", model=MASKGIT, dtype="fp32")[0]
        return {
            "model": model,
            "other": other,
            "head": self.run("LoadShortcutHead", head="small.safetensors")[0],
            "foreign": self.run("LoadShortcutHead", head="foreign.safetensors")[0],
            "class_head": self.run("LoadShortcutHead", head=MASKGIT_HEAD)[0],
            "prompt": self.run("Prompt", text="a red house", negative="")[0],
            "classes": self.run("MaskGITClass", class_name="3")[0],
            "canvas": self.run("EmptyCanvas", model=model, width=0, height=0, batch=1)[0],
            "other_canvas": self.run("EmptyCanvas", model=other, width=0, height=0, batch=1)[0],
        }

    def inputs(self, name: str, links: dict[str, Any]) -> dict[str, Any]:
        """What a node takes for a short run."""
        image, model = torch.rand(1, 32, 32, 3, generator=torch.Generator().manual_seed(0)), links["model"]
        sampler = {"seed": 1, "steps": 4, "budget": 2, "cfg": 0.0, "method": "shortcut", "canvas": None}
        return {
            "LoadLumina": {"model": "small", "dtype": "fp32"},
            "LoadMaskGIT": {"model": MASKGIT, "dtype": "fp32"},
            "LoadShortcutHead": {"head": "small.safetensors"},
            "Prompt": {"text": "a red house", "negative": ""},
            "EmptyCanvas": {"model": model, "width": 32, "height": 32, "batch": 1},
            "EncodeImageToCanvas": {"model": model, "image": image, "variation": 0.5, "variation_seed": 0, "mask": None},
            "DecodeCanvas": {"canvas": links["canvas"], "tile_size": 0},
            "ShortcutSampler": {"model": model, "prompt": links["prompt"], "head": links["head"], "temperature": 1.0, **sampler},
            "CompareMethods": {"model": model, "prompt": links["prompt"], "head": links["head"], "canvas": None, "seed": 1, "methods": "vanilla 2\nshortcut 2 of 3", "cfg": 0.0, "temperature": 1.0},
            "MaskGITClass": {"class_name": "3", "several": ""},
            "MaskGITSampler": {"model": links["other"], "classes": links["classes"], "head": links["class_head"], **sampler},
            "EditImage": {"model": model, "image": image, "instruction": "make it red", "image_cfg": 1.0, "negative": ""},
            "ImageTask": {"model": model, "image_cfg": 1.0, "task": {"task": "style", "image": image, "style_image": image}, "negative": ""},
            "Outpaint": {"model": model, "image": image, "left": 8, "top": 0, "right": 0, "bottom": 0, "mask": None, "feather": 4},
            "AskAboutImage": {"model": model, "question": "What?", "options": "", "one_by_one": False, "image": image, "seed": 0, "length": 8, "block": 8, "steps": 2},
        }[name]


MASKGIT, MASKGIT_HEAD = "maskgit/MaskGIT/MaskGIT_ImageNet_tiny.pth", "maskgit-shortcut.pth"  # as tests/hosts.py puts them
PICTURES = ("image", "image_2", "style_image", "mask")
LINKS = ("model", "head", "prompt", "classes", "canvas")
LINKED = ("model", "other", "head", "foreign", "class_head", "prompt", "classes", "canvas", "other_canvas")
TASK_VALUES = (
    *({"task": name} for name in ("edit", "dense", "multi-view", "style", "paint", "moon", 5)),
    *({"task": "dense", "map": value} for value in ("depth", "moon", None, 5)),
    *({"task": "edit", "prompt": value} for value in ("", None, 5, "\ud800", "a" * 10**6)),
    *({}, {"task": "multi-view", "view": 5}, {"task": "multi-view", "view": " "}, {"task": None}),
)
NAMED = ("node", "input", "picture", "Picture", "mask", "image")


def _finite(made: tuple) -> bool:
    """Whether a node gave numbers, where it gave tensors."""
    tensors = [each for value in made for each in (value if isinstance(value, list) else [value]) if isinstance(each, torch.Tensor)]
    return len(made) > 0 and all(bool(each.isfinite().all()) for each in tensors)


def _about(name: str) -> tuple:
    more = {"cfg": ("guidance_scale",), "instruction": ("prompt", "Prompt"), "text": ("prompt", "Prompt"), "class_name": ("class", "Class"), "several": ("class", "Class"), "options": ("option",)}
    sizes = ("width", "height", "size", "pixels") if name in ("width", "height", "left", "top", "right", "bottom", "extend") else ()
    return (name, name.rstrip("s"), name.replace("_", " "), *more.get(name, ()), *sizes, *(NAMED if name in PICTURES else ()), "extend" if sizes else name)


def _input(rng: random.Random, nodes: _Nodes) -> Attempt:
    """One input of a node of a foreign kind."""
    links = nodes.links()
    name = rng.choice([each for each in nodes.classes if each not in ("LoadLumina", "LoadMaskGIT", "LoadShortcutHead")])
    inputs = nodes.inputs(name, links)
    where = rng.choice(list(inputs))
    if where in PICTURES:
        value = rng.choice(PIXELS)()
    elif where in LINKS:
        value = rng.choice((*(lambda link=link: links[link] for link in LINKED), *FOREIGN))()
    elif where == "task":
        image = inputs["task"]["image"]
        value = rng.choice((*(lambda task=task: {"image": image, **task} for task in TASK_VALUES), *FOREIGN, *(lambda make=make: {"task": "style", "image": image, "style_image": make()} for make in PIXELS)))()
    else:
        value = rng.choice(FOREIGN)()
    asked = {**inputs, where: value}
    names = (*_about(where), "model", "canvas", "family", "picture", "Picture", "task", "head") if where in (*LINKS, "task") else _about(where)
    return Attempt(f"{name}({where}={_shown(value) if not isinstance(value, dict) else ascii(value)[:50]})", lambda: python(lambda: nodes.run(name, **asked)), (names,), "either", _finite)


def _names(rng: random.Random, nodes: _Nodes) -> Attempt:
    """Files by names that are none."""
    name = rng.choice(("LoadLumina", "LoadMaskGIT", "LoadShortcutHead"))
    where = rng.choice(("head",) if name == "LoadShortcutHead" else ("model", "dtype"))
    value = rng.choice((*FOREIGN, lambda: "../../etc/passwd", lambda: "small/model.safetensors", lambda: "a\nb", lambda: "x" * 5000, lambda: "small.safetensors", lambda: "fp8", lambda: "auto"))()
    asked = {**nodes.inputs(name, nodes.links()), where: value}
    names = (where, "model", "head", "dtype")
    return Attempt(f"{name}({where}={_shown(value)})", lambda: python(lambda: nodes.run(name, **asked)), (names,), "either", bool)


def _validation(rng: random.Random, nodes: _Nodes) -> Attempt:
    """What the host asks before a run: an answer, and never an error."""
    name = rng.choice([each for each, cls in nodes.classes.items() if "validate_inputs" in vars(cls) or each.startswith("Load")])
    cls = nodes.classes[name]
    how = "fingerprint_inputs" if name.startswith("Load") and rng.random() < 0.4 else "validate_inputs"
    function = getattr(cls, how)
    where = rng.choice([each for each in function.__func__.__code__.co_varnames[: function.__func__.__code__.co_argcount] if each != "cls"])
    value = rng.choice((*FOREIGN, lambda: ["node", 0], lambda: "x" * 5000, lambda: "small"))()

    def run():
        answer = function(**{where: value})
        if how == "validate_inputs" and answer is not True:
            raise ValueError(answer)
        return SimpleNamespace(answer=answer)

    return Attempt(f"{name}.{how}({where}={_shown(value)})", lambda: python(run), ((where, "model", "head", "length", "steps", "block"),), "either", bool)


def _mixed(rng: random.Random, nodes: _Nodes) -> Attempt:
    """Batches that do not go together, and canvases of other models and sizes."""
    links = nodes.links()
    model, rand = links["model"], lambda *shape: torch.rand(*shape)
    sampler = nodes.inputs("ShortcutSampler", links)

    def edited(batch: int):
        return nodes.run("EditImage", model=model, image=rand(batch, 32, 32, 3), instruction="red", image_cfg=0.0)[0]

    def canvas(batch: int, side: int = 32):
        return nodes.run("EmptyCanvas", model=model, width=side, height=side, batch=batch)[0]

    how, action, expected = rng.choice(
        (
            ("two pictures on a canvas of three", lambda: nodes.run("ShortcutSampler", **{**sampler, "prompt": edited(2), "canvas": canvas(3)}), "refused"),
            ("two pictures without a canvas", lambda: nodes.run("ShortcutSampler", **{**sampler, "prompt": edited(2)}), "right"),
            ("a picture on a canvas of another size", lambda: nodes.run("ShortcutSampler", **{**sampler, "prompt": edited(1), "canvas": canvas(2, 48)}), "right"),
            ("style of two and three", lambda: nodes.run("ImageTask", model=model, image_cfg=0.0, task={"task": "style", "image": rand(2, 32, 32, 3), "style_image": rand(3, 32, 32, 3)}), "refused"),
            ("two masks on three images", lambda: nodes.run("Outpaint", model=model, image=rand(3, 32, 32, 3), left=0, top=0, right=0, bottom=0, mask=torch.ones(2, 32, 32)), "refused"),
            ("an empty mask", lambda: nodes.run("Outpaint", model=model, image=rand(1, 32, 32, 3), left=0, top=0, right=0, bottom=0, mask=torch.zeros(1, 64, 64)), "refused"),
            ("two masks to encode three images", lambda: nodes.run("EncodeImageToCanvas", model=model, image=rand(3, 32, 32, 3), variation=0.0, variation_seed=0, mask=torch.ones(2, 32, 32)), "refused"),
            ("65 images", lambda: nodes.run("EncodeImageToCanvas", model=model, image=rand(65, 16, 16, 3), variation=0.0, variation_seed=0), "either"),
            ("a MaskGIT canvas with Lumina", lambda: nodes.run("ShortcutSampler", **{**sampler, "canvas": links["other_canvas"]}), "refused"),
            ("classes that are no classes", lambda: nodes.run("MaskGITSampler", **{**nodes.inputs("MaskGITSampler", links), "classes": nodes.run("MaskGITClass", class_name="moon")[0]}), "refused"),
            ("many classes", lambda: nodes.run("MaskGITSampler", **{**nodes.inputs("MaskGITSampler", links), "classes": nodes.run("MaskGITClass", class_name="3", several="3," * 10**5)[0]}), "refused"),
            ("nothing to generate", lambda: nodes.run("ShortcutSampler", **{**sampler, "canvas": nodes.run("EncodeImageToCanvas", model=model, image=rand(1, 32, 32, 3), variation=0.0, variation_seed=0)[0]}), "right"),
            ("65 options", lambda: nodes.run("AskAboutImage", model=model, question="Which?", options="\n".join(map(str, range(65)))), "refused"),
            ("one option", lambda: nodes.run("AskAboutImage", model=model, question="Which?", options="yes"), "refused"),
            ("a head of another family", lambda: nodes.run("ShortcutSampler", **{**sampler, "head": links["class_head"]}), "refused"),
            ("a head of another size", lambda: nodes.run("ShortcutSampler", **{**sampler, "head": links["foreign"]}), "refused"),
            ("a picture of another model", lambda: nodes.run("MaskGITSampler", **{**nodes.inputs("MaskGITSampler", links), "canvas": canvas(1)}), "refused"),
        )
    )
    names = ("picture", "canvas", "mask", "Mask", "image", "class", "option", "head", "family")
    return Attempt(how, lambda: python(action), (names,), expected, _finite)
