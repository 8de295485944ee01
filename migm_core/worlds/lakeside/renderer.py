"""From scenes to pictures: landscape, objects on land and in the air, water that mirrors both, objects on the water, light over all.

Everything is computed for a whole batch by tensors of distances; Python's loops run over kinds and slots, never over pictures.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from . import objects_in_air, objects_on_land, objects_on_water
from .geometry import HORIZON, SIDE, WATERLINE, feet, heights
from .landscape import Grid, paint_backdrop, paint_water
from .light import Light, light_of
from .scene import KIND_NAMES, NONE, OBJECTS, TIMES, Scenes
from .sprite import Canvas

ALBEDO = torch.tensor(  # in the order of COLOURS
    [(0.84, 0.13, 0.14), (0.98, 0.80, 0.14), (0.14, 0.60, 0.26), (0.14, 0.38, 0.90), (0.54, 0.22, 0.76), (0.96, 0.96, 0.95)]
)
PAINTERS = {
    "balloon": objects_in_air.balloon,
    "airship": objects_in_air.airship,
    "kite": objects_in_air.kite,
    "house": objects_on_land.house,
    "windmill": objects_on_land.windmill,
    "lighthouse": objects_on_land.lighthouse,
    "tent": objects_on_land.tent,
    "tree": objects_on_land.tree,
    "sailboat": objects_on_water.sailboat,
    "duck": objects_on_water.duck,
}
WINDOW = 112.0  # side of the square around an object, in units; holds the largest object, its shadow and its mirror image
FOOT = 96.0  # from the window's upper edge to the object's foot
OBJECT_DEPTH = 0.02  # how much nearer an object is than the ground that it stands on
MARGIN = 48.0  # a window reaches at most so far out of the picture
CPU_CHUNK = 8  # pictures rendered at once, so that a field stays in the processor's cache
GPU_CHUNK = 512


@dataclass(frozen=True)
class Layers:
    """Attributes:
    image: float32 (N, 3, size, size) in 0..1.
    depth: float32 (N, 1, size, size) in 0..1, 0 at the horizon and in the sky, 1 nearest.
    masks: the visible part of each object: bool (N, 4, size, size).
    """

    image: Tensor
    depth: Tensor
    masks: Tensor


def render(scenes: Scenes, size: int = 256) -> Tensor:
    """Pictures of the scenes, float32 (N, 3, size, size) in 0..1.

    Raises:
        ValueError: ``size`` is not a multiple of 64 of at least 128.
    """
    return _in_chunks(scenes, size, lambda some: _paint(some, Grid(size, some.device))[0])


def render_layers(scenes: Scenes, size: int = 256) -> Layers:
    """Pictures, depth and masks of the scenes. Arguments and errors as in ``render``."""
    chunks = []
    _in_chunks(scenes, size, lambda some: chunks.append(_layers(some, size)) or torch.empty(0))
    return Layers(*(torch.cat([getattr(c, name) for c in chunks]) for name in Layers.__dataclass_fields__))


def render_lone_objects(scenes: Scenes, slots: Tensor, size: int = 256) -> Tensor:
    """One object of each scene (slots: int64 (N,)) alone, by daylight, in the middle of a plain backdrop: float32 (N, 3, size, size)."""
    rows = torch.arange(len(scenes), device=scenes.device)
    keep = torch.arange(OBJECTS, device=scenes.device) == slots[:, None]
    alone = replace(scenes, kind=scenes.kind.where(keep, NONE), time=torch.full_like(scenes.time, TIMES.index("day")), weather=scenes.weather * 0)
    grid = Grid(size, scenes.device)
    sprites = _sprites(alone, light_of(alone).on_objects(), grid)[rows, slots]
    window = sprites.shape[-1]
    picture = (0.80 + 0.10 * (1 - grid.y / SIDE)).expand(len(scenes), 3, size, size).clone()
    middle = (size - window) // 2
    inner = picture[:, :, middle : middle + window, middle : middle + window]
    inner.copy_(inner * (1 - sprites[:, 3:4]) + sprites[:, :3])
    return picture.clamp(0, 1)


def _in_chunks(scenes: Scenes, size: int, paint) -> Tensor:
    if size < 128 or size % 64:
        raise ValueError(f"size is {size}, expected a multiple of 64 of at least 128")
    chunk = CPU_CHUNK if scenes.device.type == "cpu" else GPU_CHUNK
    return torch.cat([paint(scenes[first : first + chunk]) for first in range(0, max(len(scenes), 1), chunk)])


def _paint(scenes: Scenes, grid: Grid, with_masks: bool = False) -> tuple[Tensor, Tensor]:
    """The pictures and, on demand, the objects' coverage (N, 4, size, size), nearer objects cutting out farther ones."""
    light = light_of(scenes)
    sprites = _sprites(scenes, light.on_objects(), grid)
    window = sprites.shape[-1]
    on_water = scenes.present & (scenes.zone == 2)
    off_water = scenes.present & (scenes.zone != 2)
    corner = _corner(scenes, grid, window)

    picture = paint_backdrop(scenes, light, grid)
    picture = _haze_bank(picture, light, grid)
    board = _Board(picture, grid.row(MARGIN), with_masks)
    board.lay(sprites, corner, off_water)
    picture = paint_water(board.picture, scenes, light, grid)
    board.replace(picture)
    board.lay(sprites, corner, on_water)
    return _finish(board.picture, light, grid), board.masks


def _layers(scenes: Scenes, size: int) -> Layers:
    grid = Grid(size, scenes.device)
    image, coverage = _paint(scenes, grid, with_masks=True)
    visible = coverage > 0.5
    y = grid.y
    land = 0.30 + 0.35 * ((y - HORIZON) / (WATERLINE - HORIZON)).clamp(0, 1)
    water = 0.65 + 0.35 * ((y - WATERLINE) / (SIDE - WATERLINE)).clamp(0, 1)
    hills = 0.10 * ((y - 118) / (HORIZON - 118)).clamp(0, 1)
    ground = torch.where(y < HORIZON, hills, torch.where(y < WATERLINE, land, water))
    depth = ground.expand(len(scenes), 1, size, size).clone()
    foot = feet(scenes)[..., 1]
    on_land = 0.30 + 0.35 * ((foot - HORIZON) / (WATERLINE - HORIZON)).clamp(0, 1)
    afloat = 0.65 + 0.35 * ((foot - WATERLINE) / (SIDE - WATERLINE)).clamp(0, 1)
    by_zone = torch.stack([torch.full_like(foot, 0.45), on_land, afloat], -1)
    of_object = by_zone.gather(-1, scenes.zone[..., None])[..., 0] + OBJECT_DEPTH
    for slot in range(OBJECTS):
        depth = torch.where(visible[:, slot : slot + 1], of_object[:, slot].reshape(-1, 1, 1, 1), depth)
    return Layers(image, depth, visible)


def _corner(scenes: Scenes, grid: Grid, window: int) -> Tensor:
    """The first column and row of each object's window, int64 (N, 4, 2); may lie outside the picture by less than a window."""
    upper_left = feet(scenes) - torch.tensor([WINDOW / 2, FOOT], device=scenes.device)
    return (upper_left / grid.unit).round().long()


def _sprites(scenes: Scenes, light: Light, grid: Grid) -> Tensor:
    """Premultiplied colour, coverage of the ground, coverage by the object: float32 (N, 4, 5, S, S), zero in free slots."""
    window = int(round(WINDOW / grid.unit))
    sprites = torch.zeros(len(scenes), OBJECTS, 5, window, window, device=scenes.device)
    foot, height = feet(scenes), heights(scenes)
    corner = _corner(scenes, grid, window).float()
    albedo = ALBEDO.to(scenes.device)[scenes.colour]
    marked = (scenes.finish % 2 == 1).float()  # the second finish of every kind
    middles = torch.arange(window, device=scenes.device) + 0.5
    for kind, name in enumerate(KIND_NAMES):
        rows, slots = (scenes.kind == kind).nonzero(as_tuple=True)
        if not len(rows):
            continue
        of_each = lambda values: values[rows, slots].reshape(len(rows), -1, 1, 1)  # noqa: E731
        unit = of_each(height)
        x = ((of_each(corner[..., 0]) + middles) * grid.unit - of_each(foot[..., 0])) / unit
        y = (of_each(foot[..., 1]) - (of_each(corner[..., 1]) + middles[:, None]) * grid.unit) / unit
        canvas = Canvas(
            x=x.expand(-1, -1, window, -1),
            y=y.expand(-1, -1, -1, window),
            pixel=grid.unit / unit,
            colour=of_each(albedo),
            marked=of_each(marked),
            varied=of_each(scenes.object_variation),
            light=light.of(rows),
        )
        PAINTERS[name](canvas)
        if name in ("sailboat", "duck"):
            _mirror(canvas)
        sprites[rows, slots] = torch.cat([canvas.picture, canvas.alpha, canvas.body], 1)
    return sprites


def _mirror(canvas: Canvas) -> None:
    """A faint mirror image below the foot of an object on the water, broken by ripples."""
    below = (canvas.y < 0).float()
    size = canvas.x.shape[-1]
    row = torch.arange(size, device=canvas.x.device).reshape(1, 1, -1, 1)
    foot_row = canvas.y[:, :, :1] / canvas.pixel + 0.5  # rows from the upper edge to the foot
    source = (2 * foot_row - 1 - row).round().long().clamp(0, size - 1).expand(-1, -1, -1, size)
    depth = (-canvas.y).clamp(min=0)
    strength = below * 0.55 * torch.exp(-depth / 0.22) * (0.75 + 0.25 * torch.sin(depth * 60 + canvas.x * 9))
    picture, body = canvas.picture.gather(2, source.expand(-1, 3, -1, -1)), canvas.body.gather(2, source)
    dimmed = picture + (canvas.light.deep * body - picture) * 0.25
    canvas.picture = canvas.picture + dimmed * strength * (1 - canvas.alpha)
    canvas.alpha = canvas.alpha + body * strength * (1 - canvas.alpha)


class _Board:
    """A picture with a margin, onto which windows are laid.

    Attributes:
        picture: (N, 3, size, size).
        masks: coverage by each slot's object, (N, 4, size, size), or no channel.
    """

    def __init__(self, picture: Tensor, margin: int, with_masks: bool):
        count, _, size, _ = picture.shape
        self.size, self.margin, self.masked = size, margin, OBJECTS * with_masks
        side = size + 2 * margin
        self.all = picture.new_zeros(count, 3 + self.masked, side, side)
        self.replace(picture)

    def _inner(self, first: int, last: int) -> Tensor:
        return self.all[:, first:last, self.margin : self.margin + self.size, self.margin : self.margin + self.size]

    @property
    def picture(self) -> Tensor:
        return self._inner(0, 3)

    @property
    def masks(self) -> Tensor:
        return self._inner(3, 3 + self.masked)

    def replace(self, picture: Tensor) -> None:
        self._inner(0, 3).copy_(picture)

    def lay(self, sprites: Tensor, corner: Tensor, chosen: Tensor) -> None:
        """Lay the chosen objects (bool (N, 4)) over the picture, slot by slot."""
        offsets = torch.arange(sprites.shape[-1], device=sprites.device)
        channels = torch.arange(3 + self.masked, device=sprites.device).reshape(1, -1, 1, 1)
        for slot in range(OBJECTS):
            rows = chosen[:, slot].nonzero()[:, 0]
            sprite = sprites[rows, slot]
            x = corner[rows, slot, 0].reshape(-1, 1, 1, 1) + self.margin + offsets
            y = corner[rows, slot, 1].reshape(-1, 1, 1, 1) + self.margin + offsets[:, None]
            where = (rows.reshape(-1, 1, 1, 1), channels, y, x)
            under = self.all[where]
            laid = under[:, :3] * (1 - sprite[:, 3:4]) + sprite[:, :3]
            if self.masked:
                masks = under[:, 3:] * (1 - sprite[:, 4:5])
                masks[:, slot] += sprite[:, 4]
                laid = torch.cat([laid, masks], 1)
            self.all[where] = laid


def _haze_bank(picture: Tensor, light: Light, grid: Grid) -> Tensor:
    """In mist, a bank of it lies at the foot of the hills, behind the objects."""
    first, last = grid.row(96), grid.row(180)
    band = picture[:, :, first:last]
    bank = light.mist * 0.70 * torch.exp(-(((grid.y[:, :, first:last] - 138) / 18) ** 2))
    band = band + (light.haze - band) * bank
    return torch.cat([picture[:, :, :first], band, picture[:, :, last:]], 2)


def _finish(picture: Tensor, light: Light, grid: Grid) -> Tensor:
    """Mist before everything, and a darker rim."""
    picture = picture + (light.haze - picture) * light.mist * 0.14
    far = ((grid.x - 128) / 128) ** 2 + ((grid.y - 128) / 128) ** 2
    return (picture * (1.02 - 0.09 * far)).clamp(0, 1)


assert set(PAINTERS) == set(KIND_NAMES)
