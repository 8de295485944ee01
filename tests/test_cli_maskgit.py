"""`migm generate` with a MaskGIT: classes, and the settings of its family."""

import json
from pathlib import Path

import pytest
from commands import migm
from maskgit_folder import HEAD, published
from PIL import Image


@pytest.fixture
def maskgit(tmp_path):
    """Options for the recorded MaskGIT and its head: 10 classes without names, 24x24 pixels."""
    return ["--model", published(tmp_path / "maskgit"), "--head", HEAD, "--device", "cpu"]


def test_classes_by_number_with_the_settings_of_their_family(maskgit, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert migm("generate", "3", *maskgit, "--budget", 4, "--choice-temperature", 2, "--no-guidance-ramp", "--report", "run.json") == 0
    report, image = json.loads(Path("run.json").read_text()), Image.open("migm.png")
    assert image.size == (24, 24) and image.text["Description"] == "3"
    said = json.loads(image.text["migm"])
    of_rule = {"schedule": "arccos", "guidance_ramp": False, "softmax_temperature": 1.0, "choice_temperature": 2.0, "randomize": "linear"}
    for values in (report, said):
        assert of_rule.items() <= values.items() and "temperature" not in values and values["budget"] == 4
    assert report["family"] == "maskgit" and len(report["full_steps"]) == 4

    assert migm("generate", "3, 5; 3", *maskgit, "--batch", 2, "--report", "run.json") == 0
    report = json.loads(Path("run.json").read_text())
    assert [(image["path"], image["prompt"], image["seed"]) for image in report["images"]] == [(f"migm-{k}.png", label, k) for k, label in enumerate("353")]
    capsys.readouterr()
    assert migm("generate", "5", *maskgit, "--seed", 1, "--out", "alone.png") == 0
    assert Image.open("alone.png").tobytes() == Image.open("migm-1.png").tobytes()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["10"], "The class 10 does not exist: this model has the classes 0 to 9"),
        (["goldfish"], "The class 'goldfish' is unknown"),
        (["3", "--negative", "5"], "leave the negative prompt out"),
        (["3", "--temperature", "1"], "--temperature is a setting of Lumina-DiMOO, but the model is MaskGIT, which has --schedule, "),
        (["3", "--steps", "1"], "steps"),
        (["3", "--schedule", "magic"], "magic"),
        (["--prompt-file", "classes.txt"], "classes.txt, line 2: The class 12 does not exist"),
    ],
)
def test_what_is_no_class_or_no_setting_of_the_family_is_refused(maskgit, tmp_path, monkeypatch, capsys, options, expected):
    monkeypatch.chdir(tmp_path)
    Path("classes.txt").write_text("3\n12\n")
    assert migm("generate", *options, *maskgit, "--report", "run.json") == 2
    assert expected in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["classes.txt", "maskgit"]
