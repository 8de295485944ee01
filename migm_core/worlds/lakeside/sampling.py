"""Random scenes, uniform over what prompts can say, on the generator's device."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .scene import (
    COLOURS,
    COLUMNS,
    GROUNDS,
    KIND_FINISHES,
    KIND_NAMES,
    KIND_ZONE,
    NONE,
    OBJECTS,
    SIZES,
    TIMES,
    WEATHERS,
    ZONES,
    Scenes,
)
from .words import MEANINGS

SPLITS = ("test", "dev", "train")


@dataclass(frozen=True)
class Variety:
    """Which scenes occur, for models that are too small for all of them.

    Attributes:
        count_shares: of scenes with one to four objects.
        sizes: of objects, some of SIZES.
        landscapes: how many there are, whatever the time, the weather and the ground; None for no end of them.
        poses: in how many an object is seen, whatever its kind and place; None for no end of them.
        centred: whether one object stands in the middle, and of two either both do or one stands at each side, so that a prompt leaves little open.
    """

    count_shares: tuple[float, ...] = (0.2, 0.3, 0.3, 0.2)
    sizes: tuple[str, ...] = SIZES
    landscapes: int | None = None
    poses: int | None = None
    centred: bool = False

    def unlearned(self) -> list[str]:
        """The words that no prompt for such scenes needs."""
        return [word for size in SIZES if size not in self.sizes for word in MEANINGS["size"][size]]

    def holds(self, scenes: Scenes) -> Tensor:
        """Which scenes are of this variety by what can be said of them: bool (N,)."""
        counts = torch.tensor([False, *(share > 0 for share in self.count_shares)], device=scenes.device)[scenes.present.sum(1)]
        sizes = torch.tensor([size in self.sizes for size in SIZES], device=scenes.device)[scenes.size]
        return counts & (sizes | ~scenes.present).all(1)


BUNDLED = Variety(count_shares=(0.45, 0.55, 0.0, 0.0), sizes=("large",), landscapes=16, poses=2, centred=True)  # what the bundled models know


def sample_scenes(count: int, generator: torch.Generator, split: str | None = None, variety: Variety = Variety()) -> Scenes:
    """``count`` random scenes, of one split if given. The same generator state gives the same scenes.

    Raises:
        ValueError: an unknown split.
    """
    if split is None:
        return _sample(count, generator, variety)
    if split not in SPLITS:
        raise ValueError(f"Unknown split {split!r}. Known are {', '.join(SPLITS)}.")
    share = 0.8 if split == "train" else 0.1
    found, missing = [], count
    while missing > 0:
        scenes = _sample(int(missing / share * 1.2) + 32, generator, variety)
        found.append(scenes[scenes.split() == SPLITS.index(split)][:missing])
        missing -= len(found[-1])
    return join(found)


def join(batches: list[Scenes]) -> Scenes:
    """Several batches as one."""
    return Scenes(**{name: torch.cat([getattr(b, name) for b in batches]) for name in Scenes.__dataclass_fields__})


def _sample(count: int, generator: torch.Generator, variety: Variety) -> Scenes:
    device = generator.device
    uniform = lambda *shape: torch.rand(shape, generator=generator, device=device)  # noqa: E731
    index = lambda options, *shape: torch.randint(len(options), shape, generator=generator, device=device)  # noqa: E731

    kind = uniform(count, len(KIND_NAMES)).argsort(1)[:, :OBJECTS]  # no kind twice
    shares = torch.tensor(variety.count_shares, device=device).cumsum(0)[:-1]
    objects = 1 + torch.bucketize(uniform(count), shares)
    rank = rank_in_zone(kind)
    fits = (torch.arange(OBJECTS, device=device) < objects[:, None]) & (rank < COLUMNS)  # a fourth in one zone would find no column
    columns = uniform(count, len(ZONES), COLUMNS).argsort(2)
    column = columns[torch.arange(count, device=device)[:, None], _zone(kind), rank.clamp(max=COLUMNS - 1)]
    if variety.centred:
        column = _centred(column, kind, objects)
    sizes = torch.tensor([SIZES.index(size) for size in variety.sizes], device=device)
    scenes = Scenes(
        time=index(TIMES, count),
        weather=index(WEATHERS, count),
        ground=index(GROUNDS, count),
        kind=kind.where(fits, NONE),
        colour=index(COLOURS, count, OBJECTS),
        size=sizes[index(variety.sizes, count, OBJECTS)],
        finish=KIND_FINISHES.to(device)[kind, index((0, 1), count, OBJECTS)],
        column=column,
        variation=uniform(count, 40),
        object_variation=uniform(count, OBJECTS, 6),
        texture=uniform(count, 20, 32),
    )
    if variety.landscapes is not None:
        variation, texture = _some(variety.landscapes, (count,), generator, (40,), (20, 32))
        scenes = replace(scenes, variation=variation, texture=texture)
    if variety.poses is not None:
        (pose,) = _some(variety.poses, (count, OBJECTS), generator, (6,))
        scenes = replace(scenes, object_variation=pose)
    return scenes


def _centred(column: Tensor, kind: Tensor, objects: Tensor) -> Tensor:
    """Columns (N, 4), where those of one or two objects are moved: two go by the first one's, and to the sides where they share a zone."""
    first, middle, right = column[:, 0], COLUMNS // 2, COLUMNS - 1
    shared = _zone(kind)[:, 0] == _zone(kind)[:, 1]
    aside = (first != middle) | shared
    at_left = torch.where(first == middle, column[:, 1] == right, first < middle)
    sides = torch.where(at_left[:, None], torch.tensor([0, right], device=column.device), torch.tensor([right, 0], device=column.device))
    pair = sides.where(aside[:, None], middle)
    moved = column.clone()
    moved[:, :2] = pair.where((objects == 2)[:, None], column[:, :2])
    moved[:, 0] = torch.where(objects == 1, middle, moved[:, 0])
    return moved


def _some(options: int, count: tuple[int, ...], generator: torch.Generator, *shapes: tuple[int, ...]) -> list[Tensor]:
    """Numbers in 0..1 of each shape, (*count, *shape): always one of so many ``options``, the same one in all shapes."""
    fixed = torch.Generator().manual_seed(options)
    chosen = torch.randint(options, count, generator=generator, device=generator.device)
    return [torch.rand(options, *shape, generator=fixed).to(generator.device)[chosen] for shape in shapes]


def _zone(kind: Tensor) -> Tensor:
    return KIND_ZONE.to(kind.device)[kind.clamp(0)]


def rank_in_zone(kind: Tensor) -> Tensor:
    """How many earlier objects share an object's zone: int64 (N, 4)."""
    zone = _zone(kind)
    same = (zone[:, :, None] == zone[:, None, :]) & (kind >= 0)[:, None, :]
    return same.tril(-1).sum(2)
