"""The recipe's own folder, damaged: every file of it is named in one sentence, and the recipe ends as `migm` does."""

import json

import pytest
import torch
from safetensors.torch import save_file

from migm_core.command import answered
from migm_core.worlds.recipe import weights
from migm_core.worlds.recipe.__main__ import main
from migm_core.worlds.recipe.evaluation import read_report
from migm_core.worlds.recipe.pieces import spent
from migm_core.worlds.recipe.stages.text_to_image import recorded_runs
from migm_core.worlds.recipe.task import digest


def said_by(capsys, *argv: object) -> str:
    """The line that a refused stage ends with."""
    assert answered(lambda: main([*map(str, argv), "--size", "tiny", "--seconds", "1", "--device", "cpu"]), "recipe") == 2
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert line.startswith("recipe: ") and line.endswith(".")
    return line


@pytest.mark.parametrize("option", ["--seconds=-1", "--piece=nan", "--prompts=0", "--seed=-1", "--size=moon", "--init-from=nowhere", "--moon"])
def test_options_out_of_their_range_are_refused_in_one_line(capsys, tmp_path, option):
    folder = tmp_path / "work"
    assert answered(lambda: main(["base", str(folder), option]), "recipe") == 2
    assert option.partition("=")[0] in capsys.readouterr().err and not folder.exists()


def test_a_stage_before_those_that_it_needs_is_refused_in_one_line(capsys, tmp_path):
    assert "Run the stage tokenizer first" in said_by(capsys, "base", tmp_path / "new" / "work")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("content", [b"", b"{}", b"x" * 1000])
def test_damaged_weights_are_named(capsys, tmp_path, content):
    (tmp_path / "tokenizer.safetensors").write_bytes(content)
    assert str(tmp_path / "tokenizer.safetensors") in said_by(capsys, "base", tmp_path)
    with pytest.raises(ValueError, match="tokenizer.safetensors"):
        digest(tmp_path / "tokenizer.safetensors")


def test_weights_of_another_model_are_named(tmp_path):
    model = torch.nn.Linear(2, 3)
    for wrong, words in (({"weight": torch.ones(2, 2), "bias": torch.ones(3)}, r"weight in the shape \[2, 2\], expected \[3, 2\]"), ({"weight": torch.ones(3, 2)}, "lacks bias"), ({**model.state_dict(), "moon": torch.ones(1)}, "holds moon")):
        save_file(wrong, tmp_path / "base.safetensors")
        with pytest.raises(ValueError, match=words):
            weights.load(tmp_path, "base", model)
    weights.save(tmp_path, "base", model)
    assert weights.load(tmp_path, "base", model).keys() == {"weight", "bias"}


def test_parts_of_other_files_are_not_unpacked(tmp_path):
    save_file({"moon.weight": torch.ones(1)}, tmp_path / "weights-1.safetensors")
    with pytest.raises(ValueError, match="weights-1.safetensors holds moon.weight"):
        weights.unpack(tmp_path, tmp_path / "work")


@pytest.mark.parametrize("text", ["", "x", "nan", "-1", "1e400", "9" * 500])
def test_seconds_that_are_no_number_are_named(tmp_path, text):
    (tmp_path / "base.spent").write_text(text)
    with pytest.raises(ValueError, match="base.spent holds no number of seconds"):
        spent(tmp_path, "base")


@pytest.mark.parametrize("text", ["{", "[]", "null", '{"rows": 5}', '{"rows": [{"moon": 1}]}', "[" * 100_000])
def test_a_report_that_is_none_is_named(tmp_path, text):
    (tmp_path / "evaluation.json").write_text(text)
    with pytest.raises(ValueError, match="evaluation.json"):
        read_report(tmp_path / "evaluation.json")


def test_a_report_is_read(tmp_path):
    (tmp_path / "evaluation.json").write_text(json.dumps({"rows": [{"way": "vanilla", "prompts": 1, "seconds": 2.0}]}))
    assert read_report(tmp_path / "evaluation.json")["rows"][0]["way"] == "vanilla"


def test_recorded_runs_that_are_none_are_named(tmp_path):
    save_file({"prompts": torch.ones(2, 3, dtype=torch.int16), "codes": torch.ones(2, 4, dtype=torch.int16), "unmasked_at": torch.ones(1, 4, dtype=torch.uint8)}, tmp_path / "runs.safetensors")
    with pytest.raises(ValueError, match="runs.safetensors holds no recorded runs"):
        recorded_runs(tmp_path / "runs.safetensors")
