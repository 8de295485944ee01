"""Tasks with pictures in a real ComfyUI, over its API, on the tiny model: edit, maps, styles, views, painting, questions."""

import numpy as np
import pytest
import torch
from api import PAINTER, assert_same, plan, refusal, report, said, summary, text_to_image
from hosts import Server
from PIL import Image

from migm_core.pipeline import Pipeline

pytestmark = pytest.mark.hosts("newest", "oldest")

SHORT = {"steps": 4, "budget": 2}


def noisy(width: int, height: int, seed: int = 0, channels: int = 3) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, channels), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height))


def load(server: Server, graph: dict, name: str, picture: Image.Image) -> list:
    """Have a graph load a picture; its IMAGE."""
    picture.save(server.base / "input" / f"{name}.png")
    graph[name] = {"class_type": "LoadImage", "inputs": {"image": f"{name}.png"}}
    return [name, 0]


def of_task(kind: str, inputs: dict, **sampler) -> dict:
    """The graph of ``text_to_image`` with a task in the place of the prompt; its pictures as seen are shown by "seen"."""
    graph = text_to_image(**{**SHORT, "cfg": 2.5, **sampler})
    graph["model"]["inputs"]["model"] = PAINTER
    if kind == "MIGMPrompt":
        text = inputs.get("task.prompt", "not read")
        inputs = {"text": text, "task.model": ["model", 0], "task.image_cfg": 4.0, **{name: value for name, value in inputs.items() if name != "task.prompt"}}
    else:
        inputs = {"model": ["model", 0], "image_cfg": 4.0, **inputs}
    graph["prompt"] = {"class_type": kind, "inputs": inputs}
    graph["seen"] = {"class_type": "PreviewImage", "inputs": {"images": ["prompt", 1]}}
    return graph


def generated(painter: Pipeline, prompt: str = "", **settings) -> list[Image.Image]:
    return painter.generate(prompt, **{"seed": 1, "guidance_scale": 2.5, **SHORT, **settings}).images


@pytest.mark.hosts("all")
def test_an_edit_equals_the_engines_and_tells_how_far_the_head_is_off(server, client, painter):
    graph = of_task("MIGMEditImage", {"instruction": "large red house"})
    picture = noisy(200, 70)
    graph["prompt"]["inputs"]["image"] = load(server, graph, "edit", picture)
    outcome = client.run(graph)
    result = painter.generate("large red house", task="edit", images=picture, seed=1, **SHORT)
    assert_same(client.images(outcome, "save")[0], result.images[0])
    assert_same(client.images(outcome, "seen")[0], result.pictures[0])
    text = report(outcome)
    assert "cfg 2.5, image_cfg 4" in text and f"{result.head_report}." in text
    assert (summary(outcome)["width"], summary(outcome)["height"]) == (96, 32)
    again = client.run(graph)
    assert "sampler" not in again.executed_nodes, "nothing changed"
    graph["prompt"]["inputs"]["image_cfg"] = 0.0
    other = client.run(graph)
    assert_same(client.images(other, "save")[0], generated(painter, "large red house", task="edit", images=picture, image_guidance_scale=0.0)[0])


@pytest.mark.parametrize(
    "inputs, asked",
    [
        ({"task": "dense", "task.map": "depth"}, {"kind": "depth"}),
        ({"task": "multi-view", "task.view": "back"}, {"kind": "back"}),
        ({"task": "control", "task.prompt": "blue star"}, {"prompt": "blue star"}),
    ],
    ids=str,
)
@pytest.mark.parametrize("node", ["MIGMPrompt", "MIGMImageTask"])
def test_a_task_equals_the_engines(server, client, painter, node, inputs, asked):
    graph = of_task(node, inputs)
    picture = noisy(64, 64, 3)
    graph["prompt"]["inputs"]["task.image"] = load(server, graph, "task", picture)
    (seen,) = client.images(client.run(graph), "save")
    assert_same(seen, generated(painter, task=inputs["task"], images=picture, **asked)[0])


def test_a_style_takes_two_pictures_and_a_batch_of_them_one_style(server, client, painter):
    graph = of_task("MIGMImageTask", {"task": "style"})
    pictures = [noisy(64, 64, 4), noisy(64, 64, 5)]
    style = noisy(96, 33, 6)
    both = [load(server, graph, f"content {index}", picture) for index, picture in enumerate(pictures)]
    graph["both"] = {"class_type": "ImageBatch", "inputs": {"image1": both[0], "image2": both[1]}}
    graph["prompt"]["inputs"] |= {"task.image": ["both", 0], "task.style_image": load(server, graph, "style", style)}
    outcome = client.run(graph)
    images = client.images(outcome, "save")
    assert len(images) == 2
    for index, image in enumerate(images):
        assert_same(image, generated(painter, task="style", images=[pictures[index], style], seed=1 + index)[0])
    assert [image.shape[:2] for image in client.images(outcome, "seen")] == [(64, 64), (64, 64), (32, 96), (32, 96)]


@pytest.mark.hosts("all")
def test_a_prompt_without_a_task_is_of_words_alone(client, painter):
    graph = text_to_image(**SHORT)
    graph["model"]["inputs"]["model"] = PAINTER
    for named in ({}, {"task": "text-to-image"}):
        graph["prompt"]["inputs"] |= named
        assert_same(client.images(client.run(graph), "save")[0], generated(painter, graph["prompt"]["inputs"]["text"], guidance_scale=2.0)[0])
    graph["seen"] = {"class_type": "PreviewImage", "inputs": {"images": ["prompt", 1]}}
    outcome = client.run(graph)
    assert outcome.of("execution_success") and not outcome.outputs.get("seen"), "there is no picture to show"


def painting(server: Server, picture: Image.Image, **inputs) -> dict:
    graph = text_to_image(**{**SHORT, "cfg": 2.5})
    graph["model"]["inputs"]["model"] = PAINTER
    graph["canvas"] = {
        "class_type": "MIGMOutpaint",
        "inputs": {"model": ["model", 0], "image": load(server, graph, "paint", picture), **dict.fromkeys(("left", "top", "right", "bottom"), 0), **inputs},
    }
    graph["sampler"]["inputs"]["canvas"] = ["canvas", 0]
    graph["seen"] = {"class_type": "PreviewImage", "inputs": {"images": ["canvas", 1]}}
    graph["area"] = {"class_type": "MaskToImage", "inputs": {"mask": ["canvas", 2]}}
    graph["area image"] = {"class_type": "PreviewImage", "inputs": {"images": ["area", 0]}}
    graph["again"] = {"class_type": "MIGMDecodeCanvas", "inputs": {"canvas": ["sampler", 1]}}
    graph["decoded"] = {"class_type": "PreviewImage", "inputs": {"images": ["again", 0]}}
    return graph


def test_an_extended_picture_is_larger_and_keeps_its_pixels(server, client, painter):
    picture = noisy(40, 32, 7)
    graph = painting(server, picture, right=21, top=8, mask=["paint", 1])
    outcome = client.run(graph)
    (image,) = client.images(outcome, "save")
    assert image.shape == (40, 64, 3)
    assert np.array_equal(image[8:, :40], np.asarray(picture))
    result = painter.generate(graph["prompt"]["inputs"]["text"], task="paint", images=picture, extend=(0, 8, 21, 0), seed=1, guidance_scale=2.5, **SHORT)
    assert_same(image, result.images[0])
    assert_same(client.images(outcome, "decoded")[0], result.images[0])
    assert_same(client.images(outcome, "seen")[0], result.pictures[0])
    (area,) = client.images(outcome, "area image")
    assert area[:8].all() and area[:, 40:].all() and not area[8:, :40].any()
    assert f"{result.head_report}." in report(outcome)


def test_the_probed_steps_of_a_painting_count_for_no_plan(server, client, painter):
    graph = painting(server, noisy(48, 80, 9), mask=["paint", 1], right=8)
    assert "probed" in report(client.run(graph))
    assert plan(client, model=PAINTER, width=56, height=80, cfg=2.5)["speed_up"]["source"] == "sizes"


def test_a_mask_of_another_size_is_scaled_and_said(server, client, painter):
    picture = noisy(64, 64, 8)
    mask = np.zeros((32, 32), np.uint8)
    mask[4:9, 20:28] = 255
    Image.fromarray(mask).save(server.base / "input/painted.png")
    graph = painting(server, picture, mask=["mask", 0], grow=3, feather=4)
    graph["mask"] = {"class_type": "LoadImageMask", "inputs": {"image": "painted.png", "channel": "red"}}
    outcome = client.run(graph)
    result = painter.generate(
        graph["prompt"]["inputs"]["text"], task="paint", images=picture, mask=Image.fromarray(mask), grow=3, feather=4, seed=1, guidance_scale=2.5, **SHORT
    )
    assert_same(client.images(outcome, "save")[0], result.images[0])
    assert "The mask has 32x32 pixels and the picture 64x64: the mask is scaled." in report(outcome)


def asking(inputs: dict | None = None) -> dict:
    settings = {"length": 16, "block": 8, "steps": 0, "temperature": 0.0, "cfg": 0.0, "remasking": "low-confidence", "stop": "never", "cache": False, "seed": 3}
    return {
        "model": {"class_type": "MIGMLoadLumina", "inputs": {"model": PAINTER, "dtype": "fp32"}},
        "ask": {"class_type": "MIGMAskAboutImage", "inputs": {"model": ["model", 0], "question": "large red house", **settings, **(inputs or {})}},
        "answer": {"class_type": "PreviewAny", "inputs": {"source": ["ask", 0]}},
        "seen": {"class_type": "PreviewImage", "inputs": {"images": ["ask", 1]}},
        "report": {"class_type": "PreviewAny", "inputs": {"source": ["ask", 2]}},
    }


def answers(outcome) -> list[str]:
    return outcome.outputs["answer"]["text"]


@pytest.mark.parametrize("settings", [{}, {"cfg": 1.5, "temperature": 0.7, "cache": True, "steps": 8}], ids=str)
def test_an_answer_equals_the_engines_and_is_told_while_it_is_written(server, client, painter, settings):
    graph = asking(settings)
    picture = noisy(64, 66, 9)
    graph["ask"]["inputs"]["image"] = load(server, graph, "asked", picture)
    outcome = client.run(graph)
    asked = {"guidance_scale" if name == "cfg" else name: value for name, value in settings.items()}
    reply = painter.understand("large red house", picture, length=16, block=8, stop="never", seed=3, **asked)
    assert answers(outcome) == [reply.text] and reply.text
    assert_same(client.images(outcome, "seen")[0], reply.pictures[0])
    assert all(note in report(outcome) for note in reply.notes) and f"{reply.answer.passes} passes" in report(outcome)
    assert [data["value"] for data in outcome.of("progress") if data["node"] == "ask"][-1] == reply.settings.passes
    assert outcome.texts and outcome.texts[-1] == ("ask", reply.text)
    assert outcome.outputs["ask"] == {"text": [reply.text], "migm_notes": list(reply.notes)}
    again = client.run(graph)
    assert "ask" not in again.executed_nodes and not again.texts, "it is not written again"
    assert [data["output"]["text"] for data in again.of("executed") if data["node"] == "ask"] == [[reply.text]], "the page is told it again"
    seen = client.run(text_to_image(**SHORT))
    assert client.images(seen, "save"), "the model still generates"


def test_a_batch_is_asked_about_together_or_one_by_one(server, client, painter):
    graph = asking()
    pictures = [noisy(64, 64, 10), noisy(64, 64, 11)]
    both = [load(server, graph, f"asked {index}", picture) for index, picture in enumerate(pictures)]
    graph["both"] = {"class_type": "ImageBatch", "inputs": {"image1": both[0], "image2": both[1]}}
    graph["ask"]["inputs"] |= {"image": ["both", 0], "one_by_one": False}
    shared = {"length": 16, "block": 8, "stop": "never"}
    assert answers(client.run(graph)) == [painter.understand("large red house", pictures, **shared).text]
    graph["ask"]["inputs"]["one_by_one"] = True
    outcome = client.run(graph)
    assert answers(outcome) == [painter.understand("large red house", each, **shared).text for each in pictures]
    graph["ask"]["inputs"] |= {"one_by_one": False, "options": "red\nlarge blue\n"}
    outcome = client.run(graph)
    chosen = painter.choose("large red house", ["red", "large blue"], pictures)
    assert answers(outcome) == [chosen.option] and f"{chosen.probabilities[0]:.1%} red" in report(outcome)


def test_a_long_answer_is_stopped(client, painter):
    graph = asking({"length": 4096, "block": 4096})
    stopped = []

    def stop(kind, data):
        if kind == "progress" and data["node"] == "ask" and not stopped:
            stopped.append(client.post("/interrupt"))

    outcome = client.run(graph, on_message=stop)
    assert stopped and outcome.of("execution_interrupted")
    assert not any(node == "ask" for node in outcome.outputs)


# What goes wrong


@pytest.mark.parametrize(
    "kind, inputs, size, words",
    [
        ("MIGMImageTask", {"task": "subject", "task.prompt": ""}, (64, 64), ["The task subject needs a prompt"]),
        ("MIGMImageTask", {"task": "multi-view", "task.view": " "}, (64, 64), ["which view to generate"]),
        ("MIGMImageTask", {"task": "control", "task.prompt": "red " * 3000}, (64, 64), ["3000 words", "Shorten it"]),
        ("MIGMEditImage", {"instruction": "red"}, (2, 1000), ["2x1000 pixels", "at least 16"]),
        ("MIGMEditImage", {"instruction": "red"}, (1, 1), ["1x1 pixels", "at least 16"]),
    ],
    ids=["no prompt", "no view", "a long prompt", "2x1000", "1x1"],
)
def test_what_a_task_does_not_take_is_said_in_a_sentence(server, client, painter, kind, inputs, size, words):
    graph = of_task(kind, inputs)
    graph["prompt"]["inputs"]["task.image" if kind == "MIGMImageTask" else "image"] = load(server, graph, "odd", noisy(*size))
    said(client, graph, words)


def test_a_second_picture_is_needed_where_a_task_takes_two(server, client, painter):
    graph = of_task("MIGMImageTask", {"task": "style"})
    graph["prompt"]["inputs"]["task.image"] = load(server, graph, "alone", noisy(64, 64))
    if "COMFY_DYNAMICCOMBO_V3" in str(client.get("/object_info/MIGMImageTask")):
        assert any(node == "prompt" and "style_image" in text for node, _, text in refusal(client, graph))
    else:
        said(client, graph, ["takes 2 pictures: the picture to change and the picture whose style it gets; 1 is given"])


def test_nothing_to_paint_is_said(server, client, painter):
    said(client, painting(server, noisy(64, 64)), ["There is nothing to paint"])
    said(client, painting(server, noisy(64, 64), mask=["paint", 1]), ["The mask is empty"])
    said(client, painting(server, noisy(64, 64), left=8000, top=8000), ["image tokens; the limit is"])
    outcome = client.run(painting(server, noisy(64, 64), mask=["full", 0]) | {"full": {"class_type": "SolidMask", "inputs": {"value": 1.0, "width": 64, "height": 64}}})
    assert "The mask takes all of the picture" in report(outcome)


def test_transparent_parts_are_generated(server, client, painter):
    """Of Load Image by its mask; of an IMAGE with alpha by itself."""
    picture = noisy(64, 64, 12, channels=4)
    graph = painting(server, picture, mask=["paint", 1])
    settings = {"task": "paint", "seed": 1, "guidance_scale": 2.5, **SHORT}
    transparent = 1 - torch.from_numpy(np.array(picture)[..., 3]) / 255
    result = painter.generate(graph["prompt"]["inputs"]["text"], images=picture.convert("RGB"), mask=transparent, **settings)
    assert_same(client.images(client.run(graph), "save")[0], result.images[0])
    graph["joined"] = {"class_type": "JoinImageWithAlpha", "inputs": {"image": ["paint", 0], "alpha": ["paint", 1]}}
    graph["canvas"]["inputs"]["image"] = ["joined", 0]
    del graph["canvas"]["inputs"]["mask"]
    result = painter.generate(graph["prompt"]["inputs"]["text"], images=picture, **settings)
    assert_same(client.images(client.run(graph), "save")[0], result.images[0])


@pytest.mark.parametrize(
    "inputs, words",
    [
        ({"length": 100, "block": 32}, ["length is 100", "Take 96 or 128"]),
        ({"length": 64, "block": 32, "steps": 9}, ["steps is 9", "Take 8 or 10"]),
    ],
    ids=str,
)
def test_an_answer_that_the_blocks_do_not_divide_is_refused_with_what_they_do(client, painter, inputs, words):
    errors = refusal(client, asking(inputs))
    assert {where for _, where, _ in errors} == {"length", "block", "steps"}
    assert all(word in text for _, _, text in errors for word in words)


def test_a_long_question_and_an_empty_one_are_refused(client, painter):
    said(client, asking({"question": "red " * 3000}), ["The question has 3000 tokens (3000 words)", "Shorten it"])
    said(client, asking({"question": " "}), ["The question is empty"])


def test_pictures_read_with_another_model_are_refused(server, client, painter):
    graph = of_task("MIGMEditImage", {"instruction": "red"})
    graph["prompt"]["inputs"]["image"] = load(server, graph, "edit", noisy(64, 64))
    graph["other"] = {"class_type": "MIGMLoadLumina", "inputs": {"model": "small", "dtype": "fp32"}}
    graph["sampler"]["inputs"]["model"] = ["other", 0]
    said(client, graph, ["read with the model 'painter'", "Connect one model to both"])
