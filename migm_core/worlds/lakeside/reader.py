"""Reads a picture back: setting and objects, by a small convolutional network that has only ever seen the renderer's pictures.

It is trained on whole and on spoilt pictures (``reader_data``) by the recipe's stage reader; no generative model takes part.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from .geometry import SIDE
from .scene import COLOURS, FINISHES, GROUNDS, KIND_FINISHES, KIND_NAMES, SIZES, TIMES, WEATHERS

WEIGHTS = Path(__file__).with_name("reader.safetensors")
INPUT = 128  # pixels along each side of what the network sees
GRID = 16  # positions along each side at which it looks for an object; no two objects have their centres at one
PRESENT = 0.55  # probabilities from which an object counts as there,
SPOILT = 0.55  # as spoilt,
CLEAR = 0.5  # and an attribute as decided
_PARTS = {"presence": 1, "spoilt": 1, "offset": 2, "kind": len(KIND_NAMES), "colour": len(COLOURS), "size": len(SIZES), "second_finish": 2}
_SETTING = {"time": len(TIMES), "weather": len(WEATHERS), "ground": len(GROUNDS), "patchwork": 1}


@dataclass(frozen=True)
class SeenObject:
    """One object as read. An attribute in doubt is None.

    Attributes:
        centre: (x, y) in units of 1/256 of the picture's side.
        whole: whether it looks as the renderer shows it, not half there, of two colours or between two kinds.
    """

    kind: str | None
    colour: str | None
    size: str | None
    finish: str | None
    centre: tuple[float, float]
    whole: bool

    def __str__(self) -> str:
        words = [word for word in (self.size, self.colour, self.finish) if word] + [self.kind or "object of unclear kind"]
        return ("a " if self.whole else "a spoilt ") + " ".join(words)


@dataclass(frozen=True)
class Reading:
    """What a picture shows. An attribute in doubt is None; ``patchwork``: parts of it show different settings."""

    time: str | None
    weather: str | None
    ground: str | None
    patchwork: bool
    objects: tuple[SeenObject, ...]


class Reader(nn.Module):
    """Pictures (B, 3, INPUT, INPUT) in 0..1 to logits for each position (B, 24, GRID, GRID) and for the setting (B, 12)."""

    def __init__(self, narrow: int = 48, wide: int = 96, seed: int = 0):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._make(narrow, wide)

    def _make(self, narrow: int, wide: int) -> None:
        self.stem = nn.Sequential(_convolution(3, 16, 5, 2), _convolution(16, narrow, 3, 2))
        self.fine = _convolution(narrow, narrow, 3, 1)
        self.down = _convolution(narrow, wide, 3, 2)
        self.coarse = nn.ModuleList(_convolution(wide, wide, 3, 1) for _ in range(3))
        self.objects = nn.Sequential(nn.Conv2d(wide, wide, 1), nn.ReLU(), nn.Conv2d(wide, sum(_PARTS.values()), 1))
        self.setting = nn.Linear(4 * wide, sum(_SETTING.values()))
        nn.init.constant_(self.objects[-1].bias[:1], -4.0)  # most positions hold no object

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        x = self.stem(pictures * 2 - 1)
        x = self.down(x + self.fine(x))
        for layer in self.coarse:
            x = x + layer(x)
        bands = x.unflatten(2, (4, -1)).mean((3, 4))  # four bands from top to bottom
        return self.objects(x), self.setting(bands.flatten(1))


def _convolution(inputs: int, outputs: int, size: int, stride: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())


def split_objects(logits: Tensor) -> dict[str, Tensor]:
    """The parts of the logits for each position, by name: (B, width, GRID, GRID) each."""
    return dict(zip(_PARTS, logits.split(list(_PARTS.values()), 1)))


def split_setting(logits: Tensor) -> dict[str, Tensor]:
    """The parts of the setting's logits, by name: (B, width) each."""
    return dict(zip(_SETTING, logits.split(list(_SETTING.values()), 1)))


def as_input(images: Tensor) -> Tensor:
    """Pictures (B, 3, H, W) in 0..1 as the network wants them.

    Raises:
        ValueError: not that shape, values out of range or not finite.
    """
    if images.dim() != 4 or images.shape[1] != 3 or images.shape[2] != images.shape[3] or images.shape[2] < INPUT:
        raise ValueError(f"images have shape {tuple(images.shape)}, expected (N, 3, size, size) with a size of at least {INPUT}")
    images = images.float()
    if len(images) and not (images.min() >= -0.01 and images.max() <= 1.01):  # so put, it refuses NaN too
        raise ValueError(f"images span {images.min()} to {images.max()}, expected floats in 0..1")
    if images.shape[-1] % INPUT:
        return F.interpolate(images, (INPUT, INPUT), mode="bilinear", antialias=True, align_corners=False)
    return F.avg_pool2d(images, images.shape[-1] // INPUT)


@cache
def load_reader(device: torch.device) -> Reader:
    """The trained network.

    Raises:
        FileNotFoundError: its weights are not there.
    """
    if not WEIGHTS.exists():
        raise FileNotFoundError(f"{WEIGHTS} is missing. Train it: python -m migm_core.worlds.recipe reader FOLDER")
    reader = Reader()
    reader.load_state_dict({name: value.float() if value.is_floating_point() else value for name, value in load_file(WEIGHTS).items()})
    return reader.eval().requires_grad_(False).to(device)


def read(images: Tensor, reader: Reader | None = None) -> list[Reading]:
    """What each picture shows.

    Args:
        images: (N, 3, size, size) in 0..1, size at least 128.

    Raises:
        ValueError: another shape, or values out of range or not finite.
    """
    reader = reader or load_reader(images.device)
    pictures = as_input(images)
    readings = []
    for first in range(0, len(pictures), 256):
        with torch.inference_mode():
            logits, settings = reader(pictures[first : first + 256])
        readings += _readings(split_objects(logits.cpu()), split_setting(settings.cpu()))
    return readings


def _readings(logits: dict[str, Tensor], settings: dict[str, Tensor]) -> list[Reading]:
    presence = logits["presence"].sigmoid()
    peaks = (presence > PRESENT) & (presence == F.max_pool2d(presence, 3, 1, 1))
    found = peaks[:, 0].nonzero()
    n, row, column = found.T
    at = {name: value[n, :, row, column] for name, value in logits.items()}
    centres = (torch.stack([column, row], 1) + at["offset"].sigmoid()) * (SIDE / GRID)
    whole = (at["spoilt"][:, 0].sigmoid() < SPOILT).tolist()
    kinds, colours, sizes = (_decided(at[name]) for name in ("kind", "colour", "size"))
    seconds = _decided(at["second_finish"])
    objects: list[list[SeenObject]] = [[] for _ in range(len(presence))]
    for k, index in enumerate(n.tolist()):
        kind = kinds[k]
        finish = FINISHES[KIND_FINISHES[kind, seconds[k]]] if kind is not None and seconds[k] is not None else None
        named = [options[value] if value is not None else None for options, value in ((KIND_NAMES, kind), (COLOURS, colours[k]), (SIZES, sizes[k]))]
        objects[index].append(SeenObject(*named, finish, tuple(centres[k].tolist()), whole[k]))
    decided = {name: _decided(settings[name]) for name in ("time", "weather", "ground")}
    patchwork = (settings["patchwork"][:, 0].sigmoid() > 0.5).tolist()
    name = lambda options, value: None if value is None else options[value]  # noqa: E731
    return [
        Reading(name(TIMES, t), name(WEATHERS, w), name(GROUNDS, g), patchwork[k], tuple(objects[k]))
        for k, (t, w, g) in enumerate(zip(decided["time"], decided["weather"], decided["ground"]))
    ]


def _decided(logits: Tensor) -> list[int | None]:
    """The likeliest option in each row, None where it is not clear."""
    probability, index = logits.softmax(1).max(1)
    return [i if p > CLEAR else None for i, p in zip(index.tolist(), probability.tolist())]
