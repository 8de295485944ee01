"""What a task's pictures make of a run is known from their sizes alone, as it is when they are read."""

from dataclasses import replace

import pytest
from PIL import Image

from migm_core.families.lumina_dimoo.config import LuminaConfig
from migm_core.families.lumina_dimoo.family import LuminaDiMOO
from migm_core.families.lumina_dimoo.head import ShortcutConfig
from migm_core.families.lumina_dimoo.inputs import for_task
from migm_core.families.lumina_dimoo.rule import LuminaRule
from migm_core.families.lumina_dimoo.tasks import TASKS
from migm_core.families.request import TaskRequest, shapes_only
from migm_core.sampling.cost import PROMPT, PlannedRun
from migm_core.sampling.methods.shortcut import Shortcut
from migm_core.sampling.methods.vanilla import Vanilla
from migm_core.trained import Trained

FACTOR = 16
FAMILY = LuminaDiMOO()
REQUESTS = [TaskRequest("edit", "red"), TaskRequest("control", "red"), TaskRequest("dense", kind="depth"), TaskRequest("style")]


@pytest.mark.parametrize("trained", [(), ((64, 64), (96, 32))], ids=["buckets", "its own sizes"])
@pytest.mark.parametrize("scales", [(2.5, 4.0), (0.0, 4.0), (2.5, 0.0), (0.0, 0.0)], ids=str)
@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: request.task)
def test_sizes_are_those_of_the_pictures_when_they_are_read(pipeline, request_, scales, trained):
    sizes = [(640, 200), (40, 47)][: len(TASKS[request_.task].pictures)]
    read = for_task(TASKS[request_.task], replace(request_, pictures=[Image.new("RGB", size) for size in sizes]), shapes_only(FACTOR), FACTOR, trained)
    told = FAMILY.task_sizes(request_.task, sizes, Trained(trained), FACTOR, *scales)
    assert told.size == read.size
    branches = TASKS[request_.task].branches(pipeline.checkpoint.prompts, request_, read.codes, *scales)
    without = [branch.prompt.numel() for branch in TASKS[request_.task].branches(pipeline.checkpoint.prompts, request_, [codes[:0] for codes in read.codes], *scales)]
    frames = 2 * len(sizes)  # the marks around each picture, which are there without any rows, too
    shown = [branch.prompt.numel() - length for branch, length in zip(branches, without)]
    assert list(told.branches) == [rows + frames if rows else 0 for rows in shown]
    assert told.pictures == max(told.branches)


def test_a_picture_of_unknown_size_stands_for_a_square():
    assert FAMILY.task_sizes("edit", [None], Trained(), FACTOR, 2.5, 4.0) == FAMILY.task_sizes("edit", [(7, 7)], Trained(), FACTOR, 2.5, 4.0)
    assert FAMILY.task_sizes("style", [], Trained(), FACTOR, 2.5, 4.0).branches == (2 * 1058, 2 * 1058, 0)


def test_tasks_whose_prompt_shows_no_picture_have_none():
    assert FAMILY.task_sizes("paint", [(64, 64)], Trained(), FACTOR, 2.5, 4.0) is None
    assert FAMILY.task_sizes("text-to-image", [], Trained(), FACTOR, 2.5, 4.0) is None
    with pytest.raises(ValueError, match="task is 'draw', expected one of"):
        FAMILY.task_sizes("draw", [], Trained(), FACTOR, 2.5, 4.0)


def test_pictures_in_the_prompt_cost_as_the_longer_sequences_that_they_make():
    config, head = LuminaConfig(), ShortcutConfig(4096, 32, 12288)
    rule, method, side = LuminaRule(), Shortcut(budget=11), 32
    kinds, prompts = method.kinds(64), [PROMPT + 1058, PROMPT + 1058, PROMPT]

    def planned(lengths) -> PlannedRun:
        return PlannedRun(method, rule, kinds, side, side, lengths)

    alone = [planned([length]).costs(config, head) for length in prompts]
    assert planned(prompts).costs(config, head) == [sum(each) for each in zip(*alone)]
    plain, of_task = (planned(each).largest_speed_up(config, head) for each in ([PROMPT], prompts))
    assert planned([PROMPT] * 3).largest_speed_up(config, head) == pytest.approx(plain)
    assert of_task > plain  # a full step gains more positions than a shortcut one
    assert PlannedRun(Vanilla(), rule, ["full"] * 64, side, side, prompts).largest_speed_up(config, None) == 1
