"""The synthetic domain of the bundled model: captioned scenes of simple objects.

A scene has one to three objects, each with a size, a colour and a shape, on a coloured background, and says how they
lie to each other. Objects sit in the quarters of the picture, on the grid of its 8x8-pixel tokens, so that an image tokenizer of
downscale factor 8 sees each part of each object in one phase only: a small model can then learn most of the domain in a few hours on a CPU.
"""

import math
import re
import zlib
from dataclasses import dataclass
from functools import cache
from itertools import permutations, product

import numpy as np
from PIL import Image, ImageDraw

TOKEN_PIXELS = 8  # pixels that a token covers along each side
GRID = 8  # tokens along each side
PIXELS = TOKEN_PIXELS * GRID

SIZES = {"small": 2, "large": 3}  # tokens along each side
EDGES = {"small": (1, 5), "large": (0, 5)}  # first token in the left or upper and in the right or lower half
COLOURS = {
    "red": (0.90, 0.15, 0.17),
    "yellow": (0.99, 0.85, 0.16),
    "green": (0.15, 0.66, 0.30),
    "blue": (0.14, 0.42, 0.93),
    "purple": (0.58, 0.24, 0.80),
}
SHAPES = ("circle", "square", "triangle", "star", "heart")
BACKGROUNDS = {
    "cream": (0.97, 0.94, 0.87),
    "mint": (0.73, 0.90, 0.83),
    "navy": (0.09, 0.12, 0.25),
}
RELATIONS = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}  # direction (x, y) of the first


@dataclass(frozen=True)
class SceneObject:
    """One object: keys of SIZES and COLOURS and one of SHAPES."""

    size: str
    colour: str
    shape: str

    def __str__(self) -> str:
        return f"a {self.size} {self.colour} {self.shape}"


@dataclass(frozen=True)
class Scene:
    """What a caption says.

    ``relations`` holds (first, relation, second) with indices into ``objects``: none for one object, one for two, and
    for three the relation of the first two and that of both of them to the third.
    """

    objects: tuple[SceneObject, ...]
    background: str
    relations: tuple[tuple[int, str, int], ...] = ()

    @property
    def caption(self) -> str:
        text = str(self.objects[0])
        if len(self.objects) > 1:
            text += f" {self.relations[0][1]} {self.objects[1]}"
        if len(self.objects) > 2:
            text += f", both {self.relations[1][1]} {self.objects[2]}"
        return f"{text} on a {self.background} background"

    @property
    def canonical(self) -> str:
        """The same for captions that say the same: "A right of B" becomes "B left of A"."""
        opposite = {"right of": "left of", "below": "above"}
        if self.relations and self.relations[0][1] in opposite:
            swapped = (self.objects[1], self.objects[0], *self.objects[2:])
            relation = (0, opposite[self.relations[0][1]], 1)
            return Scene(swapped, self.background, (relation, *self.relations[1:])).caption
        return self.caption

    @property
    def split(self) -> str:
        """"test" for one caption in ten, "dev" for another, "train" for the rest; the same on every machine."""
        return {0: "test", 1: "dev"}.get(zlib.crc32(self.canonical.encode()) % 10, "train")


def three(first: SceneObject, relation: str, second: SceneObject, relation_to_third: str, third: SceneObject, background: str) -> Scene:
    """Three objects: the first two side by side, both on one side of the third, across the first relation's axis."""
    relations = ((0, relation, 1), (0, relation_to_third, 2), (1, relation_to_third, 2))
    return Scene((first, second, third), background, relations)


def random_scene(rng: np.random.Generator, count: int, split: str | None = None) -> Scene:
    """A scene of ``count`` objects, uniform over what the captions can say, of one split if given."""
    pick = lambda options: options[rng.integers(len(options))]  # noqa: E731
    while True:
        objects = [SceneObject(pick(list(SIZES)), pick(list(COLOURS)), pick(SHAPES)) for _ in range(count)]
        background = pick(list(BACKGROUNDS))
        relation = pick(list(RELATIONS))
        if count == 1:
            scene = Scene(tuple(objects), background)
        elif count == 2:
            scene = Scene(tuple(objects), background, ((0, relation, 1),))
        else:
            across = [r for r in RELATIONS if (RELATIONS[r][0] == 0) != (RELATIONS[relation][0] == 0)]
            scene = three(objects[0], relation, objects[1], pick(across), objects[2], background)
        if split is None or scene.split == split:
            return scene


def placements(scene: Scene) -> list[list[tuple[int, int]]]:
    """Every way to fulfil the relations with each object in a quarter of its own: the objects' top left tokens (x, y)."""
    layouts = _layouts(len(scene.objects), scene.relations)
    return [[tuple(EDGES[item.size][side] for side in quarter) for item, quarter in zip(scene.objects, q)] for q in layouts]


def random_placement(rng: np.random.Generator, scene: Scene) -> list[tuple[int, int]]:
    """One of the placements, each as likely as the others."""
    ways = placements(scene)
    return ways[rng.integers(len(ways))]


@cache
def _layouts(count: int, relations: tuple[tuple[int, str, int], ...]) -> list[tuple[tuple[int, int], ...]]:
    """Every allowed choice of quarters (0 or 1 along x and y)."""

    def fulfilled(quarters, first, relation, second):
        steps = zip(quarters[first], quarters[second], RELATIONS[relation])
        return sum((a - b) * direction for a, b, direction in steps) > 0

    quarters = list(product((0, 1), (0, 1)))
    return [q for q in permutations(quarters, count) if all(fulfilled(q, *relation) for relation in relations)]


def render(scene: Scene, spots: list[tuple[int, int]]) -> np.ndarray:
    """A picture of a scene: float32 (64, 64, 3) in 0..1."""
    image = np.empty((PIXELS, PIXELS, 3), np.float32)
    image[:] = BACKGROUNDS[scene.background]
    for item, (x, y) in zip(scene.objects, spots):
        colour, alpha = sprite(item)
        side = colour.shape[0]
        window = image[y * TOKEN_PIXELS : y * TOKEN_PIXELS + side, x * TOKEN_PIXELS : x * TOKEN_PIXELS + side]
        window *= 1 - alpha
        window += colour
    return image


@cache
def sprite(item: SceneObject) -> tuple[np.ndarray, np.ndarray]:
    """An object as (colour times alpha, alpha), float32 (side, side, 3) and (side, side, 1), with shading and shadow."""
    side = SIZES[item.size] * TOKEN_PIXELS
    fine = 8  # supersampling along each side
    mask = _outline(item.shape, side, fine)
    edge = np.linspace(-1, 1, side * fine, dtype=np.float32)
    x, y = edge[None, :], edge[:, None]
    # Light from the upper left: a soft falloff over the body and a small highlight.
    light = 1.04 - 0.17 * (x + y)
    glow = 0.5 * np.exp(-((x + 0.30) ** 2 + (y + 0.38) ** 2) / 0.045)
    body = np.clip(np.array(COLOURS[item.colour], np.float32) * light[..., None], 0, 1)
    body = body + (1 - body) * glow[..., None]
    body, mask = _shrink(body * mask[..., None], fine), _shrink(mask[..., None], fine)
    shadow = 0.30 * _soft(np.roll(mask[..., 0], (1, 1), (0, 1)))[..., None]
    alpha = mask + (1 - mask) * shadow
    return body.astype(np.float32), alpha.astype(np.float32)


def _outline(shape: str, side: int, fine: int) -> np.ndarray:
    """The shape filled with ones, (side * fine, side * fine), a margin left for the shadow."""
    scale = side * fine / 2
    radius = scale * (1 - 3.0 / side)  # 1.5 pixels of margin
    image = Image.new("L", (side * fine, side * fine), 0)
    draw = ImageDraw.Draw(image)

    def polygon(points):
        draw.polygon([(scale + radius * px, scale + radius * py) for px, py in points], fill=1)

    if shape == "circle":
        draw.ellipse([scale - radius] * 2 + [scale + radius] * 2, fill=1)
    elif shape == "square":
        draw.rounded_rectangle([scale - 0.9 * radius] * 2 + [scale + 0.9 * radius] * 2, radius * 0.16, fill=1)
    elif shape == "triangle":
        polygon([(0, -0.95), (1, 0.85), (-1, 0.85)])
    elif shape == "star":
        angles = [math.pi * (k / 5 - 0.5) for k in range(10)]
        polygon([((0.44 if k % 2 else 1.05) * math.cos(a), 0.06 + (0.44 if k % 2 else 1.05) * math.sin(a)) for k, a in enumerate(angles)])
    elif shape == "heart":
        turns = np.linspace(0, 2 * math.pi, 120)
        polygon(
            [
                (math.sin(t) ** 3, -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 16 - 0.1)
                for t in turns
            ]
        )
    return np.asarray(image, np.float32)


def _shrink(image: np.ndarray, fine: int) -> np.ndarray:
    height, width, channels = image.shape
    return image.reshape(height // fine, fine, width // fine, fine, channels).mean((1, 3))


def _soft(mask: np.ndarray) -> np.ndarray:
    padded = np.pad(mask, 1)
    blurred = sum(padded[i : i + mask.shape[0], j : j + mask.shape[1]] * w for i, j, w in _KERNEL)
    blurred[0] = blurred[:, 0] = 0  # np.roll wraps round
    return blurred


_KERNEL = [(i, j, (2 - abs(i - 1)) * (2 - abs(j - 1)) / 16) for i in range(3) for j in range(3)]

_OBJECT = rf"(?:an?|the)?\s*({'|'.join(SIZES)}) ({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})"
_CAPTION = re.compile(
    rf"{_OBJECT}(?: ({'|'.join(RELATIONS)}) {_OBJECT}(?:,? both ({'|'.join(RELATIONS)}) {_OBJECT})?)? on an? ({'|'.join(BACKGROUNDS)}) background"
)


def parse(caption: str) -> Scene:
    """The scene that a caption describes.

    Raises:
        ValueError: the caption is not of this domain.
    """
    match = _CAPTION.fullmatch(caption.strip().lower())
    if not match:
        raise ValueError(f"{caption!r} is not a caption of the synthetic domain. An example of one: {EXAMPLE!r}.")
    words = match.groups()
    first, relation, second, relation_to_third, third = words[:3], words[3], words[4:7], words[7], words[8:11]
    if relation is None:
        return Scene((SceneObject(*first),), words[11])
    if relation_to_third is None:
        return Scene((SceneObject(*first), SceneObject(*second)), words[11], ((0, relation, 1),))
    return three(SceneObject(*first), relation, SceneObject(*second), relation_to_third, SceneObject(*third), words[11])


EXAMPLE = "a large red heart left of a small yellow star, both above a large blue circle on a navy background"
