"""The extension in a real ComfyUI, over its API: what is there, and images that equal the engine's."""

import re

import pytest
from api import assert_same, plan, report, summary, text_to_image
from nodes_without_host import schemas
from safetensors import safe_open
from safetensors.torch import save_file
from small_model import PROMPT, SETTINGS

from migm_core.checkpoints.fingerprint import KEY, fingerprint
from migm_core.pipeline import Pipeline


def test_every_node_is_there_and_explains_itself(client):
    info = client.get("/object_info")
    assert set(schemas()) <= set(info)
    for name in schemas():
        node = info[name]
        assert node["category"] == "MIGM" and node["description"] and node["display_name"]
        assert all(node["output_tooltips"])
        for kind in ("required", "optional"):  # what is hidden nobody sees
            for key, (_, options) in node["input"].get(kind, {}).items():
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
    graph = text_to_image(head="bundled demo", empty={"width": 64, "height": 80}, cfg=0, steps=4, budget=2)
    graph["model"]["inputs"]["model"] = "bundled demo"
    graph["prompt"]["inputs"]["text"] = "a cat riding a bicycle"
    outcome = client.run(graph)
    run = summary(outcome)
    assert {"cat", "bicycle"} <= set(run["unknown_words"]) and "64x80" in run["cautions"][0]
    text = report(outcome)
    assert "cat" in text and "bicycle" in text and run["cautions"][0] in text
    assert run["method"] == "shortcut" and run["steps"] == 4 and run["settings"] == {"budget": 2}


def test_the_report_says_what_was_done(client):
    text = report(client.run(text_to_image(seed=7, budget=2)))
    assert text.startswith("small, 32x32, 1 image, seed 7, cfg 2, temperature 1\n")
    assert "shortcut with the head small.safetensors, 8 steps, 2 of them full (steps 1, 5)" in text
    assert "full step" in text and "shortcut step" in text and "x as fast" in text


def test_a_head_of_another_base_of_the_same_shape_is_named(server, client):
    path = server.base / "models/migm/of-another.safetensors"
    with safe_open(server.small.head, "pt") as file:
        save_file({name: file.get_tensor(name) for name in file.keys()}, path, {**(file.metadata() or {}), KEY: "of another"})
    outcome = client.run(text_to_image(seed=63, head=path.name))
    path.unlink()
    (caution,) = summary(outcome)["cautions"]
    assert path.name in caution and "another base model" in caution and caution in report(outcome)


@pytest.mark.parametrize("dtype", ["bf16", "float8_e4m3fn"])
def test_the_head_of_a_base_is_its_own_in_any_dtype(server, client, engine, dtype):
    path = server.base / "models/migm/of-this.safetensors"
    with safe_open(server.small.head, "pt") as file:
        save_file({name: file.get_tensor(name) for name in file.keys()}, path, {**(file.metadata() or {}), KEY: fingerprint(engine.checkpoint.base)})
    graph = text_to_image(seed=64, head=path.name)
    graph["model"]["inputs"]["dtype"] = dtype
    outcome = client.run(graph)
    path.unlink()
    assert not any("another base model" in caution for caution in summary(outcome)["cautions"])


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
    own, few = plan(client, model="bundled demo")["own"], {"steps": 4, "budget": 2}
    graph = text_to_image(seed=2, head="bundled demo", cfg=own["cfg"], temperature=own["temperature"], **few)
    graph["model"]["inputs"] = {"model": "bundled demo", "dtype": "fp32"}
    outcome = client.run(graph)
    (seen,) = client.images(outcome, "save")
    assert_same(seen, Pipeline.load(dtype="fp32", device="cpu").generate(PROMPT, seed=2, **few).images[0])
    print(report(outcome), f"\n{len(outcome.previews)} previews")


def test_a_budget_of_all_steps_runs_them_all_and_says_so(client, engine):
    outcome = client.run(text_to_image(seed=61, steps=5, budget=9))
    assert_same(client.images(outcome, "save")[0], engine.generate(PROMPT, seed=61, steps=5, method="vanilla").images[0])
    assert "The budget is not below the number of steps" in report(outcome)


def test_methods_are_compared_on_one_sheet(client, engine):
    graph = text_to_image()
    inputs = {key: graph["sampler"]["inputs"][key] for key in ("model", "prompt", "head", "cfg", "temperature")}
    graph["sampler"] = {"class_type": "MIGMCompareMethods", "inputs": {**inputs, "seed": 50, "methods": "vanilla\nshortcut 4\nml-cache\nvanilla 5\nfast\nvanilla"}}
    graph["sheet"] = {"class_type": "PreviewImage", "inputs": {"images": ["sampler", 1]}}
    outcome = client.run(graph)
    images, (sheet,) = client.images(outcome, "save"), client.images(outcome, "sheet")
    asked = [{"method": "vanilla"}, {"budget": 4}, {"method": "ml-cache"}, {"method": "vanilla", "steps": 5}, {"budget": 2}, {"method": "vanilla"}]
    assert len(images) == len(asked)
    for image, settings in zip(images, asked):
        assert_same(image, engine.generate(PROMPT, seed=50, **settings).images[0])
    assert sheet.shape[1] > 4 * 256 and sheet.shape[0] > 2 * 256
    assert outcome.of("progress")[-1]["value"] == 5 * 8 + 5
