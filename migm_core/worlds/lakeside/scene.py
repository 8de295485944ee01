"""What a lakeside scene is: the time of day, the weather, the ground, and one to four objects, as tensors over a batch.

Every scene has the same three zones, one behind the other: sky, land, water. Each kind of object lives in one zone, so
every combination is a sensible picture. Each zone has three columns; no two objects share a zone and a column, and no
two are of one kind, so a prompt, an edit or a question can name an object by its kind alone.
"""

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

TIMES = ("dawn", "day", "sunset", "night")
WEATHERS = ("clear", "cloudy", "misty")
GROUNDS = ("grass", "sand", "snow", "lavender")
SIZES = ("small", "large")
COLOURS = ("red", "yellow", "green", "blue", "purple", "white")
FINISHES = ("plain", "striped", "wooden", "stone")
ZONES = ("sky", "land", "water")

# Each kind with its zone and its two finishes; one that has no choice of finish is always plain.
KINDS = {
    "balloon": ("sky", ("plain", "striped")),
    "airship": ("sky", ("plain", "striped")),
    "kite": ("sky", ("plain", "striped")),
    "house": ("land", ("wooden", "stone")),
    "windmill": ("land", ("wooden", "stone")),
    "lighthouse": ("land", ("plain", "striped")),
    "tent": ("land", ("plain", "striped")),
    "tree": ("land", ("plain", "plain")),
    "sailboat": ("water", ("plain", "striped")),
    "duck": ("water", ("plain", "plain")),
}
KIND_NAMES = tuple(KINDS)
KIND_ZONE = torch.tensor([ZONES.index(zone) for zone, _ in KINDS.values()])
KIND_FINISHES = torch.tensor([[FINISHES.index(f) for f in finishes] for _, finishes in KINDS.values()])

# How an object lies to another. Across columns it is left or right; in one column the zones decide.
RELATIONS = ("left of", "right of", "above", "below", "in front of", "behind")
OPPOSITE = torch.tensor([1, 0, 3, 2, 5, 4])

OBJECTS = 4  # slots for objects in each scene
COLUMNS = 3
NONE = -1  # in ``kind``: no object in this slot; in a request: the attribute is not said
SETTING = {"time": TIMES, "weather": WEATHERS, "ground": GROUNDS}
OBJECT = {"kind": KIND_NAMES, "colour": COLOURS, "size": SIZES, "finish": FINISHES}


@dataclass(frozen=True)
class Batch:
    """Tensors that share their first dimension, one entry for each scene."""

    def __len__(self) -> int:
        return len(getattr(self, fields(self)[0].name))

    def __getitem__(self, index):
        """The scenes that a slice, a mask or a tensor of indices chooses, as a batch."""
        return self._map(lambda tensor: tensor[index])

    def to(self, device):
        return self._map(lambda tensor: tensor.to(device))

    def _map(self, function):
        return replace(self, **{f.name: function(getattr(self, f.name)) for f in fields(self)})

    @property
    def device(self) -> torch.device:
        return getattr(self, fields(self)[0].name).device


@dataclass(frozen=True)
class Request(Batch):
    """What a prompt says of a scene: indices into the tuples above, int64, NONE for what it leaves open.

    Attributes:
        time, weather, ground: (N,).
        kind, colour, size, finish: (N, 4), in the order of the objects in the prompt; all NONE after the last object.
        relation: (N, 4, 4), of the object in the first index to the one in the second, which comes earlier in the prompt.
    """

    time: Tensor
    weather: Tensor
    ground: Tensor
    kind: Tensor
    colour: Tensor
    size: Tensor
    finish: Tensor
    relation: Tensor

    @property
    def places_open(self) -> Tensor:
        """Whether there are several objects and nothing is said of where they stand: bool (N,)."""
        return ((self.kind != NONE).sum(1) > 1) & (self.relation == NONE).flatten(1).all(1)


@dataclass(frozen=True)
class Scenes(Batch):
    """A batch of scenes. Equal tensors render equal pictures.

    Attributes:
        time, weather, ground: int64 (N,).
        kind, colour, size, finish, column: int64 (N, 4); ``kind`` is NONE in the free slots, which come last.
        variation: what no prompt names, such as the hills' outline: float32 (N, 40), uniform in 0..1.
        object_variation: the same for each object: float32 (N, 4, 6).
        texture: of clouds and ground: float32 (N, 20, 32), uniform in 0..1.
    """

    time: Tensor
    weather: Tensor
    ground: Tensor
    kind: Tensor
    colour: Tensor
    size: Tensor
    finish: Tensor
    column: Tensor
    variation: Tensor
    object_variation: Tensor
    texture: Tensor

    @property
    def present(self) -> Tensor:
        """Which slots hold an object: bool (N, 4)."""
        return self.kind >= 0

    @property
    def zone(self) -> Tensor:
        """Index into ZONES: int64 (N, 4), meaningless in free slots."""
        return KIND_ZONE.to(self.device)[self.kind.clamp(0)]

    @property
    def relation(self) -> Tensor:
        """How each object lies to each other: index into RELATIONS, int64 (N, 4, 4), NONE if either is absent or they are the same."""
        zone, column, present = self.zone, self.column, self.present
        related = relation(zone[:, :, None], column[:, :, None], zone[:, None], column[:, None])
        other = ~torch.eye(OBJECTS, dtype=torch.bool, device=self.device)
        return related.where(present[:, :, None] & present[:, None] & other, NONE)

    def request(self) -> Request:
        """Everything that a prompt can say of these scenes."""
        objects = {name: getattr(self, name).where(self.present, NONE) for name in OBJECT}
        earlier = torch.ones(OBJECTS, OBJECTS, dtype=torch.bool, device=self.device).tril(-1)
        return Request(self.time, self.weather, self.ground, **objects, relation=self.relation.where(earlier, NONE))

    def split(self) -> Tensor:
        """0 for one scene in ten ("test"), 1 for another ("dev"), else 2 ("train"), by what is said, not how it is arranged: int64 (N,)."""
        objects = torch.zeros_like(self.kind)
        for name in OBJECT:
            objects = objects * 16 + getattr(self, name)
        objects = _scramble(objects).where(self.present, 0).sum(1)
        setting = (self.time * 16 + self.weather) * 16 + self.ground
        return (_scramble(objects + setting) % 10).clamp(max=2)


def relation(zone: Tensor, column: Tensor, other_zone: Tensor, other_column: Tensor) -> Tensor:
    """Index into RELATIONS of an object to another, int64 alike."""
    name = RELATIONS.index
    on_land = torch.minimum(zone, other_zone) == ZONES.index("land")  # then one is on land, the other on the water
    first_is_higher = zone < other_zone
    higher = torch.where(on_land, name("behind"), name("above"))
    lower = torch.where(on_land, name("in front of"), name("below"))
    in_column = torch.where(first_is_higher, higher, lower)
    sideways = torch.where(column < other_column, name("left of"), name("right of"))
    return torch.where(column == other_column, in_column, sideways)


def _scramble(values: Tensor) -> Tensor:
    """A hash of int64 values, at least 0, the same on every machine."""
    for _ in range(2):
        values = (values ^ (values >> 29)) * 0x5851F42D4C957F2D + 0x14057B7EF767814F
    return (values ^ (values >> 31)) & 0x7FFFFFFF
