"""A few hostile tries of each kind: none crashes, hangs, takes over 2 GB or ends without clear words. All of them: tests/tools/attack.py."""

import os
import signal
import sys
import time

import pytest
import torch

if sys.platform != "linux":
    pytest.skip("counts what a process takes by /proc", allow_module_level=True)

from hostile import KINDS, hosted
from hostile.commands import make_work
from hostile.room import WORK, make_models
from hostile.trying import MEMORY, RIGHT, Attempt, Try, python

SEED = 11
TRIES = {"tasks": 6, "task commands": 6, "nodes": 6, "signals": 1, "streams": 2, "repeats": 5, "training": 6}  # of the other kinds ten


@pytest.fixture(scope="module")
def models(small, tmp_path_factory):
    folder = tmp_path_factory.mktemp("attack") / "models"
    make_models(folder, small.folder, small.head)
    make_work(folder / WORK, small.folder, small.head)
    return folder


def outcome(*of):
    trying = Try(*of)
    while (result := trying.poll()) is None:
        pass
    return result


@pytest.mark.parametrize("kind", [name for name in KINDS if not KINDS[name].hosted])
def test_every_try_holds(models, kind):
    assert_held(outcome(kind, KINDS[kind].plan, number, SEED, models) for number in range(TRIES.get(kind, 10)))


@pytest.mark.parametrize("kind", [name for name in KINDS if KINDS[name].hosted])
def test_every_try_inside_a_host_holds(kind):
    if not (host := hosted.newest()):
        pytest.skip("no ComfyUI found: set COMFYUI_PATH")
    assert_held(hosted.outcomes(host, kind, range(TRIES.get(kind, 10)), SEED))


def assert_held(outcomes):
    outcomes = list(outcomes)
    assert outcomes and all(each.held for each in outcomes), "\n".join(f"{each.number}, {each.name}: {each.verdict}: {each.words}" for each in outcomes if not each.held)


def test_a_try_is_the_same_again(models):
    first, second = (outcome("json", KINDS["json"].plan, 3, SEED, models) for _ in range(2))
    assert (first.name, first.verdict) == (second.name, second.verdict)


def _raises():
    raise RuntimeError("in torch's words")


def _dies():
    os.kill(os.getpid(), signal.SIGKILL)


def _names_nothing():
    raise ValueError("Something is wrong.")


def _says_two_lines():
    raise ValueError("model.safetensors is damaged:\ndownload it again.")


@pytest.mark.parametrize(
    ("action", "verdict"),
    [
        (lambda: True, RIGHT),
        (lambda: False, "wrong or unclear"),
        (_raises, "crashed"),
        (_dies, "crashed"),
        (_names_nothing, "wrong or unclear"),
        (_says_two_lines, "wrong or unclear"),
        (lambda: time.sleep(1000), "hung"),
        (lambda: torch.ones(MEMORY // 4 + 2**20).sum(), "over 2 GB"),
    ],
)
def test_what_does_not_hold_is_counted(models, monkeypatch, action, verdict):
    monkeypatch.setattr("hostile.trying.SECONDS", 5)

    def plan(rng, room):
        return Attempt("a try of a test", lambda: python(action), ("model.safetensors",), "either", bool)

    assert outcome("test", plan, 0, SEED, models).verdict == verdict


def test_what_a_refusal_leaves_behind_is_counted(models):
    def plan(rng, room):
        def write():
            (room.folder / "left").write_text("x")
            raise ValueError("model.safetensors is damaged: download it again.")

        return Attempt("a try of a test", lambda: python(write), ("model.safetensors",), "refused", bool, room.folder)

    found = outcome("test", plan, 0, SEED, models)
    assert found.verdict == "wrong or unclear" and "left" in found.words
