"""Pictures and masks that cannot be used are refused at every node that takes them, in one sentence; others are used as they are."""

import sys
from pathlib import Path

import numpy as np
import pytest
from api import PAINTER, assert_same, refusal, report, said, text_to_image
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))

from odd_pictures import KINDS

pytestmark = pytest.mark.hosts("newest")

SHORT = {"steps": 2, "budget": 2, "cfg": 2.5}
SIDES = dict.fromkeys(("left", "top", "right", "bottom"), 0)

# Each node that takes pictures: its inputs, the names of its pictures, and its output of pictures as the model sees them, if there is one.
EDIT = ("MIGMEditImage", {"instruction": "red", "image_cfg": 4.0}, ["image"], 1)
CONTROL = ("MIGMPrompt", {"text": "red", "task": "control", "task.image_cfg": 4.0, "task.model": ["model", 0]}, ["task.image"], 1)
STYLE = ("MIGMPrompt", {"text": "", "task": "style", "task.image_cfg": 4.0, "task.model": ["model", 0]}, ["task.image", "task.style_image"], 1)
ASK = ("MIGMAskAboutImage", {"question": "red", "options": "red\nblue"}, ["image"], 1)
OUTPAINT = ("MIGMOutpaint", {**SIDES, "right": 8}, ["image"], 1)
ENCODE = ("MIGMEncodeImage", {"variation": 0.5, "variation_seed": 0}, ["image"], None)
ALL = [EDIT, CONTROL, STYLE, ASK, OUTPAINT, ENCODE]
NAMES = ["edit", "control", "style", "ask", "outpaint", "encode"]


def of_node(node, kind: str = "plain") -> dict:
    """A graph in which a node gets odd pictures and what it makes of them is used; the node is "node"."""
    type_, inputs, pictures, seen = node
    graph = text_to_image(**SHORT)
    graph["model"]["inputs"]["model"] = PAINTER
    graph["odd"] = {"class_type": "OddPicture", "inputs": {"kind": kind}}
    own = {} if type_ == "MIGMPrompt" else {"model": ["model", 0]}
    graph["node"] = {"class_type": type_, "inputs": {**own, **inputs, **{name: ["odd", 0] for name in pictures}}}
    if type_ in ("MIGMEditImage", "MIGMPrompt"):
        del graph["prompt"]
        graph["sampler"]["inputs"]["prompt"] = ["node", 0]
    elif type_ in ("MIGMOutpaint", "MIGMEncodeImage"):
        graph["sampler"]["inputs"]["canvas"] = ["node", 0]
    else:
        graph = {name: graph[name] for name in ("model", "odd", "node")}
    if seen is not None:
        graph["seen"] = {"class_type": "PreviewImage", "inputs": {"images": ["node", seen]}}
    return graph


@pytest.mark.parametrize(
    "kind, words",
    [
        ("nan", ["not finite (NaN or infinity)", "Check what made them"]),
        ("infinite", ["not finite (NaN or infinity)"]),
        ("too many", ["65 pictures", "1 to 64"]),
        ("none", ["0 pictures", "1 to 64"]),
        ("1x1", ["1x1 pixels"]),
        ("2x1000", ["2x1000 pixels"]),
        ("no pixels", ["64x0 pixels", "it is empty"]),
        ("two channels", ["(1, 64, 64, 2)", "needs a picture"]),
        ("a mask", ["the shape (64, 64)", "needs a picture"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("node", ALL, ids=NAMES)
def test_a_picture_that_cannot_be_used_is_one_sentence(client, painter, node, kind, words):
    said(client, of_node(node, kind), words, node="node")


@pytest.mark.parametrize("node", [EDIT, OUTPAINT, ENCODE], ids=["edit", "outpaint", "encode"])
def test_a_picture_that_is_needed_is_asked_for_before_the_run(client, node):
    graph = of_node(node)
    del graph["node"]["inputs"]["image"]
    ((where, _, text),) = refusal(client, graph)
    assert where == "node" and "image" in text and "missing" in text


@pytest.mark.parametrize("node", [CONTROL, STYLE], ids=["control", "style"])
def test_a_tasks_pictures_are_asked_for(client, painter, node):
    graph = of_node(node)
    pictures = node[2]
    for name in pictures:
        del graph["node"]["inputs"][name]
    if "COMFY_DYNAMICCOMBO_V3" in str(client.get("/object_info/MIGMPrompt")):
        found = refusal(client, graph)
        assert {where for where, _, _ in found} == {"node"} and all(any(name in text for _, _, text in found) for name in pictures)
    else:
        said(client, graph, ["none is given", f"takes {len(pictures)} picture"], node="node")


@pytest.mark.parametrize("node", ALL, ids=NAMES)
def test_a_picture_with_alpha_is_laid_on_white(client, painter, node):
    graph = of_node(node, "alpha")
    outcome = client.run(graph)
    assert outcome.of("execution_success"), outcome.messages[-1]
    if node in (EDIT, CONTROL, STYLE, ENCODE):
        assert "has transparent parts: they are read as white." in report(outcome)
    if node in (EDIT, CONTROL, ASK):
        pixels = KINDS["alpha"]()[0]
        on_white = pixels[..., :3] * pixels[..., 3:] + 1 - pixels[..., 3:]
        assert_close(client.images(outcome, "seen")[0], (on_white * 255).numpy())


def assert_close(seen: np.ndarray, expected: np.ndarray) -> None:
    """Equal but for two roundings to 8 bits."""
    assert seen.shape == expected.shape and np.abs(seen - expected).max() < 2


def test_batches_of_different_sizes_do_not_go_together(client, painter):
    graph = of_node(STYLE, "two")
    graph["others"] = {"class_type": "OddPicture", "inputs": {"kind": "three"}}
    graph["node"]["inputs"]["task.style_image"] = ["others", 0]
    said(client, graph, ["3 pictures at one input and 2 at another"], node="node")


@pytest.mark.hosts("newest", "oldest")
def test_a_picture_of_16_bits_is_read_as_the_host_reads_it(server, client, painter):
    deep = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    Image.fromarray(deep).save(server.base / "input/deep.png")
    graph = of_node(EDIT)
    graph["odd"] = {"class_type": "LoadImage", "inputs": {"image": "deep.png"}}
    graph["given"] = {"class_type": "PreviewImage", "inputs": {"images": ["odd", 0]}}
    outcome = client.run(graph)
    assert_same(client.images(outcome, "seen")[0], Image.fromarray(client.images(outcome, "given")[0]))


@pytest.mark.parametrize("node", [OUTPAINT, ENCODE], ids=["outpaint", "encode"])
def test_a_mask_that_cannot_be_used_is_one_sentence(client, painter, node):
    graph = of_node(node)
    graph["other"] = {"class_type": "OddPicture", "inputs": {"kind": "nan"}}
    graph["node"]["inputs"]["mask"] = ["other", 1]
    said(client, graph, ["mask holds values that are not finite"], node="node")
    graph["other"]["inputs"]["kind"] = "two"
    said(client, graph, ["There are 2 masks for 1 image"], node="node")


def test_a_mask_of_another_size_is_scaled_and_said_by_every_canvas(client, painter):
    graph = of_node(ENCODE)
    graph["full"] = {"class_type": "SolidMask", "inputs": {"value": 1.0, "width": 32, "height": 16}}
    graph["node"]["inputs"] |= {"mask": ["full", 0], "variation": 0.0}
    assert "The mask has 32x16 pixels and the picture 64x64: the mask is scaled." in report(client.run(graph))


def test_an_empty_mask_of_an_encoded_image_masks_nothing_and_that_is_said(client, painter):
    graph = of_node(ENCODE)
    graph["empty"] = {"class_type": "SolidMask", "inputs": {"value": 0.0, "width": 64, "height": 64}}
    graph["node"]["inputs"] |= {"mask": ["empty", 0], "variation": 0.0}
    assert "Nothing was generated: the canvas has no masked tokens" in report(client.run(graph))
