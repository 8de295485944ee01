"""The tasks of the lakeside world beside text to image: what each shows and asks, the truth, and the judge's word on what came of it."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ...families.lumina_dimoo import tasks as lumina
from .. import lakeside
from ..lakeside import Edits, Scenes, Variety, Verdict
from ..lakeside.sampling import SPLITS
from ..lakeside.scene import KIND_NAMES, NONE

ALIKE = 0.85  # likeness from which a map counts as right, see ``judge_maps``
# Likeness from which an object in it does. Blurred over two pixels, all have 0.7 and more; where one is missing, there is 0.55 at most.
OBJECT_ALIKE = 0.6
TRAIN = SPLITS.index("train")
# For a caption; the first, which the node begins with, is asked most often.
CAPTION_REQUESTS = (
    "Describe this image.", "Describe the picture.", "Describe this picture.", "Describe what you see.", "Caption this image.",
    "What does the picture show?", "What do you see?", "What is this?",
)  # fmt: skip
UNDERSTANDING = "understanding"  # the system prompt of what is answered in words


@dataclass(frozen=True)
class Asked:
    """Requests of one task with the truth.

    Attributes:
        texts: the words of the templates.
        pictures: that are shown, float32 (N, 3, h, w) in 0..1.
        truth: the pictures that are asked for, likewise; None where the answers are words.
        answers: these; empty where a picture is asked for.
        scenes: of the pictures that are shown or, of a task that generates, asked for.
        masks: of the objects in the true pictures, bool (N, 4, h, w); None where all pixels matter alike.
    """

    texts: list[str]
    pictures: Tensor
    scenes: Scenes
    truth: Tensor | None = None
    answers: list[str] = field(default_factory=list)
    masks: Tensor | None = None
    edits: Edits | None = None

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, first: slice) -> "Asked":
        """Some of the requests."""
        some = lambda values: None if values is None else values[first]  # noqa: E731
        return Asked(**{name: some(getattr(self, name)) for name in self.__dataclass_fields__})


@dataclass(frozen=True)
class WorldTask:
    """Attributes:
    system: the key of Lumina's system prompt.
    ask: given scenes, a seed, the pictures' size and which scenes occur: requests, of fewer scenes where not all serve.
    judge: given pictures or answers and what was asked.
    words: room for any of its answers, in tokens; 0 where a picture is asked for.
    """

    system: str
    ask: Callable[[Scenes, int, int, Variety], Asked]
    judge: Callable[[Tensor | list[str], Asked], list[Verdict]]
    words: int = 0


def _text(task: str, prompt: str = "", kind: str = "") -> str:
    return lumina.TASKS[task].text(prompt, kind)


def _edit(scenes: Scenes, seed: int, pixels: int, variety: Variety) -> Asked:
    edits = lakeside.edits(scenes, seed)
    held_out = (scenes.split() == TRAIN) & (edits.scenes.split() != TRAIN)  # pictures of these are for the evaluation
    kept = (variety.holds(edits.scenes) & ~held_out).nonzero()[:, 0]
    edits = edits[kept]
    after = lakeside.render_layers(edits.scenes, pixels)
    return Asked(edits.instructions, lakeside.render(scenes[kept], pixels), scenes[kept], after.image, masks=after.masks, edits=edits)


def _maps(scenes: Scenes, layers: lakeside.Layers, seed: int) -> tuple[list[str], Tensor]:
    """The kind of each scene's map, and the maps (N, 3, h, w): edges and depth in turn."""
    edges = (torch.arange(len(scenes)) + seed) % 2 == 0
    maps = torch.where(edges.to(layers.image.device).reshape(-1, 1, 1, 1), lakeside.edge_maps(layers.image), layers.depth)
    return ["canny" if edge else "depth" for edge in edges.tolist()], maps


def _control(scenes: Scenes, seed: int, pixels: int, variety: Variety) -> Asked:
    layers = lakeside.render_layers(scenes, pixels)
    return Asked(lakeside.captions(scenes, seed), _maps(scenes, layers, seed)[1], scenes, layers.image, masks=layers.masks)


def _dense(scenes: Scenes, seed: int, pixels: int, variety: Variety) -> Asked:
    layers = lakeside.render_layers(scenes, pixels)
    kinds, maps = _maps(scenes, layers, seed)
    return Asked([_text("dense", kind=kind) for kind in kinds], layers.image, scenes, maps)


def _subject(scenes: Scenes, seed: int, pixels: int, variety: Variety) -> Asked:
    slots = torch.rand(scenes.kind.shape, generator=torch.Generator().manual_seed(seed)).to(scenes.device).where(scenes.present, -1).argmax(1)
    layers = lakeside.render_layers(scenes, pixels)
    texts = lakeside.subject_prompts(scenes, slots, seed)
    return Asked(texts, lakeside.render_subjects(scenes, slots, pixels), scenes, layers.image, masks=layers.masks)


def _question(scenes: Scenes, seed: int, pixels: int, variety: Variety) -> Asked:
    asked = lakeside.questions(scenes, seed)
    return Asked([question for question, _ in asked], lakeside.render(scenes, pixels), scenes, answers=[answer for _, answer in asked])


def _caption(scenes: Scenes, seed: int, pixels: int, variety: Variety) -> Asked:
    requests = random.Random(seed).choices(CAPTION_REQUESTS, (len(CAPTION_REQUESTS), *[1] * (len(CAPTION_REQUESTS) - 1)), k=len(scenes))
    return Asked(requests, lakeside.render(scenes, pixels), scenes, answers=lakeside.captions(scenes, seed))


def _judge_maps(pictures: Tensor, asked: Asked) -> list[Verdict]:
    # All depth maps share the empty landscape: what stands out from it is compared.
    empty = lakeside.depth_maps(replace(asked.scenes[:1], kind=torch.full_like(asked.scenes.kind[:1], NONE)), pictures.shape[-1])
    behind = torch.stack([empty[0] * (text != _text("dense", kind="canny")) for text in asked.texts])
    seen, truth, masks = pictures - behind, asked.truth - behind, lakeside.object_masks(asked.scenes, pictures.shape[-1])
    verdicts = []
    for whole, objects, kinds in zip(lakeside.judge_maps(seen, truth), lakeside.judge_objects_in_maps(seen, truth, masks), asked.scenes.kind.tolist()):
        found = {"map": (whole, ALIKE)} | {f"map of the {KIND_NAMES[kind]}": (each, OBJECT_ALIKE) for each, kind in zip(objects, kinds) if kind != NONE}
        verdicts.append(Verdict({name: f"its likeness to the true one is {likeness:.2f}" for name, (likeness, least) in found.items() if likeness < least}))
    return verdicts


def _judge_answers(answers: list[str], asked: Asked) -> list[Verdict]:
    right = lakeside.judge_answers(answers, list(zip(asked.texts, asked.answers)))
    return [Verdict({} if ok else {"answer": f"expected {truth}, found {answer}"}) for ok, answer, truth in zip(right, answers, asked.answers)]


TASKS = {
    "edit": WorldTask("editing", _edit, lambda pictures, asked: lakeside.judge_edits(pictures, asked.scenes, asked.edits)),
    "control": WorldTask("control", _control, lambda pictures, asked: lakeside.judge_positions(pictures, asked.scenes)),
    "dense": WorldTask("dense_prediction", _dense, _judge_maps),
    "subject": WorldTask("subject", _subject, lambda pictures, asked: lakeside.judge(pictures, asked.scenes)),
    "question": WorldTask(UNDERSTANDING, _question, _judge_answers, words=8),
    "caption": WorldTask(UNDERSTANDING, _caption, lambda answers, asked: lakeside.judge_captions(answers, asked.scenes), words=72),
}
