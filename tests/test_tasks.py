"""Editing, control, maps, subjects, styles, views and painting: what users ask for becomes what the model reads, or is refused."""

import math
from dataclasses import replace

import pytest
import torch
from refusal import refused_request as refused
from task_pictures import SHORT, SIZES, WITH_PICTURES, asked, noisy

from migm_core.families.lumina_dimoo.buckets import INPUTS, buckets
from migm_core.families.lumina_dimoo.sequence import image_tokens
from migm_core.families.request import TaskRequest
from migm_core.pipeline import Pipeline
from migm_core.trained import Trained

# From a request to branches.


@pytest.mark.parametrize("task", WITH_PICTURES, ids=lambda task: task.name)
def test_the_branches_drop_the_text_and_the_pictures(painter, task):
    encoder, layout = painter.checkpoint.prompts, painter.checkpoint.base.config.tokens
    codes = [torch.randint(0, 32, (2, 3), generator=torch.Generator().manual_seed(k)) for k in range(len(task.pictures))]
    request = TaskRequest(**asked(task))
    conditional, no_text, no_picture = task.branches(encoder, request, codes, 2.5, 4.0)
    shown = torch.cat([image_tokens(each, layout) for each in codes]).tolist()
    assert len(shown) == len(task.pictures) * (2 * 4 + 2)
    text, unconditional = encoder.prompt(task.text("red house", request.kind), task.system).tolist(), encoder.unconditional("", task.system).tolist()
    assert conditional.prompt.tolist() == [*text[:-1], *shown, text[-1]]
    assert no_text.prompt.tolist() == [*unconditional[:-1], *shown, unconditional[-1]]
    assert no_picture.prompt.tolist() == text
    assert (conditional.weight, no_text.weight, no_picture.weight) == (7.5, -2.5, -4.0)
    assert (conditional.prompt_visible, no_text.prompt_visible, no_picture.prompt_visible) == (True, False, False)


@pytest.mark.parametrize(("scales", "branches"), [((2.5, 4.0), 3), ((2.5, 0.0), 2), ((0.0, 4.0), 2), ((0.0, 0.0), 1)])
def test_a_branch_without_weight_is_not_computed(painter, picture, scales, branches):
    asked_for = {"guidance_scale": scales[0], "image_guidance_scale": scales[1]}
    result = painter.generate("red house", task="edit", images=picture, record=True, steps=2, method="vanilla", **asked_for)
    (steps,) = result.recorded
    assert {len(step.features) for step in steps} == {branches}


def test_defaults_of_image_to_image_are_the_published_ones(painter):
    settings = painter.settings(task="edit")
    assert (settings.guidance_scale, settings.image_guidance_scale) == (2.5, 4.0)
    assert painter.settings(task="paint").guidance_scale == painter.settings().guidance_scale
    assert settings.used()["task"] == "edit"
    unguided = Pipeline(replace(painter.checkpoint, trained=Trained(SIZES, guidance=False)), None)
    assert (unguided.settings(task="edit").guidance_scale, unguided.settings(task="edit").image_guidance_scale) == (0, 0)


@pytest.mark.parametrize("task", WITH_PICTURES, ids=lambda task: task.name)
def test_every_task_generates(painter, task):
    images = [noisy(90, 30, seed=1), noisy(200, 210, seed=2)][: len(task.pictures)]
    result = painter.generate(**asked(task), images=images, **SHORT)
    size = SIZES[0] if len(images) == 2 else SIZES[1]
    assert [image.size for image in result.images] == [size], "the last picture decides, and the result stands alone"
    assert [image.size for image in result.pictures] == [SIZES[1], SIZES[0]][: len(images)]


def test_a_prompt_that_is_not_read_is_said_to_be(painter, picture):
    silent, told = (painter.generate(prompt, task="dense", kind="depth", images=picture, **SHORT) for prompt in ("", "red house"))
    assert torch.equal(silent.tokens, told.tokens)
    assert told.notes[0] == "The task dense has words of its own: the prompt is not read." and told.notes[0] not in silent.notes


def test_the_order_of_two_pictures_matters(painter):
    first, second = noisy(64, 64, seed=1), noisy(64, 64, seed=2)
    one, other = (painter.generate(task="style", images=images, temperature=0, **SHORT).tokens for images in ([first, second], [second, first]))
    assert not torch.equal(one, other)


def test_the_result_may_have_any_size(painter, picture):
    result = painter.generate("red house", task="edit", images=picture, width=48, height=80, **SHORT)
    assert result.images[0].size == (48, 80)
    refused(lambda: painter.generate("red house", task="edit", images=picture, width=50), "width is 50", "multiple of 8")


def test_a_model_that_names_no_sizes_takes_the_published_buckets(pipeline):
    inputs = pipeline.checkpoint.family.task_inputs(
        pipeline.checkpoint, TaskRequest("edit", "red house", pictures=noisy(300, 100)), lambda pixels: torch.zeros(1, *pixels.shape[-2:], dtype=torch.int64)
    )
    assert inputs.size in buckets(INPUTS)


def test_several_prompts_share_their_pictures(painter, picture):
    several = painter.generate(["red house", "blue tree"], task="edit", images=picture, seeds=[3, 3], **SHORT)
    for prompt, tokens in zip(["red house", "blue tree"], several.tokens):
        assert torch.equal(painter.generate(prompt, task="edit", images=picture, seed=3, **SHORT).tokens[0], tokens)


# Bad input: one sentence each.


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"task": "edit"}, ("edit takes 1 picture", "none is given")),
        ({"task": "edit", "images": 2}, ("edit takes 1 picture", "2 are given")),
        ({"task": "style", "images": 1}, ("style takes 2 pictures", "whose style it gets", "1 is given")),
        ({"task": "style", "images": 3}, ("style takes 2 pictures", "3 are given")),
        ({"task": "text-to-image", "images": 1}, ("takes no picture", "1 is given")),
        ({"images": 1}, ("no task", "edit")),
        ({"task": "paint"}, ("paint takes 1 picture",)),
        ({"task": "paint", "images": 1}, ("nothing to paint", "mask")),
        ({"task": "paint", "images": 1, "mask": torch.zeros(64, 64)}, ("mask is empty",)),
        ({"task": "paint", "images": 1, "mask": torch.full((64, 64), math.nan)}, ("mask", "not finite")),
        ({"task": "paint", "images": 1, "mask": torch.ones(64, 64), "width": 32}, ("size from the picture",)),
        ({"task": "paint", "images": 1, "mask": torch.ones(64, 64), "extend": (1, 2)}, ("extend is (1, 2)", "left, top, right, bottom")),
        ({"task": "paint", "images": 1, "mask": torch.ones(64, 64), "feather": -1}, ("feather is -1",)),
        ({"task": "edit", "images": 1, "mask": torch.ones(64, 64)}, ("edit takes no mask",)),
        ({"task": "edit", "images": 1, "prompt": " "}, ("needs a prompt",)),
        ({"task": "edit", "images": 1, "prompt": 7}, ("prompt is 7", "expected text")),
        ({"task": "edit", "images": 1, "prompt": ["red house", None]}, ("prompt is None", "expected text")),
        ({"task": "edit", "images": 1, "prompt": ["red house", ""]}, ("needs a prompt",)),
        ({"task": "dense", "images": 1}, ("needs a kind", "canny")),
        ({"task": "dense", "images": 1, "kind": "lineart"}, ("needs a kind", "'lineart'")),
        ({"task": "multi-view", "images": 1}, ("needs a kind", "left")),
        ({"task": "edit", "images": 1, "kind": "canny"}, ("has no kinds", "'canny'")),
        ({"task": "edits", "images": 1}, ("task is 'edits'", "edit, control")),
        ({"task": "edit", "images": 1, "image_guidance_scale": -1}, ("image_guidance_scale is -1",)),
        ({"task": "edit", "images": 1, "grow": 3}, ("grow is a setting of the task paint",)),
        ({"feather": 3}, ("feather is a setting of the task paint",)),
        ({"image_guidance_scale": 3}, ("image_guidance_scale counts only for tasks whose prompt shows pictures",)),
        ({"task": "paint", "images": 1, "mask": torch.ones(64, 64), "image_guidance_scale": 3}, ("counts only for tasks whose prompt shows pictures",)),
        ({"task": "edit", "images": 1, "remasking": "cut"}, ("remasking is 'cut'", "exact, below-cut-off")),
    ],
    ids=lambda value: None,
)
def test_what_a_task_does_not_take_is_refused(painter, picture, values, expected):
    values = {"prompt": "red house", **values}
    values["images"] = [picture] * values.get("images", 0)
    refused(lambda: painter.generate(**values), *expected)


def test_a_family_without_tasks_says_so():
    from migm_core.families import family_named

    family = family_named("maskgit")
    refused(lambda: family.task("edit"), "MaskGIT", "no tasks", "Leave it out")
    refused(lambda: family.understand(None, ["what"], (), None, {}), "does not answer questions")
    refused(lambda: family.choose(None, "what", ["a", "b"], (), None), "does not answer questions")
