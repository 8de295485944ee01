"""Graphs for a host's API, and what came of them."""

import urllib.parse

import numpy as np
import pytest
from client import Client, Refused
from PIL import Image
from small_model import PROMPT, SETTINGS


def text_to_image(seed: int = 1, *, head: str | None = "small.safetensors", empty: dict | None = None, **sampler) -> dict:
    """A graph for the API: nodes by id, the sampler is "sampler", its image is saved by "save" and its report shown by "report"."""
    graph = {
        "model": {"class_type": "MIGMLoadLumina", "inputs": {"model": "small", "dtype": "fp32"}},
        "prompt": {"class_type": "MIGMPrompt", "inputs": {"text": PROMPT, "negative": ""}},
        "sampler": {
            "class_type": "MIGMShortcutSampler",
            "inputs": {
                "model": ["model", 0],
                "prompt": ["prompt", 0],
                "seed": seed,
                "steps": SETTINGS["steps"],
                "budget": SETTINGS["budget"],
                "cfg": SETTINGS["guidance_scale"],
                "temperature": SETTINGS["temperature"],
                "method": "shortcut",
                **sampler,
            },
        },
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
