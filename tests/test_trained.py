"""A model says what it was trained for, and a run that asks for something else is told before it starts."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from refusal import refused
from small_model import PROMPT, edit_json

from migm_core.checkpoints import CheckpointError, convert, load_checkpoint
from migm_core.cli import main
from migm_core.families import detect
from migm_core.pipeline import Pipeline
from migm_core.trained import Trained, cautions


@pytest.fixture(scope="module")
def demo():
    return Pipeline.load(head=None, device="cpu")


def test_the_bundled_model_says_what_it_was_trained_for(demo):
    own = demo.settings()
    trained = demo.checkpoint.trained
    assert trained.sizes == ((own.width, own.height),) and trained.guidance and {"text-to-image", "paint"} <= {*trained.tasks}
    assert cautions(trained, own) == []
    (size,) = cautions(trained, demo.settings(width=128, height=64))
    assert "256x256" in size and "128x64" in size
    assert cautions(trained, own, "blue") == []
    (negative,) = cautions(trained, demo.settings(guidance_scale=0.0), "blue")
    assert "negative prompt changes nothing" in negative


def test_a_model_without_guidance_says_so(pipeline):
    (guidance,) = cautions(Trained(guidance=False), pipeline.settings(guidance_scale=1.5), "blue")
    assert "1.5" in guidance and "cfg to 0" in guidance


def test_a_task_that_a_model_was_not_trained_for_is_named(demo):
    alone = Pipeline(replace(demo.checkpoint, trained=Trained(tasks=("text-to-image", "paint"))), None)
    (caution,) = cautions(alone.checkpoint.trained, alone.settings(task="edit"))
    assert "not trained for edit, but for text-to-image, paint" in caution
    assert cautions(alone.checkpoint.trained, alone.settings(task="paint")) == []
    assert "not trained for understanding" in alone.understand("what is red", length=4, block=4).notes[0]


def test_a_model_that_says_nothing_of_itself_gets_no_caution(pipeline):
    assert cautions(pipeline.checkpoint.trained, pipeline.settings(width=64, height=16, guidance_scale=9), "blue") == []


def test_what_a_model_was_trained_for_goes_into_a_single_file(copy, tmp_path):
    edit_json(copy.folder / "generation_config.json", trained={"sizes": [[32, 32], [64, 32]]})
    convert(copy.folder, tmp_path / "single.safetensors")
    assert load_checkpoint(tmp_path / "single.safetensors").trained == Trained(((32, 32), (64, 32)), guidance=True)


@pytest.mark.parametrize("value", [[], "64x64", {"sizes": [64, 64]}, {"sizes": [[64, "64"]]}, {"sizes": [[0, 64]]}, {"guidance": 1}, {"tasks": "paint"}, {"tasks": [1]}])
def test_a_senseless_description_is_named(copy, value):
    edit_json(copy.folder / "generation_config.json", trained=value)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(copy.folder)
    assert str(copy.folder) in str(caught.value) and repr(value) in str(caught.value)


@pytest.mark.parametrize("size", [[20000, 20000], [4097, 8], [2056, 2048], [8, 10**12], [10**60, 10**60]], ids=lambda size: f"{size[0]:.0e}x{size[1]:.0e}")
def test_a_size_that_no_run_may_have_is_refused_before_a_picture_is_scaled_to_it(copy, size):
    edit_json(copy.folder / "generation_config.json", trained={"sizes": [[32, 32], size]})
    name, shown = str(copy.folder / "generation_config.json"), "x".join(str(side) if side < 10**15 else "a number of too many digits" for side in size)
    refused(lambda: load_checkpoint(copy.folder), name, f"{shown} pixels", "4,194,304 in all, 4,096 a side")
    refused(lambda: detect(copy.folder)[0].own_settings(copy.folder), name, f"{shown} pixels")


def test_the_largest_sizes_of_a_run_are_those_that_a_model_may_be_trained_for(copy):
    edit_json(copy.folder / "generation_config.json", trained={"sizes": [[2048, 2048], [4096, 1024]]})
    assert load_checkpoint(copy.folder).trained.sizes == ((2048, 2048), (4096, 1024))


def test_the_command_line_says_it_and_reports_it(tmp_path, capsys):
    options = ["--steps", "2", "--size", "64x32", "--cfg", "0", "--out", str(tmp_path / "x.png"), "--report", str(tmp_path / "x.json"), "--device", "cpu"]
    assert main(["generate", "a small cat riding a bicycle", "--negative", "blue", *options]) == 0
    said = capsys.readouterr().err.splitlines()
    report = json.loads(Path(tmp_path / "x.json").read_text())
    assert said == [f"migm: {caution}" for caution in report["cautions"]]
    assert len(said) == 3 and "256x256" in said[0] and "negative prompt" in said[1] and "small, cat, riding, bicycle" in said[2]
    assert report["unknown_words"] == ["small", "cat", "riding", "bicycle"]


def test_a_known_prompt_at_the_models_own_size_needs_no_words(tmp_path, capsys):
    assert main(["generate", PROMPT, "--steps", "1", "--cfg", "2", "--out", str(tmp_path / "x.png"), "--device", "cpu"]) == 0
    assert capsys.readouterr().err == ""
