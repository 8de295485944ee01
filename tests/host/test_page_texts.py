"""Texts and help pages as the page of a real ComfyUI gets them."""

import json

import pytest
from nodes_without_host import REPOSITORY, all_inputs, schemas

EXTENSION = "ComfyUI-MIGM-Shortcut"  # the folder that it lies in


def test_the_hosts_nodes_are_those_that_the_locales_are_checked_against(client):
    info = client.get("/object_info")
    for id, schema in schemas().items():
        there = info[id]
        inputs = with_dynamic(there["input"]["required"] | there["input"].get("optional", {}))
        assert (there["display_name"], there["category"], there["description"]) == (schema.display_name, schema.category, schema.description)
        assert {name: spec[1]["tooltip"] for name, spec in inputs.items()} == {each.id: each.tooltip for each in all_inputs(schema)}
        assert there["output_name"] == [each.display_name for each in schema.outputs]
        assert there["output_tooltips"] == [each.tooltip for each in schema.outputs]
    assert {id for id in info if id.startswith("MIGM")} == set(schemas())


def with_dynamic(inputs: dict) -> dict:
    """Inputs with those that a choice of a dynamic one brings, under the names that a prompt has them by."""
    every = {}
    for name, spec in inputs.items():
        every[name] = spec
        if spec[0] == "COMFY_DYNAMICCOMBO_V3":
            every |= {f"{name}.{inner}": of_inner for option in spec[1]["options"] for inner, of_inner in option["inputs"]["required"].items()}
    return every


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_host_serves_both_languages(client, language):
    """English has the nodes' texts from their schemas."""
    served = client.get("/i18n")[language]
    folder = REPOSITORY / "locales" / language
    own = json.loads((folder / "main.json").read_text("utf-8"))
    if language != "en":
        own["nodeDefs"] = json.loads((folder / "nodeDefs.json").read_text("utf-8"))
    for part, texts in own.items():
        assert texts.items() <= served[part].items()


def test_the_host_serves_every_help_page(client):
    for id in schemas():
        for page in (f"{id}.md", f"{id}/zh.md"):
            served = client._open(f"/extensions/{EXTENSION}/docs/{page}").decode()
            assert served == (REPOSITORY / "web" / "docs" / page).read_text("utf-8")
