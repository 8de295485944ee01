"""Texts in the page: English and Chinese cover every node, and nothing that is not there."""

import json
import re
import sys
from types import SimpleNamespace

import pytest
import torch
from nodes_without_host import NAME, REPOSITORY, all_inputs, room, schemas
from PIL import Image
from small_model import small_config

from migm_core.families.lumina_dimoo.backbone import Lumina

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
    """What the schemas say, which is English, in the form of a translation."""
    return {
        id: {
            "display_name": schema.display_name,
            "description": schema.description,
            "inputs": {each.id.replace(".", "_"): {"name": each.id, "tooltip": each.tooltip} for each in all_inputs(schema)},  # the page asks for it so
            "outputs": {str(index): {"name": each.display_name, "tooltip": each.tooltip} for index, each in enumerate(schema.outputs)},
        }
        for id, schema in schemas().items()
    }


def from_registries() -> set[str]:
    """Inputs that a method or a rule brings by itself: until somebody translates them they are English."""
    plan, families = room("plan"), [room("sampler").FAMILY, room("maskgit").FAMILY]
    return {*plan.settings_of_methods(), *(name for family in families for name in family.rule_settings())}


def test_chinese_covers_the_nodes_and_no_more():
    ours, chinese = leaves(of_schemas()).keys(), leaves(texts("zh", "nodeDefs.json")).keys()
    assert not chinese - ours
    by_themselves = {f"{node}/inputs/{name}" for node in schemas() for name in from_registries()}
    assert not [path for path in ours - chinese if path.rpartition("/")[0] not in by_themselves]


def test_chinese_covers_the_categories_and_types():
    assert leaves(texts("zh", "main.json")).keys() == leaves(texts("en", "main.json")).keys()


def test_chinese_names_the_nodes_that_english_names():
    """In each text and each help page."""
    chinese, english, docs = texts("zh", "nodeDefs.json"), leaves(of_schemas()), REPOSITORY / "web" / "docs"
    pairs = {path: (english[path], text) for path, text in leaves(chinese).items()}
    pairs |= {f"{id}.md": ((docs / f"{id}.md").read_text("utf-8"), (docs / id / "zh.md").read_text("utf-8")) for id in schemas()}
    for path, (ours, theirs) in pairs.items():
        named = {id for id, schema in schemas().items() if schema.display_name in ours}
        assert {id for id in schemas() if chinese[id]["display_name"] in theirs} == named, path


@pytest.mark.parametrize("file", ["nodeDefs.json", "main.json"])
def test_every_chinese_text_is_translated(file):
    untranslated = [path for path, text in leaves(texts("zh", file)).items() if not any("\u4e00" <= letter <= "\u9fff" for letter in text)]
    assert not untranslated


@pytest.mark.parametrize("language", LANGUAGES)
def test_categories_and_types_are_those_of_the_schemas(language):
    main = texts(language, "main.json")
    own = {each.io_type for schema in schemas().values() for each in (*all_inputs(schema), *schema.outputs) if each.io_type.startswith("MIGM_")}
    assert main["dataTypes"].keys() == own
    assert main["nodeCategories"].keys() == {part for schema in schemas().values() for part in schema.category.split("/")}


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_text_has_characters_that_the_page_would_interpret(language):
    nodes = of_schemas() if language == "en" else texts(language, "nodeDefs.json")
    found = {**leaves(nodes), **leaves(texts(language, "main.json"))}
    assert not [path for path, text in found.items() if set("{}@|") & set(text)]


def remarks() -> list[str]:
    """Sentences of the server that the page shows: notes and cautions."""
    plan = room("plan")
    notes = [plan.NO_HEAD, plan.NO_SHORTCUT]
    settings = plan.Settings(128, 72, 64, 4.5, None)
    without = plan.Settings(64, 64, 64, 0.0, None)
    doubt = sys.modules[f"{NAME}.migm_core.families.maskgit.files"].guessed_heads(512)
    trained = plan.Trained(((64, 64),), guidance=False, tasks=("text-to-image", "paint"), doubts=(doubt,))
    other = room("run").other_base("a head.safetensors", "of another", Lumina(small_config()), "a model")
    abouts = list(room("choices").kinds_of_steps().values())
    errors = []
    for asked in ({"unknown": "steps"}, {"model": "none"}, {"head": "1", "budget": "1"}):
        with pytest.raises(ValueError) as error:
            plan.answer(asked)
        errors.append(str(error.value))
    inputs, painting, pictures = (sys.modules[f"{NAME}.migm_core.families.lumina_dimoo.{name}"] for name in ("inputs", "painting", "pictures"))
    notes += pictures.prepare(Image.new("RGB", (400, 40)), ((64, 64),), "Picture 2").note, pictures.prepare(Image.new("RGB", (40, 400)), ((64, 64),)).note
    notes += pictures.prepare(Image.new("RGBA", (64, 64)), ((64, 64),), "Picture 2").notes
    notes += pictures.prepare(Image.new("I;16", (64, 64)), ((64, 64),)).notes
    painted = painting.Painting()
    notes += inputs.MASKS_ITSELF, inputs.WORDS_OF_ITS_OWN.format(task="dense")
    notes += painting.paint_in(Image.new("RGB", (64, 64)), torch.ones(32, 32), painted, 8).notes
    notes += painting.paint_in(Image.new("RGB", (66, 64)), torch.eye(64, 66), painted, 8).notes
    notes += inputs._to_paint(Image.new("RGB", (128, 128)), torch.eye(128), painted, lambda pixels: torch.zeros(1, 16, 16, dtype=torch.int64), 8, [(64, 64)]).notes
    notes += trained.caution("edit"), trained.caution("understanding")
    reading = sys.modules[f"{NAME}.migm_core.families.lumina_dimoo.reading"]
    unfinished = SimpleNamespace(end=None, cache_errors=(SimpleNamespace(kl=0.03, changed=0.1),))
    notes += reading._cautions(unfinished, SimpleNamespace(stop="answer", length=64))
    return [*notes, *plan.cautions(trained, settings, ""), *plan.cautions(trained, without, "a cat"), other, *abouts, *errors]


def test_the_timeline_translates_all_that_the_server_remarks():
    translated = (REPOSITORY / "web" / "words.js").read_text(encoding="utf-8")
    patterns = [re.compile(pattern) for pattern in re.findall(r"^\s*\[?/(\^.*)/,", translated, re.MULTILINE)]
    assert len(remarks()) == 29
    used = [next((pattern for pattern in patterns if pattern.match(remark)), None) for remark in remarks()]
    assert None not in used
    assert set(used) == set(patterns), "a translation that nothing needs, or that another one takes the place of"


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
