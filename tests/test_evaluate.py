"""What `migm evaluate` counts, and how sure it is of it."""

import json
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from commands import migm

from migm_core.bench.intervals import median, paired_difference, share
from migm_core.bench.ways import parse_ways
from migm_core.images import to_images
from migm_core.pipeline import Pipeline
from migm_core.worlds import lakeside
from migm_core.worlds.evaluate import evaluate, round_trip, table, unseen_prompts, verdicts


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


SIZE = {"width": 128, "height": 128}  # the least that the judge reads


@pytest.fixture(scope="module")
def rows(pipeline):
    ways = {name: {**SIZE, **way} for name, way in parse_ways("vanilla 4; shortcut 2 of 4; vanilla 1").items()}
    return evaluate(pipeline, ways, prompts=12, split="dev", timed=2)


def test_ways_are_measured_on_the_same_prompts_against_the_first(rows):
    vanilla, shortcut, few = rows
    assert [row.prompts for row in rows] == [12] * 3 and list(vanilla.prompts_by_objects) == [1, 2] and sum(vanilla.prompts_by_objects.values()) == 12
    assert [row.full_steps for row in rows] == [4, 2, 1] and [row.rounds for row in rows] == [2] * 3
    assert vanilla.difference is None and vanilla.speed_up == (1, 1, 1)
    for row in (shortcut, few):
        assert row.difference.value == pytest.approx(row.accuracy.value - vanilla.accuracy.value)
        assert row.difference.low <= row.difference.value <= row.difference.high


def test_the_table_says_all_that_a_reader_needs(rows, pipeline):
    text = table(rows, pipeline)
    head, notes, _, *lines = text.splitlines()
    assert "1 CPU thread," in head and re.search(r"12 prompts, \d+ with 1 object, \d+ with 2 objects", head)
    assert "Wilson" in notes and "Newcombe" in notes
    assert len({line.count("|") for line in lines}) == 1
    assert re.search(r"\| shortcut 2 of 4 \| 4 \| 2 \| \d+\.\d% \(\d+\.\d to \d+\.\d\) \| [+-]\d+\.\d points \([+-]\d+\.\d to [+-]\d+\.\d\) \|", lines[3])


def test_prompts_are_of_unseen_scenes_in_words_of_the_bundled_models(pipeline):
    scenes, prompts = unseen_prompts(pipeline, 40, "dev")
    assert (scenes.split() == lakeside.sampling.SPLITS.index("dev")).all() and lakeside.BUNDLED.holds(scenes).all()
    assert Pipeline.load("demo", None, device="cpu").cautions(pipeline.settings(width=256, height=256, guidance_scale=4.0), prompts) == []
    more, others = unseen_prompts(pipeline, 100, "dev"), unseen_prompts(pipeline, 40, "dev", seed=1)
    assert more[1][:40] == prompts != others[1] and torch.equal(more[0].texture[:40], scenes.texture), "more of them begin with the same"
    assert len(set(more[1])) == 100


def test_what_a_prompt_says_is_right_and_all_else_is_wrong(pipeline, monkeypatch):
    """A model that generates what the renderer shows, but for every third prompt the scene of another."""
    scenes, prompts = unseen_prompts(pipeline, 12)
    shown, seen = to_images(lakeside.render(scenes)), []

    def generate(asked, seeds, **settings):
        assert settings == {"steps": 3}
        seen.append((asked, seeds))
        return SimpleNamespace(images=[shown[(index + (index % 3 == 0)) % 12] for index in map(prompts.index, asked)])

    monkeypatch.setattr(pipeline, "generate", generate)
    assert verdicts(pipeline, prompts, seed=5, steps=3) == [index % 3 != 0 for index in range(12)]
    lengths = [{len(pipeline.checkpoint.prompts.prompt(prompt)) for prompt in asked} for asked, _ in seen]
    assert all(len(each) == 1 for each in lengths), "prompts of one length run together"
    assert {prompt: seed for asked, seeds in seen for prompt, seed in zip(asked, seeds)} == {prompt: 5 + index for index, prompt in enumerate(prompts)}


def test_what_the_image_tokenizer_loses_is_told_apart_from_the_judges_own_faults(pipeline, monkeypatch):
    lost = round_trip(pipeline, 6, size=128)
    assert lost["rendered"] > 0.9 and lost["tokenized"] == 0 and lost["psnr"] < 20
    monkeypatch.setattr(pipeline, "encode", lambda images: images)
    monkeypatch.setattr(pipeline, "decode", lambda images: images + 0.01)
    kept = round_trip(pipeline, 6, size=256)
    assert kept["rendered"] == kept["tokenized"] and kept["psnr"] == pytest.approx(40, abs=0.1)


def evaluated(small, *options) -> int:
    return migm("evaluate", "--model", small.folder, "--device", "cpu", "--prompts", 3, "--split", "dev", "--size", "128x128", "--steps", 2, *options)


def test_the_command_prints_the_table_and_writes_its_numbers(small, tmp_path, capsys):
    out = tmp_path / "rows.json"
    assert evaluated(small, "--head", small.head, "--methods", "vanilla; shortcut; vanilla 1", "--out", out) == 0
    printed = capsys.readouterr().out
    assert all(f"| {way} |" in printed for way in ("vanilla", "shortcut", "vanilla 1"))
    assert "renderer's own images" in printed
    written = json.loads(out.read_text())
    assert [(row["method"], row["steps"]) for row in written] == [("vanilla", 2), ("shortcut", 2), ("vanilla", 1)]
    assert written[1]["settings"]["budget"] == 2 and "budget" not in written[0]["settings"]
    assert all(low <= value <= high for value, low, high in (row["accuracy"] for row in written))


def test_the_head_of_a_working_folder_is_taken_where_none_is_named(small, tmp_path, capsys):
    assert evaluated(small) == 0 and "| shortcut |" not in capsys.readouterr().out
    assert evaluated(small, tmp_path) == 2
    assert f"Run `migm train-head {tmp_path}` first, or leave {tmp_path} out." in capsys.readouterr().err
    (tmp_path / "head").mkdir()
    shutil.copy(small.head, tmp_path / "head" / "shortcut.safetensors")
    assert evaluated(small, tmp_path) == 0 and "| shortcut |" in capsys.readouterr().out
    assert evaluated(small, tmp_path, "--steps", 1) == 0 and "| shortcut |" not in capsys.readouterr().out, "which needs two steps"
    assert evaluated(small, tmp_path, "--head", "none") == 0 and "| shortcut |" not in capsys.readouterr().out


def test_a_model_of_another_world_is_refused(copy, tmp_path, capsys):
    definition = json.loads((copy.folder / "tokenizer.json").read_text())
    for word in ("lake", "balloon"):
        del definition["model"]["vocab"][word]
    (copy.folder / "tokenizer.json").write_text(json.dumps(definition))
    assert migm("evaluate", "--model", copy.folder, "--device", "cpu") == 2
    said = "does not know these words of the lakeside world: "
    assert (error := capsys.readouterr().err).startswith("migm: This model " + said) and error.count("\n") == 1
    assert sorted(error.split(said)[1].split(".")[0].split(", ")) == ["balloon", "lake"]
    assert migm("collect", tmp_path / "work", "--model", copy.folder, "--device", "cpu") == 2
    assert said in (error := capsys.readouterr().err) and "Give prompts of its own by --prompt-file FILE." in error
    assert migm("evaluate", "--model", "demo-classes", "--device", "cpu") == 2
    assert capsys.readouterr().err == "migm: This model takes classes, not prompts. Only a model of the lakeside world can be evaluated.\n"


@pytest.mark.parametrize("size", ["64x64", "128x192", "136x136"])
def test_images_that_the_judge_does_not_read_are_refused_before_the_first(small, capsys, size):
    assert migm("evaluate", "--model", small.folder, "--device", "cpu", "--size", size) == 2
    assert f"Images of {size} pixels cannot be judged." in capsys.readouterr().err
