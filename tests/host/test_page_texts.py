"""Texts and help pages as the page of a real ComfyUI gets them."""

import json

import pytest
from client import Client
from nodes_without_host import REPOSITORY, schemas

EXTENSION = "ComfyUI-MIGM-Shortcut"  # the folder that it lies in


@pytest.fixture(scope="module")
def client(server) -> Client:
    return server.client


def test_the_hosts_nodes_are_those_that_the_locales_are_checked_against(client):
    info = client.get("/object_info")
    for id, schema in schemas().items():
        there = info[id]
        inputs = there["input"]["required"] | there["input"].get("optional", {})
        assert (there["display_name"], there["category"], there["description"]) == (schema.display_name, schema.category, schema.description)
        assert {name: spec[1]["tooltip"] for name, spec in inputs.items()} == {each.id: each.tooltip for each in schema.inputs}
        assert there["output_name"] == [each.display_name for each in schema.outputs]
        assert there["output_tooltips"] == [each.tooltip for each in schema.outputs]
    assert {id for id in info if id.startswith("MIGM")} == set(schemas())


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_host_serves_both_languages(client, language):
    served = client.get("/i18n")[language]
    folder = REPOSITORY / "locales" / language
    own = json.loads((folder / "main.json").read_text("utf-8")) | {"nodeDefs": json.loads((folder / "nodeDefs.json").read_text("utf-8"))}
    for part, texts in own.items():
        assert texts.items() <= served[part].items()


def test_the_host_serves_every_help_page(client):
    for id in schemas():
        for page in (f"{id}.md", f"{id}/zh.md"):
            served = client._open(f"/extensions/{EXTENSION}/docs/{page}").decode()
            assert served == (REPOSITORY / "web" / "docs" / page).read_text("utf-8")
