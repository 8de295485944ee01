"""A method is one class in the registry: the nodes, the plan, the page's legend and the memory estimate ask it, and have no list of their own."""

from dataclasses import asdict, dataclass
from typing import ClassVar

import nodes_without_host
import pytest
import torch
from nodes_without_host import room
from small_model import small_config

from migm_core.families import family_named
from migm_core.sampling.memory import run_bytes
from migm_core.sampling.methods import METHODS, Vanilla
from migm_core.sampling.setting import setting

KEPT = 12345  # bytes


@pytest.fixture(scope="module")
def nodes():
    """The schemas of the nodes."""
    return nodes_without_host.schemas()


@pytest.fixture
def toy(monkeypatch, nodes):
    """A method in the engine of the nodes, and in ours, under one name."""
    theirs = room("choices").METHODS

    def make(base):
        @dataclass(frozen=True)
        class Toy(base):
            name: ClassVar[str] = "toy"
            about: ClassVar[str] = "every other step is a toy"
            own_steps: ClassVar[dict] = {"toyed": "Toys run."}

            every: int = setting(2, 1, 9, "steps from one full one to the next")

            def kinds(self, steps):
                return ["toyed" if step % self.every else "full" for step in range(steps)]

            def kept_bytes(self, config, dtype, lengths):
                return KEPT

        return Toy

    monkeypatch.setitem(theirs, "toy", make(theirs["vanilla"]))
    monkeypatch.setitem(METHODS, "toy", make(Vanilla))
    return theirs["toy"]


def sampler(node: str):
    """A sampler's inputs by name, defined anew."""
    kind, name = {"MIGMShortcutSampler": ("sampler", "ShortcutSampler"), "MIGMMaskGITSampler": ("maskgit", "MaskGITSampler")}[node]
    return {each.id: each for each in getattr(room(kind), name).define_schema().inputs}


SAMPLERS = ("MIGMShortcutSampler", "MIGMMaskGITSampler")


@pytest.mark.parametrize("node", SAMPLERS)
def test_a_sampler_offers_a_method_that_the_registry_has_and_its_settings(toy, node):
    inputs = sampler(node)
    assert inputs["method"].options["options"] == list(METHODS) and "toy" in inputs["method"].options["options"]
    assert "toy: every other step is a toy" in inputs["method"].tooltip
    every = inputs["every"]
    assert every.optional and (every.options["default"], every.options["min"], every.options["max"]) == (2, 1, 9)
    assert every.tooltip == "For toy: steps from one full one to the next."
    assert every.extra_dict["advanced"]
    assert room("choices").check_method("toy") is True


@pytest.mark.parametrize("node", SAMPLERS)
def test_settings_of_methods_stand_after_all_other_widgets(nodes, node):
    """So that saved workflows, which number the values, keep theirs."""
    ids = [each.id for each in nodes[node].inputs]
    settings = [name for name in room("choices").settings_of_methods() if name != "budget"]
    assert settings and ids[-len(settings) :] == settings
    required = [each.id for each in nodes[node].inputs if not each.optional]
    assert required[-1] == "method" and ids.index("method") < ids.index(settings[0])


@pytest.mark.parametrize(("node", "family"), [*zip(SAMPLERS, ("lumina-dimoo", "maskgit"))])
def test_a_sampler_has_the_settings_of_its_familys_rule(nodes, node, family):
    family = family_named(family)
    inputs = {each.id: each.options.get("default") for each in nodes[node].inputs}
    assert {name: inputs[name] for name in family.rule_settings()} == asdict(family.sampling(family.defaults))
    assert (inputs["steps"], inputs["budget"], inputs["cfg"]) == tuple(family.defaults[name] for name in ("steps", "budget", "guidance_scale"))


def test_the_plan_and_the_pages_legend_know_it(toy):
    answer = room("plan").answer({"model": "bundled demo", "method": "toy", "every": "4", "steps": "9", "cfg": "0"})
    assert answer["kinds"] == ["full" if step % 4 == 0 else "toyed" for step in range(9)]
    assert {"kind": "toyed", "about": "Toys run."} in answer["legend"]
    assert answer["uses"] == ["every"] and answer["settings"] == {"every": 4} and "every" in answer["method_settings"]
    assert answer["presets"] == {}
    assert answer["speed_up"] is None  # it does not say what its steps cost
    with pytest.raises(ValueError, match="every is 10, but must be a whole number from 1 to 9"):
        room("plan").answer({"model": "bundled demo", "method": "toy", "every": "10"})


def test_a_line_of_compare_methods_understands_it(toy):
    compare = room("compare")
    ways = dict(compare.parse("toy\ntoy 16\ntoy 16 every=3"))
    assert ways["toy 16 every=3"] == {"method": "toy", "steps": 16, "every": 3}
    numbers = compare.numbers_of(ways["toy 16 every=3"], {"steps": 64, "budget": 9})
    assert numbers == {"method": "toy", "steps": 16, "method_settings": {"every": 3}}
    with pytest.raises(ValueError, match="'toy every=0': every is 0"):
        compare.parse("toy every=0")
    with pytest.raises(ValueError, match="'vanilla every=2' sets every, but vanilla has the settings none"):
        compare.parse("vanilla every=2")


def test_the_memory_estimate_counts_what_it_keeps(toy):
    config = small_config()
    vanilla, with_toy = (run_bytes(config, torch.float32, [30], 16, METHODS[name].build({})) for name in ("vanilla", "toy"))
    assert with_toy - vanilla == KEPT


def test_the_budget_belongs_to_the_methods_that_have_one(nodes):
    budget = next(each for each in nodes["MIGMShortcutSampler"].inputs if each.id == "budget")
    field = METHODS["shortcut"].settings()["budget"]
    assert (budget.options["min"], budget.options["max"]) == (field.metadata["low"], field.metadata["high"])
    answer = room("plan").answer
    assert answer({"method": "shortcut", "head": "1"})["uses"] == list(METHODS["shortcut"].settings())
    assert answer({"method": "shortcut", "head": "0"})["uses"] == []
    assert answer({"method": "ml-cache"})["uses"] == list(METHODS["ml-cache"].settings())


@pytest.mark.parametrize("unknown, known", [("steps", False), ("method", False), ("budget", False), ("cfg", True), ("interval", True)])
def test_what_only_a_run_can_tell_is_said_where_the_steps_depend_on_it(nodes, unknown, known):
    asked = {"method": "shortcut", "head": "1", "unknown": unknown}
    if known:
        assert room("plan").answer(asked)["kinds"]
    else:
        with pytest.raises(ValueError, match=f"{unknown} comes from another node"):
            room("plan").answer(asked)


@pytest.mark.parametrize("text", [None, "{", "[]", '{"class_names": 3}'])
def test_a_damaged_file_of_the_bundled_model_leaves_the_other_classes(text, tmp_path, monkeypatch):
    names = room("maskgit")
    before = names.class_names()
    monkeypatch.setitem(names.BUNDLED, "demo-classes", tmp_path)
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    assert names.class_names() == before[48:] and len(before) == 1048
