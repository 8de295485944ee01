"""What `migm evaluate` counts, and how sure it is of it."""

import json
import re

import numpy as np
import pytest

from migm_core.bench.intervals import median, paired_difference, share
from migm_core.bench.ways import parse_ways
from migm_core.cli import main
from migm_core.pipeline import Pipeline
from migm_core.worlds.shapes.evaluate import evaluate, table


def test_the_interval_of_a_share_is_wilsons():
    # Wilson's interval of 81 in 263 without continuity correction, as Newcombe 1998 (Stat Med 17, 857) gives it.
    assert share(81, 263) == pytest.approx((0.3080, 0.2553, 0.3662), abs=5e-5)
    assert share(0, 20) == pytest.approx((0.0, 0.0, 0.1611), abs=5e-5)
    assert share(29, 29) == pytest.approx((1.0, 0.8830, 1.0), abs=5e-5)


def pairs(both, first, second, neither):
    return [True] * (both + first) + [False] * (second + neither), [True] * both + [False] * first + [True] * second + [False] * neither


def test_the_interval_of_a_paired_difference_counts_the_pairs():
    better = paired_difference(*pairs(400, 20, 10, 70))
    assert better.value == pytest.approx(-0.02) and better.low < -0.02 < better.high
    mirrored = paired_difference(*reversed(pairs(400, 20, 10, 70)))
    assert mirrored == pytest.approx((-better.value, -better.high, -better.low))
    # The more often both are right together, the surer: of 420 and 410 in 500 in either case.
    apart = paired_difference(*pairs(330, 90, 80, 0))
    assert apart.value == pytest.approx(better.value) and apart.high - apart.low > better.high - better.low
    assert paired_difference(*pairs(20, 0, 0, 0)).value == 0


def test_intervals_cover_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(0)
    covered = {"share": 0, "difference": 0, "median": 0}
    for _ in range(400):
        easy = rng.random(100)
        first, second = (rng.random(100) < 0.6 * (easy > 0.3) + 0.35 for _ in range(2))
        second &= rng.random(100) < 0.95
        covered["share"] += share(int(first.sum()), 100).low <= 0.35 + 0.6 * 0.7 <= share(int(first.sum()), 100).high
        truth = (0.95 - 1) * (0.35 + 0.6 * 0.7)
        estimate = paired_difference(first.tolist(), second.tolist())
        covered["difference"] += estimate.low <= truth <= estimate.high
        middle = median(rng.exponential(size=15).tolist())
        covered["median"] += middle.low <= np.log(2) <= middle.high
    assert all(0.92 < count / 400 for count in covered.values()), covered


@pytest.mark.parametrize("n", [1, 2, 5, 6, 9, 15])
def test_the_interval_of_a_median_lies_around_it(n):
    low_to_high = [float(value) for value in range(n)]
    middle = median(low_to_high[::-1])
    assert middle.value == (n - 1) / 2 and middle.low + middle.high == n - 1
    assert (middle.low, middle.high) == {6: (0, 5), 9: (1, 7), 15: (3, 11)}.get(n, (0, n - 1))


@pytest.fixture(scope="module")
def rows():
    pipeline = Pipeline.load(device="cpu")
    ways = parse_ways("vanilla 8; shortcut 3 of 8; vanilla 1")
    return pipeline, evaluate(pipeline, ways, prompts=42, split="dev", timed=1)


def test_ways_are_measured_on_the_same_prompts_against_the_first(rows):
    _, (vanilla, shortcut, few) = rows
    assert [row.prompts for row in rows[1]] == [42] * 3 and vanilla.prompts_by_objects == {1: 1, 2: 20, 3: 21}
    assert [row.full_steps for row in rows[1]] == [8, 3, 1]
    assert vanilla.difference is None and vanilla.speed_up == (1, 1, 1)
    for row in (shortcut, few):
        assert row.difference.value == pytest.approx(row.accuracy.value - vanilla.accuracy.value)
        assert row.difference.low <= row.difference.value <= row.difference.high
    assert vanilla.accuracy.low > few.accuracy.high


def test_the_table_says_all_that_a_reader_needs(rows):
    pipeline, measured = rows
    text = table(measured, pipeline)
    head, notes, _, *lines = text.splitlines()
    assert "1 CPU thread," in head and "42 prompts, 1 with 1 object, 20 with 2 objects, 21 with 3 objects" in head
    assert "Wilson" in notes and "Newcombe" in notes
    assert len({line.count("|") for line in lines}) == 1
    assert re.search(r"\| shortcut 3 of 8 \| 8 \| 3 \| \d+\.\d% \(\d+\.\d to \d+\.\d\) \| [+-]\d+\.\d points \([+-]\d+\.\d to [+-]\d+\.\d\) \|", lines[3])


def test_the_command_prints_the_table_and_writes_its_numbers(tmp_path, capsys):
    out = tmp_path / "rows.json"
    options = ["--model", "demo", "--prompts", "4", "--split", "dev", "--steps", "2", "--methods", "vanilla; shortcut; vanilla 1", "--device", "cpu", "--out", str(out)]
    assert main(["evaluate", str(tmp_path), *options]) == 0
    printed = capsys.readouterr().out
    assert all(f"| {way} |" in printed for way in ("vanilla", "shortcut", "vanilla 1"))
    assert "renderer's own images" in printed
    written = json.loads(out.read_text())
    assert [(row["method"], row["steps"]) for row in written] == [("vanilla", 2), ("shortcut", 2), ("vanilla", 1)]
    assert written[1]["settings"]["budget"] == 2 and "budget" not in written[0]["settings"]
    assert all(low <= value <= high for value, low, high in (row["accuracy"] for row in written))
