"""The example workflows as files: they fit the nodes, and read from left to right. That they run is shown in tests/host."""

import json
from itertools import combinations

import demo_workflows
import make_workflows
import pytest
from nodes_without_host import schemas
from PIL import Image
from workflows import FOLDER, NAMES, NOTES, SUBGRAPH_NAMES, SUBGRAPHS, boxes, chosen, inputs_of_schema, load, page_order, values

from migm_core.loading import BUNDLED

OF_LUMINA = ("ask", "caption_and_redraw", "control", "edit", "text_to_image")
EXPECTED = ["compare_methods", "demo_text_to_image", "inpainting", *(f"lumina_dimoo_{name}" for name in OF_LUMINA), "maskgit_classes", "outpainting"]
LUMINA = [name for name in EXPECTED if name.startswith("lumina_dimoo")]
NUMBERS = ("steps", "budget", "cfg", "temperature")
HEAD = "dimoo-shortcut.pth"
PUBLISHED = {"Lumina-DiMOO", HEAD}  # what a note says to download


@pytest.fixture(params=NAMES)
def workflow(request) -> dict:
    return load(request.param)


def own_nodes(workflow: dict) -> list[dict]:
    return [node for node in workflow["nodes"] if node["type"] in schemas()]


def only(workflow: dict, kind: str) -> dict:
    """The values of the only node of a type."""
    (node,) = [node for node in workflow["nodes"] if node["type"] == kind]
    return values(node, inputs_of_schema(schemas()[kind]))


def test_all_are_there_each_with_its_thumbnail():
    assert NAMES == EXPECTED
    for name in NAMES:
        with Image.open(FOLDER / f"{name}.jpg") as picture:  # the format that the page asks for
            assert picture.format == "JPEG" and max(picture.size) <= 1024
        assert (FOLDER / f"{name}.jpg").stat().st_size < 60_000


def test_own_nodes_have_the_sockets_of_their_schemas(workflow):
    for node in own_nodes(workflow):
        schema = schemas()[node["type"]]
        ordered = [each for each in chosen(page_order(inputs_of_schema(schema)), node["widgets_values"]) if not each.is_extra]
        assert [(each["name"], each["type"]) for each in node["inputs"]] == [(each.name, each.io_type) for each in ordered]
        assert [each.get("widget") for each in node["inputs"]] == [{"name": each.name} if each.is_widget else None for each in ordered]
        assert [(each["name"], each["type"]) for each in node["outputs"]] == [(each.display_name, each.io_type) for each in schema.outputs]


def test_own_nodes_have_values_that_their_schemas_allow(workflow):
    for node in own_nodes(workflow):
        inputs = inputs_of_schema(schemas()[node["type"]])
        limits_of = {each.name: each.limits for each in chosen(inputs, node["widgets_values"])}
        for name, value in values(node, inputs).items():
            limits = limits_of[name]
            if "options" in limits:
                assert value in [*limits["options"], *PUBLISHED]
            if "min" in limits:
                assert limits["min"] <= value <= limits["max"]


def test_links_join_sockets_of_one_type(workflow):
    nodes = {node["id"]: node for node in workflow["nodes"]}
    assert workflow["last_node_id"] == max(nodes) and workflow["last_link_id"] == len(workflow["links"])
    for number, origin, slot, target, socket, io_type in workflow["links"]:
        source, sink = nodes[origin]["outputs"][slot], nodes[target]["inputs"][socket]
        assert number in source["links"] and number == sink["link"]
        assert io_type == source["type"] and sink["type"] in (io_type, "*")


def test_required_sockets_are_linked(workflow):
    for node in own_nodes(workflow):
        inputs = chosen(inputs_of_schema(schemas()[node["type"]]), node.get("widgets_values", []))
        required = {each.name for each in inputs if not each.optional and not each.is_widget}
        assert required <= {each["name"] for each in node["inputs"] if each["link"] is not None}


def test_wires_lead_to_the_right_or_down_and_no_nodes_overlap(workflow):
    at = boxes(workflow)
    for _, origin, _, target, _, _ in workflow["links"]:
        assert at[target][0] >= at[origin][2] or at[target][1] >= at[origin][3], (origin, target)
    for (one, a), (two, b) in combinations(at.items(), 2):
        assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1], (one, two)


def test_every_node_but_notes_lies_in_one_group(workflow):
    groups = [group["bounding"] for group in workflow["groups"]]
    at = boxes(workflow)
    for node in workflow["nodes"]:
        left, top, right, bottom = at[node["id"]]
        inside = [g for g in groups if g[0] <= left and g[1] <= top and right <= g[0] + g[2] and bottom <= g[1] + g[3]]
        assert len(inside) == (0 if node["type"] in NOTES else 1), node["type"]


def test_the_reader_starts_at_a_note(workflow):
    first = min(workflow["nodes"], key=lambda node: (node["pos"][0], node["pos"][1]))
    assert first["type"] in NOTES


def test_the_bundled_models_workflows_have_its_own_numbers():
    for name in set(NAMES) - set(LUMINA):
        own = json.loads((BUNDLED["demo-classes" if name == "maskgit_classes" else "demo"] / "generation_config.json").read_text("utf-8"))
        own = {"cfg": own["guidance_scale"], **own}
        for node in own_nodes(load(name)):
            numbers = values(node, inputs_of_schema(schemas()[node["type"]]))
            assert all(numbers[each] == own[each] for each in NUMBERS if each in numbers)


def test_app_mode_shows_widgets_and_an_output_that_are_there(workflow):
    nodes = {node["id"]: node for node in workflow["nodes"]}
    shown = workflow["extra"]["linearData"]
    assert shown["inputs"] and shown["outputs"]
    for id, widget in shown["inputs"]:
        assert widget in [each["name"] for each in nodes[id]["inputs"] if "widget" in each]
    assert all(nodes[id]["type"] in ("SaveImage", "PreviewImage", "PreviewAny") for id in shown["outputs"])


def test_a_workflow_opens_large_enough_to_be_read(workflow):
    """Opened from the templates it is fitted to three quarters of the page; below 0.6 the page leaves texts out."""
    left, top, right, bottom = (side(box[k] for box in boxes(workflow).values()) for k, side in enumerate((min, min, max, max)))
    assert min(0.75 * 1500 / (right - left), 0.75 * 912 / (bottom - top)) > 0.7


def test_workflows_and_subgraphs_are_what_their_script_writes():
    for make in make_workflows.WORKFLOWS:
        assert load(make.__name__) == json.loads(json.dumps(make()))
    for make in demo_workflows.SUBGRAPHS:
        graph = make()
        assert load(graph["nodes"][0]["title"], SUBGRAPHS) == json.loads(json.dumps(graph))


@pytest.mark.parametrize("name", SUBGRAPH_NAMES)
def test_a_subgraph_shows_its_widgets_and_its_links_join_sockets_of_one_type(name):
    (outer,), (inner,) = load(name, SUBGRAPHS)["nodes"], load(name, SUBGRAPHS)["definitions"]["subgraphs"]
    assert outer["type"] == inner["id"] and outer["title"] == inner["name"] == name
    nodes = {node["id"]: node for node in inner["nodes"]}
    assert [each["name"] for each in outer["inputs"]] == [each["name"] for each in inner["inputs"]]
    for link in inner["links"]:
        source = inner["inputs"][link["origin_slot"]] if link["origin_id"] == -10 else nodes[link["origin_id"]]["outputs"][link["origin_slot"]]
        sink = inner["outputs"][link["target_slot"]] if link["target_id"] == -20 else nodes[link["target_id"]]["inputs"][link["target_slot"]]
        assert source["type"] == sink["type"] == link["type"]
        assert link["id"] in (source.get("links") or source.get("linkIds")) and link["id"] in (sink.get("linkIds") or [sink["link"]])
    for id, widget in outer["properties"]["proxyWidgets"]:
        assert widget in [*(each["name"] for each in nodes[int(id)]["inputs"] if "widget" in each), "control_after_generate"]


def test_five_nodes_lead_from_an_empty_graph_to_an_image():
    nodes = [node["type"] for node in load("demo_text_to_image")["nodes"] if node["type"] not in (*NOTES, "PreviewAny")]
    assert len(nodes) == 5 and "SaveImage" in nodes


def loaded(workflow: dict) -> set[str]:
    """The files that a workflow's loaders name."""
    return {value for node in own_nodes(workflow) if "Load" in node["type"] for value in node["widgets_values"]}


def test_only_the_8b_workflows_need_a_download_and_say_what_and_where():
    for name in NAMES:
        workflow = load(name)
        assert bool(loaded(workflow) & PUBLISHED) == (name in LUMINA)
        if name in LUMINA:
            base, *head = downloads(workflow)
            assert base == ["Alpha-VLLM/Lumina-DiMOO", "--local-dir", "models/migm/Lumina-DiMOO"]
            assert bool(head) == (HEAD in loaded(workflow))
            assert head in ([], [["Kaiwen-Zhu/MIGM-Shortcut", "DiMOO-Shortcut/dimoo-shortcut.pth", "--local-dir", "models/migm"]])


def downloads(workflow: dict) -> list[list[str]]:
    """The words after each "hf download" in the notes."""
    notes = " ".join(node["widgets_values"][0] for node in workflow["nodes"] if node["type"] in NOTES)
    lines = " ".join(block.replace("\\\n", " ") for block in notes.split("```")[1::2])
    return [command.split() for command in lines.split("hf download")[1:]]


@pytest.mark.parametrize("name", ["lumina_dimoo_edit", "lumina_dimoo_control"])
def test_tasks_with_pictures_have_the_published_settings(name):
    nodes = own_nodes(load(name))
    of_all = [values(node, inputs_of_schema(schemas()[node["type"]])) for node in nodes]
    samplers = [each for each in of_all if "budget" in each]
    scales = [each[key] for each in of_all for key in ("image_cfg", "task.image_cfg") if key in each]
    assert samplers and all({key: each[key] for key in NUMBERS} == {"steps": 64, "budget": 11, "cfg": 2.5, "temperature": 1} for each in samplers)
    assert scales == [4.0] * len(samplers)


def test_the_8b_text_to_image_workflow_has_the_published_settings():
    workflow = load("lumina_dimoo_text_to_image")
    sampler, canvas = only(workflow, "MIGMShortcutSampler"), only(workflow, "MIGMEmptyCanvas")
    assert {name: sampler[name] for name in NUMBERS} == {"steps": 64, "budget": 11, "cfg": 4, "temperature": 1}
    assert (canvas["width"], canvas["height"]) == (1024, 1024)


@pytest.mark.parametrize("name", [name for name in LUMINA if name != "lumina_dimoo_ask"])
def test_the_hosts_panel_of_missing_models_can_offer_the_head(name):
    (loader,) = [node for node in load(name)["nodes"] if node["type"] == "MIGMLoadShortcutHead"]
    (model,) = loader["properties"]["models"]
    assert model["name"] == loader["widgets_values"][0] == "dimoo-shortcut.pth"
    assert model["directory"] == "migm"  # a folder of models that the host knows
    assert model["url"] == "https://huggingface.co/Kaiwen-Zhu/MIGM-Shortcut/resolve/main/DiMOO-Shortcut/dimoo-shortcut.pth"
