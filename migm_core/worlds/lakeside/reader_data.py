"""What the reader learns from: the renderer's own pictures, whole and spoilt.

A spoilt picture is a patchwork of two renderings of one landscape whose objects differ: an object of one, half replaced by what
the other shows there, is half there, of two colours or a mixture of two kinds. That is how a generator of tokens fails.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from .geometry import SIDE, centres
from .renderer import render_layers
from .sampling import rank_in_zone, sample_scenes
from .scene import COLOURS, COLUMNS, GROUNDS, KIND_FINISHES, KIND_NAMES, KIND_ZONE, NONE, OBJECTS, SIZES, TIMES, WEATHERS, Scenes

READ_SIZE = 128  # pixels along each side of what the reader sees
PATCHES = 16  # along each side: image tokens of 16 pixels in a picture of 256
UNTOUCHED, TOUCHED = 0.05, 0.18  # shares of an object's area: less than the first leaves it whole, more than the second spoils it
ABSENT, WHOLE, SPOILT, UNCLEAR = 0, 1, 2, -1


@dataclass(frozen=True)
class Pairs:
    """Two renderings of each of N landscapes.

    Attributes:
        pictures: uint8 (N, 2, 3, READ_SIZE, READ_SIZE).
        areas: of each object in each patch, in pixels of 256: uint8 (N, 2, 4, PATCHES, PATCHES).
        objects: kind (NONE: absent), colour, size, whether it has the second finish: int8 (N, 2, 4, 4).
        centres: middles (x, y) in 0..1: float32 (N, 2, 4, 2).
        setting: time, weather, ground: int8 (N, 2, 3).
    """

    pictures: Tensor
    areas: Tensor
    objects: Tensor
    centres: Tensor
    setting: Tensor


def wild_scenes(count: int, generator: torch.Generator) -> Scenes:
    """Scenes as a faulty model might generate them: a kind may occur twice, and objects may stand between the columns."""
    scenes = sample_scenes(count, generator)
    device = generator.device
    uniform = lambda *shape: torch.rand(shape, generator=generator, device=device)  # noqa: E731
    wild = uniform(count, 1) < 0.5
    kind = torch.randint(len(KIND_NAMES), (count, OBJECTS), generator=generator, device=device)
    repeated = kind.where(uniform(count, OBJECTS) > 0.4, kind[:, :1])
    kind = repeated.where(wild & scenes.present, scenes.kind)
    rank = rank_in_zone(kind)
    zone = KIND_ZONE.to(device)[kind.clamp(0)]
    columns = uniform(count, 3, COLUMNS).argsort(2)
    column = columns[torch.arange(count, device=device)[:, None], zone, rank.clamp(max=COLUMNS - 1)].where(wild, scenes.column)
    finish = KIND_FINISHES.to(device)[kind.clamp(0), torch.randint(2, kind.shape, generator=generator, device=device)]
    variation = scenes.object_variation.clone()
    stray = uniform(count, OBJECTS) < 0.25
    variation[..., 2] += torch.where(stray & wild, 10 * (uniform(count, OBJECTS) - 0.5), 0)
    return replace(scenes, kind=kind.where(rank < COLUMNS, NONE), column=column, finish=finish.where(wild, scenes.finish), object_variation=variation)


def altered(scenes: Scenes, generator: torch.Generator) -> Scenes:
    """The same landscapes; each object stays, goes, or changes one attribute or its kind. One in eight changes its setting instead."""
    device, shape = generator.device, scenes.kind.shape
    uniform = lambda *shape: torch.rand(shape, generator=generator, device=device)  # noqa: E731
    index = lambda options: torch.randint(len(options), shape, generator=generator, device=device)  # noqa: E731
    of_setting = uniform(shape[0]) < 0.125
    fate = uniform(*shape).where(~of_setting[:, None], 1.0)
    other = KIND_ZONE.to(device)
    kind = index(KIND_NAMES)
    kind = kind.where(other[kind] == scenes.zone, scenes.kind)  # another kind of the same zone
    kind = scenes.kind.where(fate > 0.25, NONE).where((fate < 0.35) | (fate > 0.5), kind).where(scenes.present, NONE)
    finishes = KIND_FINISHES.to(device)[kind.clamp(0)]
    second = index((0, 1)).where((fate > 0.5) & (fate < 0.62), scenes.finish % 2)
    some = uniform(3, shape[0]) < 0.4
    draw = lambda options: torch.randint(len(options), (shape[0],), generator=generator, device=device)  # noqa: E731
    return replace(
        scenes,
        kind=kind,
        finish=finishes.gather(2, second[..., None])[..., 0],
        colour=index(COLOURS).where((fate > 0.35) & (fate < 0.75), scenes.colour),
        size=index(SIZES).where((fate > 0.70) & (fate < 0.82), scenes.size),
        time=draw(TIMES).where(of_setting & some[0], scenes.time),
        weather=draw(WEATHERS).where(of_setting & some[1], scenes.weather),
        ground=draw(GROUNDS).where(of_setting & some[2], scenes.ground),
    )


def make_pairs(count: int, generator: torch.Generator) -> Pairs:
    """Render ``count`` pairs."""
    first = wild_scenes(count, generator)
    both = [_rendered(first), _rendered(altered(first, generator))]
    return Pairs(*(torch.stack(parts, 1) for parts in zip(*both)))


def joined(parts: list[Pairs]) -> Pairs:
    return Pairs(*(torch.cat([getattr(p, name) for p in parts]) for name in Pairs.__dataclass_fields__))


def _rendered(scenes: Scenes) -> tuple[Tensor, ...]:
    layers = render_layers(scenes, 256)
    pictures = (F.avg_pool2d(layers.image, 256 // READ_SIZE) * 255).round().byte()
    areas = (F.avg_pool2d(layers.masks.float(), 256 // PATCHES) * 255).round().byte()
    objects = torch.stack([scenes.kind, scenes.colour, scenes.size, scenes.finish % 2], -1).to(torch.int8)
    setting = torch.stack([scenes.time, scenes.weather, scenes.ground], -1).to(torch.int8)
    return pictures, areas, objects, centres(scenes) / SIDE, setting


@dataclass(frozen=True)
class Examples:
    """A batch of pictures and what the reader should say of them.

    Attributes:
        pictures: float32 (B, 3, READ_SIZE, READ_SIZE) in 0..1.
        objects, centres: as in Pairs, of both renderings: (B, 8, 4), (B, 8, 2).
        state: WHOLE, SPOILT, ABSENT or UNCLEAR of each object: int64 (B, 8).
        setting: int64 (B, 3), -1 where it is mixed.
        patchwork: 1 if two settings are mixed, 0 if not, -1 if hardly: float32 (B,).
    """

    pictures: Tensor
    objects: Tensor
    centres: Tensor
    state: Tensor
    setting: Tensor
    patchwork: Tensor


def examples(pairs: Pairs, rows: Tensor, generator: torch.Generator) -> Examples:
    """Pictures of some pairs: half of them whole, half a patchwork; all a little blurred, noisy or mirrored."""
    count, device = len(rows), rows.device
    uniform = lambda *shape: torch.rand(shape, generator=generator, device=device)  # noqa: E731
    # Where the second rendering shows: in patches of smooth random blobs, nowhere in half of the pictures.
    coarse = F.interpolate(uniform(count, 1, 5, 5), (PATCHES, PATCHES), mode="bicubic", align_corners=True)
    fine = uniform(count, 1, PATCHES, PATCHES)
    field = coarse + (uniform(count, 1, 1, 1) < 0.5) * 0.5 * fine
    level = field.flatten(1).sort(1).values.gather(1, (uniform(count, 1) * (PATCHES**2 - 1)).long()).reshape(-1, 1, 1, 1)
    second = ((field > level) & (uniform(count, 1, 1, 1) < 0.5)).float()

    areas = pairs.areas[rows].float()  # (B, 2, 4, P, P)
    total = areas.sum((3, 4))
    replaced = torch.stack([(areas[:, 0] * second).sum((2, 3)), (areas[:, 1] * (1 - second)).sum((2, 3))], 1) / total.clamp(min=1)
    objects = pairs.objects[rows].long()
    present = (objects[..., 0] >= 0) & (total > 40)
    same = (objects[:, 0] == objects[:, 1]).all(-1) & present[:, 0] & present[:, 1]
    state = torch.full_like(replaced, UNCLEAR, dtype=torch.int64)
    state[(replaced > TOUCHED) & (replaced < 1 - TOUCHED)] = SPOILT
    state[replaced < UNTOUCHED] = WHOLE
    state[replaced > 1 - UNTOUCHED] = ABSENT
    # An object that both renderings show alike is whole in any mixture of them, and counts once.
    state = torch.where(same[:, None], torch.tensor([WHOLE, ABSENT], device=device)[:, None], state)
    state = state.where(present, ABSENT)

    share = second.mean((1, 2, 3))
    settings = pairs.setting[rows].long()
    differ = (settings[:, 0] != settings[:, 1]).any(1)
    mixed = differ & (share > 0) & (share < 1)
    setting = settings[:, 0].where(share[:, None] < 0.5, settings[:, 1]).where(~mixed[:, None], -1)
    mixed_colours = mixed[:, None, None] & (replaced > UNTOUCHED) & (replaced < 1 - UNTOUCHED) & present
    state = state.where(~mixed_colours, UNCLEAR)
    patchwork = torch.where(mixed, torch.where((share > 0.15) & (share < 0.85), 1.0, -1.0), 0.0)

    grown = second.repeat_interleave(READ_SIZE // PATCHES, 2).repeat_interleave(READ_SIZE // PATCHES, 3)
    pictures = pairs.pictures[rows].float() / 255
    pictures = pictures[:, 0] + (pictures[:, 1] - pictures[:, 0]) * grown
    pictures, mirrored = roughened(pictures, generator), uniform(count) < 0.5
    pictures = pictures.where(~mirrored.reshape(-1, 1, 1, 1), pictures.flip(3))
    middles = pairs.centres[rows].clone()
    middles[..., 0] = middles[..., 0].where(~mirrored[:, None, None], 1 - middles[..., 0])
    flat = lambda values: values.flatten(1, 2)  # noqa: E731
    return Examples(pictures, flat(objects), flat(middles), flat(state), setting, patchwork)


def roughened(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Some of the pictures blurred, noisy or off in colour, as an image tokenizer or a JPEG file leaves them."""
    count, device = len(pictures), pictures.device
    uniform = lambda *shape: torch.rand(shape, generator=generator, device=device)  # noqa: E731
    chance = uniform(count, 1, 1, 1)
    blurred = F.avg_pool2d(F.pad(pictures, (1, 1, 1, 1), mode="replicate"), 3, 1)
    half = F.interpolate(F.avg_pool2d(pictures, 2), scale_factor=2.0, mode="bilinear", align_corners=False)
    pictures = torch.where(chance < 0.25, blurred, torch.where(chance < 0.40, half, pictures))
    tint = 1 + 0.06 * (uniform(count, 3, 1, 1) - 0.5)
    strength = 0.03 * uniform(count, 1, 1, 1) * (uniform(count, 1, 1, 1) < 0.6)
    side = pictures.shape[-1]
    fine = torch.randn((8, 3, side, side), generator=generator, device=device)
    broad = F.interpolate(torch.randn((8, 3, 32, 32), generator=generator, device=device), (side, side), mode="bilinear", align_corners=False)
    noise = (fine + broad)[torch.randint(8, (count,), generator=generator, device=device)]
    return (pictures * tint + strength * noise).clamp(0, 1)
