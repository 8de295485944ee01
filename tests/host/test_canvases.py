"""Images in, canvases on, in a real ComfyUI."""

import numpy as np
import pytest
import torch
from api import assert_same, report, said, text_to_image
from PIL import Image
from small_model import PROMPT

from migm_core.canvas import touched_tokens

pytestmark = pytest.mark.hosts("newest", "oldest")


def encode_graph(server, name: str, image: np.ndarray, mask: np.ndarray | None, variation: float = 0.0) -> dict:
    """Text to image on a canvas encoded from an image, whose alpha channel is the mask turned round."""
    alpha = np.full(image.shape[:2], 255, np.uint8) if mask is None else np.where(mask, 0, 255).astype(np.uint8)
    Image.fromarray(np.dstack([image, alpha])).save(server.base / "input" / name)
    graph = text_to_image(seed=40)
    graph["image"] = {"class_type": "LoadImage", "inputs": {"image": name}}
    inputs = {"model": ["model", 0], "image": ["image", 0], "variation": variation, "variation_seed": 3}
    graph["canvas"] = {"class_type": "MIGMEncodeImage", "inputs": {**inputs, **({} if mask is None else {"mask": ["image", 1]})}}
    graph["sampler"]["inputs"]["canvas"] = ["canvas", 0]
    return graph


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (45, 43, 3), dtype=np.uint8)  # crops to 40x40


def test_a_masked_area_is_regenerated_and_the_rest_kept(server, client, engine, picture):
    mask = np.zeros((45, 43), bool)
    mask[20, 5] = mask[30:, 30:] = True
    (seen,) = client.images(client.run(encode_graph(server, "inpaint.png", picture, mask)), "save")

    known = engine.encode(torch.from_numpy(picture[2:42, 1:41]).permute(2, 0, 1)[None] / 255)
    canvas = known.masked_with(touched_tokens(torch.from_numpy(mask[None, 2:42, 1:41]), 5, 5))
    expected = engine.generate(PROMPT, seed=40, canvas=canvas)
    assert 0 < canvas.masked.sum() < 25
    assert torch.equal(expected.canvas.codes[~canvas.masked], known.codes[~canvas.masked])
    assert_same(seen, expected.images[0])


def test_a_picture_that_is_too_large_is_refused_before_it_is_encoded(server, client, picture):
    graph = encode_graph(server, "large.png", picture, None)
    graph["image"] = {"class_type": "EmptyImage", "inputs": {"width": 4096, "height": 2048, "batch_size": 1, "color": 0}}
    said(client, graph, ["A picture of 4096x2048 pixels has 131,072 image tokens; the limit is 65,536", "Scale it down first"], node="canvas")


def test_a_variation_masks_a_share_of_the_tokens(server, client, engine, picture):
    (seen,) = client.images(client.run(encode_graph(server, "vary.png", picture, None, variation=0.4)), "save")
    known = engine.encode(torch.from_numpy(picture[2:42, 1:41]).permute(2, 0, 1)[None] / 255)
    canvas = known.varied(0.4, seed=3)
    assert canvas.masked.sum() == 10
    assert_same(seen, engine.generate(PROMPT, seed=40, canvas=canvas).images[0])


def test_a_canvas_with_nothing_masked_comes_back_and_the_report_says_so(server, client, engine, picture):
    outcome = client.run(encode_graph(server, "same.png", picture, None))
    known = engine.encode(torch.from_numpy(picture[2:42, 1:41]).permute(2, 0, 1)[None] / 255)
    (seen,) = client.images(outcome, "save")
    assert_same(seen, Image.fromarray((engine.decode(known)[0].permute(1, 2, 0) * 255).byte().numpy()))
    assert "Nothing was generated" in report(outcome)


def test_masked_tokens_are_shown_unfinished(client):
    graph = text_to_image(empty={"width": 32, "height": 16})
    graph["decode"] = {"class_type": "MIGMDecodeCanvas", "inputs": {"canvas": ["canvas", 0]}}
    graph["save"]["inputs"]["images"] = ["decode", 0]
    del graph["report"]
    (seen,) = client.images(client.run(graph), "save")
    assert seen.shape == (16, 32, 3)
    assert set(np.unique(seen)) == {76, 107}
