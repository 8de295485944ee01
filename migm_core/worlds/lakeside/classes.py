"""The world as a model of classes sees it: a class is a time of day, a weather and a ground, with any objects in it."""

import torch
from torch import Tensor

from .judging import Verdict
from .reader import Reading, read
from .scene import GROUNDS, OBJECTS, TIMES, WEATHERS, Scenes

SETTINGS = tuple((time, weather, ground) for time in TIMES for weather in WEATHERS for ground in GROUNDS)
CLASS_NAMES = tuple(f"{weather} {time} over {ground}" for time, weather, ground in SETTINGS)


def classes_of(scenes: Scenes) -> Tensor:
    """The class of each scene: index into CLASS_NAMES, int64 (N,)."""
    return (scenes.time * len(WEATHERS) + scenes.weather) * len(GROUNDS) + scenes.ground


def judge_classes(images: Tensor, classes: Tensor) -> list[Verdict]:
    """Whether each picture shows its class, and one to four objects, each of them whole and no kind twice.

    Args:
        images: (N, 3, size, size) in 0..1.
        classes: int64 (N,).

    Raises:
        ValueError: not as many pictures as classes, or as in ``read``.
    """
    if len(images) != len(classes):
        raise ValueError(f"There are {len(images)} images and {len(classes)} classes.")
    return [_judge_one(reading, *SETTINGS[number]) for reading, number in zip(read(images), classes.tolist())]


def _judge_one(reading: Reading, time: str, weather: str, ground: str) -> Verdict:
    faults = {}
    for name, wanted in (("time", time), ("weather", weather), ("ground", ground)):
        if getattr(reading, name) != wanted:
            faults[name] = f"expected {wanted}, found {getattr(reading, name) or 'nothing clear'}"
    if reading.patchwork:
        faults["setting"] = "parts of the picture show different settings"
    kinds = [seen.kind for seen in reading.objects]
    for seen in reading.objects:
        if seen.kind is None or not seen.whole:
            faults[seen.kind or "object"] = f"found {seen}"
        elif seen.colour is None:
            faults[f"colour of the {seen.kind}"] = "found nothing clear"
    if not 1 <= len(kinds) <= OBJECTS or len(set(kinds)) < len(kinds):
        faults["objects"] = f"expected one to {OBJECTS} objects of different kinds, found {', '.join(map(str, reading.objects)) or 'none'}"
    return Verdict(faults, reading)


def random_classes(count: int, generator: torch.Generator) -> Tensor:
    """Each class about equally often, in random order: int64 (count,)."""
    order = torch.randperm(count, generator=generator, device=generator.device)
    return order % len(CLASS_NAMES)
