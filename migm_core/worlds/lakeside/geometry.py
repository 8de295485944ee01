"""Where things are in a picture, in units of 1/256 of its side, y downwards."""

import torch
from torch import Tensor

from .scene import KIND_NAMES, Scenes

SIDE = 256.0
COLUMN_CENTRES = (44.0, 128.0, 212.0)
COLUMN_STEPS = ((0.0, 8.0), (-8.0, 8.0), (-8.0, 0.0))  # how far an object may stand from its column's centre: two places 8 or 16 apart
BASES = (92.0, 174.0, 235.0)  # where objects of each zone stand or, in the sky, hang down to when large
HORIZON = 146.0  # where the land begins
WATERLINE = 191.0

# Height of each kind in its two sizes. What floats is lower than what stands on land, so that it hides little of it. The colour, outline and finish of the smallest still show at a quarter of these.
HEIGHTS = {
    "balloon": (50.0, 82.0),
    "airship": (52.0, 84.0),
    "kite": (48.0, 80.0),
    "house": (50.0, 82.0),
    "windmill": (54.0, 86.0),
    "lighthouse": (56.0, 90.0),
    "tent": (46.0, 76.0),
    "tree": (52.0, 86.0),
    "sailboat": (43.0, 68.0),
    "duck": (36.0, 57.0),
}
_HEIGHTS = torch.tensor([HEIGHTS[kind] for kind in KIND_NAMES])


def heights(scenes: Scenes) -> Tensor:
    """Height of each object: float32 (N, 4), meaningless in free slots."""
    table = _HEIGHTS.to(scenes.device)
    return table[scenes.kind.clamp(0), scenes.size] * (0.97 + 0.06 * scenes.object_variation[:, :, 0])


def feet(scenes: Scenes) -> Tensor:
    """The middle (x, y) of each object's lower edge: float32 (N, 4, 2), meaningless in free slots."""
    device = scenes.device
    steps = torch.tensor(COLUMN_STEPS, device=device)
    side = (scenes.object_variation[:, :, 1] > 0.5).long()
    x = torch.tensor(COLUMN_CENTRES, device=device)[scenes.column] + steps[scenes.column, side]
    x = x + 3 * (scenes.object_variation[:, :, 2] - 0.5)
    y = torch.tensor(BASES, device=device)[scenes.zone]
    y = y - torch.where(scenes.zone == 0, 0.5 * (82 - heights(scenes)), 0)  # small objects of the sky hang in the middle of the zone
    return torch.stack([x, y + 4 * (scenes.object_variation[:, :, 3] - 0.5)], -1)


def centres(scenes: Scenes) -> Tensor:
    """The middle (x, y) of each object: float32 (N, 4, 2), meaningless in free slots."""
    middle = feet(scenes)
    return torch.stack([middle[..., 0], middle[..., 1] - heights(scenes) / 2], -1)
