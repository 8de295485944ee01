"""`migm collect` and `migm train-head` on a model of one's own: what they say, write and refuse."""

import os
import shutil
import signal
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open
from small_model import make_small_model
from training_runs import same

from migm_core.checkpoints import load_head
from migm_core.checkpoints.fingerprint import KEY, fingerprint, same_base
from migm_core.cli import main
from migm_core.loading import BUNDLED_HEADS
from migm_core.pipeline import Pipeline
from migm_core.training.trajectories import Shards
from migm_core.worlds import lakeside

PROMPTS = ["a red house at night", "a blue tent behind a duck"]


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("\n" + "\n  \n\n".join(PROMPTS) + "\n\n", encoding="utf-8")
    return path


@pytest.fixture
def collect(small, prompts, tmp_path):
    """Call `migm collect` with some options more; its exit status."""
    options = ["--model", str(small.folder), "--prompt-file", str(prompts), "--steps", "4", "--device", "cpu", "--dtype", "fp32"]
    return lambda *more: main(["collect", str(tmp_path / "work"), *options, *more])


@pytest.fixture
def train_head(small, tmp_path):
    options = ["--model", str(small.folder), "--device", "cpu", "--dtype", "fp32", "--steps", "2"]
    return lambda *more: main(["train-head", str(tmp_path / "work"), *options, *more])


def test_collecting_says_what_it_takes_and_skips_blank_lines(collect, tmp_path, capsys):
    assert collect("--dry-run") == 0
    said = capsys.readouterr().err
    assert "2 trajectories to record: " in said and " on the disk, " in said and " of memory for a batch of them, 16 passes of the base model" in said
    assert not (tmp_path / "work").exists()
    assert collect() == 0
    assert "trajectories holds 2 trajectories." in capsys.readouterr().err
    assert [t.run["prompt"] for t in Shards.open(tmp_path / "work" / "trajectories", None)] == PROMPTS
    assert collect() == 0
    assert "is complete: all 2 trajectories are there." in capsys.readouterr().err


def test_collecting_in_a_size_of_ones_own(collect, tmp_path, capsys):
    assert collect("--size", "64x32", "--no-features") == 0
    assert {t.codes.shape for t in Shards.open(tmp_path / "work" / "trajectories", None)} == {(4, 8)}
    assert collect("--size", "33x32") == 2 and "width is 33" in capsys.readouterr().err
    assert collect("--size", "large") == 2 and "'large' is no size" in capsys.readouterr().err


def test_collecting_stops_after_a_run_and_goes_on(collect, tmp_path, monkeypatch, capsys):
    from migm_core.training import collect as module

    record = module.Collection._record
    monkeypatch.setattr(module.Collection, "_record", lambda self, indices: (record(self, indices), os.kill(os.getpid(), signal.SIGTERM)))
    with pytest.raises(SystemExit):
        collect()
    assert "Stopped after 1 of 2 runs: the same command goes on from there." in capsys.readouterr().err
    monkeypatch.undo()
    assert collect() == 0 and "1 trajectory to record" in capsys.readouterr().err
    assert len(Shards.open(tmp_path / "work" / "trajectories", None)) == 2


def test_a_collection_that_fails_leaves_no_folder(collect, prompts, tmp_path, monkeypatch, capsys):
    prompts.write_text("a red house " * 1000, encoding="utf-8")
    assert collect() == 2 and "the limit is" in capsys.readouterr().err
    assert not (tmp_path / "work").exists()
    prompts.write_text(PROMPTS[0], encoding="utf-8")
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=10))
    assert collect() == 2 and "but the disk has" in capsys.readouterr().err
    assert not (tmp_path / "work").exists()
    monkeypatch.undo()
    monkeypatch.setattr("migm_core.training.collect.Collection._record", failing)
    assert collect() == 2 and "no room" in capsys.readouterr().err
    assert not (tmp_path / "work").exists()
    (tmp_path / "work").write_text("a file")
    assert collect("--dry-run") == 2 and f"{tmp_path / 'work'}: Not a directory" in capsys.readouterr().err


def failing(*_):
    raise OSError("no room")


def test_other_prompts_in_the_folder_are_refused(collect, prompts, capsys):
    assert collect() == 0
    prompts.write_text("a yellow kite over the snow", encoding="utf-8")
    assert collect() == 2
    assert "trajectory-000000.safetensors is of the prompt" in capsys.readouterr().err
    prompts.write_text("\n \n", encoding="utf-8")
    assert collect() == 2
    assert "prompts.txt holds no prompts. Expected one a line." in capsys.readouterr().err


def test_without_prompts_scenes_of_the_bundled_models_are_recorded_and_more_go_on(small, tmp_path, capsys):
    options = ["--model", str(small.folder), "--steps", "2", "--no-features", "--device", "cpu", "--dtype", "fp32"]
    assert main(["collect", str(tmp_path), *options, "--count", "2"]) == 0
    assert main(["collect", str(tmp_path), *options, "--count", "3"]) == 0 and "1 trajectory to record" in capsys.readouterr().err
    prompts = [t.run["prompt"] for t in Shards.open(tmp_path / "trajectories", None)]
    assert len({*prompts}) == 3 and not any(lakeside.unknown_words(prompt) for prompt in prompts)


def test_the_published_form_needs_a_family_that_has_one(collect, capsys):
    assert collect("--published") == 2
    assert "Trajectories of Lumina-DiMOO have no published form." in capsys.readouterr().err


def test_a_head_says_of_which_base_it_is_and_a_finished_training_says_so(collect, train_head, small, tmp_path, capsys):
    path = tmp_path / "work" / "head" / "shortcut.safetensors"
    assert collect() == 0 and train_head() == 0
    assert f"{path}: " in capsys.readouterr().err, "what was written"
    base = Pipeline.load(small.folder, None, dtype="fp32", device="cpu").checkpoint.base
    with safe_open(path, "pt") as file:
        assert same_base(file.metadata()[KEY], fingerprint(base))
    assert load_head(path, base.config).config.bottleneck_ratio == 2
    assert path.stat().st_mode == (tmp_path / "prompts.txt").stat().st_mode
    assert train_head() == 0
    assert "head is finished: it has had its 2 steps." in capsys.readouterr().err


def test_a_head_is_not_trained_on_runs_of_another_base(collect, train_head, tmp_path, capsys):
    other = make_small_model(tmp_path / "other", seed=9)
    assert collect() == 0
    assert main(["train-head", str(tmp_path / "work"), "--model", str(other.folder), "--device", "cpu", "--steps", "1"]) == 2
    assert "trajectory-000000.safetensors was recorded from another base model." in capsys.readouterr().err


def test_there_is_something_to_learn_from(train_head, tmp_path, capsys):
    assert train_head() == 2
    assert f"Run `migm collect {tmp_path / 'work'}` first." in capsys.readouterr().err
    (tmp_path / "work" / "trajectories").mkdir(parents=True)
    (tmp_path / "work" / "trajectories" / "000000.tar").write_bytes(b"")
    assert train_head() == 2
    assert "000000.tar is a tar shard, but trajectories of Lumina-DiMOO have no such form." in capsys.readouterr().err


def test_options_reach_the_training(collect, train_head, small, tmp_path, capsys):
    folder = tmp_path / "work" / "head"

    def learned(*options: str) -> dict:
        assert train_head(*options) == 0
        state = torch.load(folder / "checkpoint.pt", weights_only=True)["learner"]
        shutil.rmtree(folder)
        return state

    assert collect() == 0
    assert "optimizer.1" not in learned("--rollout", "2", "--sample-rollout")
    assert "optimizer.1" in learned("--muon-lr", "0.01", "--resample-every", "1", "--focus", "0.5", "--kl", "1")
    assert learned("--lr", "0.01", "--min-lr", "0.001")["scheduler.0"]["base_lrs"] == [0.01]
    assert train_head("--rollout", "9") == 2
    assert "A rollout of 9 steps is too long for runs of 4: choose at most 3." in capsys.readouterr().err
    assert train_head("--ratio", "1", "--init-from", str(small.head)) == 2
    assert "expected a larger width" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "model"), [("demo", []), ("demo-classes", ["--model", "demo-classes"])])
def test_a_bundled_models_head_is_what_a_training_begins_with(tmp_path, name, model):
    options = [str(tmp_path), *model, "--device", "cpu"]
    assert main(["collect", *options, "--count", "1", "--steps", "3", "--cfg", "0"]) == 0
    assert main(["train-head", *options, "--init-from", name, "--steps", "0"]) == 0
    base = Pipeline.load(name, None, dtype="fp32", device="cpu").checkpoint.base.config
    assert same(load_head(tmp_path / "head" / "shortcut.safetensors", base), load_head(BUNDLED_HEADS[name], base))


def test_a_resumed_training_takes_the_rates_that_it_is_given(collect, train_head, tmp_path):
    def rates(*options: str) -> tuple[list[float], list[float]]:
        """Of each optimiser: after the last step, and at the peak."""
        assert train_head("--decay-steps", "1", *options) == 0
        state = torch.load(tmp_path / "work" / "head" / "checkpoint.pt", weights_only=True)["learner"]
        groups = [state[f"optimizer.{k}"]["param_groups"][0] for k in range(2) if f"optimizer.{k}" in state]
        return [group["lr"] for group in groups], [group["initial_lr"] for group in groups]

    assert collect() == 0
    assert rates("--lr", "0.01", "--min-lr", "0.001")[0] == pytest.approx([0.001 * 3 / 50])  # after 2 of 50 steps of warm-up
    assert rates("--lr", "0.4", "--min-lr", "0.2", "--steps", "4")[0] == pytest.approx([0.2 * 5 / 50])
    shutil.rmtree(tmp_path / "work" / "head")
    before = rates("--lr", "0.01", "--muon-lr", "0.1")
    assert rates("--lr", "0.03", "--muon-lr", "0.2") == before, "it is finished, and stays as it is"
    assert rates("--lr", "0.03", "--muon-lr", "0.2", "--steps", "3")[1] == [0.03, 0.2]
