"""Sky, mountains, hills, land and water, without any object. Pictures are (N, 3, H, W), fields (N, 1, H, W)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .distance import smoothstep
from .geometry import HORIZON, SIDE, WATERLINE
from .light import Light
from .scene import Scenes

_GROUND = {  # near and far colour, in the order of GROUNDS
    "near": [(0.34, 0.58, 0.20), (0.92, 0.76, 0.50), (0.93, 0.96, 1.00), (0.56, 0.40, 0.74)],
    "far": [(0.50, 0.68, 0.30), (0.97, 0.86, 0.64), (0.98, 0.99, 1.00), (0.68, 0.54, 0.82)],
    "dark": [(0.20, 0.42, 0.14), (0.78, 0.58, 0.36), (0.70, 0.80, 0.95), (0.36, 0.36, 0.40)],
}


class Grid:
    """Pixel centres of a square picture in units of 1/256 of its side: ``x`` (1, 1, 1, size), ``y`` (1, 1, size, 1)."""

    def __init__(self, size: int, device: torch.device):
        self.size, self.unit = size, SIDE / size
        middles = (torch.arange(size, device=device, dtype=torch.float32) + 0.5) * self.unit
        self.x, self.y = middles.reshape(1, 1, 1, -1), middles.reshape(1, 1, -1, 1)

    def row(self, y: float) -> int:
        """The first row of pixels at or below y."""
        return int(round(y / self.unit))


def paint_backdrop(scenes: Scenes, light: Light, grid: Grid) -> Tensor:
    """All that lies behind the objects on land, down to the lower edge of the picture."""
    picture = _sky(scenes, light, grid)
    picture = _ridges(picture, scenes, light, grid)
    return _land(picture, scenes, light, grid)


def paint_water(picture: Tensor, scenes: Scenes, light: Light, grid: Grid) -> Tensor:
    """Lay the water over the lower part of a picture that shows all that the water mirrors."""
    first = grid.row(WATERLINE - 8)
    y = grid.y[:, :, first:]
    height = y.shape[2]
    shore = WATERLINE + 2.2 * _wave(scenes, grid.x, 20, 0.045) + 1.2 * _wave(scenes, grid.x, 22, 0.11)
    depth = y - shore  # below the shore
    below = depth.clamp(min=0)

    # The mirror image: blurred by pooling, stretched by 1.7 so that it reaches the sky, and shaken sideways by ripples.
    mirrored = F.avg_pool2d(picture, (6, 3), (4, 2), (3, 1), count_include_pad=False)
    phase = 6.28 * _varied(scenes, 24)
    ripple = torch.sin(below * 0.9 - 0.004 * below**2 * 3 + phase + 0.05 * grid.x) * (0.6 + 0.05 * below)
    source_x = grid.x + ripple + 0 * y
    source_y = shore - 1.7 * below - 3
    where = torch.stack([source_x, source_y.expand_as(source_x)], -1)[:, 0] / (SIDE / 2) - 1
    water = F.grid_sample(mirrored, where, mode="bilinear", padding_mode="border", align_corners=False)

    streaks = _noise(scenes.texture[:, 2:20, :7], (height, grid.size))
    nearness = (below / (SIDE - WATERLINE)).clamp(0, 1)
    water = water + (light.deep - water) * (0.16 + 0.38 * nearness)
    water = water * (1 + 0.30 * (streaks - 0.5))
    # The sun's path on the water, broken by the streaks.
    path = torch.exp(-(((grid.x - light.sun_x) / (9 + 0.35 * below)) ** 2))
    glitter = path * smoothstep(0.48, 0.72, streaks) * (1.5 * light.disc)
    water = water + light.glare * glitter * 1.6
    # A bright line where water meets land.
    edge = torch.exp(-(((depth - 1.2) / 1.1) ** 2))
    water = water + 0.22 * (light.key + light.ambient - water) * edge
    water = water + light.mist * 0.40 * (light.haze - water) * torch.exp(-below / 30)

    cover = (0.5 + depth / grid.unit).clamp(0, 1)
    painted = picture[:, :, first:] * (1 - cover) + water * cover
    return torch.cat([picture[:, :, :first], painted], 2)


def _sky(scenes: Scenes, light: Light, grid: Grid) -> Tensor:
    rows = grid.row(HORIZON + 6)
    y, x = grid.y[:, :, :rows], grid.x
    middle = 62 + 16 * _varied(scenes, 10)
    upper, lower = smoothstep(0, 1, y / middle), smoothstep(0, 1, (y - middle) / (HORIZON - middle))
    sky = light.sky_top + (light.sky_middle - light.sky_top) * upper
    sky = sky + (light.sky_low - sky) * lower

    across, up = x - light.sun_x, y - light.sun_y
    far = torch.sqrt(across**2 + up**2)
    glow = torch.exp(-far / 30) * 0.9 + torch.exp(-far / 85) * 0.6
    sky = sky + light.glare * glow * (0.4 + 0.6 * light.disc)

    # Stars: a bright point in the middle of some squares, fading towards the horizon.
    stars = _stars(scenes, x, y, grid.unit)
    sky = sky + stars * light.stars * (1 - smoothstep(70, 130, y))

    body = (0.5 + (light.sun_radius - far) / (1.5 * grid.unit)).clamp(0, 1)
    seas = torch.sin(across * 0.42 + 2.0 * torch.sin(up * 0.33)) * torch.sin(up * 0.47 + 1.3)  # of the moon
    disc = light.sun * (1 - 0.16 * light.is_night * smoothstep(0.0, 0.7, seas))
    sky = sky + (disc - sky) * body * light.disc

    # Clouds: three octaves of noise, flat at the bottom, lit from above.
    noise = 0.56 * _noise(scenes.texture[:, 0:5, 0:6], (rows, grid.size))
    noise = noise + 0.29 * _noise(scenes.texture[:, 5:13, 6:17], (rows, grid.size))
    noise = noise + 0.15 * _noise(scenes.texture[:, 0:17, 17:32], (rows, grid.size))
    threshold = 0.70 - 0.28 * light.clouds
    density = smoothstep(threshold, threshold + 0.18, noise) * (0.42 + 0.58 * light.clouds)
    density = density * smoothstep(140, 100, y) * (1 - 0.25 * smoothstep(30, 0, y))
    shift = max(1, grid.row(7.0))
    above = torch.cat([noise[:, :, :1].expand(-1, -1, shift, -1), noise[:, :, :-shift]], 2)
    lit = (0.55 + 3.2 * (noise - above)).clamp(0, 1)
    cloud = light.cloud_shade + (light.cloud_lit - light.cloud_shade) * lit
    cloud = cloud + light.glare * glow * 0.5
    sky = sky + (cloud - sky) * density
    sky = sky + (light.haze - sky) * light.mist * 0.35 * smoothstep(40, 140, y)
    return F.pad(sky, (0, 0, 0, grid.size - rows))


def _ridges(picture: Tensor, scenes: Scenes, light: Light, grid: Grid) -> Tensor:
    """Two ranges of mountains and a wooded ridge, each fading towards its foot."""
    first, last = grid.row(84), grid.row(HORIZON + 8)
    y, x = grid.y[:, :, first:last], grid.x
    band = picture[:, :, first:last]

    for k, (crest, height, pitch) in enumerate(((119.0, 17.0, 0.030), (132.0, 9.0, 0.048))):
        index = 11 + 4 * k
        outline = crest + 5 * (_varied(scenes, index) - 0.5) - height * _peaks(scenes, x, index, pitch)
        depth = y - outline
        # Facets: the side of each slope that faces the sun is brighter, down along the ridge lines.
        slope = torch.cos(x * pitch * 2.6 + 6.28 * _varied(scenes, index + 1) + depth * 0.07 * light.side)
        facet = smoothstep(-0.5, 0.5, slope * light.side)
        rock = light.mountain if k == 0 else 0.55 * light.mountain + 0.45 * light.hill
        rock = rock + light.key * (0.20 - 0.06 * k) * facet
        if k == 0:  # snow on the peaks
            snow = smoothstep(9, 4, depth + 5 * facet - 3) * smoothstep(114, 108, outline)
            rock = rock + (light.key * (0.4 + 0.5 * facet) + 0.75 * light.ambient - rock) * snow * 0.85
        fade = smoothstep(0, 34 - 8 * k, depth) * (0.75 - 0.15 * k)
        rock = rock + (light.haze - rock) * (fade * (1 - light.mist) + light.mist * (0.62 - 0.20 * k + 0.35 * fade))
        cover = (0.5 + depth / (1.4 * grid.unit)).clamp(0, 1)
        band = band + (rock - band) * cover

    crowns = 1.6 * torch.sin(x * 0.55 + 9 * _varied(scenes, 19)).abs() + 1.2 * torch.sin(x * 0.31 + 4 * _varied(scenes, 30)).abs()
    outline = 143 + 3.0 * _wave(scenes, x, 26, 0.035) - crowns
    depth = y - outline
    wood = light.hill + 0.10 * light.key * smoothstep(4, 0, depth)
    wood = wood + (light.haze - wood) * (0.16 + 0.50 * light.mist)
    band = band + (wood - band) * (0.5 + depth / (1.6 * grid.unit)).clamp(0, 1)
    return torch.cat([picture[:, :, :first], band, picture[:, :, last:]], 2)


def _land(picture: Tensor, scenes: Scenes, light: Light, grid: Grid) -> Tensor:
    first, last = grid.row(HORIZON - 8), grid.row(WATERLINE + 6)
    y, x = grid.y[:, :, first:last], grid.x
    ground = {name: torch.tensor(table, device=scenes.device)[scenes.ground].reshape(-1, 3, 1, 1) for name, table in _GROUND.items()}
    is_lavender = (scenes.ground == 3).float().reshape(-1, 1, 1, 1)
    top = HORIZON + 2.5 * _wave(scenes, x, 27, 0.028)
    near = ((y - top) / (WATERLINE - HORIZON)).clamp(0, 1)

    noise = _noise(scenes.texture[:, 3:15, 10:24], (last - first, grid.size))
    colour = ground["far"] + (ground["near"] - ground["far"]) * near
    shade = smoothstep(0.35, 0.75, noise) * (0.25 + 0.25 * near)
    colour = colour + (ground["dark"] - colour) * shade * (1 - 0.6 * is_lavender)
    # Rows of lavender run towards a point behind the horizon.
    row = torch.cos((x - 128 - 90 * (_varied(scenes, 28) - 0.5)) / (y - HORIZON + 34).clamp(min=20) * 15)
    colour = colour + (ground["dark"] - colour) * is_lavender * 0.62 * smoothstep(0.1, 0.9, row) * near.sqrt()
    sunny = torch.exp(-(((x - light.sun_x) / 110) ** 2))
    colour = colour * (light.ambient + light.key * (0.55 + 0.40 * sunny + 0.25 * (noise - 0.5)))
    colour = colour + (light.haze - colour) * (0.22 + 0.18 * light.mist) * (1 - near) ** 1.5
    bank = smoothstep(WATERLINE - 7, WATERLINE + 1, y)  # darker, damp
    colour = colour * (1 - 0.28 * bank)

    cover = (0.5 + (y - top) / (1.4 * grid.unit)).clamp(0, 1)
    band = picture[:, :, first:last]
    band = band + (colour - band) * cover
    return torch.cat([picture[:, :, :first], band, picture[:, :, last:]], 2)


def _varied(scenes: Scenes, index: int) -> Tensor:
    return scenes.variation[:, index].reshape(-1, 1, 1, 1)


def _wave(scenes: Scenes, x: Tensor, index: int, pitch: float) -> Tensor:
    """A smooth line across the picture, about -1..1."""
    phase, stretch = 6.28 * _varied(scenes, index), 0.8 + 0.4 * _varied(scenes, index + 1)
    return 0.65 * torch.sin(x * pitch * stretch + phase) + 0.35 * torch.sin(x * pitch * 2.3 + 2 * phase)


def _peaks(scenes: Scenes, x: Tensor, index: int, pitch: float) -> Tensor:
    """A line of mountain tops, about 0..1: sharp above, round below."""
    phase, stretch = 6.28 * _varied(scenes, index + 2), 0.8 + 0.4 * _varied(scenes, index + 3)
    broad = 1 - torch.sin(x * pitch * stretch + phase).abs()
    fine = 1 - torch.sin(x * pitch * 2.37 + 2.1 * phase).abs()
    return 0.70 * broad + 0.30 * fine


def _noise(values: Tensor, shape: tuple[int, int]) -> Tensor:
    """A smooth field through a grid of values (N, h, w), about 0..1: (N, 1, *shape)."""
    return F.interpolate(values[:, None], shape, mode="bicubic", align_corners=True)


def _stars(scenes: Scenes, x: Tensor, y: Tensor, unit: float) -> Tensor:
    """Points of light in some squares of 16 units: (N, 1, H, W)."""
    square = 16.0
    u, v = x / square, y / square
    column, row = u.floor(), v.floor()
    values = scenes.texture[:, row.flatten().long().clamp(max=19)][:, :, column.flatten().long().clamp(max=31)][:, None]
    across, up = (u - column - 0.25 - 0.5 * values) * square, (v - row - 0.25 - 0.5 * (values * 7.3).frac()) * square
    size = 0.75 + 0.5 * values
    return torch.exp(-(across**2 + up**2) / (size**2 + 0.2 * unit**2)) * smoothstep(0.62, 0.95, (values * 3.1).frac())
