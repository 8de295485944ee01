"""Tasks with pictures, questions, callbacks, methods of one's own and streaming, from Python."""

import random
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from PIL import Image
from small_model import PROMPT, edit_json

from migm_core.families import family_named
from migm_core.pipeline import Pipeline
from migm_core.sampling.methods import Method, Vanilla

from .arguments import FOREIGN, _shown
from .pictures import READING, VALUES, picture, save_pictures, spoil
from .room import STEPS, Room
from .trying import Attempt, Crash, python

TASKS = family_named("lumina-dimoo").tasks
WITH_PICTURES = [task for task in TASKS.values() if task.pictures]
SIZES = [[32, 32], [48, 16], [16, 48]]  # of the tiny model's pictures
PAINTING = ("mask_rule", "grow", "grow_tokens", "feather", "blend", "extend")
OF_TEXT = ("length", "block", "steps", "temperature", "guidance_scale", "remasking", "stop", "cache", "seed")
SHORT = {"length": 8, "block": 8, "steps": 2}  # of an answer
NAMED = ("picture", "Picture", "mask", "image")


def plan(rng: random.Random, room: Room) -> Attempt:
    with_sizes(room)
    save_pictures(room.folder)
    makers = (_picture, _file, _mask, _request, _settings, _question, _text_settings, _options, _callback, _method, _streamed)
    return rng.choices(makers, (5, 5, 3, 4, 3, 3, 3, 3, 3, 4, 2))[0](rng, room)


def with_sizes(room: Room) -> None:
    """Small sizes for the pictures that the tiny model reads."""
    edit_json(room.model / "generation_config.json", trained={"sizes": SIZES})


def asked(task: Any) -> dict:
    """The least that a task takes."""
    kind = next(iter(task.kinds), "left") if task.kinds is not None else ""
    given = {"task": task.name, "prompt": PROMPT if task.takes_text else "", "kind": kind, "images": [picture(seed=k) for k in range(len(task.pictures))], "steps": STEPS, "budget": 2}
    return {**given, **({"mask": torch.ones(32, 32)} if task.paints else {})}


def _is_drawn(result) -> bool:
    return len(result.images) >= 1 and isinstance(result.images[0], Image.Image)


def _picture(rng: random.Random, room: Room) -> Attempt:
    """A value in the place of a picture, or of the list of them."""
    pipeline, task, value = room.load(), rng.choice(WITH_PICTURES), rng.choice(VALUES)()
    given = asked(task)
    if rng.random() < 0.8:
        given["images"][rng.randrange(len(given["images"]))] = value
    else:
        given["images"] = value
    return Attempt(f"{task.name}, a picture that is {_shown(value)}", lambda: python(lambda: pipeline.generate(**given)), (NAMED,), "either", _is_drawn)


def _file(rng: random.Random, room: Room) -> Attempt:
    """A file in the place of a picture or a mask."""
    path = room.folder / rng.choice(("house.png", "wide.png"))
    task = rng.choice(WITH_PICTURES)
    what = spoil(rng, path)
    pipeline, given = room.load(), asked(task)
    if task.paints and rng.random() < 0.5:
        given["mask"] = path
    else:
        given["images"][-1] = rng.choice((path, str(path)))
    return Attempt(f"{task.name}, a file: {what}", lambda: python(lambda: pipeline.generate(**given)), (path.name,), "either", _is_drawn, seconds=READING)


def _mask(rng: random.Random, room: Room) -> Attempt:
    pipeline, value = room.load(), rng.choice(VALUES)()
    given = {**asked(TASKS["paint"]), "mask": value}
    return Attempt(f"a mask that is {_shown(value)}", lambda: python(lambda: pipeline.generate(**given)), (("mask", "paint"),), "either", _is_drawn)


def _request(rng: random.Random, room: Room) -> Attempt:
    """An argument of a task of a foreign kind, or one that another task takes."""
    pipeline, task = room.load(), rng.choice(list(TASKS.values()))
    name = rng.choice(("task", "prompt", "negative", "kind", "mask", "images", "image_guidance_scale", "guidance_scale", "probe", "canvas", "width", "seeds", "grow"))
    value = rng.choice((*FOREIGN, lambda: "edit", lambda: [picture()] * 3, lambda: torch.ones(32, 32)))()
    given = {**asked(task), name: value}
    about = (name, name.rstrip("s"), "picture", "image", "prompt", "Prompt", "size", "canvas", "setting", "task")
    return Attempt(f"{task.name}({name}={_shown(value)})", lambda: python(lambda: pipeline.generate(**given)), (about,), "either", _is_drawn)


def _settings(rng: random.Random, room: Room) -> Attempt:
    """Settings of painting."""
    pipeline, name = room.load(), rng.choice(PAINTING)
    value = rng.choice((*FOREIGN, lambda: (8, 8, 8, 8), lambda: [8, 0, 0, 0], lambda: (8192,) * 4, lambda: (1, 2, 3), lambda: (float("nan"),) * 4, lambda: "mostly"))()
    given = {**asked(TASKS["paint"]), name: value}
    return Attempt(f"paint({name}={_shown(value)})", lambda: python(lambda: pipeline.generate(**given)), ((name, "size", "picture", "mask"),), "either", _is_drawn)


def _text(room: Room) -> Pipeline:
    return room.load()


def _question(rng: random.Random, room: Room) -> Attempt:
    pipeline = _text(room)
    name = rng.choice(("question", "images", "images", "callback"))
    value = rng.choice(VALUES if name == "images" else (*FOREIGN, lambda: [None], lambda: ["a", 5], lambda: ["a", "b"], lambda: "a" * 10**6, lambda: ["a"] * 3))()
    given = {"question": "What is this?", "images": [picture()], **SHORT, name: value}

    def right(reply) -> bool:
        return all(isinstance(each.text, str) for each in (reply if isinstance(reply, list) else [reply]))

    return Attempt(f"understand({name}={_shown(value)})", lambda: python(lambda: pipeline.understand(**given)), (("question", "Question", "prompt", "Prompt", *NAMED, name),), "either", right)


def _text_settings(rng: random.Random, room: Room) -> Attempt:
    pipeline, name, value = _text(room), rng.choice((*OF_TEXT, "moon")), rng.choice(FOREIGN)()
    given = {"question": "What is this?", **SHORT, name: value}
    about = (name, "length", "steps", "setting")
    return Attempt(f"understand({name}={_shown(value)})", lambda: python(lambda: pipeline.understand(**given)), (about,), "either", lambda reply: name != "moon" and isinstance(reply.text, str))


def _options(rng: random.Random, room: Room) -> Attempt:
    pipeline = _text(room)
    value = rng.choice(
        (
            *FOREIGN,
            *(lambda value=value: value for value in (["a"], ["a", "b"], ["a", "a"], ["", "b"], ["a", None], ["a", 5], ["a"] * 65, ("a", "b"), "ab", {"a": 1, "b": 2}, ["a" * 10**5, "b"])),
            *(lambda value=value: value for value in (["\ud800", "b"], [["a"], ["b"]], [b"a", b"b"], iter(["a", "b"]), {"a", "b"}, ["<|mdm_mask|>", "b"], [" ", "\n"])),
        )
    )()
    question = rng.choice(("Which?", "Which?", "", None, 5, ["a", "b"], "a" * 10**6, "\ud800"))
    pictures = rng.choice(((), (), [picture()], picture(), "house.png", 5))

    def chosen(choice) -> bool:  # or one for each of several questions
        return all(isinstance(each.option, str) for each in (choice if isinstance(choice, list) else [choice]))

    about = ("option", "Option", "question", "Question", "prompt", "Prompt", *NAMED)
    return Attempt(
        f"choose({_shown(question)}, {_shown(value)}, {_shown(pictures)})", lambda: python(lambda: pipeline.choose(question, value, pictures)), (about,), "either", chosen
    )


class Stop(Exception):
    """What a callback raises in a try."""


def _callback(rng: random.Random, room: Room) -> Attempt:
    """A callback that raises, runs the pipeline itself, or changes what it is given: the run ends as it says, and the next one is as before."""
    pipeline = room.load()
    error = rng.choice((Stop, KeyboardInterrupt, StopIteration, GeneratorExit, SystemExit, MemoryError, torch.OutOfMemoryError))
    how = rng.choice(("raises", "raises", "runs", "changes"))
    reads = rng.random() < 0.4
    given = {"seed": 3, "steps": STEPS, "method": rng.choice(("vanilla", "shortcut", "ml-cache"))}

    def act(report) -> None:
        if how == "raises":
            raise error("enough")
        if how == "runs":
            pipeline.generate("cat", steps=2)
        elif not reads:
            report.canvas.codes.fill_(1)
            report.canvas.masked.fill_(True)

    def run():
        before = pipeline.generate(PROMPT, **given)
        try:
            if reads:
                pipeline.understand("What?", callback=act, **SHORT)
                during = before
            else:
                during = pipeline.generate(PROMPT, callback=act, **given)
        except error:
            during = before
        except BaseException as other:
            raise Crash(f"{type(other).__name__} in the place of {error.__name__}: {other}") from other
        after = pipeline.generate(PROMPT, **given)
        return all(torch.equal(before.tokens, each.tokens) for each in (during, after)) and before.images[0].tobytes() == after.images[0].tobytes()

    return Attempt(f"a callback that {how}{f' {error.__name__}' if how == 'raises' else ''}{' an answer' if reads else ''}", lambda: python(run), (), "right")


@dataclass(frozen=True)
class Own(Vanilla):
    """A method of somebody's own, which does something odd."""

    name: ClassVar[str] = "own"
    odd: str = field(default="")

    def kinds(self, steps: int) -> list[str]:
        return {"no kinds": None, "fewer kinds": ["full"], "kinds that are no text": [5] * steps, "more kinds": ["full"] * (steps + 3)}.get(self.odd, ["full"] * steps)

    def start(self, backbone, sequences, mask_ratios):
        if self.odd == "no run":
            return None
        return replace(_OwnRun(super().start(backbone, sequences, mask_ratios), self.odd))


@dataclass(frozen=True)
class _OwnRun:
    run: Any
    odd: str

    def features(self, step):
        right = self.run.features(step)
        return {
            "no features": lambda: None,
            "an empty list": list,
            "too few branches": lambda: right[:-1],
            "a tensor": lambda: torch.cat(right),
            "another width": lambda: [each[..., :-1] for each in right],
            "fewer tokens": lambda: [each[:, :-1] for each in right],
            "more tokens": lambda: [torch.cat([each, each], 1) for each in right],
            "another rank": lambda: [each[0] for each in right],
            "another batch": lambda: [each.expand(2, -1, -1) for each in right],
            "integers": lambda: [each.long() for each in right],
            "float64": lambda: [each.double() for each in right],
            "NaN": lambda: [each * float("nan") for each in right],
            "meta": lambda: [each.to("meta") for each in right],
            "text": lambda: ["x"] * len(right),
        }.get(self.odd, lambda: right)()


ODD = (
    *("", "no kinds", "fewer kinds", "more kinds", "kinds that are no text", "no run", "no features", "an empty list", "too few branches", "a tensor", "another width", "fewer tokens"),
    *("more tokens", "another rank", "another batch", "integers", "float64", "NaN", "meta", "text"),
)


def _method(rng: random.Random, room: Room) -> Attempt:
    pipeline, odd = room.load(), rng.choice(ODD)
    given = {"method": rng.choice((Own(odd), Own(odd), Own(odd), Own(odd), Own, Vanilla, Method, "own")), "steps": STEPS}
    if given["method"] != Own(odd):
        odd = _shown(given["method"])
    run = lambda: pipeline.generate(PROMPT, **given)  # noqa: E731
    return Attempt(f"a method of one's own: {odd or 'as it should be'}", lambda: python(run), (("own", "method"),), "right" if odd == "" else "either" if odd == "float64" else "refused", lambda result: torch.is_tensor(result.tokens))


def _streamed(rng: random.Random, room: Room) -> Attempt:
    """Blocks that move to the device one by one, of whole and damaged files: the same tokens."""
    name, value = rng.choice((("stream", True), ("stream", True), ("mmap", False), ("stream", rng.choice(FOREIGN)()), ("mmap", rng.choice(FOREIGN)())))
    task, given = TASKS["edit"], {"seed": 5, "steps": STEPS}
    with_task = {**asked(task), "seed": 5}

    def run():
        plain, other = room.load(), room.load(**{name: value})
        pairs = [(each.generate(PROMPT, **given), each.generate(**with_task), each.understand("What?", **SHORT)) for each in (plain, other)]
        same = all(torch.equal(a.tokens, b.tokens) for a, b in zip(pairs[0][:2], pairs[1][:2]))
        return same and pairs[0][2].text == pairs[1][2].text

    return Attempt(f"load({name}={_shown(value)}) and three runs", lambda: python(run), (name,), "right" if isinstance(value, bool) or name == "stream" and value is None else "refused")
