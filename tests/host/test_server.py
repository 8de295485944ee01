"""The extension in a real ComfyUI: what people do, over its API."""

import re
import shutil
import time
import urllib.parse
from pathlib import Path

import numpy as np
import pytest
import torch
from client import Client, Refused
from PIL import Image
from small_model import PROMPT, SETTINGS, edit_json

from migm_core.canvas import touched_cells
from migm_core.pipeline import Pipeline

NODES = {
    "MIGMLoadLumina",
    "MIGMLoadShortcutHead",
    "MIGMPrompt",
    "MIGMEmptyCanvas",
    "MIGMEncodeImage",
    "MIGMShortcutSampler",
    "MIGMDecodeCanvas",
    "MIGMCompareMethods",
}


@pytest.fixture(scope="module")
def engine(server) -> Pipeline:
    """The engine alone, on the server's files."""
    return Pipeline.load(server.small.folder, server.small.head, dtype="fp32", device="cpu")


@pytest.fixture(scope="module")
def client(server) -> Client:
    return server.client


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
                "cfg": SETTINGS["guidance"],
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


# What is there


def test_every_node_is_there_and_explains_itself(client):
    info = client.get("/object_info")
    assert NODES <= set(info)
    for name in NODES:
        node = info[name]
        assert node["category"] == "MIGM" and node["description"] and node["display_name"]
        assert all(node["output_tooltips"])
        for inputs in node["input"].values():
            for key, (_, options) in inputs.items():
                assert options.get("tooltip"), (name, key)


def test_models_and_heads_lie_in_the_hosts_folder(client):
    info = client.get("/object_info")
    assert "small" in info["MIGMLoadLumina"]["input"]["required"]["model"][1]["options"]
    heads = info["MIGMLoadShortcutHead"]["input"]["required"]["head"][1]["options"]
    assert {"small.safetensors", "foreign.safetensors"} <= set(heads)
    assert "other.safetensors" in heads  # from extra_model_paths.yaml
    assert not any(name.startswith("small/") for name in heads)


def test_the_extension_imports_without_complaint(server):
    log = server.log.read_text(errors="replace")
    line = re.search(r"([\d.]+) seconds(.*): .*ComfyUI-MIGM-Shortcut", log)
    assert line and "FAILED" not in line[2]
    print(f"import: {line[1]} s")


def plan(client, **asked) -> dict:
    return client.get(f"/migm/plan?{urllib.parse.urlencode({'model': 'small', 'head': 1, **asked})}")


def test_the_page_learns_a_runs_steps_before_it_starts(client):
    answer = plan(client)
    assert answer["kinds"] == ["full", "shortcut", "shortcut", "full", "shortcut", "full", "shortcut", "shortcut"]
    assert answer["method"] == "shortcut" and answer["notes"] == answer["cautions"] == []
    assert answer["own"] == {"cfg" if name == "guidance" else name: value for name, value in SETTINGS.items()}
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
    said = plan(client, model="bundled demo", width=128, height=128, cfg=4)["cautions"]
    assert "128x128" in said[0] and "cfg" in said[1]
    assert "negative" in plan(client, model="bundled demo", negative=1)["cautions"][0]


def test_a_promise_is_bounded_by_the_models_sizes_until_there_are_measurements(client):
    asked = {"model": "bundled demo", "width": 64, "height": 72}  # which no other test runs
    steps, budget = 64, 9
    promise = plan(client, **asked)["speed_up"]
    assert promise["source"] == "sizes" and 1 < promise["value"] < steps / budget
    graph = text_to_image(head="bundled demo", empty={"width": 64, "height": 72}, steps=steps, budget=budget, cfg=0)
    graph["model"]["inputs"]["model"] = "bundled demo"
    outcome = client.run(graph)
    measured = plan(client, **asked)["speed_up"]
    assert measured["source"] == "measured"
    assert measured["value"] == pytest.approx(summary(outcome)["speed_up"])


@pytest.mark.parametrize(
    "asked, words",
    [
        ({"steps": 50_000_000}, "steps is 50000000, but must be from 1 to"),
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
        assert told["own"] == {"cfg" if name == "guidance" else name: value for name, value in own.items()}
        edit_json(folder / "generation_config.json", steps=8, budget=500)
        with pytest.raises(Refused, match="budget is 500"):
            plan(client, model="odd")
    finally:
        shutil.rmtree(folder)


# Sampling


def test_an_image_equals_the_engines(client, engine):
    outcome = client.run(text_to_image(seed=5))
    expected = engine.generate(PROMPT, seed=5)
    (seen,) = client.images(outcome, "save")
    assert_same(seen, expected.images[0])


def test_progress_and_previews_are_seen(client):
    # A size that was not sampled before: what its preview costs is not known yet, so that there is one however fast the run was.
    outcome = client.run(text_to_image(seed=6, empty={"width": 96, "height": 64}))
    progress = [data for data in outcome.of("progress") if data["node"] == "sampler"]
    values = [data["value"] for data in progress]  # newer hosts leave some out
    assert values == sorted(set(values)) and values[0] == 1 and values[-1] == progress[-1]["max"] == SETTINGS["steps"]
    assert outcome.previews[-1].width > outcome.previews[-1].height
    steps = outcome.of("migm.step")
    assert [data["step"] for data in steps] == list(range(SETTINGS["steps"]))
    assert [data["kind"] for data in steps].count("full") == SETTINGS["budget"]


def test_no_previews_are_made_where_the_page_wants_none(host, client):
    if "preview_method" not in (host / "execution.py").read_text("utf-8"):
        pytest.skip("this host's previews are chosen when it starts")
    for seed, method, expected in ((6, "none", False), (7, "auto", True)):
        graph = text_to_image(seed=seed, empty={"width": 104, "height": 64})
        queued = client.post("/prompt", {"prompt": graph, "client_id": client.id, "extra_data": {"preview_method": method}})
        assert bool(client.wait(queued["prompt_id"]).previews) == expected


def test_the_page_hears_of_the_last_run_again_after_a_cached_one(client):
    if not client.get("/object_info/MIGMShortcutSampler")["MIGMShortcutSampler"].get("has_intermediate_output"):
        pytest.skip("this host sends what a node shows only when it runs")
    first, again = client.run(text_to_image(seed=62)), client.run(text_to_image(seed=62))
    assert "sampler" not in again.executed_nodes
    assert summary(again) == summary(first)


def test_words_that_the_model_does_not_know_and_what_it_cannot_do_are_named(client):
    graph = text_to_image(head="bundled demo", empty={"width": 64, "height": 72}, cfg=0, steps=4, budget=2)
    graph["model"]["inputs"]["model"] = "bundled demo"
    graph["prompt"]["inputs"]["text"] = "a cat riding a bicycle"
    outcome = client.run(graph)
    run = summary(outcome)
    assert {"cat", "bicycle"} <= set(run["unknown_words"]) and "64x72" in run["cautions"][0]
    text = report(outcome)
    assert "cat" in text and "bicycle" in text and run["cautions"][0] in text
    assert run["method"] == "shortcut" and run["steps"] == 4 and run["budget"] == 2 and "preset" not in run


def test_the_report_says_what_was_done(client):
    text = report(client.run(text_to_image(seed=7, budget=2)))
    assert text.startswith("small, 32x32, 1 image, seed 7, cfg 2, temperature 1\n")
    assert "shortcut with the head small.safetensors, 8 steps, 2 of them full (steps 1, 5)" in text
    assert "full step" in text and "shortcut step" in text and "x as fast" in text


def test_without_a_head_the_report_says_why_nothing_was_accelerated(client):
    text = report(client.run(text_to_image(seed=8, head=None)))
    assert "Not accelerated" in text and "No shortcut head is connected" in text


@pytest.mark.parametrize("method", ["vanilla", "ml-cache"])
def test_other_methods_equal_the_engine(client, engine, method):
    (seen,) = client.images(client.run(text_to_image(seed=9, method=method)), "save")
    assert_same(seen, engine.generate(PROMPT, seed=9, method=method).images[0])


def test_each_image_of_a_batch_is_that_of_its_own_seed(client, engine):
    outcome = client.run(text_to_image(seed=20, empty={"batch": 3}))
    seen = client.images(outcome, "save")
    assert len(seen) == 3
    for index, image in enumerate(seen):
        assert_same(image, engine.generate(PROMPT, seed=20 + index).images[0])


def test_running_again_samples_nothing_and_a_new_seed_loads_nothing(client):
    client.run(text_to_image(seed=30))
    assert "sampler" not in client.run(text_to_image(seed=30)).executed_nodes
    assert not {"model", "head", "prompt"} & set(client.run(text_to_image(seed=31)).executed_nodes)


def test_the_bundled_model_runs_at_once(client):
    info = client.get("/object_info")
    assert info["MIGMLoadLumina"]["input"]["required"]["model"][1]["options"][0] == "bundled demo"
    graph = text_to_image(seed=2, head="bundled demo", **plan(client, model="bundled demo")["own"])
    for size in ("width", "height"):
        del graph["sampler"]["inputs"][size]
    graph["model"]["inputs"] = {"model": "bundled demo", "dtype": "fp32"}
    outcome = client.run(graph)
    (seen,) = client.images(outcome, "save")
    assert_same(seen, Pipeline.load(dtype="fp32", device="cpu").generate(PROMPT, seed=2).images[0])
    print(report(outcome), f"\n{len(outcome.previews)} previews")


# Images in


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
    canvas = known.masked_with(touched_cells(torch.from_numpy(mask[None, 2:42, 1:41]), 5, 5))
    expected = engine.generate(PROMPT, seed=40, canvas=canvas)
    assert 0 < canvas.unknown.sum() < 25
    assert torch.equal(expected.canvas.codes[~canvas.unknown], known.codes[~canvas.unknown])
    assert_same(seen, expected.images[0])


def test_a_variation_forgets_a_share_of_the_tokens(server, client, engine, picture):
    (seen,) = client.images(client.run(encode_graph(server, "vary.png", picture, None, variation=0.4)), "save")
    known = engine.encode(torch.from_numpy(picture[2:42, 1:41]).permute(2, 0, 1)[None] / 255)
    canvas = known.varied(0.4, seed=3)
    assert canvas.unknown.sum() == 10
    assert_same(seen, engine.generate(PROMPT, seed=40, canvas=canvas).images[0])


def test_a_canvas_with_nothing_to_draw_comes_back_and_the_report_says_so(server, client, engine, picture):
    outcome = client.run(encode_graph(server, "same.png", picture, None))
    known = engine.encode(torch.from_numpy(picture[2:42, 1:41]).permute(2, 0, 1)[None] / 255)
    (seen,) = client.images(outcome, "save")
    assert_same(seen, Image.fromarray((engine.decode(known)[0].permute(1, 2, 0) * 255).byte().numpy()))
    assert "Nothing was generated" in report(outcome)


def test_unknown_cells_are_shown_unfinished(client):
    graph = text_to_image(empty={"width": 32, "height": 16})
    graph["decode"] = {"class_type": "MIGMDecodeCanvas", "inputs": {"canvas": ["canvas", 0]}}
    graph["save"]["inputs"]["images"] = ["decode", 0]
    del graph["report"]
    (seen,) = client.images(client.run(graph), "save")
    assert seen.shape == (16, 32, 3)
    assert set(np.unique(seen)) == {76, 107}


# Several ways at once


def test_methods_are_compared_on_one_sheet(client, engine):
    graph = text_to_image()
    inputs = {key: graph["sampler"]["inputs"][key] for key in ("model", "prompt", "head", "cfg", "temperature")}
    graph["sampler"] = {"class_type": "MIGMCompareMethods", "inputs": {**inputs, "seed": 50, "methods": "vanilla\nshortcut 4\nml-cache\nvanilla 5\nfast"}}
    graph["sheet"] = {"class_type": "PreviewImage", "inputs": {"images": ["sampler", 1]}}
    outcome = client.run(graph)
    images, (sheet,) = client.images(outcome, "save"), client.images(outcome, "sheet")
    asked = [{"method": "vanilla"}, {"budget": 4}, {"method": "ml-cache"}, {"method": "vanilla", "steps": 5}, {"budget": 2}]
    assert len(images) == len(asked)
    for image, settings in zip(images, asked):
        assert_same(image, engine.generate(PROMPT, seed=50, **settings).images[0])
    assert sheet.shape[1] > 4 * 256 and sheet.shape[0] > 2 * 256
    assert outcome.of("progress")[-1]["value"] == 4 * 8 + 5


# What goes wrong


def refusal(client, graph: dict) -> list[tuple[str, str, str]]:
    """Why a graph is not taken: for each error its node, its input and its text."""
    with pytest.raises(Refused) as refused:
        client.queue(graph)
    found = refused.value.answer["node_errors"]
    return [(node, error["extra_info"].get("input_name"), str(error)) for node, each in found.items() for error in each["errors"]]


@pytest.mark.parametrize(
    "name, value, complaint",
    [
        ("steps", 0, "smaller than min"),
        ("steps", 50_000_000, "bigger than max"),
        ("steps", "many", "Failed to convert"),
        ("steps", None, "Failed to convert"),
        ("budget", 1, "smaller than min"),
        ("budget", {"a": 1}, "Failed to convert"),
        ("method", "magic", "expected one of"),
        ("method", {"a": 1}, "expected one of"),
        ("method", [], "linked"),
        ("cfg", 1e9, "bigger than max"),
        ("cfg", -0.5, "smaller than min"),
        ("temperature", -1, "smaller than min"),
        ("seed", -1, "smaller than min"),
        ("canvas", ["model", 0], "mismatch"),
        ("prompt", ["model", 0], "mismatch"),
    ],
    ids=str,
)
def test_one_bad_value_is_one_error_at_its_input(client, name, value, complaint):
    ((node, where, text),) = refusal(client, text_to_image(**{name: value}))
    assert (node, where) == ("sampler", name) and complaint in text


@pytest.mark.parametrize("value", ["gone", "../../../etc", {"a": 1}, 3], ids=str)
def test_a_model_that_is_not_listed_is_refused_with_what_is(client, value):
    graph = text_to_image()
    graph["model"]["inputs"]["model"] = value
    ((node, where, text),) = refusal(client, graph)
    assert (node, where) == ("model", "model")
    assert "There is no model" in text and "models/migm" in text and "small.safetensors" not in text and "bundled demo" in text


def test_a_part_of_a_model_is_refused_with_what_is_there(client):
    graph = text_to_image()
    graph["model"]["inputs"]["model"] = "small/model.safetensors"
    ((node, where, text),) = refusal(client, graph)
    assert (node, where) == ("model", "model") and "is no model by itself. Found: bundled demo, small" in text


def test_a_damaged_head_is_called_damaged(server, client):
    path = server.base / "models/migm/damaged.safetensors"
    for content in (b"", server.small.head.read_bytes()[:500]):
        path.write_bytes(content)
        ((node, where, text),) = refusal(client, text_to_image(head=path.name))
        assert (node, where) == ("head", "head") and "damaged" in text and str(path) in text
    path.unlink()


def test_a_line_that_is_no_method_is_refused(client):
    graph = text_to_image()
    inputs = {key: graph["sampler"]["inputs"][key] for key in ("model", "prompt", "cfg", "temperature", "seed")}
    for line, words in [("very fast please", "is not understood"), ("shortcut 9 of 8", "budget of 9"), ("vanilla 50000", "50000 steps")]:
        graph["sampler"] = {"class_type": "MIGMCompareMethods", "inputs": {**inputs, "methods": f"vanilla\n{line}"}}
        ((node, where, text),) = refusal(client, graph)
        assert (node, where) == ("sampler", "methods") and repr(line) in text.replace('\\', "") and words in text


@pytest.mark.parametrize("name, source", [("model", "MIGM Load Lumina-DiMOO"), ("prompt", "MIGM Prompt"), ("head", "MIGM Load Shortcut Head"), ("canvas", "MIGM Empty Canvas")])
@pytest.mark.parametrize("value", ["small", 3, {"a": 1}, True], ids=str)
def test_a_value_where_a_link_belongs_is_one_sentence(client, name, source, value):
    graph = text_to_image()
    graph["sampler"]["inputs"][name] = value
    (error,) = client.run(graph).of("execution_error")
    assert error["node_id"] == "sampler" and error["exception_type"].endswith("ValueError")
    assert f"The input {name} got" in error["exception_message"] and source in error["exception_message"]


def test_a_budget_of_all_steps_runs_them_all_and_says_so(client, engine):
    outcome = client.run(text_to_image(seed=61, steps=5, budget=9))
    assert_same(client.images(outcome, "save")[0], engine.generate(PROMPT, seed=61, steps=5, method="vanilla").images[0])
    assert "The budget is not below the number of steps" in report(outcome)


@pytest.mark.parametrize(
    "graph, words",
    [
        (text_to_image(head="foreign.safetensors"), ["foreign.safetensors", "'small'", "width 48", "width 32"]),
        (text_to_image(empty={"width": 0, "height": 20}), ["height is 20", "multiple of 8"]),
        (text_to_image(seed=2**64 - 1, empty={"batch": 2}), ["seed is"]),
    ],
    ids=["foreign head", "height", "seed"],
)
def test_what_only_a_run_can_tell_is_said_in_words(client, graph, words):
    (error,) = client.run(graph).of("execution_error")
    assert error["exception_type"].endswith("ValueError")
    assert all(word in error["exception_message"] for word in words), error["exception_message"]


def test_a_stopped_run_ends_soon_and_the_next_is_good(client, engine):
    def stop(kind, data):
        if kind == "migm.step" and data["step"] == 3:
            client.post("/interrupt")

    outcome = client.run(long_run(), on_message=stop)
    assert outcome.messages[-1][0] == "execution_interrupted"
    assert outcome.of("migm.step")[-1]["step"] < 100  # of 1000: those that ended while the request travelled
    (seen,) = client.images(client.run(text_to_image(seed=60)), "save")
    assert_same(seen, engine.generate(PROMPT, seed=60).images[0])


def test_two_prompts_queued_at_once_both_finish(client, engine):
    prompts = [client.queue(text_to_image(seed=seed)) for seed in (70, 71)]
    outcomes = [client.wait(prompt) for prompt in prompts]
    for seed, outcome in zip((70, 71), outcomes):
        assert_same(client.images(outcome, "save")[0], engine.generate(PROMPT, seed=seed).images[0])


def test_models_are_unloaded_on_request_and_come_back(client, engine):
    client.run(text_to_image(seed=80))
    client._open("/free", b'{"unload_models": true, "free_memory": true}')
    for _ in range(60):  # the server does it when it is next idle
        time.sleep(0.5)
        outcome = client.run(text_to_image(seed=80))
        if outcome.executed_nodes:
            break
    assert "model" in outcome.executed_nodes
    assert_same(client.images(outcome, "save")[0], engine.generate(PROMPT, seed=80).images[0])


def test_two_loaders_of_one_file_share_its_weights(server, client):
    graph = text_to_image(seed=90)
    graph["model 2"] = {"class_type": "MIGMLoadLumina", "inputs": {"model": "small", "dtype": "auto"}}  # on a CPU the same
    graph["prompt 2"] = {"class_type": "MIGMPrompt", "inputs": {"text": "a small red star on a navy background"}}
    graph["sampler 2"] = {"class_type": "MIGMShortcutSampler", "inputs": {**graph["sampler"]["inputs"], "model": ["model 2", 0], "prompt": ["prompt 2", 0]}}
    graph["save 2"] = {"class_type": "PreviewImage", "inputs": {"images": ["sampler 2", 0]}}
    before = server.log.read_text(errors="replace").count("Requested to load Lumina")
    outcome = client.run(graph)
    assert outcome.messages[-1][0] == "execution_success"
    assert server.log.read_text(errors="replace").count("Requested to load Lumina") <= before + 1


def test_a_replaced_file_is_loaded_anew(server, client):
    client.run(text_to_image(seed=95))
    path = Path(server.small.head)
    path.touch()
    assert "head" in client.run(text_to_image(seed=95)).executed_nodes


def test_ten_runs_in_a_row_keep_their_memory(server, client):
    def resident() -> int:
        status = Path(f"/proc/{server.pid}/status")
        if not status.exists():
            pytest.skip("this system does not tell a process's memory in /proc")
        return int(re.search(r"VmRSS:\s+(\d+) kB", status.read_text())[1]) * 1024

    for seed in (100, 101):  # what is allocated once
        client.run(text_to_image(seed=seed))
    before = resident()
    for seed in range(110, 120):
        client.run(text_to_image(seed=seed))
    assert resident() - before < 16 * 2**20
