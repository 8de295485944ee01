"""Questions about scenes, with short answers that the picture decides."""

import random

from .prompting import Spoken, names
from .scene import COLOURS, KIND_NAMES, Scenes
from .words import MEANINGS

_NUMBERS = ("none", "one", "two", "three", "four")


def questions(scenes: Scenes, seed: int) -> list[tuple[str, str]]:
    """A question about each scene and its answer."""
    rng = random.Random(seed)
    return [_question(*scene, rng) for scene in names(scenes)]


def _question(setting: dict[str, str], objects: list[Spoken], related: list, rng: random.Random) -> tuple[str, str]:
    forms = [_time, _weather, _ground, _count, _colour, _size, _is_there, _is_it]
    forms += [_finish] if any(o.kind not in ("tree", "duck") for o in objects) else []
    forms += [_relation, _who] if len(objects) > 1 else []
    return rng.choice(forms)(setting, objects, related, rng)


def _time(setting, objects, related, rng):
    return rng.choice(("What time of day is it?", "Which time of day does the picture show?")), setting["time"]


def _weather(setting, objects, related, rng):
    return rng.choice(("What is the weather?", "What is the sky like?", "Which weather does it show?")), setting["weather"]


def _ground(setting, objects, related, rng):
    return rng.choice(("What covers the land?", "What is on the ground?", "What is the shore covered with?")), setting["ground"]


def _count(setting, objects, related, rng):
    return rng.choice(("How many objects are there?", "How many objects do you see?")), _NUMBERS[len(objects)]


def _colour(setting, objects, related, rng):
    chosen = rng.choice(objects)
    return rng.choice((f"What colour is {_the(chosen, rng)}?", f"Which color does {_the(chosen, rng)} have?")), chosen.colour


def _size(setting, objects, related, rng):
    chosen = rng.choice(objects)
    name = _the(chosen, rng)
    return rng.choice((f"What size is {name}?", f"Is {name} small or large?")), chosen.size


def _finish(setting, objects, related, rng):
    chosen = rng.choice([o for o in objects if o.kind not in ("tree", "duck")])
    name = _the(chosen, rng)
    if chosen.finish in ("wooden", "stone"):
        return rng.choice((f"What is {name} made of?", f"What is the material of {name}?")), {"wooden": "wood", "stone": "stone"}[chosen.finish]
    return rng.choice((f"Is {name} plain or striped?", f"Which pattern does {name} have?")), chosen.finish


def _is_there(setting, objects, related, rng):
    present = [o.kind for o in objects]
    kind = rng.choice(present) if rng.random() < 0.5 else rng.choice([k for k in KIND_NAMES if k not in present])
    noun = rng.choice(MEANINGS["kind"][kind])
    article = "an" if noun[0] == "a" else "a"
    question = rng.choice((f"Is there {article} {noun}?", f"Do you see {article} {noun}?"))
    return question, "yes" if kind in present else "no"


def _is_it(setting, objects, related, rng):
    chosen = rng.choice(objects)
    colour = chosen.colour if rng.random() < 0.5 else rng.choice([c for c in COLOURS if c != chosen.colour])
    return f"Is {_the(chosen, rng)} {colour}?", "yes" if colour == chosen.colour else "no"


def _relation(setting, objects, related, rng):
    first, second = rng.sample(range(len(objects)), 2)
    question = f"Where is {_the(objects[first], rng)} from {_the(objects[second], rng)}?"
    return question, related[first][second]


def _who(setting, objects, related, rng):
    """Asks for the one object that lies so to another; where more than one does, asks for none of them."""
    first, second = rng.sample(range(len(objects)), 2)
    relation = related[first][second]
    alike = [k for k in range(len(objects)) if k != second and related[k][second] == relation]
    where = {"left of": "to the left of", "right of": "to the right of"}.get(relation, relation)
    if len(alike) > 1:
        return f"How many objects are {where} {_the(objects[second], rng)}?", _NUMBERS[len(alike)]
    return f"What is {where} {_the(objects[second], rng)}?", objects[first].kind


def _the(spoken: Spoken, rng: random.Random) -> str:
    return "the " + rng.choice(MEANINGS["kind"][spoken.kind])
