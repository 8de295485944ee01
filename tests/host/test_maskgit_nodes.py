"""MaskGIT in a real ComfyUI, over its API, on the tiny model of the tests' data."""

import numpy as np
import pytest
import torch
from api import MASKGIT_SETTINGS, RULE, assert_same, class_to_image, plan, refusal, report, summary, text_to_image
from client import Refused
from hosts import MASKGIT, MASKGIT_HEAD
from maskgit_workflow import BUNDLED, SEED
from maskgit_workflow import class_to_image as class_to_image_workflow
from PIL import Image
from workflows import inputs_of_info, to_prompt

from migm_core.canvas import touched_tokens
from migm_core.pipeline import Pipeline

pytestmark = pytest.mark.hosts("newest", "oldest")

STEPS, BUDGET, SIDE = MASKGIT_SETTINGS["steps"], MASKGIT_SETTINGS["budget"], 24  # SIDE in pixels


@pytest.fixture(scope="module")
def engine(server) -> Pipeline:
    """The engine alone, on the server's files."""
    return Pipeline.load(server.maskgit.folder, server.maskgit.head, dtype="fp32", device="cpu")


def generated(engine: Pipeline, classes, seed: int = 1, **settings) -> list[Image.Image]:
    return engine.generate(classes, seed=seed, **{"steps": STEPS, "budget": BUDGET, **settings}).images


def test_each_loader_lists_the_models_of_its_family_and_one_lists_all_heads(client):
    info = client.get("/object_info")

    def options(node: str, name: str) -> list[str]:
        return info[node]["input"]["required"][name][1]["options"]

    assert options("MIGMLoadMaskGIT", "model") == [BUNDLED, MASKGIT]
    assert MASKGIT not in options("MIGMLoadLumina", "model")
    heads = options("MIGMLoadShortcutHead", "head")
    assert {MASKGIT_HEAD, "small.safetensors"} <= set(heads) and MASKGIT not in heads
    assert len(options("MIGMMaskGITClass", "class_name")) == 48 + 1000


@pytest.mark.hosts("all")
def test_an_image_equals_the_engines_and_is_watched_and_reported(client, engine):
    outcome = client.run(class_to_image(seed=5))
    (seen,) = client.images(outcome, "save")
    assert seen.shape == (SIDE, SIDE, 3)
    assert_same(seen, generated(engine, 3, seed=5)[0])
    kinds = [data["kind"] for data in outcome.of("migm.step")]
    assert kinds == plan(client, model=MASKGIT, steps=STEPS, budget=BUDGET)["kinds"] == summary(outcome)["kinds"]
    assert kinds.count("full") == BUDGET and kinds.count("shortcut") == STEPS - BUDGET
    assert outcome.previews
    text = report(outcome)
    assert text.startswith(f"{MASKGIT}, {SIDE}x{SIDE}, 1 image, seed 5, cfg 2.8, softmax temperature 1, choice temperature 7\n")
    assert f"shortcut with the head {MASKGIT_HEAD}" in text and "x as fast" in text


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "vanilla"},
        {"method": "ml-cache", "interval": 3, "warmup": 0.2},
        {"cfg": 0.0, "schedule": "cosine", "randomize": "no"},
        {"guidance_ramp": False, "choice_temperature": 2.0, "softmax_temperature": 1.3},
    ],
    ids=str,
)
def test_other_settings_equal_the_engine(client, engine, settings):
    (seen,) = client.images(client.run(class_to_image(seed=6, **settings)), "save")
    asked = {"guidance_scale" if name == "cfg" else name: value for name, value in settings.items()}
    assert_same(seen, generated(engine, 3, seed=6, **asked)[0])


def test_several_classes_give_an_image_each_and_one_fills_a_canvas(client, engine):
    seen = client.images(client.run(class_to_image("4, 7\n1", seed=20)), "save")
    assert len(seen) == 3
    for index, (image, number) in enumerate(zip(seen, (4, 7, 1))):
        assert_same(image, generated(engine, number, seed=20 + index)[0])
    seen = client.images(client.run(class_to_image("4", seed=20, empty={"batch": 2})), "save")
    for index, image in enumerate(seen):
        assert_same(image, generated(engine, 4, seed=20 + index)[0])
    assert len(seen) == 2


def test_images_with_masks_of_their_own_are_completed_each_by_its_class(server, client, engine):
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (2, SIDE, SIDE, 3), dtype=np.uint8)
    masks = np.zeros((2, SIDE, SIDE), bool)
    masks[0, :, :9], masks[1, 5:7] = True, True
    graph = class_to_image("2, 9", seed=30)
    for index in (0, 1):
        name = f"maskgit-{index}.png"
        Image.fromarray(np.dstack([pictures[index], np.where(masks[index], 0, 255).astype(np.uint8)])).save(server.base / "input" / name)
        graph[f"image {index}"] = {"class_type": "LoadImage", "inputs": {"image": name}}
    graph["images"] = {"class_type": "ImageBatch", "inputs": {"image1": ["image 0", 0], "image2": ["image 1", 0]}}
    graph["masks"] = {"class_type": "ImageToMask", "inputs": {"image": ["mask images", 0], "channel": "red"}}
    for index in (0, 1):
        graph[f"mask {index}"] = {"class_type": "MaskToImage", "inputs": {"mask": [f"image {index}", 1]}}
    graph["mask images"] = {"class_type": "ImageBatch", "inputs": {"image1": ["mask 0", 0], "image2": ["mask 1", 0]}}
    inputs = {"model": ["model", 0], "image": ["images", 0], "mask": ["masks", 0], "variation": 0.0, "variation_seed": 0}
    graph["canvas"] = {"class_type": "MIGMEncodeImage", "inputs": inputs}
    graph["sampler"]["inputs"]["canvas"] = ["canvas", 0]
    outcome = client.run(graph)
    seen = client.images(outcome, "save")
    assert len(seen) == 2
    last = [data for data in outcome.of("progress") if data["node"] == "sampler"][-1]
    assert len(outcome.of("migm.step")) < 2 * STEPS == last["value"] == last["max"], "fewer steps than asked for, and a full bar"
    for index, number in enumerate((2, 9)):
        known = engine.encode(torch.from_numpy(pictures[index]).permute(2, 0, 1)[None] / 255)
        canvas = known.masked_with(touched_tokens(torch.from_numpy(masks[index][None]), *known.shape[1:]))
        assert 0 < canvas.masked.sum() < canvas.masked.numel()
        assert_same(seen[index], engine.generate(number, seed=30 + index, canvas=canvas, steps=STEPS, budget=BUDGET).images[0])


def test_the_workflow_gives_the_engines_image(client, engine):
    info = client.get("/object_info")
    prompt = to_prompt(class_to_image_workflow("tiny", MASKGIT, MASKGIT_HEAD, "goldfish", "8"), lambda kind: inputs_of_info(info[kind]))
    (save,) = [id for id, node in prompt.items() if node["class_type"] == "SaveImage"]
    (seen,) = client.images(client.run(prompt), save)
    assert_same(seen, engine.generate(8, seed=SEED, steps=15, budget=7, softmax_temperature=1.5).images[0])  # the workflow has the bundled model's settings


def test_the_page_learns_the_models_own_settings(client):
    own = plan(client, model=MASKGIT)["own"]
    assert {name: own[name] for name in RULE} == RULE
    assert (own["steps"], own["cfg"], own["width"], own["height"]) == (15, 2.8, SIDE, SIDE)


# What goes wrong


def lumina_graph(**inputs) -> dict:
    graph = text_to_image(**inputs)
    graph["model"] = {"class_type": "MIGMLoadMaskGIT", "inputs": {"model": MASKGIT, "dtype": "fp32"}}
    return graph


@pytest.mark.parametrize(
    "graph, words",
    [
        (class_to_image(head="small.safetensors"), ["small.safetensors", "Lumina-DiMOO", "MaskGIT"]),
        (lumina_graph(head=None), ["MaskGIT, which takes classes", "MIGM MaskGIT Sampler"]),
        (class_to_image("10"), ["class 10", "0 to 9"]),
        (class_to_image("goldfish"), ["'goldfish'", "no names", "0 to 9"]),
        (class_to_image("1, 2, 3", empty={"batch": 2}), ["3 classes for 2 images"]),
        (class_to_image(empty={"width": 32, "height": 24}), ["8x6 tokens", "6x6"]),
    ],
    ids=["a head of the other family", "a model of the other family", "class out of range", "unknown name", "too many classes", "another size"],
)
def test_what_only_a_run_can_tell_is_said_in_words(client, graph, words):
    (error,) = client.run(graph).of("execution_error")
    assert error["exception_type"].endswith(("ValueError", "CheckpointError"))
    assert all(word in error["exception_message"] for word in words), error["exception_message"]


def test_one_step_is_too_few(client):
    ((node, where, text),) = refusal(client, class_to_image(steps=1))
    assert (node, where) == ("sampler", "steps") and "smaller than min" in text


def test_a_model_is_loaded_by_its_familys_loader(client):
    graph = class_to_image()
    graph["model"]["inputs"]["model"] = "small"
    ((node, where, text),) = refusal(client, graph)
    assert (node, where) == ("model", "model") and "Lumina-DiMOO" in text and "MIGM Load Lumina-DiMOO" in text


def test_a_class_and_a_prompt_do_not_go_together(client):
    graph = class_to_image()
    graph["classes"] = {"class_type": "MIGMPrompt", "inputs": {"text": "a fish", "negative": ""}}
    with pytest.raises(Refused, match="mismatch"):
        client.queue(graph)
