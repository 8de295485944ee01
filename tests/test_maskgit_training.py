"""A head for a MaskGIT: the published numbers of a training step, and `migm collect` and `migm train-head` in both forms of trajectories.

Runs on every directory in the environment variable MIGM_MASKGIT_REFERENCE_DIR (separated like a PATH), and without it on the one
kept as test data.
"""

import io
import json
import shutil
import tarfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_reference_maskgit import DIRECTORIES, assert_close, meta_of, reference

from migm_core.checkpoints import load_head
from migm_core.checkpoints.tar_shards import TarShard
from migm_core.cli import main
from migm_core.families import family_named
from migm_core.families.maskgit.rule import MaskGitRule
from migm_core.families.maskgit.trajectories import TarShards
from migm_core.pipeline import Pipeline
from migm_core.training.head import Objective, train_head, zero_init
from migm_core.training.losses import squared_error
from migm_core.training.trajectories import Shards
from migm_core.training.transitions import Transitions, code_divergence

BRANCHES = ("cond", "uncond")


@pytest.fixture(params=DIRECTORIES, ids=lambda folder: folder.name)
def folder(request) -> Path:
    return request.param


@pytest.fixture
def model(folder, tmp_path) -> Path:
    """The directory's model as a folder of published files."""
    target = tmp_path / "model"
    target.mkdir()
    for path, name in ((next(folder.glob("MaskGIT_*.pth")), "."), (folder / "vqgan" / "last.ckpt", "VQGAN"), (folder / "vqgan" / "model.yaml", "VQGAN")):
        (target / name).mkdir(exist_ok=True)
        shutil.copyfile(path, target / name / path.name)
    (target / "config.json").write_text(json.dumps({"model_type": "maskgit", "n_heads": meta_of(folder)["config"]["n_heads"]}))
    return target


def recorded(folder: Path) -> dict:
    return {t.key: t for t in TarShards.open(folder / "shard", reference(folder).base.config)}


@torch.inference_mode()
def test_a_step_is_the_published_one(folder):
    """From the shard to the losses: what the head reads, its estimate, both losses."""
    r, runs = reference(folder), recorded(folder)
    transitions, head = Transitions(list(runs.values()), r.base, MaskGitRule()), r.head("default")
    for number, said in enumerate(meta_of(folder)["training"]["samples"]):
        key, _, branch = said["key"].rpartition("_")
        case, branch = r.case(f"train.{number}."), BRANCHES.index(branch)
        (features, embedded, positions, ratio, tables), target, sequence, masked = transitions.transition([runs[key]], said["step"], branch, head)
        assert sequence.tokens[0].tolist()[:-1] == case["current_ids"].tolist()[:-1]
        assert positions[0].tolist() == case["new_token_map"].nonzero()[:, 0].tolist()
        assert masked[0].tolist() == (case["target_codes"] >= 0).nonzero()[:, 0].tolist()
        assert ratio.item() == pytest.approx(said["mask_ratio"], abs=1e-6)
        prediction = next(transitions.rollout(head, [runs[key]], said["step"], branch, 1))
        assert_close(prediction.features[0], case["estimate"])
        assert squared_error(prediction.features, prediction.target, prediction.masked).item() == pytest.approx(said["mse"], rel=1e-4)
        assert code_divergence(r.base, prediction).item() == pytest.approx(said["kl"], rel=1e-4)
        objective = Objective(masked_only=True, one_branch=True, kl=2.0)
        assert objective.of(r.base, prediction).item() == pytest.approx(said["mse"] + 2 * said["kl"], rel=1e-4)


def test_a_deeper_rollout_is_sampled_from_the_head(folder):
    r, runs = reference(folder), recorded(folder)
    transitions, head = Transitions(list(runs.values()), r.base, MaskGitRule()), r.head("default")
    batch = list(runs.values())
    generators = [torch.Generator().manual_seed(k) for k in range(len(batch))]
    prediction = transitions.sampled_rollout(head, batch, 0, 1, 3, generators)
    counts = [(t.unmasked_at > 2).sum().item() for t in batch]
    assert [len(of_image) for of_image in prediction.masked] == counts
    mask = meta_of(folder)["ids"]["mask"]
    assert (prediction.sequence.tokens == mask).sum(1).tolist() == counts
    first = canvas_codes(batch, 0)
    assert (prediction.sequence.tokens[:, :-1][first >= 0] == first[first >= 0]).all(), "the recorded tokens of the first step stay"
    torch.testing.assert_close(prediction.target, r.base.features(prediction.sequence), rtol=1e-5, atol=1e-5)


def canvas_codes(batch: list, step: int) -> torch.Tensor:
    """The codes that runs know after a step, -1 elsewhere: (B, L)."""
    return torch.stack([t.codes.flatten().where(t.unmasked_at <= step, torch.tensor(-1)) for t in batch])


def test_a_head_learns_from_a_published_shard(folder, tmp_path):
    r, runs = reference(folder), list(recorded(folder).values())
    torch.manual_seed(0)
    head = family_named("maskgit").new_head(r.base.config, 2)
    zero_init(head)
    objective = Objective(masked_only=True, one_branch=True)
    trained = train_head(tmp_path, runs, r.base, head, MaskGitRule(), objective=objective, steps=200, lr=3e-3, min_lr=3e-4, ema=0.9)
    transitions = Transitions(runs, r.base, MaskGitRule())
    errors = {"still": 0.0, "learned": 0.0}
    for step in range(runs[0].steps - 1):
        for branch in range(2):
            with torch.no_grad():
                (features, *_), target, _, masked = transitions.transition(runs, step, branch, trained)
                prediction = next(transitions.rollout(trained, runs, step, branch, 1))
            errors["still"] += squared_error(features, target, masked).item()
            errors["learned"] += squared_error(prediction.features, target, masked).item()
    assert errors["learned"] < 0.9 * errors["still"]


@pytest.mark.parametrize("published", [False, True], ids=["ours", "published"])
def test_the_commands_collect_and_train_in_both_forms(folder, model, tmp_path, published, capsys):
    work = tmp_path / "work"
    common = ["--model", str(model), "--device", "cpu", "--dtype", "fp32"]
    classes = tmp_path / "classes.txt"
    classes.write_text("1\n\n0\n")
    collect = ["collect", str(work), *common, "--prompt-file", str(classes), "--steps", "5", "--batch", "2", *["--published"] * published]
    assert main(collect) == 0, capsys.readouterr().err
    assert "2 trajectories to record" in capsys.readouterr().err
    config = reference(folder).base.config
    runs = (TarShards if published else Shards).open(work / "trajectories", config)
    assert sorted(t.run["prompt"] for t in runs) == ["0", "1"]
    assert {int(t.prompts[0]) for t in runs} == {config.class_token(0), config.class_token(1)}
    pipeline = Pipeline.load(model, None, dtype="fp32", device="cpu")
    for t in runs:
        result = pipeline.generate(int(t.run["prompt"]), seed=t.run["seed"], steps=5, method="vanilla")
        assert torch.equal(result.canvas.codes[0], t.codes), "a trajectory is the run of its seed"
    if published:
        keys = list(TarShard(next((work / "trajectories").glob("*.tar"))).members)
        assert keys == ["00000_000_1_cond", "00000_000_1_uncond", "00000_001_0_cond", "00000_001_0_uncond"]
    assert main(collect) == 0 and "is complete" in capsys.readouterr().err
    assert main(["train-head", str(work), *common, "--steps", "3", "--kl", "0.5"]) == 0, capsys.readouterr().err
    head = load_head(work / "head" / "shortcut.safetensors", config)
    assert head.config.bottleneck_ratio == 2
    images = Pipeline.load(model, work / "head" / "shortcut.safetensors", dtype="fp32", device="cpu").generate(1, steps=5, budget=2).images
    assert len(images) == 1


def test_published_runs_without_guidance_hold_one_branch(folder, model, tmp_path, capsys):
    work = tmp_path / "work"
    options = ["--model", str(model), "--device", "cpu", "--dtype", "fp32", "--count", "1", "--steps", "3", "--cfg", "0", "--published"]
    assert main(["collect", str(work), *options]) == 0, capsys.readouterr().err
    (run,) = TarShards.open(work / "trajectories", reference(folder).base.config)
    assert run.features(0, 1) is not None and run.features(1, 1) is None


def test_published_runs_that_cannot_be_written_leave_no_folder(model, tmp_path, monkeypatch, capsys):
    work = tmp_path / "work"
    options = ["--model", str(model), "--device", "cpu", "--dtype", "fp32", "--count", "1", "--steps", "3", "--published"]
    assert main(["collect", str(work), *options, "--dry-run"]) == 0, capsys.readouterr().err
    assert not work.exists()

    def full(*_):
        raise OSError("no room")

    monkeypatch.setattr("tarfile.TarFile.addfile", full)
    assert main(["collect", str(work), *options]) == 2 and "no room" in capsys.readouterr().err
    assert not work.exists()


WHOLE = {"base": "b", "prompt": "1", "seed": 0, "settings": {}, "request": {}}


@pytest.mark.parametrize(
    ("said", "named"),
    [
        ({"seed": 1}, "does not say of which base, prompt, seed and settings"),
        ({}, "does not say of which base, prompt, seed and settings"),
        ([1], "expected a JSON object"),
        (WHOLE | {"base": 5}, "its base is 5"),
        (WHOLE | {"prompt": None}, "its prompt is None"),
        (WHOLE | {"seed": True}, "its seed is True"),
        (WHOLE | {"settings": 5}, "its settings is 5"),
        (WHOLE | {"settings": {"guidance_scale": "much"}}, "settings.guidance_scale is much"),
        (WHOLE | {"settings": {"guidance_scale": float("nan")}}, "settings.guidance_scale is nan"),
        (WHOLE | {"request": 5}, "its request is 5"),
        (WHOLE | {"request": {"task": []}}, "request.task is []"),
        (WHOLE, "was recorded from another base model"),
    ],
)
def test_what_a_published_shard_says_of_its_run_is_checked(model, tmp_path, said, named, capsys):
    work = tmp_path / "work"
    common = [str(work), "--model", str(model), "--device", "cpu", "--dtype", "fp32", "--steps", "3"]
    collect = ["collect", *common, "--count", "1", "--published"]
    assert main(collect) == 0, capsys.readouterr().err
    (shard,) = (work / "trajectories").glob("*.tar")
    with tarfile.open(shard) as old:
        members = {info.name: old.extractfile(info).read() for info in old}
    with tarfile.open(shard, "w") as new:
        for name, content in members.items():
            info, content = tarfile.TarInfo(name), json.dumps(said).encode() if name.endswith("run.json") else content
            info.size = len(content)
            new.addfile(info, io.BytesIO(content))
    for command, expected in ((["train-head", *common], named), (collect, named.replace("was recorded from", "is of"))):
        assert main(command) == 2
        message = capsys.readouterr().err.splitlines()[-1]
        assert str(shard) in message and expected in message


def test_random_classes_and_the_published_learning_rates(folder, model, tmp_path, capsys):
    work = tmp_path / "work"
    common = ["--model", str(model), "--device", "cpu", "--dtype", "fp32"]
    assert main(["collect", str(work), *common, "--count", "3", "--steps", "4", "--no-features", "--schedule", "cosine"]) == 0, capsys.readouterr().err
    runs = Shards.open(work / "trajectories", None)
    classes = meta_of(folder)["config"]["n_classes"]
    assert all(0 <= int(t.run["prompt"]) < classes for t in runs) and runs[0].run["settings"]["schedule"] == "cosine"
    assert runs[0].features(0, 1) is None
    assert main(["train-head", str(work), *common, "--steps", "2", "--rollout", "2", "--sample-rollout", "--resample-every", "1"]) == 0, capsys.readouterr().err
    state = torch.load(work / "head" / "checkpoint.pt", weights_only=True)["learner"]
    assert state["scheduler.0"]["base_lrs"] == [1e-4]
    assert main(["train-head", str(work), *common, "--ratio", "1", "--init-from", str(folder / "head_default.safetensors")]) == 2
    assert "Heads of MaskGIT cannot be made wider" in capsys.readouterr().err


def test_published_weights_are_what_a_training_begins_with(folder, model, tmp_path, capsys):
    work = tmp_path / "work"
    (work / "trajectories").mkdir(parents=True)
    shutil.copyfile(folder / "shard" / "000000.tar", work / "trajectories" / "000000.tar")
    command = ["train-head", str(work), "--model", str(model), "--device", "cpu", "--dtype", "fp32", "--steps", "0"]
    assert main([*command, "--init-from", str(folder / "maskgit-shortcut.pth")]) == 0, capsys.readouterr().err
    written, given = load_file(work / "head" / "shortcut.safetensors"), load_file(folder / "head_default.safetensors")
    assert written.keys() == given.keys()
    for name, tensor in given.items():
        torch.testing.assert_close(written[name].float(), tensor, rtol=1e-3, atol=1e-4)
