"""Judge whether an image shows its caption's scene, by looking at the pixels alone.

Analysis by synthesis: the image is cut into a background and connected objects, each object is compared with every
sprite of the domain, and what was read is held against the scene. No model takes part, so none can be flattered.
"""

from collections import Counter
from dataclasses import dataclass
from functools import cache
from itertools import permutations, product
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from .scenes import BACKGROUNDS, COLOURS, PIXELS, RELATIONS, SHAPES, SIZES, Scene, SceneObject, sprite

# Colours are in 0..1, and a pixel's contrast is its largest difference from the background over the channels.
CONTRAST = 0.12  # a pixel of more belongs to an object; of less are noise and the shadow's rim
TINT = 0.08  # the background may be this far from its nominal colour
SPECK = 8  # pixels: a smaller component is noise; the smallest sprite has over 60
APART = 6  # pixels between two centres along a relation's axis; edges of a small and a large object in line differ by 4
PATCH = 6  # pixels along each side of the squares searched for flaws: less than a token, where one wrong code shows
FLAW = 0.10  # the image tokenizer's own losses stay below, a wrong token or a missing quarter goes above
DOUBT = 0.40  # of the way to another sprite; half way it could be either
WINDOW = 36  # pixels along each side of a comparison: the largest sprite and some room around it
MARGIN = WINDOW // 2 + 1  # pixels around the picture, for the windows at its edge


@dataclass(frozen=True)
class Reading:
    """One object as read: the sprite most like it, its centre (x, y) in pixels, and how like it is.

    ``flaw`` is the mean squared error of the worst patch, as a share of the sprite's mean squared difference from the
    background; ``doubt`` how far the picture lies from this sprite towards another, as a share of the way, up to 0.5.
    """

    item: SceneObject
    centre: tuple[float, float]
    flaw: float
    doubt: float

    @property
    def certain(self) -> bool:
        """Whether it is that sprite, not merely more like it than like any other."""
        return self.flaw <= FLAW and self.doubt <= DOUBT

    def __str__(self) -> str:
        x, y = self.centre
        return str(self.item) if self.certain else f"something unclear at ({x:.0f}, {y:.0f}), at best {self.item}"


@dataclass(frozen=True)
class Verdict:
    """``right`` if there is no fault. ``background`` is the nearest name, or None if no name is near."""

    right: bool
    background: str | None
    readings: tuple[Reading, ...]
    faults: tuple[str, ...]


def judge(image: np.ndarray | Image.Image, scene: Scene) -> Verdict:
    """Say whether ``image`` shows ``scene``: every attribute, every relation, the background, and nothing else.

    Args:
        image: float (64, 64, 3) in 0..1, uint8 (64, 64, 3), or a PIL image of 64x64 pixels.

    Raises:
        ValueError: another size or range, or values that are not finite.
    """
    background, readings = read(image)
    faults = []
    if background != scene.background:
        faults.append(f"expected a {scene.background} background, found {background or 'another colour'}")
    if len(readings) != len(scene.objects):
        faults.append(f"{len(readings)} object{'s' * (len(readings) != 1)} instead of {len(scene.objects)}")
    faults += _missing(scene, readings) or _wrong_relations(scene, readings)
    return Verdict(not faults, background, readings, tuple(faults))


def read(image: np.ndarray | Image.Image) -> tuple[str | None, tuple[Reading, ...]]:
    """The background's name and the objects of an image; arguments and errors as in ``judge``."""
    pixels = _pixels(image)
    typical = np.median(pixels, axis=(0, 1))  # objects never cover half the picture
    off, nearest = min((np.abs(typical - colour).max(), name) for name, colour in BACKGROUNDS.items())
    difference = pixels - np.array(BACKGROUNDS[nearest], np.float32)
    components = [c for c in _components(np.abs(difference).max(-1) > CONTRAST) if c.sum() >= SPECK]
    return (nearest if off <= TINT else None), tuple(_recognise(difference, c, _candidates(nearest)) for c in components)


def _pixels(image: np.ndarray | Image.Image) -> np.ndarray:
    """Any accepted image as float32 (64, 64, 3) in 0..1."""
    pixels = np.asarray(image.convert("RGB") if isinstance(image, Image.Image) else image)
    if pixels.shape != (PIXELS, PIXELS, 3):
        raise ValueError(f"The image has shape {pixels.shape}, expected ({PIXELS}, {PIXELS}, 3): height, width, RGB.")
    if pixels.dtype == np.uint8:
        pixels = pixels / 255
    if not (pixels.min() >= -0.01 and pixels.max() <= 1.01):  # so put, it refuses NaN too
        raise ValueError(f"The image's values span {pixels.min()} to {pixels.max()}, expected floats in 0..1 or uint8.")
    return pixels.astype(np.float32)


def _components(mask: np.ndarray) -> list[np.ndarray]:
    """The 8-connected components of a mask, bool (64, 64) each."""
    labels, spread = None, mask * np.arange(1, mask.size + 1, dtype=np.float32).reshape(mask.shape)
    while not np.array_equal(labels, spread):
        labels, spread = spread, _spread(spread) * mask
    return [labels == label for label in np.unique(labels)[1:]]


def _spread(values: np.ndarray, by: int = 1) -> np.ndarray:
    """The largest value within ``by`` pixels along each axis, float32 (64, 64)."""
    return F.max_pool2d(torch.from_numpy(values)[None], 2 * by + 1, 1, by)[0].numpy()


class Candidates(NamedTuple):
    """All sprites of the domain on one background, for comparison with a component of a picture."""

    objects: list[SceneObject]
    sprites: np.ndarray  # less the background, the visible part in the middle, float32 (n, WINDOW * WINDOW * 3)
    energies: np.ndarray  # sums of the squares, float32 (n)
    areas: list[int]  # visible pixels
    offsets: list[tuple[float, float]]  # (x, y) from the visible part's middle to the centre, pixels


@cache
def _candidates(background: str) -> Candidates:
    objects = [SceneObject(*words) for words in product(SIZES, COLOURS, SHAPES)]
    sprites = np.zeros((len(objects), WINDOW, WINDOW, 3), np.float32)
    areas, offsets = [], []
    for item, window in zip(objects, sprites):
        colour, alpha = sprite(item)
        difference = colour - alpha * np.array(BACKGROUNDS[background], np.float32)
        visible = np.abs(difference).max(-1) > CONTRAST
        (x, y), side = _middle(visible), len(difference)
        window[WINDOW // 2 - y :, WINDOW // 2 - x :][:side, :side] = difference
        areas.append(visible.sum())
        offsets.append((side / 2 - x, side / 2 - y))
    return Candidates(objects, sprites.reshape(len(objects), -1), np.square(sprites).sum((1, 2, 3)), areas, offsets)


def _middle(mask: np.ndarray) -> tuple[int, int]:
    """The middle (x, y) of a mask's bounding box, rounded down."""
    rows, columns = np.nonzero(mask)
    return int(columns.min() + columns.max()) // 2, int(rows.min() + rows.max()) // 2


def _recognise(difference: np.ndarray, component: np.ndarray, candidates: Candidates) -> Reading:
    """The sprite nearest to one component and its faint rim; ``difference`` is the picture less the background."""
    alone = difference * _spread(component.astype(np.float32), 2)[..., None]
    canvas = np.pad(alone, [(MARGIN, MARGIN), (MARGIN, MARGIN), (0, 0)])
    x, y = _middle(component)  # give or take a pixel, for noise
    squares = _squared_distances(canvas, x, y, candidates)
    place, best = np.unravel_index(squares.argmin(), squares.shape)
    left, top = x + int(place) % 3, y + int(place) // 3
    drawing = np.zeros_like(canvas)  # that sprite alone, where it fits best
    drawing[top : top + WINDOW, left : left + WINDOW] = candidates.sprites[best].reshape(WINDOW, WINDOW, 3)

    wrong = torch.from_numpy(np.square(canvas - drawing).sum(-1))
    flaw = F.avg_pool2d(wrong[None], PATCH, 1).max() / (candidates.energies[best] / candidates.areas[best])

    # Where the picture projects on the line from this sprite to each other; noise, unlike a mixture, moves it little.
    others = np.arange(len(candidates.objects)) != best
    apart = _squared_distances(drawing, x, y, candidates)[:, others]
    doubt = (0.5 - (squares[:, others] - squares.min()) / (2 * apart)).max()
    dx, dy = candidates.offsets[best]
    return Reading(candidates.objects[best], (left - 1 + dx, top - 1 + dy), float(flaw), float(doubt))


def _squared_distances(canvas: np.ndarray, x: int, y: int, candidates: Candidates) -> np.ndarray:
    """Summed squared error of each sprite centred on (x, y) and its neighbours, row by row, float32 (9, n)."""
    windows = [canvas[v : v + WINDOW, u : u + WINDOW].ravel() for v in range(y, y + 3) for u in range(x, x + 3)]
    # |a - s|^2 = |a|^2 - 2 a.s + |s|^2, with all of the canvas in |a|^2, even what lies outside the window.
    return np.square(canvas).sum() - 2 * np.stack(windows) @ candidates.sprites.T + candidates.energies


def _missing(scene: Scene, readings: tuple[Reading, ...]) -> list[str]:
    """One fault for each object of the scene that was not read."""
    missing = Counter(scene.objects) - Counter(reading.item for reading in readings if reading.certain)
    found = " and ".join(str(reading) for reading in readings) or "nothing"
    return [f"expected {item}, found {found}" for item in missing.elements()]


def _wrong_relations(scene: Scene, readings: tuple[Reading, ...]) -> list[str]:
    """The relations that fail, under the matching of objects to readings that fails fewest. All objects were read."""
    certain = [reading for reading in readings if reading.certain]
    matchings = [m for m in permutations(certain, len(scene.objects)) if tuple(r.item for r in m) == scene.objects]
    return min((_broken(scene, [r.centre for r in matching]) for matching in matchings), key=len)


def _broken(scene: Scene, centres: list[tuple[float, float]]) -> list[str]:
    faults = []
    for first, relation, second in scene.relations:
        if np.subtract(centres[first], centres[second]) @ RELATIONS[relation] < APART:
            faults.append(f"{scene.objects[first]} is not {relation} {scene.objects[second]}")
    return faults
