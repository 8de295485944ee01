"""The example workflows in a real ComfyUI: listed, understood, and giving what the engine alone gives."""

import io
import json

import numpy as np
import pytest
import torch
from api import PAINTER, assert_same
from client import Client, Refused
from hosts import settings
from PIL import Image
from workflows import DYNAMIC, NAMES, NOTES, SUBGRAPH_NAMES, SUBGRAPHS, chosen, inputs_of_info, inside, load, to_prompt

from migm_core.pipeline import Pipeline
from migm_core.worlds import lakeside

EXTENSION = "ComfyUI-MIGM-Shortcut"  # the folder that it lies in
BUNDLED = "bundled demo"
SMALL = {"width": 96, "height": 64}  # instead of a megapixel
FEW = {"steps": 4, "budget": 2}  # where a template's own numbers are not the point
SECONDS = 900  # a busy machine is slow


@pytest.fixture(scope="module")
def types(client) -> dict[str, dict]:
    """The host's node types."""
    return client.get("/object_info")


@pytest.fixture(scope="module")
def engine() -> Pipeline:
    """The engine alone, with the bundled model."""
    return Pipeline.load(dtype="fp32", device="cpu")


def prompt_of(name: str, types: dict[str, dict], model: str = BUNDLED, head: str = BUNDLED) -> dict:
    """A workflow as the page sends it; with another model and small where it is for one that is not here."""
    prompt = to_prompt(load(name), lambda kind: inputs_of_info(types[kind]))
    for node in prompt.values():
        if node["class_type"] == "MIGMLoadLumina" and node["inputs"]["model"] != BUNDLED:
            node["inputs"] |= {"model": model, "dtype": "auto" if model == BUNDLED else "fp32"}
        elif node["class_type"] == "MIGMLoadShortcutHead" and not node["inputs"]["head"].startswith(BUNDLED):
            node["inputs"]["head"] = head
        elif node["class_type"] == "MIGMEmptyCanvas":
            node["inputs"] |= SMALL
    return prompt


def nodes_of(prompt: dict, kind: str) -> list[tuple[str, dict]]:
    """Ids and inputs of the nodes of one type, in the order of the file."""
    return [(id, node["inputs"]) for id, node in prompt.items() if node["class_type"] == kind]


@pytest.fixture
def in_full(setting) -> bool:
    """Whether a template runs as it is: on one host. On the others fewer steps tell as much."""
    return setting == next(each for each in settings() if not each.dynamic)


def shown(client: Client, outcome, prompt: dict, kind: str, source: str, slot: int = 0) -> list[np.ndarray]:
    """What the node of a type that hangs on an output has shown."""
    (id,) = [id for id, inputs in nodes_of(prompt, kind) if inputs["images"] == [source, slot]]
    return client.images(outcome, id)


def asked(sampler: dict) -> dict:
    """What a sampler asks of the engine."""
    renamed = {"cfg": "guidance_scale"}
    return {renamed.get(name, name): sampler[name] for name in ("steps", "budget", "cfg", "temperature", "method")}


def check_that_it_shows(image: np.ndarray, prompt: str) -> None:
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255
    (verdict,) = lakeside.judge(pixels, lakeside.parse([prompt]))
    assert verdict.right, verdict.faults


# What the page sees


def test_the_template_browser_lists_them_with_their_thumbnails(client):
    assert sorted(client.get("/workflow_templates")[EXTENSION]) == NAMES
    for name in NAMES:
        assert client.get(f"/api/workflow_templates/{EXTENSION}/{name}.json") == load(name)
        picture = Image.open(io.BytesIO(client._open(f"/api/workflow_templates/{EXTENSION}/{name}.jpg")))
        assert picture.format == "JPEG"


@pytest.mark.parametrize("name", NAMES)
def test_every_node_is_known_and_its_sockets_are_the_hosts(types, name):
    for node in load(name)["nodes"]:
        if node["type"] in NOTES:
            continue
        info = types[node["type"]]
        inputs = {each.name: each for each in inputs_of_info(info)}
        shown = {each.name: each for each in chosen(list(inputs.values()), node.get("widgets_values", []))}
        older = {name for name in shown if name.startswith("task.") and shown["task"].io_type != DYNAMIC}  # which shows those of all tasks
        assert {each["name"] for each in node["inputs"]} | older == {name for name, each in shown.items() if not each.is_extra} | older
        inputs = shown
        for each in node["inputs"]:
            assert each["type"] == inputs[each["name"]].io_type or each["type"] == DYNAMIC and older
            assert ("widget" in each) == inputs[each["name"]].is_widget
        there = list(zip(info["output_name"], info["output"]))
        if node["type"].startswith("MIGM"):
            assert [(each["name"], each["type"]) for each in node["outputs"]] == there
        for slot, each in enumerate(node["outputs"]):  # a host's own node may have more than its older versions had
            assert not each["links"] or each["type"] == there[slot][1]


@pytest.fixture(scope="module")
def blueprints(client) -> dict[str, str]:
    """Names and numbers of the subgraphs that the host has from this pack."""
    try:
        entries = client.get("/global_subgraphs")
    except Refused as refused:
        assert refused.status == 404
        pytest.skip("this host has no subgraphs from packs")
    return {entry["name"]: id for id, entry in entries.items() if entry["info"]["node_pack"] == f"custom_nodes.{EXTENSION}"}


def test_the_host_lists_the_subgraphs_and_hands_them_out(client, blueprints):
    assert sorted(blueprints) == SUBGRAPH_NAMES
    for name, id in blueprints.items():
        assert json.loads(client.get(f"/global_subgraphs/{id}")["data"]) == load(name, SUBGRAPHS)


# What they give


@pytest.mark.hosts("newest", "oldest")
def test_the_text_to_image_subgraph(client, types, engine):
    prompt = to_prompt(inside(load("MIGM Text to Image", SUBGRAPHS)), lambda kind: inputs_of_info(types[kind]))
    ((sampler, inputs),) = nodes_of(prompt, "MIGMShortcutSampler")
    inputs |= FEW
    prompt["image"] = {"class_type": "PreviewImage", "inputs": {"images": [sampler, 0]}}
    (seen,) = shown(client, client.run(prompt, seconds=SECONDS), prompt, "PreviewImage", sampler)
    text = nodes_of(prompt, "MIGMPrompt")[0][1]["text"]
    assert_same(seen, engine.generate(text, seed=inputs["seed"], **asked(inputs)).images[0])


@pytest.mark.hosts("newest", "oldest")
def test_the_inpainting_subgraph(client, types, engine):
    prompt = to_prompt(inside(load("MIGM Inpaint", SUBGRAPHS)), lambda kind: inputs_of_info(types[kind]))
    ((sampler, inputs),), ((_, encoder),) = nodes_of(prompt, "MIGMShortcutSampler"), nodes_of(prompt, "MIGMEncodeImage")
    prompt["grey"] = {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 0x808080}}
    prompt["all"] = {"class_type": "SolidMask", "inputs": {"value": 1.0, "width": 64, "height": 64}}
    encoder |= {"image": ["grey", 0], "mask": ["all", 0]}
    inputs |= FEW
    prompt["image"] = {"class_type": "PreviewImage", "inputs": {"images": [sampler, 0]}}
    (seen,) = shown(client, client.run(prompt, seconds=SECONDS), prompt, "PreviewImage", sampler)
    text = nodes_of(prompt, "MIGMPrompt")[0][1]["text"]
    assert_same(seen, engine.generate(text, seed=inputs["seed"], width=64, height=64, **asked(inputs)).images[0])


def test_demo_text_to_image(client, types, engine, in_full):
    prompt = prompt_of("demo_text_to_image", types)
    ((sampler, inputs),) = nodes_of(prompt, "MIGMShortcutSampler")
    own = {name: engine.checkpoint.settings[name] for name in FEW}
    assert {name: inputs[name] for name in FEW} == own
    if not in_full:
        inputs |= FEW
    outcome = client.run(prompt, seconds=SECONDS)
    (seen,) = shown(client, outcome, prompt, "SaveImage", sampler)
    text = nodes_of(prompt, "MIGMPrompt")[0][1]["text"]
    assert_same(seen, engine.generate(text, seed=inputs["seed"], **asked(inputs)).images[0])
    progress = [data["value"] for data in outcome.of("progress") if data["node"] == sampler]
    assert progress == sorted(set(progress)) and progress[-1] == inputs["steps"]  # a host may leave some out
    assert [data["kind"] for data in outcome.of("migm.step")].count("full") == inputs["budget"]
    ((report, _),) = nodes_of(prompt, "PreviewAny")
    assert f"shortcut with the head {BUNDLED}" in outcome.outputs[report]["text"][0]


@pytest.mark.hosts("newest", "oldest")
def test_lumina_dimoo_text_to_image_with_the_bundled_model(client, types, engine):
    prompt = prompt_of("lumina_dimoo_text_to_image", types)
    ((sampler, inputs),) = nodes_of(prompt, "MIGMShortcutSampler")
    inputs |= FEW
    outcome = client.run(prompt, seconds=SECONDS)
    (seen,) = shown(client, outcome, prompt, "SaveImage", sampler)
    assert seen.shape == (SMALL["height"], SMALL["width"], 3)
    text = nodes_of(prompt, "MIGMPrompt")[0][1]["text"]
    assert_same(seen, engine.generate(text, seed=inputs["seed"], **SMALL, **asked(inputs)).images[0])


@pytest.mark.hosts("newest", "oldest")
def test_lumina_dimoo_text_to_image_without_its_files_says_what_to_do(client, types):
    prompt = to_prompt(load("lumina_dimoo_text_to_image"), lambda kind: inputs_of_info(types[kind]))
    with pytest.raises(Refused) as refused:
        client.queue(prompt)
    said = str(refused.value.answer["node_errors"])
    assert "There is no model 'Lumina-DiMOO'" in said and "There is no shortcut head 'dimoo-shortcut.pth'" in said and "models/migm" in said


SMALL_HEAD = "small.safetensors"


@pytest.fixture
def example(server) -> Image.Image:
    """The picture that comes with the host."""
    return Image.open(server.base / "input/example.png").convert("RGB")


def of_painter(name: str, types: dict[str, dict]) -> dict:
    return prompt_of(name, types, PAINTER, SMALL_HEAD)


@pytest.mark.hosts("newest", "oldest")
def test_lumina_dimoo_edit_on_a_stand_in(client, types, painter, example):
    prompt = of_painter("lumina_dimoo_edit", types)
    ((sampler, inputs),), ((_, edit),) = nodes_of(prompt, "MIGMShortcutSampler"), nodes_of(prompt, "MIGMEditImage")
    outcome = client.run(prompt, seconds=SECONDS)
    result = painter.generate(edit["instruction"], task="edit", images=example, image_guidance_scale=edit["image_cfg"], seed=inputs["seed"], **asked(inputs))
    assert_same(shown(client, outcome, prompt, "SaveImage", sampler)[0], result.images[0])
    ((seen, _),) = nodes_of(prompt, "PreviewImage")
    assert_same(client.images(outcome, seen)[0], result.pictures[0])
    ((report, _),) = nodes_of(prompt, "PreviewAny")
    assert f"{result.head_report}." in outcome.outputs[report]["text"][0]


@pytest.mark.hosts("newest", "oldest")
def test_lumina_dimoo_control_on_a_stand_in(client, types, painter, example):
    prompt = of_painter("lumina_dimoo_control", types)
    (first, of_first), (second, of_second) = nodes_of(prompt, "MIGMShortcutSampler")
    (_, to_map), (_, by_map) = nodes_of(prompt, "MIGMPrompt")
    outcome = client.run(prompt, seconds=SECONDS)
    scale = {"image_guidance_scale": to_map["task.image_cfg"]}
    made = painter.generate(task="dense", kind=to_map["task.map"], images=example, seed=of_first["seed"], **scale, **asked(of_first)).images[0]
    (seen,) = shown(client, outcome, prompt, "PreviewImage", first)
    assert_same(seen, made)
    result = painter.generate(by_map["text"], task="control", images=Image.fromarray(seen), seed=of_second["seed"], **scale, **asked(of_second))
    assert result.settings.task == "control"
    assert shown(client, outcome, prompt, "SaveImage", second)[0].shape == seen.shape


@pytest.mark.hosts("newest", "oldest")
def test_lumina_dimoo_ask_on_a_stand_in(client, types, painter, example):
    prompt = of_painter("lumina_dimoo_ask", types)
    ((ask, inputs),) = nodes_of(prompt, "MIGMAskAboutImage")
    outcome = client.run(prompt, seconds=SECONDS)
    answer, report = ([outcome.outputs[id]["text"] for id, each in nodes_of(prompt, "PreviewAny") if each["source"] == [ask, slot]][0] for slot in (0, 2))
    reply = painter.understand(inputs["question"], example, length=inputs["length"])
    assert answer == [reply.text] == outcome.outputs[ask]["text"]
    assert f"{reply.answer.passes} passes" in report[0]


@pytest.mark.hosts("newest", "oldest")
def test_lumina_dimoo_caption_and_redraw_on_a_stand_in(client, types, painter, example):
    prompt = of_painter("lumina_dimoo_caption_and_redraw", types)
    ((sampler, inputs),), ((ask, asked_of),) = nodes_of(prompt, "MIGMShortcutSampler"), nodes_of(prompt, "MIGMAskAboutImage")
    outcome = client.run(prompt, seconds=SECONDS)
    caption = outcome.outputs[ask]["text"][0]
    assert caption == painter.understand(asked_of["question"], example, length=asked_of["length"]).text
    assert_same(shown(client, outcome, prompt, "SaveImage", sampler)[0], painter.generate(caption, seed=inputs["seed"], **asked(inputs)).images[0])


@pytest.mark.hosts("newest", "oldest")
@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("lumina_dimoo")])
def test_a_workflow_of_lumina_dimoo_lacks_nothing_but_its_files(client, types, name):
    prompt = to_prompt(load(name), lambda kind: inputs_of_info(types[kind]))
    with pytest.raises(Refused) as refused:
        client.queue(prompt)
    loaders = {id for id, node in prompt.items() if node["class_type"] in ("MIGMLoadLumina", "MIGMLoadShortcutHead")}
    assert set(refused.value.answer["node_errors"]) == loaders


@pytest.mark.hosts("newest", "oldest")
def test_inpainting(client, types, engine, in_full):
    prompt = prompt_of("inpainting", types)
    (first, of_first), (second, of_second) = nodes_of(prompt, "MIGMShortcutSampler")
    if not in_full:
        of_first |= FEW
        of_second |= FEW
    before, after = (nodes_of(prompt, "MIGMPrompt")[k][1]["text"] for k in (0, 1))
    outcome = client.run(prompt, seconds=SECONDS)
    start = engine.generate(before, seed=of_first["seed"], **asked(of_first))
    known = engine.encode(engine.decode(start.canvas))
    hole = torch.zeros_like(known.masked)
    hole[:, :, hole.shape[2] // 2 :] = True
    finished = engine.generate(after, seed=of_second["seed"], canvas=known.masked_with(hole), **asked(of_second))
    assert torch.equal(finished.canvas.codes[~hole], known.codes[~hole])
    (seen,) = shown(client, outcome, prompt, "SaveImage", second)
    assert_same(seen, finished.images[0])
    for image, text in ((start.images[0], before), (seen, after)) if in_full else ():  # it does what its note says
        check_that_it_shows(image, text)
    ((decoded, _),) = nodes_of(prompt, "MIGMDecodeCanvas")
    (middle,) = shown(client, outcome, prompt, "PreviewImage", decoded)
    side = middle.shape[1] // 2
    assert set(np.unique(middle[:, side:])) == {76, 107} != set(np.unique(middle[:, :side]))


@pytest.mark.hosts("newest", "oldest")
def test_outpainting(client, types, engine, in_full):
    prompt = prompt_of("outpainting", types)
    (_, of_first), (second, of_second) = nodes_of(prompt, "MIGMShortcutSampler")
    if not in_full:
        of_first |= FEW
        of_second |= FEW
    before, after = (nodes_of(prompt, "MIGMPrompt")[k][1]["text"] for k in (0, 1))
    ((_, extend),) = nodes_of(prompt, "MIGMOutpaint")
    outcome = client.run(prompt, seconds=SECONDS)
    start = engine.generate(before, seed=of_first["seed"], **asked(of_first)).images[0]
    strip = start.crop((0, 0, start.width - extend["right"], start.height))
    painting = {"images": strip, "extend": (0, 0, extend["right"], 0), "feather": extend["feather"]}
    finished = engine.generate(after, task="paint", **painting, seed=of_second["seed"], **asked(of_second))
    (seen,) = shown(client, outcome, prompt, "SaveImage", second)
    assert_same(seen, finished.images[0])
    if in_full:
        check_that_it_shows(seen, after)
    ((report, _),) = nodes_of(prompt, "PreviewAny")
    assert finished.head_report in outcome.outputs[report]["text"][0]


@pytest.mark.hosts("newest", "oldest")
def test_maskgit_classes(client, types):
    prompt = prompt_of("maskgit_classes", types)
    ((sampler, inputs),), ((_, class_),) = nodes_of(prompt, "MIGMMaskGITSampler"), nodes_of(prompt, "MIGMMaskGITClass")
    outcome = client.run(prompt, seconds=SECONDS)
    classes = class_["several"].splitlines()
    result = Pipeline.load("demo-classes", dtype="fp32", device="cpu").generate(classes, seed=inputs["seed"])  # the model's own numbers
    seen = shown(client, outcome, prompt, "SaveImage", sampler)
    assert len(seen) == len(classes)
    for image, expected in zip(seen, result.images):
        assert_same(image, expected)
    numbers = torch.tensor([lakeside.CLASS_NAMES.index(name) for name in classes])
    verdicts = lakeside.judge_classes(torch.from_numpy(np.stack(seen)).permute(0, 3, 1, 2).float() / 255, numbers)
    assert all(verdict.right for verdict in verdicts), verdicts


@pytest.mark.hosts("newest", "oldest")
def test_compare_methods(client, types, engine):
    prompt = prompt_of("compare_methods", types)
    ((compare, inputs),), ((loader, _),) = nodes_of(prompt, "MIGMCompareMethods"), nodes_of(prompt, "MIGMLoadLumina")
    prompt["canvas"] = {"class_type": "MIGMEmptyCanvas", "inputs": {"model": [loader, 0], **SMALL, "batch": 1}}  # its steps are the point
    inputs["canvas"] = ["canvas", 0]
    outcome = client.run(prompt, seconds=SECONDS)
    images, (sheet,) = shown(client, outcome, prompt, "PreviewImage", compare), shown(client, outcome, prompt, "SaveImage", compare, 1)
    lines = inputs["methods"].splitlines()
    own = engine.checkpoint.settings
    budgets = {"quality": round(own["budget"] * 1.5), "balanced": own["budget"], "fast": max(2, round(own["budget"] * 0.67))}
    ways = [{"budget": budgets[line]} if line in budgets else {"method": line} for line in lines]
    text = nodes_of(prompt, "MIGMPrompt")[0][1]["text"]
    assert len(images) == len(ways)
    numbers = {"guidance_scale": inputs["cfg"], "temperature": inputs["temperature"]}
    for image, way in zip(images, ways):
        assert_same(image, engine.generate(text, seed=inputs["seed"], **SMALL, **numbers, **way).images[0])
    assert sheet.shape[1] > len(lines) * max(256, images[0].shape[1]) > sheet.shape[0]
    ((report, _),) = nodes_of(prompt, "PreviewAny")
    assert [part.splitlines()[0] for part in outcome.outputs[report]["text"][0].split("\n\n")] == lines


def test_two_workflows_queued_at_once_both_finish(client, types, engine):
    prompt, other = prompt_of("demo_text_to_image", types), prompt_of("demo_text_to_image", types)
    for graph, seed in ((prompt, 21), (other, 22)):
        nodes_of(graph, "MIGMShortcutSampler")[0][1].update(seed=seed, **FEW)
    queued = [client.queue(graph) for graph in (prompt, other)]
    ((sampler, inputs),) = nodes_of(prompt, "MIGMShortcutSampler")
    numbers = asked(inputs)
    text = nodes_of(prompt, "MIGMPrompt")[0][1]["text"]
    for seed, id in zip((21, 22), queued):
        (seen,) = shown(client, client.wait(id, seconds=SECONDS), prompt, "SaveImage", sampler)
        assert_same(seen, engine.generate(text, seed=seed, **numbers).images[0])
