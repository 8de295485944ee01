"""What the tasks' nodes do before and after the model, and what newer hosts show of them."""

from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import nodes_without_host
import pytest
import torch
import workflows
from nodes_without_host import room

from migm_core.families import family_named

TASKS = {name: task for name, task in family_named("lumina-dimoo").tasks.items() if task.pictures and not task.paints}


@pytest.fixture(scope="module")
def nodes():
    return nodes_without_host.schemas()


def tasks_of(schema) -> dict[str, list]:
    """The inputs of each choice of a node's list of tasks."""
    (task,) = [each for each in schema.inputs if each.id == "task"]
    for name, each in TASKS.items():
        assert f"{name}: {each.about}" in task.tooltip
    return {option.key: option.inputs for option in task.options["options"]}


@pytest.mark.parametrize("node", ["MIGMPrompt", "MIGMImageTask"])
def test_a_task_brings_its_own_inputs_only(nodes, node):
    choices = tasks_of(nodes[node])
    assert [name for name in choices if name != "text-to-image"] == list(TASKS)
    for name, each in TASKS.items():
        ids = [field.id for field in choices[name]]
        assert sum(field.io_type == "IMAGE" for field in choices[name]) == len(each.pictures)
        assert ("map" in ids) == bool(each.kinds) and ("view" in ids) == (each.kinds == {})
        assert ("prompt" in ids) == (each.takes_text and node == "MIGMImageTask")
        assert not any(field.optional for field in choices[name])
        assert all(field.options["options"] == list(each.kinds) for field in choices[name] if field.id == "map")


def test_a_prompt_is_of_words_alone_where_no_task_is_chosen(nodes):
    text, negative, task = nodes["MIGMPrompt"].inputs
    assert (text.id, negative.id) == ("text", "negative"), "saved workflows have their values in this order"
    choices = tasks_of(nodes["MIGMPrompt"])
    assert task.optional and next(iter(choices)) == "text-to-image" and not choices["text-to-image"]
    assert text.extra_dict["migm_unused"] == {"task": [name for name, each in TASKS.items() if not each.takes_text]}


@pytest.mark.parametrize("fields, must", [("OF_PROMPT", False), ("OF_IMAGE_TASK", True)])
def test_older_hosts_get_all_inputs_under_the_names_of_newer_ones(nodes, monkeypatch, fields, must):
    tasks = room("tasks")
    monkeypatch.setattr(tasks, "DYNAMIC", False)
    by_task = getattr(tasks, fields)
    choice, *others = tasks.task_inputs(by_task, must=must)
    assert choice.options["options"] == list(by_task) and choice.optional != must
    assert {each.id for each in others} == {f"task.{name}" for names in by_task.values() for name in names}
    assert all(each.optional for each in others)


def test_older_hosts_read_the_values_of_newer_ones_but_of_views(nodes, monkeypatch):
    """Values stand in order. What comes before a task's last value has one place in all."""
    tasks = room("tasks")
    monkeypatch.setattr(tasks, "DYNAMIC", False)
    flat = [each.id for each in tasks.task_inputs(tasks.OF_PROMPT, must=False) if each.io_type in workflows.WIDGETS]
    for name, inputs in tasks_of(nodes["MIGMPrompt"]).items():
        saved = ["task", *(f"task.{each.id}" for each in inputs if each.io_type in workflows.WIDGETS)]
        assert (flat[: len(saved)] == saved) == (name != "multi-view")


def test_settings_of_answers_and_of_painting_are_the_engines(nodes):
    from migm_core.families.lumina_dimoo.painting import Painting
    from migm_core.families.lumina_dimoo.text_settings import TextSettings
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
    refused(lambda: room("host.pictures").picture_batch("style_image", image), "The input style_image got .*needs a picture. Connect Load Image")
    refused(lambda: room("host.pictures").picture_batch("image", batch(65, 1)), "got 65 pictures, but takes 1 to 64")


@pytest.mark.parametrize("value", [None, 5, "x", {"samples": torch.zeros(1, 4, 4)}, torch.zeros(5), torch.zeros(1, 0, 4), torch.full((1, 4, 4), torch.nan)], ids=lambda value: str(value)[:30])
def test_what_is_no_mask_is_refused(value):
    refused(lambda: room("host.pictures").mask_batch(value, 1), "The input mask")


def test_an_image_for_a_canvas_is_laid_on_white():
    opaque, image = room("canvas")._opaque, torch.tensor([0.2, 0.4, 0.6, 0.25]).expand(1, 4, 4, 4)
    seen, notes = opaque(image)
    assert torch.allclose(seen, torch.tensor([0.8, 0.85, 0.9]).expand(1, 4, 4, 3)) and notes == ("The picture has transparent parts: they are read as white.",)
    for solid in (batch(2), torch.cat([batch(2), torch.ones(2, 4, 4, 1)], 3)):
        seen, notes = opaque(solid)
        assert torch.equal(seen, batch(2)) and notes == ()


def test_masks_may_have_a_channel_as_those_of_some_packs_do():
    """The host's own nodes take them too."""
    masks = torch.rand(2, 1, 8, 8)
    assert torch.equal(room("host.pictures").mask_batch(masks, 2), masks[:, 0])
    refused(lambda: room("host.pictures").mask_batch(torch.rand(1, 2, 3, 8, 8), 2), "The input mask got the shape .*needs a mask")
    refused(lambda: room("host.pictures").mask_batch(torch.rand(1, 4, 8, 8), 1), "The input mask got the shape .*needs a mask")


@pytest.mark.parametrize("value", [5, {"a": 1}, ["3"]], ids=str)
def test_classes_that_are_no_text_are_refused(nodes, value):
    refused(lambda: room("maskgit").MaskGITClass.execute("3", value), "several is .* but must be text")
    refused(lambda: room("maskgit").MaskGITClass.execute(value), "class_name is .* but must be text")


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
    settings = replace(pipeline.settings(), **prompt.settings, guidance_scale=2.5, batch=2)
    branches = prompt.branches(model, settings)
    assert [branch.weight for branch in branches] == [7.5, -2.5, -4.0] and all(branch.prompt.shape[0] == 2 for branch in branches)
    refused(lambda: prompt.branches(model, replace(settings, batch=3)), "There are 2 pictures for 3 images")
    other = SimpleNamespace(checkpoint=replace(pipeline.checkpoint, path="elsewhere"), name="other")
    refused(lambda: prompt.branches(other, settings), "read with the model 'small'.*Connect one model to both")


@pytest.mark.parametrize("values", [{"length": 100, "block": 32, "steps": 0}, {"length": 64, "block": 32, "steps": 9}], ids=str)
def test_what_the_blocks_do_not_divide_is_known_before_a_run(values):
    validate = room("understand").AskAboutImage.validate_inputs
    assert "does not divide" in validate(**values) and "Take " in validate(**values)
    assert validate(**{**values, "length": None}) is True and validate() is True  # linked, or left out


def test_the_memory_of_a_question_grows_with_what_it_keeps(nodes):
    from small_model import small_config

    from migm_core.families.lumina_dimoo.text_settings import TextSettings

    text_bytes, config = room("host.text").text_bytes, small_config()
    plain, cached, varied, guided = (
        text_bytes(config, torch.float32, rows, 100, TextSettings(**settings))
        for rows, settings in ((1, {}), (1, {"cache": True}), (1, {"temperature": 1.0}), (2, {}))
    )
    assert cached - plain == config.cache_bytes(100, torch.float32)
    assert varied > plain and guided > plain


def test_options_need_memory_by_their_different_lengths_and_a_long_one_is_named(nodes, pipeline, monkeypatch):
    understand, asked = room("understand"), []
    monkeypatch.setattr(understand, "prepare_text", lambda model, rows, length, settings: asked.append((rows, length)) or nullcontext())
    model, inputs = SimpleNamespace(checkpoint=pipeline.checkpoint, name="small"), SimpleNamespace(codes=(), pictures=(), notes=())
    options = ["red", "blue", "green", "large blue"]
    lengths = {len(pipeline.checkpoint.prompts.text(option)) for option in options}
    assert 1 < len(lengths) < len(options)
    (choice,) = understand.choose(model, "star", options, [inputs])
    assert choice.option in options and [rows for rows, _ in asked] == [len(lengths)]
    refused(lambda: understand.choose(model, "star", ["red", "red " * 3000], [inputs]), "The option ")


@pytest.mark.parametrize(("settings", "seconds", "said"), [
    ({"length": 8, "block": 4, "steps": 2}, 8.45, "2 passes in 8.45 s, 4.22 s each; 4 tokens a pass"),
    ({"length": 8, "block": 4, "steps": 16}, 0.4, "8 passes in 400 ms, 50 ms each; 1 tokens a pass"),  # the others have nothing to unmask
    ({"length": 8, "block": 4, "steps": 16, "stopped": 8}, 0.4, "4 passes in 400 ms, 100 ms each; 1 tokens a pass"),
    ({"length": 8, "block": 8, "steps": 1}, 0.4, "1 pass in 400 ms, 400 ms each; 8 tokens a pass"),
])  # fmt: skip
def test_the_report_of_an_answer_counts_the_passes_that_ran_the_model(nodes, settings, seconds, said):
    understand, asked = room("understand"), {name: value for name, value in settings.items() if name != "stopped"}
    answer = SimpleNamespace(passes=settings.get("stopped", settings["steps"]))
    reply = SimpleNamespace(answer=answer, settings=understand.TextSettings(**asked), seconds=seconds, pictures=(), notes=())
    assert understand._report(SimpleNamespace(name="small"), reply, []).splitlines()[1] == said


def test_an_empty_instruction_is_known_before_a_run():
    validate = room("tasks").EditImage.validate_inputs
    assert validate(" ") == "The instruction is empty: say what to change." and validate("red") is True and validate(None) is True


@pytest.mark.parametrize("task", [5, "moon", ["edit"], torch.ones(2)], ids=str)
def test_a_task_that_is_none_is_refused(task):
    refused(lambda: room("tasks").chosen_task(task, {}, TASKS), "task is .*, expected one of")


def test_the_loader_of_a_task_is_named_where_there_is_no_model(nodes):
    """Older hosts do not ask for one, as words alone need none."""
    refused(lambda: room("prompt").Prompt.execute("red", task="edit"), r"The input model got nothing, but needs a link. Connect MIGM Load Lumina-DiMOO\.")


def test_a_map_in_the_place_of_a_view_is_refused(nodes, monkeypatch):
    """Newer hosts read one there from workflows of older ones, which save the values of all tasks."""
    tasks = room("tasks")
    newer = ["task", *(f"task.{each.id}" for each in tasks_of(nodes["MIGMPrompt"])["multi-view"] if each.io_type in workflows.WIDGETS)]
    monkeypatch.setattr(tasks, "DYNAMIC", False)
    older = [each.id for each in tasks.task_inputs(tasks.OF_PROMPT, must=False) if each.io_type in workflows.WIDGETS]
    assert older[newer.index("task.view")] == "task.map"
    refused(lambda: tasks.read_task(None, TASKS["multi-view"], {"view": "canny"}, "", "", 4.0), "view is 'canny', which is a map")


@pytest.mark.parametrize("task", ["text-to-image", {"task": "text-to-image"}, None], ids=str)
def test_an_image_task_needs_a_task_with_pictures(task):
    """A link may bring any word."""
    refused(lambda: room("tasks").ImageTask.execute(None, 4.0, task), f"task is .*, expected one of {', '.join(TASKS)}")
