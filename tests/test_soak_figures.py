"""What tests/tools/soak.py calls growth: a trend above its limit that is no noise."""

import random
from dataclasses import replace

import numpy as np
import pytest
from soaking.figures import LIMITS, Mark, Timed, grown, memory_table, slope, time_table
from soaking.results import combinations, difference


def marks(slower: float = 0.0, **a_thousand_runs: float) -> list[Mark]:
    """Marks every 50 of 1,000 runs, with noise of 5 MB, of a host that gains so much of some figures every 1,000 runs, on a machine that becomes busier.

    Args:
        slower: by how much a run takes longer at the end, as a share.
    """
    rng = random.Random(0)
    made = []
    for runs in range(50, 1001, 50):
        rest = {name: {"RSS MB": 800.0 + rng.gauss(0, 5), "objects": 600_000.0}.get(name, 10.0) for name in LIMITS}
        for name, gain in a_thousand_runs.items():
            rest[name.replace("_", " ")] += gain * runs / 1000
        alone = {"edit": 0.1 * (1 + runs / 500), "paint": 0.4 * (1 + runs / 500)}
        pace = {kind: (1.5 * seconds * rng.lognormvariate(0, 0.1) * (1 + slower * runs / 1000), seconds) for kind, seconds in alone.items()}
        made.append(Mark(runs, rest, {"RSS MB": 800.0 + rng.gauss(0, 5)}, [], pace))
    return made


def test_noise_and_a_busier_machine_are_no_growth():
    assert not grown(marks())


@pytest.mark.parametrize("name, gain", [("RSS_MB", 60), ("handles", 20), ("tensors", 400), ("objects", 100_000), ("step_times", 900)])
def test_what_grows_is_named(name, gain):
    (found,) = grown(marks(**{name: gain}))
    assert name.replace("_", " ") in found and "At rest" in found


def test_runs_that_become_slower_than_the_engine_alone_are_named():
    (found,) = grown(marks(slower=0.5))
    assert "the same runs take" in found


def test_a_model_that_is_held_after_all_was_unloaded_is_named():
    held = [replace(mark, left=["Lumina"] if mark.runs == 500 else []) for mark in marks()]
    assert grown(held) == ["After 500 runs the host still held Lumina when all was unloaded."]


def test_a_slope_is_taken_within_groups():
    x = np.arange(40.0)
    found, error = slope(x, 3 * x + 1000 * (x // 20), list(x // 20))
    assert found == pytest.approx(3) and error < 1e-9
    assert slope([1, 2], [1, 5], ["one", "other"])[1] == float("inf")


def test_tables_have_a_row_for_each_figure_and_kind():
    assert any("| RSS MB, unloaded | " in line for line in memory_table(marks()))
    timed = [Timed(run, "edit", 1.0 + run, None if run < 6 else 0.25) for run in range(9)]
    assert time_table(timed)[-1] == "| edit | 9 | 2.00 | 8.00 | 0.25 | 0.25 |"
    assert memory_table([]) == [] and len(time_table([])) == 2


def test_one_pixel_that_differs_by_one_step_is_a_difference():
    picture = np.full((4, 6, 3), 7, np.uint8)
    assert difference([picture], {"0": picture.copy()}) is None
    other = picture.copy()
    other[1, 2, 0] += 1
    assert "4.2% of its pixels, by up to 1" in difference([other], {"0": picture})
    assert "shape" in difference([picture[:3]], {"0": picture}) and "2 pictures" in difference([picture] * 2, {"0": picture})
    assert difference("a star", {"text": np.array("a star")}) is None and "'star'" in difference("a star", {"text": np.array("star")})


def test_a_run_may_have_met_each_choice_of_files():
    assert combinations({"base": {1}, "head": {0, 1}}) == [{"base": 1, "head": 0}, {"base": 1, "head": 1}]
