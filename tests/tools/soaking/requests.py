"""What a soak asks for: a finite set of random requests, each as a graph for the host's API and as the engine alone is asked.

The set is finite so that the pictures generated alone can be remembered. A graph is made to run anew by a salt, an input that no node looks at.
"""

import copy
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from api import text_to_image
from hosts import MASKGIT, MASKGIT_HEAD
from PIL import Image

from migm_core.families.maskgit.rule import RANDOMIZE
from migm_core.families.maskgit.schedules import SCHEDULES
from migm_core.sampling.methods import METHODS

from .files import BASE, FOLDER, HEAD, MASKGIT_BASE, MASKGIT_SHORTCUT

PROMPTS = ("a large red house on the sand", "a small yellow tree", "cat", "a blue tent left of a red duck")
NEGATIVES = ("", "", "a small red tree")
PICTURES = {"soak-0.png": (64, 64), "soak-1.png": (96, 32), "soak-2.png": (200, 70), "soak-3.png": (40, 48)}  # width and height
MASK = "soak-mask.png"
MAPS, VIEWS = ("depth", "canny"), ("left", "back")


@dataclass(frozen=True)
class Request:
    """One thing to ask for.

    Attributes:
        kind: a key of KINDS.
        number: of the request within the set.
        graph: for the host's API.
        alone: what the engine is asked in its place, see ``alone``: one call, or several whose pictures follow each other.
        shows: the node that shows the result.
        works: the node that samples, and takes the salt.
        uses: the files, by their names in ``files``, that the result depends on.
        steps: that the page is told of.
    """

    kind: str
    number: int
    graph: dict = field(repr=False)
    alone: list[dict]
    shows: str = "save"
    works: str = "sampler"
    uses: tuple[str, ...] = (BASE, HEAD)
    steps: int = 0

    def __str__(self) -> str:
        return f"{self.kind} {self.number}"

    def salted(self, salt: int) -> dict:
        """Its graph, which the host's cache takes for another one with each salt."""
        graph = copy.deepcopy(self.graph)
        graph[self.works]["inputs"]["salt"] = salt
        return graph


def make_requests(rng: random.Random, of_each: int) -> list[Request]:
    """A set of requests, so many of each kind."""
    made = []
    for kind, make in KINDS.items():
        made += [Request(kind, len(made) + number, **make(rng)) for number in range(of_each)]
    return made


def write_pictures(folder: Path) -> None:
    """Write the pictures that requests name: coarse noise, and a mask."""
    for number, (name, size) in enumerate(PICTURES.items()):
        coarse = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize(size).save(folder / name)
    mask = np.zeros((48, 64), np.uint8)
    mask[4:30, 12:40] = 255
    Image.fromarray(mask).convert("RGB").save(folder / MASK)  # newer hosts read grey ones with 254.9 for white


def long_request() -> dict:
    """The graph of some minutes of work, to be stopped."""
    return with_files(text_to_image(empty={"width": 256, "height": 256}, method="vanilla", steps=1000))


def with_files(graph: dict) -> dict:
    """A graph of ``text_to_image`` with the soak's files."""
    graph["model"]["inputs"]["model"] = f"{FOLDER}/lumina"
    graph["head"]["inputs"]["head"] = f"{FOLDER}/lumina-head.safetensors"
    return graph


def sampling(rng: random.Random, least: int = 1) -> tuple[dict, dict]:
    """Random settings of a method: as the samplers' inputs, and as the engine's."""
    steps = rng.choice([steps for steps in (1, 2, 4, 8, 13) if steps >= least])
    method = rng.choice(list(METHODS)) if steps > 1 else "vanilla"
    chosen = {"steps": steps, "method": method, "seed": rng.randrange(2**64 - 8)}
    if method == "shortcut":
        chosen["budget"] = rng.randint(2, steps)
    if method == "ml-cache":
        chosen |= {"interval": rng.randint(1, 5), "warmup": rng.choice((0.0, 0.3, 0.7)), "ratio": rng.choice((0.5, 0.9))}
    return {"budget": 2, **chosen}, chosen


def uses(asked: dict) -> tuple[str, ...]:
    return (BASE, HEAD) if asked["method"] == "shortcut" else (BASE,)


def of_text(rng: random.Random, given: dict, alone: dict, empty: dict | None = None) -> tuple[dict, dict]:
    """A graph of the text sampler with random guidance and temperature, and how the engine is asked."""
    cfg, temperature = rng.choice((0.0, 2.0, 7.5)), rng.choice((0.0, 0.5, 1.0))
    graph = with_files(text_to_image(empty=empty, **{**given, "cfg": cfg, "temperature": temperature}))
    prompt, negative = rng.choice(PROMPTS), rng.choice(NEGATIVES)
    graph["prompt"]["inputs"] |= {"text": prompt, "negative": negative}
    return graph, {**alone, "prompt": prompt, "negative": negative, "guidance_scale": cfg, "temperature": temperature}


def text(rng: random.Random) -> dict:
    given, alone = sampling(rng)
    empty = {"width": 8 * rng.randint(2, 8), "height": 8 * rng.randint(2, 8), "batch": rng.choice((1, 1, 1, 3))}
    graph, alone = of_text(rng, given, alone | empty, empty)
    return {"graph": graph, "alone": [{"do": "generate", "with": alone}], "uses": uses(alone), "steps": given["steps"]}


def classes(rng: random.Random) -> dict:
    given, alone = sampling(rng, least=2)
    several = rng.choice(("3", "8", "4, 7", "1, 2, 9"))
    batch = rng.choice((1, 2)) if "," not in several else 1
    rule = {
        "guidance_ramp": rng.random() < 0.5,
        "choice_temperature": rng.choice((2.0, 7.0)),
        "softmax_temperature": rng.choice((1.0, 1.3)),
        "schedule": rng.choice(list(SCHEDULES)),
        "randomize": rng.choice(RANDOMIZE),
    }
    cfg = rng.choice((0.0, 2.8))
    links = {name: [name, 0] for name in ("model", "head", "classes")}
    graph = {
        "model": {"class_type": "MIGMLoadMaskGIT", "inputs": {"model": f"{FOLDER}/{MASKGIT}", "dtype": "fp32"}},
        "head": {"class_type": "MIGMLoadShortcutHead", "inputs": {"head": f"{FOLDER}/{MASKGIT_HEAD}"}},
        "classes": {"class_type": "MIGMMaskGITClass", "inputs": {"class_name": "goldfish", "several": several}},
        "sampler": {"class_type": "MIGMMaskGITSampler", "inputs": {**links, "cfg": cfg, **rule, **given}},
        "save": {"class_type": "PreviewImage", "inputs": {"images": ["sampler", 0]}},
    }
    if batch > 1:
        graph["canvas"] = {"class_type": "MIGMEmptyCanvas", "inputs": {"model": ["model", 0], "width": 0, "height": 0, "batch": batch}}
        graph["sampler"]["inputs"]["canvas"] = ["canvas", 0]
    alone = {**alone, **rule, "guidance_scale": cfg, "prompt": several, "batch": batch}
    return {
        "graph": graph,
        "alone": [{"do": "generate", "family": "maskgit", "with": alone}],
        "uses": (MASKGIT_BASE, MASKGIT_SHORTCUT) if alone["method"] == "shortcut" else (MASKGIT_BASE,),
        "steps": given["steps"],
    }


def picture(rng: random.Random, graph: dict, node: str = "picture") -> tuple[list, str]:
    """Have a graph load a picture: its IMAGE, and its file."""
    name = rng.choice(list(PICTURES))
    graph[node] = {"class_type": "LoadImage", "inputs": {"image": name}}
    return [node, 0], name


def mask(graph: dict) -> list:
    graph["mask"] = {"class_type": "LoadImageMask", "inputs": {"image": MASK, "channel": "red"}}
    return ["mask", 0]


def edit(rng: random.Random) -> dict:
    given, alone = sampling(rng)
    graph, alone = of_text(rng, given, alone)
    image, name = picture(rng, graph)
    scale = rng.choice((0.0, 4.0))
    inputs = {"model": ["model", 0], "image": image, "instruction": alone["prompt"], "negative": alone["negative"], "image_cfg": scale}
    graph["prompt"] = {"class_type": "MIGMEditImage", "inputs": inputs}
    alone |= {"task": "edit", "image_guidance_scale": scale}
    return {"graph": graph, "alone": [{"do": "generate", "with": alone, "images": [name]}], "uses": uses(alone), "steps": given["steps"]}


def task(rng: random.Random) -> dict:
    """Any other task with pictures."""
    given, alone = sampling(rng)
    graph, alone = of_text(rng, given, alone)
    image, name = picture(rng, graph)
    names, which, scale = [name], rng.choice(("dense", "multi-view", "control", "subject", "style")), rng.choice((0.0, 4.0))
    inputs = {"model": ["model", 0], "task": which, "task.image": image, "negative": alone["negative"], "image_cfg": scale}
    prompt, kind = alone.pop("prompt"), ""
    if which in ("control", "subject"):
        inputs["task.prompt"] = alone["prompt"] = prompt
    elif which == "style":
        inputs["task.style_image"], other = picture(rng, graph, "style")
        names.append(other)
    else:
        kind = rng.choice(MAPS if which == "dense" else VIEWS)
        inputs["task.map" if which == "dense" else "task.view"] = kind
    graph["prompt"] = {"class_type": "MIGMImageTask", "inputs": inputs}
    alone |= {"task": which, "kind": kind, "image_guidance_scale": scale}
    return {"graph": graph, "alone": [{"do": "generate", "with": alone, "images": names}], "uses": uses(alone), "steps": given["steps"]}


def paint(rng: random.Random) -> dict:
    """A masked part of a picture, more of it beyond its borders, or both."""
    given, alone = sampling(rng)
    graph, alone = of_text(rng, given, alone)
    graph["prompt"]["inputs"]["negative"] = alone["negative"] = ""
    image, name = picture(rng, graph)
    masked = rng.random() < 0.6
    sides = {side: rng.choice((0, 8, 21)) if not masked or rng.random() < 0.4 else 0 for side in ("left", "top", "right", "bottom")}
    if not masked and not any(sides.values()):
        sides["right"] = 16
    joining = {"feather": rng.choice((0, 4)), "grow": rng.choice((0, 3)), "blend": rng.random() < 0.8}
    graph["canvas"] = {"class_type": "MIGMOutpaint", "inputs": {"model": ["model", 0], "image": image, **sides, **joining}}
    graph["sampler"]["inputs"]["canvas"] = ["canvas", 0]
    if masked:
        graph["canvas"]["inputs"]["mask"] = mask(graph)
    alone |= {"task": "paint", "extend": list(sides.values()), **joining}
    asked = {"do": "generate", "with": alone, "images": [name], "mask": MASK if masked else None}
    return {"graph": graph, "alone": [asked], "uses": uses(alone), "steps": given["steps"]}


def again(rng: random.Random) -> dict:
    """A part of a picture, and a share of its other tokens, generated anew from a canvas."""
    given, alone = sampling(rng)
    graph, alone = of_text(rng, given, alone)
    image, name = picture(rng, graph)
    masked, variation, seed = rng.random() < 0.5, rng.choice((0.3, 0.8, 1.0)), rng.randrange(2**40)
    graph["canvas"] = {"class_type": "MIGMEncodeImage", "inputs": {"model": ["model", 0], "image": image, "variation": variation, "variation_seed": seed}}
    graph["sampler"]["inputs"]["canvas"] = ["canvas", 0]
    if masked:
        graph["canvas"]["inputs"]["mask"] = mask(graph)
    asked = {"do": "canvas", "with": alone, "images": [name], "mask": MASK if masked else None, "variation": [variation, seed]}
    return {"graph": graph, "alone": [asked], "uses": uses(alone), "steps": given["steps"]}


def question(rng: random.Random) -> dict:
    """An answer in words, or the likeliest of some."""
    asked = rng.choice(PROMPTS)
    block = rng.choice((4, 8))
    settings = {
        "length": 2 * block,
        "block": block,
        "steps": rng.choice((0, block)),
        "temperature": rng.choice((0.0, 0.7)),
        "remasking": rng.choice(("low-confidence", "random")),
        "stop": rng.choice(("never", "answer")),
        "cache": rng.random() < 0.5,
        "seed": rng.randrange(2**40),
    }
    cfg = rng.choice((0.0, 1.5))
    graph = {
        "model": {"class_type": "MIGMLoadLumina", "inputs": {"model": f"{FOLDER}/lumina", "dtype": "fp32"}},
        "question": {"class_type": "MIGMAskAboutImage", "inputs": {"model": ["model", 0], "question": asked, "cfg": cfg, **settings}},
        "answer": {"class_type": "PreviewAny", "inputs": {"source": ["question", 0]}},
    }
    alone = {"do": "understand", "question": asked, "with": {**settings, "guidance_scale": cfg}, "images": []}
    if rng.random() < 0.8:
        graph["question"]["inputs"]["image"], name = picture(rng, graph)
        alone["images"] = [name]
    if rng.random() < 0.3:
        options = ["red", "large blue", "tree"]
        graph["question"]["inputs"]["options"] = "\n".join(options)
        alone |= {"do": "choose", "with": {}, "options": options}
    return {"graph": graph, "alone": [alone], "shows": "answer", "works": "question", "uses": (BASE,)}


WAYS = {  # a line of MIGM Compare Methods, and how the engine is asked with the model's own 8 steps and budget of 3
    "vanilla": {"method": "vanilla", "steps": 8},
    "vanilla 5": {"method": "vanilla", "steps": 5},
    "balanced": {"method": "shortcut", "steps": 8, "budget": 3},
    "fast": {"method": "shortcut", "steps": 8, "budget": 2},
    "shortcut 4 of 9": {"method": "shortcut", "steps": 9, "budget": 4},
    "ml-cache interval=3": {"method": "ml-cache", "steps": 8, "interval": 3},
}


def compare(rng: random.Random) -> dict:
    given, alone = sampling(rng)
    empty = {"width": 8 * rng.randint(2, 6), "height": 8 * rng.randint(2, 6), "batch": 1}
    graph, alone = of_text(rng, given, {"seed": alone["seed"], **empty}, empty)
    ways = rng.sample(list(WAYS), rng.randint(1, 3))
    kept = {name: value for name, value in graph["sampler"]["inputs"].items() if name in ("model", "prompt", "head", "canvas", "seed", "cfg", "temperature")}
    graph["sampler"] = {"class_type": "MIGMCompareMethods", "inputs": {**kept, "methods": "\n".join(ways)}}
    del graph["report"]
    calls = [{"do": "generate", "with": {**alone, **WAYS[way]}} for way in ways]
    return {"graph": graph, "alone": calls, "uses": (BASE, HEAD), "steps": sum(WAYS[way]["steps"] for way in ways)}


KINDS: dict[str, Callable[[random.Random], dict]] = {
    "text to image": text,
    "class to image": classes,
    "edit": edit,
    "task": task,
    "paint": paint,
    "canvas": again,
    "question": question,
    "compare": compare,
}
