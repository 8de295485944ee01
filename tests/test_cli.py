"""What every command has: its options, its help, its settings from the registries, what it says of those that change nothing."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
from commands import migm
from small_model import PROMPT

from migm_core.cli import main
from migm_core.families import FAMILIES
from migm_core.sampling.methods import METHODS, Vanilla
from migm_core.sampling.setting import choice, setting, settings_of


@pytest.mark.parametrize("command", ["generate", "inspect", "collect"])
def test_an_option_that_a_command_does_not_have_leads_to_its_help(capsys, command):
    assert migm(command, "x", "--nothing", "3") == 2
    assert capsys.readouterr().err == f"migm: unrecognized arguments: --nothing 3. See migm {command} --help.\n"


def help_of(capsys, command: str) -> str:
    with pytest.raises(SystemExit) as left:
        main([command, "--help"])
    assert left.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("command", ["generate", "compare", "evaluate"])
def test_every_setting_there_is_has_an_option(capsys, command):
    shown = help_of(capsys, command)
    settings = [each.settings() for each in METHODS.values()] + [settings_of(family.rule) for family in FAMILIES]
    for name, field in (item for each in settings for item in each.items()):
        assert f"--{name.replace('_', '-')} " in shown
        assert " ".join(field.metadata["about"].split()[:3]) in shown
    assert command != "generate" or "{" + ",".join(METHODS) + "}" in shown


@dataclass(frozen=True)
class Toy(Vanilla):
    name: ClassVar[str] = "toy"
    about: ClassVar[str] = "100% of nothing"

    toy_pace: int = setting(3, 1, 9, "how 100% of it goes")
    toy_mode: str = choice("slow", ("slow", "quick"), "which of both")
    toy_noise: bool = choice(True, (True, False), "whether it makes noise")


def test_a_new_method_is_offered_with_its_settings(generate, capsys, monkeypatch, small):
    monkeypatch.setitem(METHODS, "toy", Toy)
    shown = help_of(capsys, "generate")
    assert "{" + ",".join(METHODS) + "}" in shown and "toy: 100% of nothing" in " ".join(shown.split())
    assert "settings of the toy method" in shown and "{slow,quick}" in shown and "--no-toy-noise" in shown
    generate("--method", "toy", "--toy-pace", 4, "--toy-mode", "quick", "--no-toy-noise", "--report", "run.json")
    report = json.loads(Path("run.json").read_text())
    assert [report[name] for name in ("method", "toy_pace", "toy_mode", "toy_noise")] == ["toy", 4, "quick", False]
    options = ["--model", small.folder, "--head", small.head, "--device", "cpu", "--rounds", 1]
    assert migm("compare", PROMPT, *options) == 0
    assert re.search(r"\| toy \| 8 \| 8 \|.*\| 100.0% \|", capsys.readouterr().out)
    assert migm("compare", PROMPT, *options, "--methods", "toy toy-pace=10") == 2
    assert "toy_pace is 10" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["collect", "train-head", "evaluate"])
def test_every_training_command_explains_itself(capsys, command):
    assert "FOLDER" in help_of(capsys, command)


def test_a_setting_that_the_method_does_not_use_is_said(generate, capsys):
    generate("--method", "vanilla", "--budget", 3, "--interval", 2, "--report", "run.json")
    cautions = ["--budget changes nothing with the vanilla method.", "--interval changes nothing with the vanilla method."]
    assert capsys.readouterr().err.splitlines() == [f"migm: {caution}" for caution in cautions]
    assert json.loads(Path("run.json").read_text())["cautions"] == cautions


def test_an_evaluation_that_cannot_be_written_ends_before_it_begins(tmp_path, capsys):
    out = tmp_path / "nowhere" / "rows.json"
    assert main(["evaluate", "--prompts", "100000", "--out", str(out)]) == 2
    assert str(out) in capsys.readouterr().err
