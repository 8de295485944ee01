"""Instructions that change a scene, and the scenes that result. What an instruction does not name stays as it was."""

import random
from dataclasses import dataclass

import torch
from torch import Tensor

from .prompting import Spoken, object_phrase
from .scene import (
    COLOURS,
    COLUMNS,
    FINISHES,
    GROUNDS,
    KIND_FINISHES,
    KIND_NAMES,
    KIND_ZONE,
    NONE,
    OBJECTS,
    RELATIONS,
    SIZES,
    TIMES,
    WEATHERS,
    Request,
    Scenes,
    relation,
)
from .words import MEANINGS

_PER_OBJECT = ("kind", "colour", "size", "finish", "column", "object_variation")
_TURN = {  # value of the setting: instructions
    "dawn": ("turn it into dawn", "make it dawn", "change the time to sunrise"),
    "day": ("turn it into day", "make it day", "change the time to noon"),
    "sunset": ("turn it into sunset", "make it sunset", "change the time to dusk"),
    "night": ("turn it into night", "make it night", "change the time to midnight"),
    "clear": ("make the sky clear", "make it clear", "change the weather to clear"),
    "cloudy": ("make the sky cloudy", "add clouds to the sky", "make it overcast"),
    "misty": ("make it misty", "add fog", "put the scene in mist"),
    "grass": ("turn the land into a meadow", "cover the shore with grass"),
    "sand": ("turn the shore into a beach", "cover the land with sand"),
    "snow": ("cover the land with snow", "make the shore snowy"),
    "lavender": ("cover the shore with lavender", "turn the land into a lavender field"),
}


@dataclass(frozen=True)
class Edits:
    """One edit of each of N scenes.

    Attributes:
        instructions: what to do, in English.
        scenes: the edited scenes.
        request: what a picture of them must show; of a new object, only the place that the instruction says.
        slot: of the object that the edit concerns, in the edited scene; NONE where it concerns none: int64 (N,), on the CPU.
        names: "colour", "size", "finish", "remove", "add", "replace", "time", "weather" or "ground".
    """

    instructions: list[str]
    scenes: Scenes
    request: Request
    slot: Tensor
    names: list[str]

    def __getitem__(self, index: slice | Tensor) -> "Edits":
        """Those that a slice or a tensor of indices (n,) chooses."""
        index = torch.arange(len(self.names))[index.cpu() if isinstance(index, Tensor) else index]
        texts = lambda values: [values[k] for k in index.tolist()]  # noqa: E731
        scenes = self.scenes[index.to(self.scenes.device)]
        return Edits(texts(self.instructions), scenes, self.request[index.to(self.request.device)], self.slot[index], texts(self.names))


def edits(scenes: Scenes, seed: int) -> Edits:
    """A random edit of each scene, one that changes something."""
    rng = random.Random(seed)
    device = scenes.device
    edited = {name: getattr(scenes, name).to("cpu", copy=True) for name in Scenes.__dataclass_fields__}
    counts = scenes.present.sum(1).tolist()
    instructions, names, slots, said = [], [], [], []
    for n, count in enumerate(counts):
        options = ["colour", "size", "time", "weather", "ground"]
        options += ["replace"] if any(_replacements(edited, n, k, count) for k in range(count)) else []
        options += ["finish"] if any(_has_choice(edited["kind"][n, k]) for k in range(count)) else []
        options += ["remove"] if count > 1 else []
        options += ["add"] if count < OBJECTS else []
        name = rng.choice(options)
        instruction, slot, towards = _EDITS[name](edited, n, count, rng)
        instructions.append(instruction[0].upper() + instruction[1:] + ("." if rng.random() < 0.7 else ""))
        names.append(name)
        slots.append(slot)
        said.append(towards)
    result = Scenes(**edited)
    request = result.request()
    for n, towards in enumerate(said):
        if towards is not None:  # a new object: only its relation to one other was said
            others = [k for k in range(OBJECTS) if k != towards]
            request.relation[n, slots[n], others] = NONE
    return Edits(instructions, result.to(device), request, torch.tensor(slots, dtype=torch.int64), names)


def _has_choice(kind) -> bool:
    return bool(KIND_FINISHES[kind, 0] != KIND_FINISHES[kind, 1])


def _other(current: int, options, rng: random.Random) -> int:
    return rng.choice([k for k in range(len(options)) if k != current])


def _the(edited: dict, n: int, slot: int, rng: random.Random) -> str:
    return "the " + rng.choice(MEANINGS["kind"][KIND_NAMES[edited["kind"][n, slot]]])


def _colour(edited, n, count, rng):
    slot = rng.randrange(count)
    value = _other(int(edited["colour"][n, slot]), COLOURS, rng)
    edited["colour"][n, slot] = value
    name, colour = _the(edited, n, slot, rng), rng.choice(MEANINGS["colour"][COLOURS[value]][:2])
    return rng.choice((f"make {name} {colour}", f"paint {name} {colour}", f"change the colour of {name} to {colour}")), slot, None


def _size(edited, n, count, rng):
    slot = rng.randrange(count)
    value = 1 - int(edited["size"][n, slot])
    edited["size"][n, slot] = value
    name = _the(edited, n, slot, rng)
    return f"make {name} {rng.choice((('small', 'smaller'), ('large', 'bigger', 'larger'))[value])}", slot, None


def _finish(edited, n, count, rng):
    slot = rng.choice([k for k in range(count) if _has_choice(edited["kind"][n, k])])
    first, second = KIND_FINISHES[edited["kind"][n, slot]].tolist()
    value = first + second - int(edited["finish"][n, slot])
    edited["finish"][n, slot] = value
    name = _the(edited, n, slot, rng)
    forms = {
        "striped": (f"make {name} striped", f"give {name} stripes"),
        "plain": (f"make {name} plain", f"remove the stripes from {name}"),
        "wooden": (f"make {name} wooden", f"change the material of {name} to wood"),
        "stone": (f"change the material of {name} to stone", f"turn {name} into stone"),
    }
    return rng.choice(forms[FINISHES[value]]), slot, None


def _remove(edited, n, count, rng):
    slot = rng.randrange(count)
    instruction = rng.choice(("remove {}", "take away {}")).format(_the(edited, n, slot, rng))
    order = [k for k in range(OBJECTS) if k != slot] + [slot]
    for name in _PER_OBJECT:
        edited[name][n] = edited[name][n, order]
    edited["kind"][n, OBJECTS - 1] = NONE
    return instruction, NONE, None


def _add(edited, n, count, rng):
    """Put a new object where one relation to one other says its place in full, or, if there is no such place, anywhere free."""
    taken = {(int(KIND_ZONE[edited["kind"][n, k]]), int(edited["column"][n, k])) for k in range(count)}
    kinds = [k for k in range(len(KIND_NAMES)) if k not in edited["kind"][n, :count].tolist()]
    free = [(kind, column) for kind in kinds for column in range(COLUMNS) if (int(KIND_ZONE[kind]), column) not in taken]
    kind, column = rng.choice(free)
    towards = rng.randrange(count)
    values = {"kind": kind, "colour": rng.randrange(len(COLOURS)), "size": rng.randrange(2), "column": column}
    values["finish"] = int(KIND_FINISHES[kind, rng.randrange(2)])
    for name, value in values.items():
        edited[name][n, count] = value
    zone = KIND_ZONE[edited["kind"][n]]
    place = relation(zone[count], edited["column"][n, count], zone[towards], edited["column"][n, towards])
    finish = FINISHES[values["finish"]] if _has_choice(kind) else None
    new = object_phrase(Spoken(KIND_NAMES[kind], COLOURS[values["colour"]], SIZES[values["size"]], finish), rng)
    name = _the(edited, n, towards, rng)
    where = {"left of": "to the left of", "right of": "to the right of"}.get(RELATIONS[place], RELATIONS[place])
    return f"{rng.choice(('add', 'put'))} {new} {where} {name}", count, towards


def _replace(edited, n, count, rng):
    slot = rng.choice([k for k in range(count) if _replacements(edited, n, k, count)])
    old, kind = _the(edited, n, slot, rng), rng.choice(_replacements(edited, n, slot, count))
    edited["kind"][n, slot] = kind
    edited["finish"][n, slot] = KIND_FINISHES[kind, rng.randrange(2)]
    finish = FINISHES[edited["finish"][n, slot]] if _has_choice(kind) else None
    new = object_phrase(Spoken(KIND_NAMES[kind], COLOURS[edited["colour"][n, slot]], SIZES[edited["size"][n, slot]], finish), rng)
    return rng.choice((f"replace {old} with {new}", f"turn {old} into {new}", f"change {old} into {new}")), slot, None


def _replacements(edited: dict, n: int, slot: int, count: int) -> list[int]:
    """The kinds of the same zone that the scene doesn't have."""
    here = edited["kind"][n, :count].tolist()
    return [k for k in range(len(KIND_NAMES)) if k not in here and KIND_ZONE[k] == KIND_ZONE[here[slot]]]


def _setting(name: str, options):
    def change(edited, n, count, rng):
        value = _other(int(edited[name][n]), options, rng)
        edited[name][n] = value
        return rng.choice(_TURN[options[value]]), NONE, None

    return change


_EDITS = {
    "colour": _colour,
    "size": _size,
    "finish": _finish,
    "remove": _remove,
    "add": _add,
    "replace": _replace,
    "time": _setting("time", TIMES),
    "weather": _setting("weather", WEATHERS),
    "ground": _setting("ground", GROUNDS),
}
