"""Plain English for scenes: one to three sentences, in free wording and order."""

import random
from dataclasses import dataclass

from .scene import OBJECT, RELATIONS, SETTING, Scenes
from .words import MEANINGS

# How often a prompt leaves an attribute open, unless it is to be complete.
_OPEN = {"time": 0.12, "weather": 0.2, "ground": 0.15, "colour": 0.08, "size": 0.2, "finish": 0.25, "relation": 0.15}

_SENTENCES = 3  # at most

_AT_TIME = {
    "dawn": ("at dawn", "at sunrise", "in the morning"),
    "day": ("by day", "at noon", "in the daytime", "in daylight"),
    "sunset": ("at sunset", "at dusk", "in the evening"),
    "night": ("at night", "at midnight", "by moonlight"),
}
_IN_WEATHER = {
    "clear": ("under a clear sky", "under a cloudless sky"),
    "cloudy": ("under a cloudy sky", "under an overcast sky", "with clouds in the sky"),
    "misty": ("in the mist", "in fog", "under a hazy sky"),
}
_ON_GROUND = {
    "grass": ("on a grassy shore", "by a meadow", "on the grass"),
    "sand": ("on a sandy shore", "by a beach", "on the sand"),
    "snow": ("on a snowy shore", "with snow on the land", "in the snow"),
    "lavender": ("by a lavender field", "with lavender on the shore", "by fields of lavender"),
}
_GROUND_IS = {
    "grass": ("The shore is a meadow.", "There is grass on the land."),
    "sand": ("The shore is a beach.", "There is sand on the shore."),
    "snow": ("The land is covered with snow.", "The shore is snowy."),
    "lavender": ("There is lavender on the land.", "The shore is a field of lavender."),
}
_RELATION = {
    "left of": ("to the left of", "left of", "on the left of"),
    "right of": ("to the right of", "right of", "on the right of"),
    "above": ("above", "over"),
    "below": ("below", "under", "beneath"),
    "in front of": ("in front of",),
    "behind": ("behind",),
}
_FLYING = ("balloon", "airship", "kite")
_KIND = {**MEANINGS["kind"], "balloon": ("balloon", "balloon", "hot air balloon")}
_KIND |= {"sailboat": ("sailboat", "boat", "sailing boat", "yacht"), "duck": ("duck", "duck", "rubber duck")}


@dataclass
class Spoken:
    """One object in words: an attribute that is left open is None."""

    kind: str
    colour: str | None
    size: str | None
    finish: str | None


def names(scenes: Scenes) -> list[tuple[dict[str, str], list[Spoken], list[list[str | None]]]]:
    """Each scene in words: its setting by attribute, its objects, and their relations [later][earlier]."""
    scenes = scenes.to("cpu")
    setting = {name: getattr(scenes, name).tolist() for name in SETTING}
    objects = {name: getattr(scenes, name).tolist() for name in OBJECT}
    counts, relations = scenes.present.sum(1).tolist(), scenes.relation.tolist()
    found = []
    for n, count in enumerate(counts):
        spoken = [Spoken(*(options[objects[name][n][k]] for name, options in OBJECT.items())) for k in range(count)]
        related = [[RELATIONS[r] if r >= 0 else None for r in row] for row in relations[n]]
        found.append(({name: options[setting[name][n]] for name, options in SETTING.items()}, spoken, related))
    return found


def prompts(scenes: Scenes, seed: int, complete: bool = False) -> list[str]:
    """A prompt for each scene.

    Args:
        complete: say every attribute, and of each object after the first how it lies to an earlier one. Otherwise some are left open.
    """
    rng = random.Random(seed)
    return [write(setting, objects, related, rng, complete) for setting, objects, related in names(scenes)]


def captions(scenes: Scenes, seed: int) -> list[str]:
    """A complete prompt for each scene."""
    return prompts(scenes, seed, complete=True)


def write(setting: dict, objects: list[Spoken], related: list, rng: random.Random, complete: bool) -> str:
    """One prompt."""
    leave_open = lambda name: not complete and rng.random() < _OPEN[name]  # noqa: E731
    setting = {name: value for name, value in setting.items() if not leave_open(name)}
    said = [Spoken(o.kind, *(None if leave_open(name) else getattr(o, name) for name in ("colour", "size", "finish"))) for o in objects]
    for spoken in said:
        if spoken.kind in ("tree", "duck"):  # no choice of finish
            spoken.finish = None

    of_setting, setting_phrase, opening = _setting(setting, rng)
    room = _SENTENCES - 1 - len(of_setting)
    later: list[str] = []  # what a further sentence says of an object
    phrases = [object_phrase(spoken, rng, later if room else None) for spoken in said]
    sentence = _objects(said, phrases, related, rng, leave_open, may_stop=room > len(later))
    sentence = f"{opening or rng.choice(('There is', 'You see', '', '', ''))} {sentence}".strip()
    if setting_phrase:
        sentence = f"{sentence}, {setting_phrase}" if rng.random() < 0.5 else f"{setting_phrase}, {_lower_first(sentence)}"
    sentence = ". ".join(_upper_first(part) for part in sentence.split(". "))
    parts = [sentence + ".", *later]
    return " ".join(of_setting + parts if rng.random() < 0.5 else parts + of_setting)


def object_phrase(spoken: Spoken, rng: random.Random, later: list[str] | None = None, article: str | None = None) -> str:
    """An object with its attributes, such as "a large red house made of stone".

    Args:
        later: takes a sentence about the object, now and then, in place of words in the phrase.
    """
    word = lambda name: _pick(MEANINGS[name][getattr(spoken, name)], rng) if getattr(spoken, name) else None  # noqa: E731
    size, colour, finish, noun = word("size"), word("colour"), word("finish"), _pick(_KIND[spoken.kind], rng)
    after = ""
    if spoken.finish == "striped" and (finish == "stripes" or rng.random() < 0.2):
        finish, after = None, " with stripes"
    elif spoken.finish in ("wooden", "stone") and (finish == "wood" or rng.random() < 0.25):
        finish, after = None, " made of wood" if spoken.finish == "wooden" else " made of stone"
    if later is not None and not later and size and colour and rng.random() < 0.10:
        later.append(rng.choice((f"The {noun} is {size} and {colour}.", f"The {noun} is {colour} and {size}.")))
        size = colour = None
    inner = [colour, finish] if rng.random() < 0.5 else [finish, colour]
    adjectives = [w for w in ([size, *inner] if rng.random() < 0.85 else [*inner, size]) if w]
    text = " ".join([*adjectives, noun]) + after
    return f"{article} {text}" if article else _with_article(text)


def _setting(setting: dict, rng: random.Random) -> tuple[list[str], str, str]:
    """What is said of the setting: as sentences of its own, as a phrase, or as an opening such as "A misty lake at dawn with"."""
    time, weather, ground = setting.get("time"), setting.get("weather"), setting.get("ground")
    form = rng.random()
    if form < 0.25:
        sentences = []
        if time and weather and rng.random() < 0.5:
            sentences.append(f"It is {_with_article(_adjective(weather, rng))} {_pick(MEANINGS['time'][time][:2], rng)}.")
        else:
            parts = []
            if time:
                parts.append(f"It is {_pick(MEANINGS['time'][time][:2], rng)}")
            if weather:
                parts.append(rng.choice((f"the sky is {_adjective(weather, rng)}", f"it is {_adjective(weather, rng)}")))
            if parts:
                sentences.append(_upper_first(" and ".join(parts)) + ".")
        if ground:
            if sentences and rng.random() < 0.7:
                sentences[0] = sentences[0][:-1] + ", " + _pick(_ON_GROUND[ground], rng) + "."
            else:
                sentences.append(_pick(_GROUND_IS[ground], rng))
        return sentences, "", ""
    if form < 0.5:
        lake = _with_article(f"{_adjective(weather, rng)} lake" if weather else "lake")
        places = [_pick(_AT_TIME[time], rng)] if time else []
        places += [_pick(_ON_GROUND[ground][:1] + _ON_GROUND[ground][2:], rng)] if ground else []
        rng.shuffle(places)
        return [], "", " ".join([lake, *places]) + " with"
    phrases = []
    if time and weather and rng.random() < 0.4:
        moment = _pick(MEANINGS["time"][time][:2], rng)
        phrases.append(f"on {_with_article(_adjective(weather, rng))} {moment}")
    else:
        phrases += [_pick(_AT_TIME[time], rng)] if time else []
        phrases += [_pick(_IN_WEATHER[weather], rng)] if weather else []
    phrases += [_pick(_ON_GROUND[ground], rng)] if ground else []
    rng.shuffle(phrases)
    return [], rng.choice((" ", ", ")).join(phrases), ""


def _objects(said: list[Spoken], phrases: list[str], related: list, rng: random.Random, leave_open, may_stop: bool) -> str:
    """One sentence about all objects, or two if it may stop between; each is related to the one before it or to another."""
    sentence, mentioned = phrases[0], 0
    stop = rng.randrange(1, len(said) + 3) if may_stop else 0  # before which object a new sentence begins, if before any
    for k in range(1, len(said)):
        joint = ". " if k == stop else ", and " if k == len(said) - 1 and rng.random() < 0.7 else ", "
        verb = rng.choice((" is", " stands")) if k == stop and said[k].kind not in _FLYING else " is" if k == stop else ""
        if leave_open("relation"):
            there = "there is " if k == stop else ""
            sentence, mentioned = sentence + joint + there + phrases[k], k
            continue
        earlier = k - 1 if rng.random() < 0.7 else rng.randrange(k)
        relation = _pick(_RELATION[related[k][earlier]], rng)
        name = "it" if earlier == mentioned and rng.random() < 0.5 else f"the {_pick(_KIND[said[earlier].kind], rng)}"
        if rng.random() < 0.7:
            sentence, mentioned = f"{sentence}{joint}{phrases[k]}{verb} {relation} {name}", earlier
        else:
            sentence, mentioned = f"{sentence}{joint}{relation} {name}{verb} {phrases[k]}", k
    return sentence


def _adjective(weather: str, rng: random.Random) -> str:
    return rng.choice({"clear": ("clear", "cloudless"), "cloudy": ("cloudy", "overcast"), "misty": ("misty", "foggy", "hazy")}[weather])


def _pick(options, rng: random.Random) -> str:
    """The first option half of the time, else any."""
    return options[0] if rng.random() < 0.5 else options[int(rng.random() * len(options))]


def _with_article(text: str) -> str:
    return f"{'an' if text[0] in 'aeio' else 'a'} {text}"


def _upper_first(text: str) -> str:
    return text[:1].upper() + text[1:]


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]

