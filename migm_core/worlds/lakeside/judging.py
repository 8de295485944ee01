"""Whether a picture shows what was asked: every attribute, every relation, nothing twice, nothing more. Says what is wrong.

The judge looks at pixels alone, through the reader; no generative model takes part, so none can be flattered.
"""

from collections import Counter
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from .editing import Edits
from .geometry import SIDE, centres
from .parsing import parse
from .reader import Reading, SeenObject, read
from .renderer import render
from .scene import COLOURS, FINISHES, KIND_NAMES, RELATIONS, SETTING, SIZES, Request, Scenes
from .words import split_words

APART = 44.0  # units between two centres: less is one column, more is two; the world has at most 19 and at least 69
HIGHER = 12.0  # units between two centres in one column, at least, for one to be above or behind the other
MOVED = 14.0  # units that an object may move under an edit that leaves it alone
CHANGED = 0.10  # of a patch's colour in 0..1, that an image tokenizer does not change by itself
PATCH = 16  # units along each side of the patches compared under an edit

_ATTRIBUTES = {"colour": COLOURS, "size": SIZES, "finish": FINISHES}


@dataclass(frozen=True)
class Verdict:
    """Attributes:
    faults: from what is wrong, such as "time", "house", "colour of the house" or "objects", to a sentence about it.
    reading: what the picture shows.
    """

    faults: dict[str, str] = field(default_factory=dict)
    reading: Reading | None = None

    @property
    def right(self) -> bool:
        return not self.faults


def judge(images: Tensor, request: Request | Scenes) -> list[Verdict]:
    """Hold each picture against what was asked of it.

    Args:
        images: (N, 3, size, size) in 0..1.
        request: what prompts say (``parse``), or scenes, of which then everything must be there.

    Raises:
        ValueError: not as many pictures as requests, or as in ``read``.
    """
    if isinstance(request, Scenes):
        request = request.request()
    if len(images) != len(request):
        raise ValueError(f"There are {len(images)} images and {len(request)} requests.")
    asked = _asked(request)
    return [_judge_one(reading, {name: values[n] for name, values in asked.items()}) for n, reading in enumerate(read(images))]


def _asked(request: Request) -> dict[str, list]:
    return {name: getattr(request, name).tolist() for name in (*SETTING, "kind", *_ATTRIBUTES, "relation")}


def _judge_one(reading: Reading, asked: dict) -> Verdict:
    faults = {}
    for name, options in SETTING.items():
        seen = getattr(reading, name)
        if asked[name] >= 0 and seen != options[asked[name]]:
            faults[name] = f"expected {options[asked[name]]}, found {seen or 'nothing clear'}"
    if reading.patchwork:
        faults["setting"] = "parts of the picture show different settings"

    kinds = [kind for kind in asked["kind"] if kind >= 0]
    found: dict[int, SeenObject] = {}
    for slot, kind in enumerate(kinds):
        name = KIND_NAMES[kind]
        wanted = {attribute: options[asked[attribute][slot]] for attribute, options in _ATTRIBUTES.items() if asked[attribute][slot] >= 0}
        candidates = [seen for seen in reading.objects if seen.kind == name]
        if not candidates:
            faults[name] = f"expected a {name}, found {_list(reading)}"
            continue
        best = max(candidates, key=lambda seen: (seen.whole, sum(getattr(seen, a) == value for a, value in wanted.items())))
        found[slot] = best
        if not best.whole:
            faults[name] = f"the {name} is not whole"
        for attribute, value in wanted.items():
            if getattr(best, attribute) != value:
                faults[f"{attribute} of the {name}"] = f"expected {value}, found {getattr(best, attribute) or 'nothing clear'}"

    extra = Counter(str(seen) for seen in reading.objects)
    extra.subtract(str(seen) for seen in found.values())
    if +extra:
        faults["objects"] = f"found {', '.join(text for text in (+extra).elements())} too much"
    for later in found:
        for earlier in found:
            relation = asked["relation"][later][earlier]
            if relation >= 0 and not _holds(found[later].centre, RELATIONS[relation], found[earlier].centre):
                first, second = KIND_NAMES[kinds[later]], KIND_NAMES[kinds[earlier]]
                faults[f"{first} and {second}"] = f"the {first} is not {RELATIONS[relation]} the {second}"
    return Verdict(faults, reading)


def _holds(first: tuple[float, float], relation: str, second: tuple[float, float]) -> bool:
    across, down = first[0] - second[0], first[1] - second[1]
    if relation == "left of":
        return across <= -APART
    if relation == "right of":
        return across >= APART
    return abs(across) < APART and (down < -HIGHER if relation in ("above", "behind") else down > HIGHER)


def _list(reading: Reading) -> str:
    return ", ".join(map(str, reading.objects)) or "no object"


def judge_edits(images: Tensor, before: Scenes, edits: Edits) -> list[Verdict]:
    """Hold edited pictures against the edited scenes: all attributes, and that what the edit leaves alone has stayed.

    Args:
        images: (N, 3, size, size) in 0..1.
        before: the scenes that the edits began from. What they and the edited scenes render alike must look alike in ``images`` as well.

    Raises:
        ValueError: as in ``judge``.
    """
    verdicts = judge(images, edits.request)
    truth, original = render(edits.scenes, 256), render(before, 256)
    shown = F.interpolate(images.float(), (256, 256), mode="bilinear", antialias=True, align_corners=False)
    difference = F.avg_pool2d((shown - original).abs().mean(1, keepdim=True), PATCH, PATCH // 2)
    edited = F.max_pool2d(F.avg_pool2d((truth - original).abs().mean(1, keepdim=True), PATCH, PATCH // 2), 3, 1, 1)
    stray = difference.where(edited < 0.01, 0).flatten(1).amax(1).tolist()
    expected = centres(edits.scenes).tolist()
    kinds, moved = edits.scenes.kind.tolist(), edits.slot.tolist()
    for n, verdict in enumerate(verdicts):
        if stray[n] > CHANGED:
            verdict.faults["elsewhere"] = "the picture changed where the edit asks for nothing"
        for slot, kind in enumerate(kinds[n]):
            seen = [o for o in verdict.reading.objects if kind >= 0 and o.kind == KIND_NAMES[kind]]
            if len(seen) == 1 and slot != moved[n] and max(abs(a - b) for a, b in zip(seen[0].centre, expected[n][slot])) > MOVED:
                verdict.faults[f"position of the {KIND_NAMES[kind]}"] = "it moved though the edit leaves it alone"
    return verdicts


def judge_positions(images: Tensor, scenes: Scenes) -> list[Verdict]:
    """As ``judge``, and that each object is where the scene has it: for pictures made from an edge or depth map."""
    verdicts = judge(images, scenes)
    expected, kinds = centres(scenes).tolist(), scenes.kind.tolist()
    for n, verdict in enumerate(verdicts):
        for slot, kind in enumerate(kinds[n]):
            seen = [o for o in verdict.reading.objects if kind >= 0 and o.kind == KIND_NAMES[kind]]
            if len(seen) == 1 and max(abs(a - b) for a, b in zip(seen[0].centre, expected[n][slot])) > MOVED:
                verdict.faults[f"position of the {KIND_NAMES[kind]}"] = "it is not where the map has it"
    return verdicts


def judge_maps(maps: Tensor, truth: Tensor) -> list[float]:
    """Likeness of each map (N, 3, size, size) to the true one: the correlation of both, blurred over 4 units, -1..1."""
    return _likeness(maps, truth, torch.ones_like(maps[:, :1]))[:, 0].tolist()


def judge_objects_in_maps(maps: Tensor, truth: Tensor, masks: Tensor) -> list[list[float]]:
    """The same inside each object and close around it: one that is missing changes little of a whole map. 1 where the true map is flat.

    Args:
        masks: of the objects, bool (N, 4, size, size).
    """
    grow = max(1, round(3 * maps.shape[-1] / SIDE))
    return _likeness(maps, truth, F.max_pool2d(masks.float(), 2 * grow + 1, 1, grow)).tolist()


def _likeness(maps: Tensor, truth: Tensor, regions: Tensor) -> Tensor:
    """Correlations (N, K) of maps inside regions (N, K, size, size) of 0 and 1."""
    blurred = lambda images: F.avg_pool2d(images.float(), max(1, round(4 * maps.shape[-1] / SIDE))).flatten(2)  # noqa: E731
    inside = (blurred(regions) > 0.5).float()
    count = inside.sum(2, keepdim=True).clamp(min=1)
    both = [blurred(images.mean(1, keepdim=True)) for images in (maps, truth)]
    first, second = ((each - (each * inside).sum(2, keepdim=True) / count) * inside for each in both)
    flat = second.square().sum(2) < 1e-4 * count[..., 0]
    return torch.cosine_similarity(first, second, dim=2).where(~flat, 1.0)


def judge_captions(captions: list[str], scenes: Scenes) -> list[Verdict]:
    """Hold each caption against its scene: all that it says is so, and it leaves no object out."""
    verdicts = []
    for caption, reading in zip(captions, _as_read(scenes), strict=True):
        try:
            verdicts.append(_judge_one(reading, {name: values[0] for name, values in _asked(parse([caption])).items()}))
        except ValueError as error:  # what it says contradicts itself
            verdicts.append(Verdict({"caption": str(error)}, reading))
    return verdicts


def _as_read(scenes: Scenes) -> list[Reading]:
    """What a reader that makes no mistake sees in pictures of the scenes."""
    said, middles = _asked(scenes.request()), centres(scenes).tolist()
    name = lambda attribute, n, slot: _ATTRIBUTES[attribute][said[attribute][n][slot]]  # noqa: E731
    readings = []
    for n, kinds in enumerate(said["kind"]):
        objects = tuple(
            SeenObject(KIND_NAMES[kind], name("colour", n, slot), name("size", n, slot), name("finish", n, slot), tuple(middles[n][slot]), True)
            for slot, kind in enumerate(kinds) if kind >= 0
        )  # fmt: skip
        readings.append(Reading(*(SETTING[attribute][said[attribute][n]] for attribute in SETTING), patchwork=False, objects=objects))
    return readings


def judge_answers(answers: list[str], asked: list[tuple[str, str]]) -> list[bool]:
    """Whether each answer is that of its (question, answer), case, articles and punctuation aside."""
    plain = lambda text: [w for w in split_words(text) if w not in ("a", "an", "the", ".", ",", "it", "is")]  # noqa: E731
    return [plain(answer) == plain(truth) for answer, (_, truth) in zip(answers, asked, strict=True)]
