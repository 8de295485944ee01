"""The example workflows as files: they fit the nodes, and read from left to right. That they run is shown in tests/host."""

from itertools import combinations

import pytest
from nodes_without_host import room, schemas
from PIL import Image
from workflows import FOLDER, NAMES, NOTES, boxes, inputs_of_schema, load, values

EXPECTED = ["compare_methods", "demo_text_to_image", "inpainting", "lumina_dimoo_text_to_image"]
PUBLISHED = {"Lumina-DiMOO", "dimoo-shortcut.pth"}  # what a note says to download


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


def test_own_nodes_have_the_sockets_of_their_schemas(workflow):
    for node in own_nodes(workflow):
        schema = schemas()[node["type"]]
        inputs = inputs_of_schema(schema)
        ordered = [each for each in inputs if not each.is_widget] + [each for each in inputs if each.is_widget]
        assert [(each["name"], each["type"]) for each in node["inputs"]] == [(each.name, each.io_type) for each in ordered]
        assert [each.get("widget") for each in node["inputs"]] == [{"name": each.name} if each.is_widget else None for each in ordered]
        assert [(each["name"], each["type"]) for each in node["outputs"]] == [(each.display_name, each.io_type) for each in schema.outputs]


def test_own_nodes_have_values_that_their_schemas_allow(workflow):
    for node in own_nodes(workflow):
        inputs = inputs_of_schema(schemas()[node["type"]])
        for name, value in values(node, inputs).items():
            limits = next(each.limits for each in inputs if each.name == name)
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
        required = {each.name for each in inputs_of_schema(schemas()[node["type"]]) if not each.optional and not each.is_widget}
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


def test_five_nodes_lead_from_an_empty_graph_to_an_image():
    nodes = [node["type"] for node in load("demo_text_to_image")["nodes"] if node["type"] not in (*NOTES, "PreviewAny")]
    assert len(nodes) == 5 and "SaveImage" in nodes


def test_only_the_8b_workflow_needs_a_download():
    for name in NAMES:
        models = {value for node in own_nodes(load(name)) if "Load" in node["type"] for value in node["widgets_values"]}
        assert (models & PUBLISHED == PUBLISHED) == (name == "lumina_dimoo_text_to_image")


def test_the_8b_workflow_draws_with_the_published_settings_and_says_where_files_go():
    workflow = load("lumina_dimoo_text_to_image")
    sampler, canvas = only(workflow, "MIGMShortcutSampler"), only(workflow, "MIGMEmptyCanvas")
    published = room("files").SETTINGS  # of a checkpoint that says nothing of its own
    resolved = room("run").resolve(published, sampler["preset"], sampler["method"], True, steps=sampler["steps"], budget=sampler["budget"])
    assert (resolved.steps, resolved.budget) == (sampler["steps"], sampler["budget"]) == (64, 11)
    assert (canvas["width"], canvas["height"], sampler["guidance"]) == (1024, 1024, 4)
    notes = " ".join(node["widgets_values"][0] for node in workflow["nodes"] if node["type"] in NOTES)
    assert "models/migm/Lumina-DiMOO/" in notes and "models/migm/dimoo-shortcut.pth" in notes
