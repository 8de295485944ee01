"""Graphs for a host's API, and what came of them."""

import urllib.parse

import numpy as np
import pytest
from client import Client, Refused
from hosts import MASKGIT, MASKGIT_HEAD
from PIL import Image
from small_model import PROMPT, SETTINGS

PAINTER = "painter"  # a copy of the tiny model, see conftest.py
RULE = {"guidance_ramp": True, "choice_temperature": 7.0, "softmax_temperature": 1.0, "schedule": "arccos", "randomize": "linear"}
MASKGIT_SETTINGS = {"steps": 8, "budget": 3, "cfg": 2.8, **RULE}


def text_to_image(seed: int = 1, *, head: str | None = "small.safetensors", empty: dict | None = None, **sampler) -> dict:
    """The graph of ``sampling`` for a text, which the node "prompt" gives."""
    own = {"steps": SETTINGS["steps"], "budget": SETTINGS["budget"], "cfg": SETTINGS["guidance_scale"], "temperature": SETTINGS["temperature"]}
    condition = {"prompt": {"class_type": "MIGMPrompt", "inputs": {"text": PROMPT, "negative": ""}}}
    return sampling("MIGMLoadLumina", "small", condition, "MIGMShortcutSampler", head, empty, {"seed": seed, **own, **sampler})


def class_to_image(several: str = "3", *, head: str | None = MASKGIT_HEAD, empty: dict | None = None, **sampler) -> dict:
    """The graph of ``sampling`` for classes, which the node "classes" gives."""
    condition = {"classes": {"class_type": "MIGMMaskGITClass", "inputs": {"class_name": "goldfish", "several": several}}}
    return sampling("MIGMLoadMaskGIT", MASKGIT, condition, "MIGMMaskGITSampler", head, empty, {"seed": 1, **MASKGIT_SETTINGS, **sampler})


def sampling(loader: str, model: str, condition: dict, sampler: str, head: str | None, empty: dict | None, settings: dict) -> dict:
    """A graph for the API: nodes by id, the sampler is "sampler", its image is saved by "save" and its report shown by "report".

    Args:
        loader, sampler: types of nodes.
        condition: the node that says what to generate, under the name of the sampler's input.
        empty: of MIGM Empty Canvas, where there is one, what differs from the usual.
        settings: of the sampler.
    """
    graph = {
        "model": {"class_type": loader, "inputs": {"model": model, "dtype": "fp32"}},
        **condition,
        "sampler": {"class_type": sampler, "inputs": {"model": ["model", 0], **{name: [name, 0] for name in condition}, "method": "shortcut", **settings}},
        "save": {"class_type": "PreviewImage", "inputs": {"images": ["sampler", 0]}},
        "report": {"class_type": "PreviewAny", "inputs": {"source": ["sampler", 2]}},
    }
    if head:
        graph["head"] = {"class_type": "MIGMLoadShortcutHead", "inputs": {"head": head}}
        graph["sampler"]["inputs"]["head"] = ["head", 0]
    if empty:
        graph["canvas"] = {"class_type": "MIGMEmptyCanvas", "inputs": {"model": ["model", 0], "width": 0, "height": 0, "batch": 1, **empty}}
        graph["sampler"]["inputs"]["canvas"] = ["canvas", 0]
    return graph


def long_run(**sampler) -> dict:
    """Some minutes of work."""
    return text_to_image(empty={"width": 384, "height": 384}, method="vanilla", steps=1000, **sampler)


def summary(outcome) -> dict:
    """What the page was told of the sampler's run."""
    return next(data["output"]["migm_run"][0] for data in outcome.of("executed") if data["node"] == "sampler" and data["output"])


def report(outcome) -> str:
    return outcome.outputs["report"]["text"][0]


def assert_same(seen: np.ndarray, expected: Image.Image) -> None:
    """Equal up to rounding: the host cuts colours off where the engine rounds them."""
    expected = np.asarray(expected)
    assert seen.shape == expected.shape
    assert np.abs(seen.astype(int) - expected.astype(int)).max() <= 1


def plan(client: Client, **asked) -> dict:
    """The answer about a plan, of the tiny model with its head where nothing else is asked."""
    return client.get(f"/migm/plan?{urllib.parse.urlencode({'model': 'small', 'head': 1, **asked})}")


def refusal(client: Client, graph: dict) -> list[tuple[str, str, str]]:
    """Why a graph is not taken: for each error its node, its input and its text."""
    with pytest.raises(Refused) as refused:
        client.queue(graph)
    found = refused.value.answer["node_errors"]
    return [(node, error["extra_info"].get("input_name"), str(error)) for node, each in found.items() for error in each["errors"]]


def said(client: Client, graph: dict, words: list[str], node: str | None = None) -> None:
    """Check that a run ends with one sentence that has these words, at a node where that is named."""
    (error,) = client.run(graph).of("execution_error")
    message = error["exception_message"].strip()
    assert error["exception_type"].endswith(("ValueError", "CheckpointError")), message
    assert all(word in message for word in words) and "\n" not in message and message.endswith((".", "?")), message
    assert node in (None, error["node_id"]), message
