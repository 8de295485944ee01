"""Texts in the page: English and Chinese cover every node, and nothing that is not there."""

import json
import re

import pytest
from nodes_without_host import REPOSITORY, room, schemas

LANGUAGES = ["en", "zh"]


def texts(language: str, file: str) -> dict:
    return json.loads((REPOSITORY / "locales" / language / file).read_text(encoding="utf-8"))


def leaves(table: dict, path: str = "") -> dict[str, str]:
    """Every text by its path in the file."""
    found = {}
    for key, value in table.items():
        found |= leaves(value, f"{path}{key}/") if isinstance(value, dict) else {path + key: value}
    return found


def of_schemas() -> dict:
    """What the schemas themselves say, in the host's form."""
    return {
        id: {
            "display_name": schema.display_name,
            "description": schema.description,
            "inputs": {each.id: {"name": each.id, "tooltip": each.tooltip} for each in schema.inputs},
            "outputs": {str(index): {"name": each.display_name, "tooltip": each.tooltip} for index, each in enumerate(schema.outputs)},
        }
        for id, schema in schemas().items()
    }


def test_english_is_what_the_schemas_say():
    assert texts("en", "nodeDefs.json") == of_schemas()


@pytest.mark.parametrize("file", ["nodeDefs.json", "main.json"])
def test_chinese_covers_what_english_does_and_no_more(file):
    assert leaves(texts("zh", file)).keys() == leaves(texts("en", file)).keys()


@pytest.mark.parametrize("file", ["nodeDefs.json", "main.json"])
def test_every_chinese_text_is_translated(file):
    untranslated = [path for path, text in leaves(texts("zh", file)).items() if not any("\u4e00" <= letter <= "\u9fff" for letter in text)]
    assert not untranslated


@pytest.mark.parametrize("language", LANGUAGES)
def test_categories_and_types_are_those_of_the_schemas(language):
    main = texts(language, "main.json")
    own = {each.io_type for schema in schemas().values() for each in (*schema.inputs, *schema.outputs) if each.io_type.startswith("MIGM_")}
    assert main["dataTypes"].keys() == own
    assert main["nodeCategories"].keys() == {part for schema in schemas().values() for part in schema.category.split("/")}


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_text_has_characters_that_the_page_would_interpret(language):
    found = {**leaves(texts(language, "nodeDefs.json")), **leaves(texts(language, "main.json"))}
    assert not [path for path, text in found.items() if set("{}@|") & set(text)]


def remarks() -> list[str]:
    """Sentences of the server that the page shows: notes and cautions."""
    plan = room("plan")
    notes = [plan.NO_HEAD, plan.NO_SHORTCUT]
    settings = plan.Settings(128, 72, 64, 9, 4.5, 0.2)
    without = plan.Settings(64, 64, 64, 9, 0.0, 0.2)
    trained = plan.Trained(((64, 64),), guidance=False)
    return [*notes, *plan.cautions(trained, settings, ""), *plan.cautions(trained, without, "a cat")]


def test_the_timeline_translates_all_that_the_server_remarks():
    translated = (REPOSITORY / "web" / "words.js").read_text(encoding="utf-8")
    patterns = [re.compile(pattern) for pattern in re.findall(r"^\s*\[?/(\^.*)/,", translated, re.MULTILINE)]
    assert len(remarks()) == 5
    assert not [remark for remark in remarks() if not any(pattern.match(remark) for pattern in patterns)]


@pytest.mark.parametrize("suffix", [".md", "/zh.md"])
def test_every_node_has_its_help_page_and_no_other_has_one(suffix):
    docs = REPOSITORY / "web" / "docs"
    ids = set(schemas())
    for id in ids:
        text = (docs / f"{id}{suffix}").read_text(encoding="utf-8")
        assert text.startswith("# ")
    there = {path.stem for path in docs.glob("*.md")} if suffix == ".md" else {path.parent.name for path in docs.glob("*/zh.md")}
    assert there == ids


def test_pictures_in_help_pages_are_there():
    docs = REPOSITORY / "web" / "docs"
    for page in docs.rglob("*.md"):
        for target in page.read_text(encoding="utf-8").split("](")[1:]:
            target = target.split(")")[0]
            assert target.startswith("https://") or (docs / target).is_file(), f"{page.name}: {target}"
