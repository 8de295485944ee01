"""Light and colours at each time of day and in each weather."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .geometry import SIDE
from .scene import TIMES, Scenes

# At each time, in the order of TIMES: dawn, day, sunset, night. Colours are display RGB in 0..1.
_PALETTE = {
    "sky_top": [(0.33, 0.44, 0.76), (0.16, 0.44, 0.86), (0.22, 0.15, 0.42), (0.015, 0.03, 0.11)],
    "sky_middle": [(0.76, 0.62, 0.80), (0.46, 0.72, 0.96), (0.85, 0.33, 0.40), (0.05, 0.10, 0.26)],
    "sky_low": [(0.98, 0.78, 0.70), (0.86, 0.95, 1.00), (1.00, 0.72, 0.30), (0.17, 0.27, 0.47)],
    "sun": [(1.12, 1.06, 0.94), (1.10, 1.08, 0.98), (1.10, 0.98, 0.66), (0.95, 0.97, 1.00)],
    "glare": [(0.26, 0.20, 0.12), (0.26, 0.24, 0.18), (0.45, 0.24, 0.08), (0.15, 0.19, 0.27)],
    "key": [(0.66, 0.54, 0.48), (0.66, 0.64, 0.58), (0.80, 0.54, 0.36), (0.30, 0.36, 0.50)],
    "ambient": [(0.50, 0.49, 0.60), (0.50, 0.54, 0.60), (0.44, 0.37, 0.46), (0.24, 0.28, 0.43)],
    "haze": [(0.90, 0.76, 0.82), (0.80, 0.89, 0.97), (0.95, 0.58, 0.42), (0.21, 0.30, 0.49)],
    "mountain": [(0.52, 0.48, 0.68), (0.40, 0.54, 0.74), (0.44, 0.22, 0.40), (0.07, 0.11, 0.24)],
    "hill": [(0.30, 0.36, 0.42), (0.22, 0.42, 0.36), (0.24, 0.15, 0.24), (0.03, 0.07, 0.13)],
    "deep": [(0.34, 0.42, 0.62), (0.07, 0.34, 0.58), (0.26, 0.13, 0.30), (0.02, 0.05, 0.14)],
    "cloud_lit": [(1.00, 0.88, 0.84), (1.00, 1.00, 1.00), (1.00, 0.66, 0.42), (0.30, 0.37, 0.54)],
    "cloud_shade": [(0.66, 0.60, 0.76), (0.70, 0.77, 0.87), (0.50, 0.25, 0.40), (0.07, 0.10, 0.20)],
}
_SUN_HEIGHT = (112.0, 34.0, 118.0, 36.0)  # y of the sun or moon
_SUN_RADIUS = (13.0, 11.0, 17.0, 12.0)
_LAMPS = (0.35, 0.0, 0.7, 1.0)  # how far windows and lanterns are lit
_IS_NIGHT = (0.0, 0.0, 0.0, 1.0)


@dataclass(frozen=True)
class Light:
    """Colours float32 (N, 3, 1, 1), scalars (N, 1, 1, 1).

    Attributes:
        sky_top, sky_middle, sky_low: the sky from top to horizon.
        sun, glare: the disc, and the glow around it that is added to the sky.
        key, ambient: what a surface facing the sun gets, over what every surface gets.
        haze: what distance fades to.
        mountain, hill, deep: of the far and near ridges and of deep water.
        cloud_lit, cloud_shade: of clouds.
        sun_x, sun_y, sun_radius: units of the geometry.
        side: -1 where the sun stands on the left, 1 on the right.
        is_night: 1 at night, else 0.
        lamps, stars, clouds, mist, disc: how much of each there is, 0..1.
    """

    sky_top: Tensor
    sky_middle: Tensor
    sky_low: Tensor
    sun: Tensor
    glare: Tensor
    key: Tensor
    ambient: Tensor
    haze: Tensor
    mountain: Tensor
    hill: Tensor
    deep: Tensor
    cloud_lit: Tensor
    cloud_shade: Tensor
    sun_x: Tensor
    sun_y: Tensor
    sun_radius: Tensor
    side: Tensor
    lamps: Tensor
    is_night: Tensor
    stars: Tensor
    clouds: Tensor
    mist: Tensor
    disc: Tensor

    def of(self, rows: Tensor) -> "Light":
        """The light of some scenes, by their indices."""
        return Light(**{name: getattr(self, name)[rows] for name in self.__dataclass_fields__})

    def on_objects(self) -> "Light":
        """As it falls on objects: a little whiter, and much brighter at night, so that their colours always tell."""
        at_night = self.is_night
        white = lambda colour, share: colour + share * (colour.mean(1, keepdim=True) - colour)  # noqa: E731
        return replace(self, key=white(self.key, 0.25) * (1 + 0.35 * at_night), ambient=white(self.ambient, 0.25) * (1 + 0.45 * at_night))


def light_of(scenes: Scenes) -> Light:
    device, time = scenes.device, scenes.time
    at_time = lambda table: torch.tensor(table, device=device).reshape(len(table), -1, 1, 1)[time]  # noqa: E731
    is_weather = lambda index: (scenes.weather == index).float().reshape(-1, 1, 1, 1)  # noqa: E731
    varied = lambda index: scenes.variation[:, index].reshape(-1, 1, 1, 1)  # noqa: E731
    cloudy, misty = is_weather(1), is_weather(2)

    colours = {name: at_time(table) for name, table in _PALETTE.items()}
    # A small drift of hue from scene to scene.
    for k, name in enumerate(("sky_top", "sky_middle", "sky_low", "haze")):
        colours[name] = colours[name] * (0.96 + 0.08 * scenes.variation[:, k : k + 3].reshape(-1, 3, 1, 1))
    grey = {name: value.mean(1, keepdim=True) for name, value in colours.items()}
    for name in ("sky_top", "sky_middle", "sky_low"):
        # Clouds grey the sky, mist pales it, yet each time keeps its tint.
        colours[name] = colours[name] + cloudy * 0.35 * (0.9 * grey[name] - colours[name])
        colours[name] = colours[name] + misty * 0.45 * (colours["haze"] - colours[name])
    for name in ("key", "glare"):
        colours[name] = colours[name] * (1 - 0.45 * cloudy - 0.35 * misty)
    colours["ambient"] = colours["ambient"] * (1 + 0.22 * cloudy + 0.22 * misty)
    # The sun keeps clear of the middle, so that light comes from a side.
    across = varied(8)
    sun_x = SIDE * torch.where(across < 0.5, 0.12 + 0.4 * across, 0.48 + 0.4 * across)
    return Light(
        **colours,
        sun_x=sun_x,
        sun_y=at_time(_SUN_HEIGHT) + 12 * (varied(9) - 0.5),
        sun_radius=at_time(_SUN_RADIUS),
        side=torch.where(across < 0.5, -1.0, 1.0),
        lamps=at_time(_LAMPS),
        is_night=at_time(_IS_NIGHT),
        stars=at_time(_IS_NIGHT) * (1 - 0.8 * cloudy) * (1 - 0.7 * misty),
        clouds=0.12 + 0.88 * cloudy - 0.1 * misty,
        mist=misty,
        disc=1 - 0.75 * cloudy - 0.45 * misty,
    )


assert all(len(table) == len(TIMES) for table in _PALETTE.values())
