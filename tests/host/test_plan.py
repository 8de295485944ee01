"""What the page learns of a run before it starts."""

import shutil

import pytest
from api import PAINTER, plan, summary, text_to_image
from client import Refused
from PIL import Image
from small_model import OWN, SETTINGS, edit_json

from migm_core.pipeline import Pipeline

pytestmark = pytest.mark.hosts("newest", "oldest")


def test_the_page_learns_a_runs_steps_before_it_starts(client):
    answer = plan(client)
    assert answer["kinds"] == ["full", "shortcut", "shortcut", "full", "shortcut", "full", "shortcut", "shortcut"]
    assert answer["method"] == "shortcut" and answer["notes"] == answer["cautions"] == []
    assert answer["own"] == {"cfg" if name == "guidance_scale" else name: value for name, value in OWN.items()}
    assert answer["presets"]["Balanced"] == {"steps": SETTINGS["steps"], "budget": SETTINGS["budget"]}
    assert [preset["budget"] for preset in answer["presets"].values()] == [4, 3, 2]
    assert plan(client, steps=5, budget=2)["kinds"].count("full") == 2
    assert set(plan(client, method="vanilla")["kinds"]) == {"full"}


@pytest.mark.parametrize("asked, note", [({"head": 0}, "No shortcut head is connected"), ({"steps": 5, "budget": 5}, "not below the number of steps")])
def test_the_page_learns_why_something_else_runs_than_was_asked_for(client, asked, note):
    answer = plan(client, **asked)
    assert answer["method"] == "vanilla" and set(answer["kinds"]) == {"full"} and answer["speed_up"] is None
    assert note in answer["notes"][0]


def test_the_page_learns_what_the_model_cannot_do(client):
    assert not plan(client, model="bundled demo")["cautions"]
    (said,) = plan(client, model="bundled demo", width=128, height=128)["cautions"]
    assert "128x128" in said
    (said,) = plan(client, model="bundled demo", cfg=0, negative=1)["cautions"]
    assert "negative" in said


def test_a_tasks_run_is_planned_by_its_pictures_and_branches(server, client, painter):
    asked = {"model": PAINTER, "task": "edit", "pictures": "200x70", "steps": 8, "budget": 3, "cfg": 2.5, "image_cfg": 4.0}
    answer = plan(client, **asked)
    assert answer["own"]["cfg"] == 2.5 and answer["cautions"] == []
    assert answer["speed_up"]["source"] == "sizes" and answer["speed_up"]["value"] != plan(client, **{**asked, "task": ""})["speed_up"]["value"]
    assert plan(client, **{**asked, "pictures": ""})["kinds"].count("full") == 3, "a square, where it is not known"
    graph = text_to_image(steps=8, budget=3, cfg=2.5)
    graph["model"]["inputs"]["model"] = PAINTER
    Image.new("RGB", (200, 70)).save(server.base / "input/planned.png")
    graph["picture"] = {"class_type": "LoadImage", "inputs": {"image": "planned.png"}}
    graph["prompt"] = {"class_type": "MIGMEditImage", "inputs": {"model": ["model", 0], "image": ["picture", 0], "instruction": "red", "image_cfg": 4.0}}
    outcome = client.run(graph)
    measured, of_run = plan(client, **asked)["speed_up"], summary(outcome)["speed_up"]
    if of_run is None:  # a head's step took as long as a full one, as it may in a model so small
        assert measured["source"] == "sizes"
    else:
        assert measured["source"] == "measured" and measured["value"] == pytest.approx(of_run)
    assert plan(client, **asked)["kinds"] == summary(outcome)["kinds"]
    assert plan(client, **{**asked, "pictures": "64x64"})["speed_up"]["source"] == "sizes", "another size of the picture is another run"


def test_the_page_learns_of_a_task_that_the_model_was_not_trained_for(client):
    assert "This model was not trained for edit" in plan(client, model="bundled demo", task="edit", pictures="64x64", cfg=0, image_cfg=0)["cautions"][0]
    with pytest.raises(Refused, match="task is 'draw', expected one of"):
        plan(client, task="draw")


def test_a_promise_is_bounded_by_the_models_sizes_until_there_are_measurements(client):
    size, settings = {"width": 80, "height": 80}, {"steps": 8, "budget": 3, "cfg": 0}
    asked = {"model": "bundled demo", **size, **settings}  # which no other test runs
    promise = plan(client, **asked)["speed_up"]
    assert promise["source"] == "sizes" and 1 < promise["value"] < 8 / 3
    graph = text_to_image(head="bundled demo", empty=size, **settings)
    graph["model"]["inputs"]["model"] = "bundled demo"
    outcome = client.run(graph)
    measured = plan(client, **asked)["speed_up"]
    assert measured["source"] == "measured"
    assert measured["value"] == pytest.approx(summary(outcome)["speed_up"])


@pytest.mark.parametrize(
    "asked, words",
    [
        ({"steps": 50_000_000}, "steps is 50000000, but must be a whole number from 1 to"),
        ({"steps": "many"}, "steps is 'many', expected a whole number"),
        ({"steps": "1e999"}, "expected a whole number"),
        ({"steps": 0}, "steps is 0"),
        ({"budget": 1}, "budget is 1"),
        ({"method": "magic"}, "method is 'magic', expected one of"),
        ({"cfg": "nan"}, "cfg is nan"),
        ({"cfg": -1}, "cfg is -1"),
        ({"temperature": -1}, "temperature is -1"),
        ({"width": 1_000_000_000}, "size is"),
        ({"height": 3}, "height is 3"),
        ({"model": "../../secret"}, "There is no model"),
        ({"model": ""}, "There is no model"),
    ],
    ids=str,
)
def test_a_plan_of_nonsense_is_refused_in_words(client, asked, words):
    with pytest.raises(Refused) as refused:
        plan(client, **asked)
    assert refused.value.status == 400 and words in refused.value.answer["error"]


@pytest.mark.parametrize("value", [50_000_000, -3, "many", None, True, [64], 1e300, {"a": 1}], ids=str)
def test_a_plan_survives_what_a_model_says_of_itself(server, client, value):
    folder = shutil.copytree(server.small.folder, server.base / "models/migm/odd")
    try:
        edit_json(folder / "generation_config.json", steps=value)
        if value is None:  # as if it were not there
            assert plan(client, model="odd")["own"]["steps"] == 64
        else:
            for asked in ({}, {"steps": 8}):
                with pytest.raises(Refused) as refused:
                    plan(client, model="odd", **asked)
                assert refused.value.status == 400 and "steps" in refused.value.answer["error"] and "odd" in refused.value.answer["error"]
    finally:
        shutil.rmtree(folder)


def test_the_page_is_told_the_engines_numbers_of_a_model(server, client):
    folder = shutil.copytree(server.small.folder, server.base / "models/migm/odd")
    try:
        edit_json(folder / "generation_config.json", steps=32, budget=None)  # a budget in proportion
        own = Pipeline.load(folder, device="cpu").checkpoint.settings
        told = plan(client, model="odd")
        assert told["own"] == {"cfg" if name == "guidance_scale" else name: value for name, value in own.items()}
        edit_json(folder / "generation_config.json", remasking="below-cut-off")
        told = plan(client, model="odd")
        exact = plan(client, model="odd", remasking="exact")
        assert told["own"]["remasking"] == exact["own"]["remasking"] == "below-cut-off"
        edit_json(folder / "generation_config.json", steps=8, budget=500)
        with pytest.raises(Refused, match="budget is 500"):
            plan(client, model="odd")
    finally:
        shutil.rmtree(folder)
