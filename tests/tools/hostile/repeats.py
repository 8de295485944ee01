"""The same run again: on other threads, in a batch, in another process and after a fork, it gives the same tokens and the same picture."""

import os
import random
import threading

import numpy as np
import torch
from small_model import PROMPT

from .room import STEPS, Room
from .trying import Attempt, Crash, python

OTHERS = ("a small red house on the sand", "a large yellow tree", "cat")


def plan(rng: random.Random, room: Room) -> Attempt:
    method = rng.choice(("vanilla", "shortcut", "ml-cache"))
    asked = {"steps": STEPS, "method": method, "seed": rng.randrange(2**64 - 8), "temperature": rng.choice((0.0, 0.5, 1.0)), "guidance_scale": rng.choice((0.0, 2.0)), "budget": 2}
    pipeline = room.load()
    alone = pipeline.generate(PROMPT, **asked)
    how = rng.choice(("threads", "batch", "fork", "after a fork", "thread of its own", "again", "prompts"))

    def run():
        if how == "threads":
            torch.set_num_threads(rng.choice((2, 3, 8)))
            return pipeline.generate(PROMPT, **asked), 0
        if how == "batch":
            place = rng.randrange(min(4, asked["seed"] + 1))
            return pipeline.generate(PROMPT, **{**asked, "seed": asked["seed"] - place, "batch": 4}), place
        if how == "prompts":
            place = rng.randrange(3)
            prompts = [*OTHERS[:place], PROMPT, *OTHERS[place:]]
            return pipeline.generate(prompts, seeds=[asked["seed"]] * len(prompts), **{key: value for key, value in asked.items() if key != "seed"}), place
        if how == "thread of its own":
            made = []
            thread = threading.Thread(target=lambda: made.append(pipeline.generate(PROMPT, **asked)))
            thread.start()
            thread.join()
            return made[0], 0
        if how == "again":
            pipeline.generate(OTHERS[0], **asked)
            return pipeline.generate(PROMPT, **asked), 0
        if how == "after a fork":  # of a process whose threads the child does not have
            torch.set_num_threads(2)
            torch.ones(1000, 1000) @ torch.ones(1000, 1000)
        return _forked(lambda: pipeline.generate(PROMPT, **asked)), None

    def same(made) -> bool:
        result, place = made
        if place is None:
            return bool(torch.equal(result[0], alone.tokens)) and bool((result[1] == np.asarray(alone.images[0])).all())
        return torch.equal(result.tokens[place], alone.tokens[0]) and np.abs(np.asarray(result.images[place], int) - np.asarray(alone.images[0], int)).max() <= 1

    return Attempt(f"{method}, {how}", lambda: python(run), (), "right", same)


def _forked(draw):
    """What a child draws: tokens and the picture."""
    ours, theirs = os.pipe()
    child = os.fork()
    if not child:
        try:
            result = draw()
            os.write(theirs, result.tokens.to(torch.int32).numpy().tobytes() + np.asarray(result.images[0]).tobytes())
        finally:
            os._exit(0)
    os.close(theirs)
    content = b""
    while part := os.read(ours, 1 << 16):
        content += part
    os.waitpid(child, 0)
    if len(content) != 64 + 32 * 32 * 3:
        raise Crash("the child drew nothing")
    return torch.frombuffer(bytearray(content[:64]), dtype=torch.int32).to(torch.int64).view(1, 4, 4), np.frombuffer(content[64:], np.uint8).reshape(32, 32, 3)
