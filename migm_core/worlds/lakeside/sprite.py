"""One object's picture in the making: layers of colour laid over each other, and the marks of its finish."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .light import Light


@dataclass
class Canvas:
    """M objects of one kind, each in a window of its own.

    Attributes:
        x, y: where each pixel lies from the middle of the object's foot, in units of the object's height, y upwards: (M, 1, S, S).
        pixel: a pixel's side in that unit: (M, 1, 1, 1).
        colour: of the object: (M, 3, 1, 1).
        marked: 1 for the second finish of the kind, 0 for the first: (M, 1, 1, 1).
        varied: what no prompt names: (M, 6, 1, 1), uniform in 0..1.
        light: of the scene of each.
        picture, alpha: premultiplied colour (M, 3, S, S) and coverage (M, 1, S, S); light that glows has no coverage.
        body: coverage by the object alone, without shadow and glow.
    """

    x: Tensor
    y: Tensor
    pixel: Tensor
    colour: Tensor
    marked: Tensor
    varied: Tensor
    light: Light

    def __post_init__(self):
        self.picture = torch.zeros_like(self.x).expand(-1, 3, -1, -1)
        self.alpha = torch.zeros_like(self.x)
        self.body = torch.zeros_like(self.x)

    def fill(self, distance: Tensor, colour: Tensor) -> None:
        """Lay ``colour`` over the inside of an outline, its edge a pixel wide."""
        self.cover((0.5 - distance / self.pixel).clamp(0, 1), colour)

    def cover(self, coverage: Tensor, colour: Tensor) -> None:
        self.picture = self.picture + (colour - self.picture) * coverage
        self.alpha = self.alpha + (1 - self.alpha) * coverage
        self.body = self.body + (1 - self.body) * coverage

    def glow(self, strength: Tensor, colour: Tensor) -> None:
        """Add light, which hides nothing."""
        self.picture = self.picture + colour * strength

    def shadow(self, across: float, up: float) -> None:
        """A soft shadow on the ground, away from the sun. Goes first."""
        x = self.x + self.light.side * 0.16
        far = torch.sqrt((x / (across + 0.10)) ** 2 + ((self.y + 0.01) / up) ** 2)
        self.alpha = (1 - far).clamp(0, 1) * 1.3 * (0.34 + 0.5 * self.light.key.mean(1, keepdim=True))
        self.alpha = self.alpha.clamp(0, 0.55)

    def lit(self, albedo: Tensor, facing: Tensor) -> Tensor:
        """The colour of a surface that faces the sun by ``facing``, 0..1."""
        return albedo * (self.light.ambient + self.light.key * facing)

    def tint(self, red: float, green: float, blue: float) -> Tensor:
        """A fixed colour: (1, 3, 1, 1)."""
        return torch.tensor([red, green, blue], device=self.x.device).reshape(1, 3, 1, 1)

    def striped(self, band: Tensor) -> Tensor:
        """The object's colour, or under the second finish stripes where ``band`` is 1: white ones, slate on white objects."""
        is_white = (self.colour.amin(1, keepdim=True) > 0.8).float()
        stripe = self.tint(0.97, 0.96, 0.93) * (1 - is_white) + self.tint(0.36, 0.40, 0.50) * is_white
        return self.colour + (stripe - self.colour) * band * self.marked

    @property
    def heading(self) -> Tensor:
        """1 for objects that look to the right, -1 to the left: (M, 1, 1, 1)."""
        return torch.where(self.varied[:, 4:5] > 0.5, 1.0, -1.0)

    @property
    def window_light(self) -> Tensor:
        """The colour of window panes: dark by day, warm when lit."""
        return self.tint(0.16, 0.20, 0.28) * (1 - self.light.lamps) + self.tint(1.0, 0.80, 0.40) * self.light.lamps


def stripes(position: Tensor, pixel: Tensor) -> Tensor:
    """1 in every second band of ``position``, bands one wide; ``pixel``: a pixel's width there."""
    wave = position * 0.5 - (position * 0.5).floor()
    far = (wave - 0.75).abs()
    far = torch.minimum(far, 1 - far)
    return (0.5 + (0.25 - far) * 2 / pixel.clamp(min=1e-3)).clamp(0, 1)
