"""Trajectories: what is recorded, how it is told apart, and what is refused."""

import argparse

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from training_runs import PROMPTS, collect, learned, learned_head, trajectories

from migm_core.checkpoints import CheckpointError
from migm_core.checkpoints.fingerprint import fingerprint, same_base
from migm_core.families.lumina_dimoo.backbone import Lumina
from migm_core.families.lumina_dimoo.rule import LuminaRule
from migm_core.training.collect import Collection
from migm_core.training.trajectories import Recording, canvas_at, check_alike, unmasked_by
from migm_core.training.transitions import Transitions


def test_trajectories_are_the_runs_they_were_taken_from(recorded):
    folder, pipeline = recorded
    for index, trajectory in enumerate(trajectories(folder / "trajectories")):
        run = pipeline.generate(PROMPTS[index], seed=index, method="vanilla")
        assert torch.equal(run.canvas.codes[0], trajectory.codes)
        assert canvas_at([trajectory], 0).masked.all()
        new = torch.cat([unmasked_by([trajectory], step)[0] for step in range(trajectory.steps)])
        assert new.sort().values.tolist() == list(range(64))


def test_features_computed_anew_equal_the_stored_ones(recorded):
    folder, pipeline = recorded
    base = pipeline.checkpoint.base
    kept = trajectories(folder / "trajectories")
    transitions = Transitions(kept, base, LuminaRule())
    head = learned(folder / "head-untrained", kept, base, steps=0)
    for branch in range(2):
        (features, _, positions, ratio, _), target, sequence, masked = transitions.transition(kept[:1], 2, branch, head)
        assert (sequence.tokens.gather(1, masked) == sequence.layout.mask).all() and masked.shape[1] == (kept[0].unmasked_at > 2).sum()
        assert torch.allclose(base.features(sequence), target, atol=5e-3)
        new = unmasked_by(kept[:1], 2).shape[1] + (len(kept[0].prompts[0]) if branch == 0 else 0)
        assert positions.shape == (1, new)
        assert ratio.item() == pytest.approx((kept[0].unmasked_at >= 3).float().mean().item())


def test_runs_that_are_sampled_one_by_one_are_recorded_so(recorded, tmp_path):
    of_batches = {}
    for batch in (1, 2):
        collect(recorded[1], tmp_path / str(batch), remasking="below-cut-off", batch=batch)
        of_batches[batch] = [load_file(path) for path in sorted((tmp_path / str(batch)).iterdir())]
    for alone, together in zip(*of_batches.values(), strict=True):
        assert alone.keys() == together.keys() and all(torch.equal(alone[name], together[name]) for name in alone)


def test_a_recording_is_of_one_run(recorded):
    pipeline, recording = recorded[1], Recording(None)
    settings = pipeline.settings(steps=2, batch=2, remasking="below-cut-off")
    with pytest.raises(RuntimeError, match="has a run already"):
        pipeline.sample(pipeline.checkpoint.family.branches(pipeline.checkpoint, PROMPTS[0], "", 1.0, 2), settings, method=recording)


def test_a_trajectory_tells_what_run_it_is(recorded):
    folder, pipeline = recorded
    for index, trajectory in enumerate(trajectories(folder / "trajectories")):
        assert (trajectory.run["prompt"], trajectory.run["seed"]) == (PROMPTS[index], index)
        assert same_base(trajectory.run["base"], fingerprint(pipeline.checkpoint.base))
        assert trajectory.run["settings"].items() >= {"width": 64, "height": 64, "steps": 6, "guidance_scale": 1.0, "temperature": 1.0}.items()


def test_a_trajectory_that_does_not_tell_its_run_is_named(recorded, tmp_path):
    folder, _ = recorded
    whole = next((folder / "trajectories").glob("*.safetensors"))
    save_file(load_file(whole), tmp_path / "trajectory-000000.safetensors", {"steps": "6"})
    with pytest.raises(ValueError, match="trajectory-000000.safetensors does not say of which base, prompt, seed and settings it is"):
        trajectories(tmp_path)
    (tmp_path / "trajectory-000000.safetensors").write_bytes(whole.read_bytes()[:5000])
    with pytest.raises(ValueError, match="trajectory-000000.safetensors cannot be read as a trajectory") as error:
        trajectories(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "changed",
    [
        {"seed": "one"},
        {"seed": "9" * 5000},
        {"settings": "5"},
        {"settings": "[]"},
        {"settings": '{"guidance_scale": [1]}'},
        {"settings": '{"guidance_scale": NaN}'},
        {"settings": "[" * 100_000},
        {"request": "5"},
        {"request": '{"task": []}'},
    ],
    ids=lambda changed: "{}-{:.20}".format(*next(iter(changed.items()))),
)
def test_what_a_trajectory_says_of_its_run_is_checked(recorded, tmp_path, changed):
    whole, path = recorded[0] / "trajectories" / "trajectory-000000.safetensors", tmp_path / "trajectory-000000.safetensors"
    with safe_open(whole, "pt") as file:
        save_file(load_file(whole), path, {**file.metadata(), **changed})
    with pytest.raises(CheckpointError, match=rf"trajectory-000000.safetensors.* {next(iter(changed))}") as error:
        trajectories(tmp_path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


@pytest.mark.parametrize(
    "changed",
    [
        {"codes": torch.zeros(64, dtype=torch.int64)},
        {"unmasked_at": torch.zeros(3, dtype=torch.int16)},
        {"unmasked_at": torch.full((64,), -1, dtype=torch.int16)},
        {"prompt.conditional": torch.zeros(2, 3)},
        {"features.conditional": torch.zeros(6, 3)},
        {"features.conditional": torch.zeros(2, 3, 4)},
        {"features.conditional": torch.zeros(6, 3, 4)},
        {"codes": torch.full((8, 8), 5000)},
        {"prompt.conditional": torch.full((9,), 10**6)},
    ],
    ids=lambda changed: f"{next(iter(changed))}-{tuple(next(iter(changed.values())).shape)}",
)
def test_a_damaged_trajectory_is_named(recorded, tmp_path, changed):
    folder, pipeline = recorded
    whole, path = folder / "trajectories" / "trajectory-000000.safetensors", tmp_path / "trajectory-000000.safetensors"
    with safe_open(whole, "pt") as file:
        save_file({**load_file(whole), **changed}, path, file.metadata())
    with pytest.raises(ValueError, match=r"trajectory-000000.safetensors (cannot be read|holds)") as error:
        kept = trajectories(tmp_path)
        check_alike(kept, fingerprint(pipeline.checkpoint.base), pipeline.checkpoint.base.config)
        Transitions(kept, pipeline.checkpoint.base, LuminaRule()).transition(kept, 1, 0, learned_head(pipeline.checkpoint.base))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("asked", "prompts", "expected"),
    [
        ({"steps": 5}, PROMPTS, "steps 6, not 5"),
        ({"guidance_scale": 2.0}, PROMPTS, "guidance_scale 1.0, not 2.0"),
        ({"seed": 3}, PROMPTS, f"the prompt {PROMPTS[0]!r} and seed 0, not {PROMPTS[0]!r} and 3"),
        ({}, PROMPTS[::-1], f"the prompt {PROMPTS[0]!r} and seed 0, not {PROMPTS[-1]!r} and 0"),
    ],
    ids=["steps", "guidance", "seed", "prompts"],
)
def test_collecting_something_else_into_the_folder_is_refused_by_name(recorded, asked, prompts, expected):
    folder, pipeline = recorded
    with pytest.raises(ValueError) as error:
        collect(pipeline, folder / "trajectories", prompts, **asked)
    assert str(error.value).startswith(f"{folder / 'trajectories' / 'trajectory-000000.safetensors'} is of {expected}.")


def test_runs_of_other_bases_and_settings_are_refused_by_name(recorded, tmp_path):
    folder, pipeline = recorded
    kept = trajectories(folder / "trajectories")
    torch.manual_seed(5)
    other = Lumina(pipeline.checkpoint.base.config)
    check_alike(kept, fingerprint(pipeline.checkpoint.base), other.config)
    with pytest.raises(ValueError, match="trajectory-000000.safetensors was recorded from another base model"):
        check_alike(kept, fingerprint(other), other.config)
    collect(pipeline, tmp_path, temperature=0.5)
    with pytest.raises(ValueError, match=r"trajectory-000000.safetensors was recorded with temperature 0.5, not 1.0 as .*trajectory-000000"):
        check_alike([*kept, *trajectories(tmp_path)], fingerprint(pipeline.checkpoint.base), other.config)


def test_what_collecting_takes_is_told_before(recorded, tmp_path, monkeypatch):
    folder, pipeline = recorded
    for keep_features in (True, False):
        settings = pipeline.settings(steps=6, guidance_scale=1.0, temperature=1.0, method="vanilla", batch=2)
        target = tmp_path / str(keep_features)
        collection = Collection(pipeline, PROMPTS, target, settings, keep_features=keep_features)
        cost = collection.cost()
        collection.record()
        written = sum(path.stat().st_size for path in target.iterdir())
        assert written <= cost.disk < 1.2 * written if keep_features else written <= cost.disk < 30_000
        assert cost.trajectories == 3 and cost.passes == 3 * 2 * 6 and cost.seconds > 0
        assert (cost.memory > 0.9 * cost.disk) if keep_features else cost.memory == 0
        monkeypatch.setattr("shutil.disk_usage", lambda _: argparse.Namespace(free=cost.disk - 1))
        with pytest.raises(ValueError, match="but the disk has .* left"):
            collection.check_disk(cost)
        monkeypatch.undo()
        assert Collection(pipeline, PROMPTS, target, settings, keep_features=keep_features).cost().passes == 0
    assert "3 trajectories to record: " in str(cost) and " passes of the base model, about " in str(cost)


def test_without_features_none_are_held_in_memory(recorded, tmp_path, monkeypatch):
    from migm_core.training import trajectories as module

    runs = []
    start = module.Recording.start
    monkeypatch.setattr(module.Recording, "start", lambda self, *args: runs.append(start(self, *args)) or runs[-1])
    collect(recorded[1], tmp_path, keep_features=False)
    assert runs and not any(run.features_of_steps[0] for run in runs)
    assert max(path.stat().st_size for path in tmp_path.iterdir()) < 10_000
    assert trajectories(tmp_path)[0].features(0, 1) is None


def test_a_size_of_ones_own_is_collected(recorded, tmp_path):
    collect(recorded[1], tmp_path, PROMPTS[:1], width=32, height=64)
    (trajectory,) = trajectories(tmp_path)
    assert trajectory.codes.shape == (8, 4) and trajectory.run["settings"]["width"] == 32


def test_collecting_again_writes_nothing_anew(recorded):
    folder, pipeline = recorded
    before = {path: path.stat().st_mtime_ns for path in (folder / "trajectories").iterdir()}
    collect(pipeline, folder / "trajectories")
    assert before == {path: path.stat().st_mtime_ns for path in (folder / "trajectories").iterdir()}
