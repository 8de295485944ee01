"""The recipe's stage evaluation: it goes on where an earlier piece stopped."""

import json
from dataclasses import replace

import pytest
import torch

from migm_core.families.lumina_dimoo.backbone import Lumina
from migm_core.families.lumina_dimoo.initial import initialise
from migm_core.tokenizers.amused_vq import ImageTokenizer
from migm_core.worlds import lakeside
from migm_core.worlds.recipe import weights
from migm_core.worlds.recipe.sizes import SIZES
from migm_core.worlds.recipe.stages import evaluating, other_tasks
from migm_core.worlds.recipe.task import Task

SIZE = replace(SIZES["tiny"], steps=2, budgets=(1,), few=(1,), tasks=("edit", "question"), classes=None)


class Unwanted:
    def __init__(self, *_):
        raise AssertionError("its requests are not wanted")


@pytest.fixture
def task(tmp_path):
    """Of four prompts, with models that have learned nothing."""
    torch.manual_seed(0)
    model = Lumina(SIZE.base(), output_rows="all")
    initialise(model)
    weights.save(tmp_path, "tokenizer", ImageTokenizer(SIZE.tokenizer))
    weights.save(tmp_path, "tasks", model)
    return Task(tmp_path, SIZE, seconds=600, prompts=4, split="dev")


def test_an_evaluation_goes_on_with_the_tasks_that_are_left(task, monkeypatch):
    report, sheet = task.folder / "evaluation.json", task.folder / "pictures.jpg"
    kept = []
    evaluating.evaluation(replace(task, keep=lambda: kept.append(len(json.loads(report.read_text())["tasks"]))))
    said = json.loads(report.read_text())
    right, count = said["rows"][0]["open"]
    assert right <= count == lakeside.parse(said["prompts"]).places_open.sum() and f"| {right} of {count} |" in (task.folder / "evaluation.md").read_text()
    whole, shown = json.loads(report.read_text()), sheet.read_bytes()
    assert kept == [0, 3] == [0, len(whole["tasks"])], "what was found is kept before the tasks have their turn"
    for left in (1, 0):  # some of the tasks' ways have been tried, or none
        report.write_text(json.dumps(whole | {"tasks": whole["tasks"][:left]}))
        evaluating.evaluation(task)
        found = json.loads(report.read_text())
        assert [row["way"] for row in found["tasks"]] == [row["way"] for row in whole["tasks"]] and found["rows"] == whole["rows"]
    assert sheet.read_bytes() == shown, "it shows the first ways, whoever tried the last"

    for name in ("TaskEvaluator", "AnswerEvaluator"):
        monkeypatch.setattr(evaluating, name, Unwanted)
    evaluating.evaluation(task)  # asks for nothing, as all is tried
    report.unlink()
    evaluating.evaluation(replace(task, seconds=0))  # nor where there is no time
    assert not json.loads(report.read_text())["tasks"]


def test_what_was_tried_with_other_scenes_or_steps_is_tried_again(task):
    evaluating.evaluation(replace(task, seconds=0))
    tried = lambda sizes: len(evaluating._earlier_report(replace(task, sizes=sizes))["rows"])  # noqa: E731
    assert tried(SIZE) == 1
    others = ({"variety": SIZES["cpu"].variety}, {"pixels": 64}, {"steps": 4}, {"tasks": ("edit",)})
    assert [tried(replace(SIZE, **other)) for other in others] == [0] * 4


def test_a_stage_of_tasks_shows_few_steps_and_an_answer(task, monkeypatch, capsys):
    monkeypatch.setattr(other_tasks, "train_masked", lambda folder, model, *_, on_checkpoint, **__: model.eval())
    other_tasks.tasks(replace(task, sizes=replace(SIZE, steps=20)))
    picture, question = capsys.readouterr().out.splitlines()
    assert "edit, vanilla 16" in picture and "?" in question and "(expected: " in question
