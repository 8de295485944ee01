"""Which sizes pictures come in: Lumina-DiMOO was trained on some sizes of about equal area, the buckets (arXiv 2510.06308).

All of it is plain arithmetic on widths and heights in pixels; ``pictures`` does it to pixels.
"""

import random
from dataclasses import dataclass
from functools import cache

UNIT = 32  # every side is a multiple of it
WIDEST = 4  # of the longer side over the shorter
INPUTS, LARGE = 512, 1024  # the buckets of input pictures, and of pictures to be read

Size = tuple[int, int]


@cache
def buckets(side: int) -> tuple[Size, ...]:
    """The sizes (width, height) of at most side * side pixels, from the widest to the tallest.

    Args:
        side: of the square among them: 512 gives 49 sizes, 1024 gives 97.
    """
    area = (side // UNIT) ** 2
    sizes, width, height = [], area, 1
    while width > 0:
        if max(width, height) <= WIDEST * min(width, height):
            sizes.append((width * UNIT, height * UNIT))
        if width * (height + 1) <= area:
            height += 1
        else:
            width -= 1
    return tuple(sizes)


def nearest(picture: Size, sizes: tuple[Size, ...]) -> Size:
    """The size whose aspect ratio is nearest to a picture's; of two as near the wider, then the taller."""

    def fit(size: Size) -> tuple[float, int, int]:
        across, down = size[0] / picture[0], size[1] / picture[1]
        return (min(across, down) / max(across, down), *size)

    return max(sizes, key=fit)


def sizes_for_reading(picture: Size, several: bool = False) -> tuple[Size, ...]:
    """The sizes that a picture to be read may take, as the published training preparation chose them.

    Args:
        several: whether it is one of several.
    """
    area = picture[0] * picture[1]
    if several or area < INPUTS**2:
        return buckets(INPUTS)
    return buckets(LARGE) if area > LARGE**2 else ((picture[0] // 16 * 16, picture[1] // 16 * 16),)


@dataclass(frozen=True)
class Fit:
    """How a picture becomes one of the sizes: halved, scaled, cropped.

    Attributes:
        size: that it becomes, (width, height).
        halvings: sizes on the way, each half the one before.
        scaled: the size that is cropped.
    """

    size: Size
    halvings: tuple[Size, ...]
    scaled: Size

    @classmethod
    def of(cls, picture: Size, size: Size) -> "Fit":
        """As published: nothing but the aspect ratio counts, and small pictures are enlarged."""
        (width, height), halvings = picture, []
        while width >= 2 * size[0] and height >= 2 * size[1]:
            width, height = width // 2, height // 2
            halvings.append((width, height))
        scale = max(size[0] / width, size[1] / height)
        return cls(size, tuple(halvings), (round(width * scale), round(height * scale)))

    @property
    def slack(self) -> Size:
        """Pixels that the crop takes away across and down."""
        return self.scaled[0] - self.size[0], self.scaled[1] - self.size[1]

    def box(self, chance: random.Random | None = None) -> tuple[int, int, int, int]:
        """The crop's left, top, right and bottom: in the middle, or where the published code puts it by these random numbers."""
        left, top = self.slack[0] // 2, self.slack[1] // 2
        if chance is not None:
            chance.choice([self.size])  # the published choice of the bucket, which takes a number as well
            left, top = chance.randint(0, self.slack[0]), chance.randint(0, self.slack[1])
        return left, top, left + self.size[0], top + self.size[1]
