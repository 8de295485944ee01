"""What the tasks' nodes do before and after the model, and what newer hosts show of them."""

from dataclasses import replace
from types import SimpleNamespace

import nodes_without_host
import pytest
import torch
from nodes_without_host import room

from migm_core.families import family_named

TASKS = {name: task for name, task in family_named("lumina-dimoo").tasks.items() if task.pictures and not task.paints}


@pytest.fixture(scope="module")
def nodes():
    return nodes_without_host.schemas()


def test_the_image_task_offers_every_task_with_pictures(nodes):
    task = next(each for each in nodes["MIGMImageTask"].inputs if each.id == "task")
    assert task.options["options"] == list(TASKS) == list(room("tasks").FIELDS)
    for name, each in TASKS.items():
        fields = room("tasks").FIELDS[name]
        assert sum("image" in field for field in fields) == len(each.pictures)
        assert ("prompt" in fields) == each.takes_text
        assert (name in room("tasks").KINDS) == (each.kinds is not None)
        assert f"{name}: {each.about}" in task.tooltip


def test_older_hosts_get_all_inputs_under_the_names_of_newer_ones(nodes):
    fields = [each for each in nodes["MIGMImageTask"].inputs if each.id.startswith("task.")]
    assert {each.id for each in fields} == {f"task.{name}" for names in room("tasks").FIELDS.values() for name in names}
    assert all(each.optional for each in fields)


def test_newer_hosts_show_only_a_tasks_inputs(nodes, monkeypatch):
    tasks = room("tasks")
    dynamic = SimpleNamespace(Input=lambda id, options, tooltip: SimpleNamespace(id=id, options=options), Option=lambda key, inputs: (key, inputs))
    monkeypatch.setattr(tasks.io, "DynamicCombo", dynamic, raising=False)
    monkeypatch.setattr(tasks, "DYNAMIC", True)
    (task,) = tasks._task_inputs()
    assert {key: tuple(each.id for each in inputs) for key, inputs in task.options} == tasks.FIELDS
    assert not any(each.optional for _, inputs in task.options for each in inputs)


def test_maps_are_named(nodes):
    maps = next(each for each in nodes["MIGMImageTask"].inputs if each.id == "task.map")
    assert maps.options["options"] == list(TASKS["dense"].kinds)


def test_settings_of_answers_and_of_painting_are_the_engines(nodes):
    from migm_core.families.lumina_dimoo.painting import Painting
    from migm_core.families.lumina_dimoo.understanding import TextSettings
    from migm_core.sampling.setting import settings_of

    for node, cls in (("MIGMAskAboutImage", TextSettings), ("MIGMOutpaint", Painting)):
        there = {each.id: each for each in nodes[node].inputs}
        for name, field in settings_of(cls).items():
            if name == "extend":  # four widgets
                continue
            each = there["cfg" if name == "guidance_scale" else name]
            assert each.optional and each.options["default"] == field.default
            if "low" in field.metadata:
                assert (each.options["min"], each.options["max"]) == (field.metadata["low"], field.metadata["high"])


def refused(action, words: str) -> None:
    with pytest.raises(Exception, match=words) as caught:
        action()
    assert type(caught.value).__name__ == "ValueError" and str(caught.value).endswith(".")


def batch(count: int, side: int = 4) -> torch.Tensor:
    return torch.arange(count).view(-1, 1, 1, 1).expand(count, side, side, 3) / 10


def test_pictures_of_a_question_are_all_or_one_of_each_input():
    grouped = room("understand").grouped
    given = {"image": batch(2), "image_2": batch(1)}
    assert [len(group) for group in grouped(given, False)] == [3]
    assert [len(group) for group in grouped(given, True)] == [2, 2]
    assert torch.equal(grouped(given, True)[1][0], batch(2)[1]) and torch.equal(grouped(given, True)[1][1], batch(1)[0])
    assert grouped({}, False) == grouped({}, True) == [[]]
    refused(lambda: grouped({"image": batch(2), "image_2": batch(3)}, True), "There are 3 pictures at one input and 2 at another")


@pytest.mark.parametrize("image", [None, "x", torch.zeros(4, 4, 3)], ids=["nothing", "text", "one dimension too few"])
def test_what_is_no_picture_is_refused(image):
    refused(lambda: room("tasks").picture_batch("style_image", image), "The input style_image got .*needs a picture. Connect Load Image")
    refused(lambda: room("tasks").picture_batch("image", batch(65, 1)), "got 65 pictures, but takes 1 to 64")


def test_masks_are_one_for_all_or_one_each_and_an_empty_one_beside_an_extension_says_nothing():
    masks = room("outpaint")._masks
    assert masks(None, 2, extends=False) == [None, None]
    two = torch.tensor([0.0, 1.0]).view(2, 1, 1).expand(2, 8, 8)
    assert [each is None for each in masks(two, 2, extends=True)] == [True, False]
    assert all(torch.equal(each, two[1]) for each in masks(two[1:], 3, extends=False))
    assert torch.equal(masks(two, 2, extends=False)[0], two[0])
    refused(lambda: masks(two, 3, extends=False), "There are 2 masks for 3 images")


def test_a_batch_of_pictures_needs_a_canvas_of_as_many(nodes, pipeline):
    tasks, requests = room("tasks"), room("tasks").TaskRequest
    model = SimpleNamespace(checkpoint=pipeline.checkpoint, name="small")
    inputs = SimpleNamespace(notes=("cropped",), size=(64, 32), codes=(torch.zeros(2, 2, dtype=torch.int64),), pictures=())
    prompt = tasks.TaskPrompt("red", "blue", model, (requests("edit", "red", "blue"),) * 2, (inputs,) * 2, 4.0)
    assert prompt.notes == ("cropped",) and prompt.size(model) == (64, 32) and prompt.images(model) == 2
    assert prompt.texts(0.0) == ["red"] and prompt.texts(1.0) == ["red", "blue"]
    settings = replace(pipeline.settings(), **prompt.settings, guidance_scale=2.5, batch=2)
    branches = prompt.branches(model, settings)
    assert [branch.weight for branch in branches] == [7.5, -2.5, -4.0] and all(branch.prompt.shape[0] == 2 for branch in branches)
    refused(lambda: prompt.branches(model, replace(settings, batch=3)), "There are 2 pictures for 3 images")
    other = SimpleNamespace(checkpoint=replace(pipeline.checkpoint, path="elsewhere"), name="other")
    refused(lambda: prompt.branches(other, settings), "read with the model 'small'.*Connect one model to both")
    dense = replace(prompt, requests=(requests("dense", kind="depth"),) * 2)
    assert dense.texts(1.0) == []


@pytest.mark.parametrize("values", [{"length": 100, "block": 32, "steps": 0}, {"length": 64, "block": 32, "steps": 9}], ids=str)
def test_what_the_blocks_do_not_divide_is_known_before_a_run(values):
    validate = room("understand").AskAboutImage.validate_inputs
    assert "does not divide" in validate(**values) and "Take " in validate(**values)
    assert validate(**{**values, "length": None}) is True and validate() is True  # linked, or left out


def test_the_memory_of_a_question_grows_with_what_it_keeps(nodes):
    from migm_core.families.lumina_dimoo.understanding import TextSettings
    from small_model import small_config

    text_bytes, config = room("host.text").text_bytes, small_config()
    plain, cached, varied, guided = (
        text_bytes(config, torch.float32, rows, 100, TextSettings(**settings))
        for rows, settings in ((1, {}), (1, {"cache": True}), (1, {"temperature": 1.0}), (2, {}))
    )
    assert cached - plain == config.cache_bytes(100, torch.float32)
    assert varied > plain and guided > plain


def test_an_empty_instruction_is_known_before_a_run():
    validate = room("tasks").EditImage.validate_inputs
    assert validate(" ") == "The instruction is empty: say what to change." and validate("red") is True and validate(None) is True
