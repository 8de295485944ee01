"""The training pipeline, end to end on models of a few thousand parameters."""

import argparse
import copy
import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small_model import CODES, small_config, small_image_tokenizer_config
from torch.distributed.run import get_args_parser

from migm_core.checkpoints import load_checkpoint, load_head, save_head
from migm_core.checkpoints.fingerprint import fingerprint, same_base
from migm_core.cli import main
from migm_core.cli.parser import Parser
from migm_core.cli.training import add_commands
from migm_core.families.lumina_dimoo.backbone import Lumina
from migm_core.families.lumina_dimoo.head import ShortcutConfig, ShortcutHead, head_for
from migm_core.families.lumina_dimoo.initial import deepened, widened
from migm_core.families.lumina_dimoo.rule import LuminaRule
from migm_core.families.lumina_dimoo.write import save_checkpoint
from migm_core.pipeline import DEMO, Pipeline
from migm_core.sampling.backbone import Branch
from migm_core.training import transitions as of_transitions
from migm_core.training.collect import Collection
from migm_core.training.distributed import World
from migm_core.training.head import Objective, train_head, validate, zero_init
from migm_core.training.muon import orthogonalise
from migm_core.training.resample import resample
from migm_core.training.trajectories import Shard, Shards, canvas_at, check_alike, unmasked_by
from migm_core.training.transitions import Transitions, code_divergence, feature_drift
from migm_core.worlds.shapes.patches import PatchCodebook, scene_images
from migm_core.worlds.shapes.train_base import train_base
from migm_core.worlds.shapes.train_tokenizer import train_tokenizer
from migm_core.worlds.shapes.vocabulary import demo_text_tokenizer

ROOT = Path(__file__).resolve().parents[1]
BATCH = {0: 1, 2: 2}
PROMPTS = ["a small red star on a navy background", "a large blue circle on a mint background", "a large red heart on a cream background"]
SETTINGS = {"width": 64, "height": 64, "steps": 6, "budget": 3, "guidance_scale": 1.0, "temperature": 1.0}


@pytest.fixture(scope="module")
def codebook():
    return PatchCodebook(PatchCodebook.fit(8, seed=0, scenes=100).centres[:CODES])  # few, so that models are small


@pytest.fixture(scope="module")
def trained(codebook, tmp_path_factory):
    """A checkpoint that went through a few steps of training, and trajectories of it."""
    folder = tmp_path_factory.mktemp("trained")
    image_tokenizer = train_tokenizer(folder / "tokenizer", codebook, steps=2, batch=2, config=small_image_tokenizer_config())
    base = train_base(folder / "base", codebook, steps=4, batch=BATCH, config=small_config())
    save_checkpoint(folder / "checkpoint", base, image_tokenizer, demo_text_tokenizer().to_str(), SETTINGS)
    pipeline = Pipeline.load(folder / "checkpoint", None, dtype="fp32", device="cpu")
    collect(pipeline, folder / "trajectories", batch=2)
    return folder, pipeline


def collect(pipeline: Pipeline, folder: Path, prompts=PROMPTS, *, keep_features: bool = True, world: World = World(), **asked) -> None:
    """Record runs of six steps with guidance."""
    settings = pipeline.settings(**{"steps": 6, "guidance_scale": 1.0, "temperature": 1.0, "method": "vanilla", **asked})
    with Collection(pipeline, prompts, folder, settings, keep_features=keep_features, world=world) as collection:
        collection.record()


def trajectories(folder: Path) -> list[Shard]:
    return Shards.open(folder, None)


def learned(folder: Path, kept: list, base: Lumina, *, head: ShortcutHead | None = None, ratio: float = 2, world: World = World(), **options) -> ShortcutHead:
    """A head that was trained on runs."""
    if head is None:
        torch.manual_seed(0)
        head = ShortcutHead(head_for(base.config, ratio))
        zero_init(head)
    objective = Objective(**{each.name: options.pop(each.name) for each in fields(Objective) if each.name in options})
    return train_head(folder, kept, base, copy.deepcopy(head), LuminaRule(1.0), objective=objective, world=world, **options)


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values()))


def test_an_interrupted_run_ends_like_an_uninterrupted_one(codebook, tmp_path, monkeypatch):
    from migm_core.worlds.shapes import train_base as module

    whole = train_base(tmp_path / "whole", codebook, steps=4, batch=BATCH, config=small_config())
    count = module.Run.count

    def stop_after_two(self, **values) -> None:
        count(self, **values)
        if self.step == 1:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(module.Run, "count", stop_after_two)
    with pytest.raises(KeyboardInterrupt):
        train_base(tmp_path / "parts", codebook, steps=4, batch=BATCH, config=small_config())
    monkeypatch.undo()
    resumed = train_base(tmp_path / "parts", codebook, steps=4, batch=BATCH, config=small_config())
    assert same(whole, resumed)


def test_training_lowers_the_loss_and_logs_it(codebook, tmp_path):
    train_base(tmp_path, codebook, steps=100, batch={1: 4}, config=small_config())
    first, last = (json.loads(line)["loss"] for line in (tmp_path / "log.jsonl").read_text().splitlines())
    assert last < first - 0.2


def test_a_codebook_finds_its_own_centres(codebook):
    cells = codebook.centres.view(-1, 3, 8, 8)
    assert torch.equal(codebook.codes(cells).flatten(), torch.arange(CODES))


def test_every_cell_of_a_scene_has_a_code_that_looks_like_it():
    codebook = PatchCodebook.fit(8, seed=0, scenes=1000)
    images = scene_images(np.random.default_rng(1), 50, "test")
    drawn = codebook.centres[codebook.codes(images)].view(50, 8, 8, 3, 8, 8).permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)
    assert (drawn - images).abs().max() < 0.05


def test_training_goes_on_from_a_start(codebook, trained):
    folder, _ = trained
    start = load_checkpoint(folder / "checkpoint", dtype="fp32", output_rows="all").base
    continued = train_base(folder / "continued", codebook, steps=1, lr=1e-9, batch=BATCH, start=start)
    assert torch.allclose(continued.ff_out.weight, start.ff_out.weight, atol=1e-6)


def test_muon_brings_singular_values_near_one():
    matrices = torch.randn(3, 24, 8, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalise(matrices))
    assert 0.6 < values.min() and values.max() < 1.3


def test_trajectories_are_the_runs_they_were_taken_from(trained):
    folder, pipeline = trained
    for index, trajectory in enumerate(trajectories(folder / "trajectories")):
        run = pipeline.generate(PROMPTS[index], seed=index, method="vanilla")
        assert torch.equal(run.canvas.codes[0], trajectory.codes)
        assert canvas_at([trajectory], 0).masked.all()
        new = torch.cat([unmasked_by([trajectory], step)[0] for step in range(trajectory.steps)])
        assert new.sort().values.tolist() == list(range(64))


def test_features_computed_anew_equal_the_stored_ones(trained):
    folder, pipeline = trained
    base = pipeline.checkpoint.base
    kept = trajectories(folder / "trajectories")
    transitions = Transitions(kept, base)
    head = learned(folder / "head-untrained", kept, base, steps=0)
    for branch in range(2):
        (features, _, positions, ratio, _), target, sequence, masked = transitions.transition(kept[:1], 2, branch, head)
        assert (sequence.tokens.gather(1, masked) == sequence.layout.mask).all() and masked.shape[1] == (kept[0].unmasked_at > 2).sum()
        assert torch.allclose(base.features(sequence), target, atol=5e-3)
        new = unmasked_by(kept[:1], 2).shape[1] + (len(kept[0].prompts[0]) if branch == 0 else 0)
        assert positions.shape == (1, new)
        assert ratio.item() == pytest.approx((kept[0].unmasked_at >= 3).float().mean().item())


def test_a_trajectory_tells_what_run_it_is(trained):
    folder, pipeline = trained
    for index, trajectory in enumerate(trajectories(folder / "trajectories")):
        assert (trajectory.run["prompt"], trajectory.run["seed"]) == (PROMPTS[index], index)
        assert same_base(trajectory.run["base"], fingerprint(pipeline.checkpoint.base))
        assert trajectory.run["settings"].items() >= {"width": 64, "height": 64, "steps": 6, "guidance_scale": 1.0, "temperature": 1.0}.items()


def test_a_trajectory_that_does_not_tell_its_run_is_named(trained, tmp_path):
    folder, _ = trained
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
def test_a_damaged_trajectory_is_named(trained, tmp_path, changed):
    folder, pipeline = trained
    whole, path = folder / "trajectories" / "trajectory-000000.safetensors", tmp_path / "trajectory-000000.safetensors"
    with safe_open(whole, "pt") as file:
        save_file({**load_file(whole), **changed}, path, file.metadata())
    with pytest.raises(ValueError, match=r"trajectory-000000.safetensors (cannot be read|holds)") as error:
        kept = trajectories(tmp_path)
        check_alike(kept, fingerprint(pipeline.checkpoint.base), pipeline.checkpoint.base.config)
        Transitions(kept, pipeline.checkpoint.base).transition(kept, 1, 0, learned_head(pipeline.checkpoint.base))
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
def test_collecting_something_else_into_the_folder_is_refused_by_name(trained, asked, prompts, expected):
    folder, pipeline = trained
    with pytest.raises(ValueError) as error:
        collect(pipeline, folder / "trajectories", prompts, **asked)
    assert str(error.value).startswith(f"{folder / 'trajectories' / 'trajectory-000000.safetensors'} is of {expected}.")


def test_runs_of_other_bases_and_settings_are_refused_by_name(trained, tmp_path):
    folder, pipeline = trained
    kept = trajectories(folder / "trajectories")
    torch.manual_seed(5)
    other = Lumina(pipeline.checkpoint.base.config)
    check_alike(kept, fingerprint(pipeline.checkpoint.base), other.config)
    with pytest.raises(ValueError, match="trajectory-000000.safetensors was recorded from another base model"):
        check_alike(kept, fingerprint(other), other.config)
    collect(pipeline, tmp_path, temperature=0.5)
    with pytest.raises(ValueError, match=r"trajectory-000000.safetensors was recorded with temperature 0.5, not 1.0 as .*trajectory-000000"):
        check_alike([*kept, *trajectories(tmp_path)], fingerprint(pipeline.checkpoint.base), other.config)


def test_what_collecting_takes_is_told_before(trained, tmp_path, monkeypatch):
    folder, pipeline = trained
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


def test_without_features_none_are_held_in_memory(trained, tmp_path, monkeypatch):
    from migm_core.training import trajectories as module

    runs = []
    start = module.Recording.start
    monkeypatch.setattr(module.Recording, "start", lambda self, *args: runs.append(start(self, *args)) or runs[-1])
    collect(trained[1], tmp_path, keep_features=False)
    assert runs and not any(run.features_of_steps[0] for run in runs)
    assert max(path.stat().st_size for path in tmp_path.iterdir()) < 10_000
    assert trajectories(tmp_path)[0].features(0, 1) is None


def test_a_size_of_ones_own_is_collected(trained, tmp_path):
    collect(trained[1], tmp_path, PROMPTS[:1], width=32, height=64)
    (trajectory,) = trajectories(tmp_path)
    assert trajectory.codes.shape == (8, 4) and trajectory.run["settings"]["width"] == 32


def test_a_sampled_rollout_of_one_step_is_the_recorded_one(trained):
    folder, pipeline = trained
    base, kept = pipeline.checkpoint.base, trajectories(folder / "trajectories")
    transitions, head = Transitions(kept, base), learned_head(base)
    one = transitions.sampled_rollout(head, kept[:1], 1, 0, 1, LuminaRule(1.0), [])
    other = next(transitions.rollout(head, kept[:1], 1, 0, 1))
    assert torch.equal(one.features, other.features) and torch.equal(one.target, other.target)


def test_a_sampled_rollout_goes_along_tokens_of_the_heads_own(trained):
    folder, pipeline = trained
    base, kept = pipeline.checkpoint.base, trajectories(folder / "trajectories")
    transitions, head = Transitions(kept, base), learned_head(base)
    generators = [[torch.Generator().manual_seed(k + seed) for k in range(2)] for seed in (0, 0, 9)]
    results = [transitions.sampled_rollout(head, kept[:2], 1, 0, 3, LuminaRule(1.0), of_seed) for of_seed in generators]
    sequence = results[0].sequence
    masked = (sequence.tokens == sequence.layout.mask).sum(1)
    assert masked.tolist() == [int((kept[0].unmasked_at > 3).sum())] * 2, "as many are unmasked as in the recorded runs"
    recorded = canvas_at(kept[:2], 2)
    known = ~recorded.masked.flatten(1)
    codes = sequence.tokens[:, sequence.positions] - sequence.layout.image_codes
    assert torch.equal(codes[known], recorded.codes.flatten(1)[known]), "what was known stays"
    torch.testing.assert_close(results[0].target, base.features(sequence))
    assert torch.equal(results[0].features, results[1].features) and not torch.equal(results[0].sequence.tokens, results[2].sequence.tokens)
    grads = torch.autograd.grad(results[0].features.sum(), head.proj_out.weight)[0]
    assert grads.any() and not results[0].target.requires_grad


def learned_head(base: Lumina) -> ShortcutHead:
    """A head with weights that move every feature."""
    torch.manual_seed(3)
    return ShortcutHead(head_for(base.config, 2))


def test_without_guidance_the_unconditional_features_are_left_to_the_training(trained, tmp_path):
    _, pipeline = trained
    collect(pipeline, tmp_path, guidance_scale=0.0)
    kept = trajectories(tmp_path)
    assert kept[0].features(0, 2) is not None and kept[0].features(1, 2) is None
    head = learned(tmp_path / "head", kept, pipeline.checkpoint.base, steps=2)
    transitions = Transitions(kept, pipeline.checkpoint.base)
    _, target, sequence, _ = transitions.transition(kept[:1], 2, 1, head)
    assert torch.equal(pipeline.checkpoint.base.features(sequence), target)


def test_focus_favours_the_transitions_that_change_what_is_expected(trained):
    folder, pipeline = trained
    kept = trajectories(folder / "trajectories")

    drifts = {t.path: feature_drift(pipeline.checkpoint.base, [t])[0] for t in kept}

    def mean(focus: float) -> float:
        transitions = Transitions(kept, pipeline.checkpoint.base, focus)
        rng = np.random.default_rng(0)
        sampled = [transitions.sample(rng, 1) for _ in range(300)]
        return float(np.mean([drifts[chosen.path][step] for (chosen,), step in sampled]))

    nats = np.stack(list(drifts.values()))
    assert mean(0.0) == pytest.approx(nats.mean(), rel=0.2)
    assert mean(1.0) == pytest.approx((nats**2).sum() / nats.sum(), rel=0.2)  # chances in proportion to the drift
    assert mean(1.0) > 1.2 * mean(0.0)


def test_feature_drift_of_many_is_that_of_each(trained, monkeypatch):
    folder, pipeline = trained
    kept, base = trajectories(folder / "trajectories")[:2], pipeline.checkpoint.base
    each = np.concatenate([feature_drift(base, [t]) for t in kept])
    assert each.shape == (2, kept[0].steps - 1) and (each >= 0).all() and not np.array_equal(each[0], each[1])
    np.testing.assert_allclose(feature_drift(base, kept), each, rtol=1e-4, atol=1e-6)
    monkeypatch.setattr(of_transitions, "LOGITS_AT_ONCE", 1)
    np.testing.assert_allclose(feature_drift(base, kept), each, rtol=1e-4, atol=1e-6)


def test_focus_needs_features(trained, tmp_path):
    _, pipeline = trained
    collect(pipeline, tmp_path, PROMPTS[:1], keep_features=False)
    with pytest.raises(ValueError, match="trajectory-000000.safetensors holds no features"):
        Transitions(trajectories(tmp_path), pipeline.checkpoint.base, 0.5)


def test_a_resampled_run_is_what_the_base_samples_from_a_recorded_state(trained):
    folder, pipeline = trained
    recorded = trajectories(folder / "trajectories")[:2]
    base, (first, ahead) = pipeline.checkpoint.base, (1, 3)
    resampled = [resample(base, LuminaRule(1.0), recorded, first, ahead, np.random.default_rng(seed)) for seed in (0, 0, 1)]
    for old, new in zip(recorded, resampled[0]):
        before = old.unmasked_at < first
        assert torch.equal(new.unmasked_at < first, before) and torch.equal(new.codes.flatten()[before], old.codes.flatten()[before])
        for step in range(first, first + ahead):
            assert unmasked_by([new], step).shape == unmasked_by([old], step).shape, "the schedule is not the recorded one's"
        for branch, step in ((0, first), (0, first + ahead), (1, first + ahead)):
            sequence = base.sequence(Branch(new.prompts[branch], 1.0), canvas_at([new], step))
            anew = base.features(sequence)[0]
            torch.testing.assert_close(new.features(branch, step), anew, rtol=0, atol=1e-5 * float(anew.abs().max()))
    codes = [torch.stack([t.codes for t in of_seed]) for of_seed in resampled]
    assert torch.equal(codes[0], codes[1]), "one seed gave two outcomes"
    assert not torch.equal(codes[0], codes[2]), "two seeds gave the same"


def test_a_head_learns_from_resampled_runs(trained, tmp_path):
    folder, pipeline = trained
    recorded = trajectories(folder / "trajectories")
    settings = {"steps": 4, "batch": 2, "horizon": 2, "focus": 0.5}
    once, again = (learned(tmp_path / name, recorded, pipeline.checkpoint.base, **settings, resample_every=2) for name in ("once", "again"))
    assert same(once, again)
    assert not same(once, learned(tmp_path / "recorded", recorded, pipeline.checkpoint.base, **settings))


def test_a_head_learns_from_a_base_in_bfloat16(trained, tmp_path):
    folder, _ = trained
    pipeline = Pipeline.load(folder / "checkpoint", None, dtype="bf16", device="cpu")
    collect(pipeline, tmp_path)
    kept, base = trajectories(tmp_path), pipeline.checkpoint.base
    assert kept[0].features(0, 1).dtype == torch.bfloat16
    head = learned(tmp_path / "head", kept, base, steps=2, horizon=2, kl=1.0, focus=0.5, resample_every=1)
    assert {p.dtype for p in head.parameters()} == {torch.float32}
    assert json.loads((tmp_path / "head" / "log.jsonl").read_text().splitlines()[-1])["loss"] > 0


def test_collecting_again_writes_nothing_anew(trained):
    folder, pipeline = trained
    before = {path: path.stat().st_mtime_ns for path in (folder / "trajectories").iterdir()}
    collect(pipeline, folder / "trajectories")
    assert before == {path: path.stat().st_mtime_ns for path in (folder / "trajectories").iterdir()}


@pytest.mark.parametrize(("keep_features", "muon"), [(True, 0.0), (True, 0.02), (False, 0.0)])
def test_a_trained_head_predicts_better_than_no_motion(trained, tmp_path, keep_features, muon):
    folder, pipeline = trained
    base = pipeline.checkpoint.base
    source = folder / "trajectories"
    if not keep_features:
        source = tmp_path / "tokens-only"
        collect(pipeline, source, keep_features=False)
    kept = trajectories(source)
    head = learned(tmp_path / "head", kept, base, steps=150, ema=0.9, muon_lr=muon)
    scores = validate(head, Transitions(kept, base), batch=1)
    assert scores["val_mse"] < 0.9 * scores["val_mse_still"]
    save_head(tmp_path / "head.safetensors", head)
    assert same(load_head(tmp_path / "head.safetensors", base.config, dtype=torch.float32), head)


DISTRIBUTED = """
import sys
from pathlib import Path
sys.path[:0] = {paths!r}
import torch
torch.set_num_threads(1)
from migm_core.pipeline import Pipeline
from migm_core.training.distributed import joined_world
from test_training import collect, learned, trajectories
source, target = Path(sys.argv[1]), Path(sys.argv[2])
with joined_world("cpu") as world:
    pipeline = Pipeline.load(source / "checkpoint", None, dtype="fp32", device="cpu")
    collect(pipeline, target / "trajectories", world=world)
    world.wait()
    head = learned(target / "head", trajectories(target / "trajectories"), pipeline.checkpoint.base, steps=5, world=world)
    torch.save(head.state_dict(), target / f"rank{{world.rank}}.pt")
"""


def run_by_two(script: Path, *arguments: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]


def test_no_option_is_mistaken_for_one_of_torchruns():
    """torchrun also reads the command's own options, and takes a beginning of one of its own for it."""
    theirs = [name for action in get_args_parser()._actions for name in action.option_strings]
    commands = Parser().add_subparsers()
    add_commands(commands)
    for parser in commands.choices.values():
        with suppress(ValueError):
            parser.parse_args([])  # so that it has all its options
    ours = {name for parser in commands.choices.values() for action in parser._actions for name in action.option_strings if name != "--help"}
    assert {"--init-from", "--prompt-file"} <= ours
    assert [(one, other) for one in ours if one.startswith("--") for other in theirs if other.startswith(one)] == []


def test_two_processes_share_collecting_and_train_one_head(trained, tmp_path):
    folder, _ = trained
    script = tmp_path / "job.py"
    script.write_text(DISTRIBUTED.format(paths=[str(ROOT), str(ROOT / "tests")]))
    run_by_two(script, folder, tmp_path)
    shards = sorted(path.name for path in (tmp_path / "trajectories").iterdir())
    assert shards == sorted(path.name for path in (folder / "trajectories").iterdir())
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


BASE_BY_TWO = """
import sys
sys.path[:0] = {paths!r}
import torch
torch.set_num_threads(1)
from migm_core.worlds.shapes.train_base import train_base
from migm_core.training.distributed import joined_world
from migm_core.worlds.shapes.patches import PatchCodebook
from small_model import small_config
with joined_world("cpu") as world:
    base = train_base(sys.argv[2], PatchCodebook.load(sys.argv[1]), steps=2, batch={{1: 1, 2: 2}}, config=small_config(), world=world)
    torch.save(base.state_dict(), f"{{sys.argv[2]}}/rank{{world.rank}}.pt")
"""


def test_two_processes_train_one_base_with_a_group_of_a_single_image(codebook, tmp_path):
    codebook.save(tmp_path / "codebook.safetensors")
    script = tmp_path / "job.py"
    script.write_text(BASE_BY_TWO.format(paths=[str(ROOT), str(ROOT / "tests")]))
    run_by_two(script, tmp_path / "codebook.safetensors", tmp_path)
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_published_head_has_about_220_million_parameters():
    from migm_core.families.lumina_dimoo.config import LuminaConfig
    from migm_core.families.lumina_dimoo.head import ShortcutHead

    head = ShortcutHead(head_for(LuminaConfig()), device="meta")
    assert sum(p.numel() for p in head.parameters()) == pytest.approx(220e6, rel=0.05)


def test_added_layers_change_nothing_before_they_are_trained(trained):
    base = trained[1].checkpoint.base
    shallow = Lumina(base.config, output_rows="all")
    deep = deepened(shallow, base.config.n_layers + 3)
    assert len(deep.blocks) == deep.config.n_layers == base.config.n_layers + 3
    tokens = torch.arange(20).view(1, 20)
    rotary = shallow.rotary(20, tokens.device)
    assert torch.equal(deep(tokens, rotary), shallow(tokens, rotary))
    assert torch.equal(deep.ff_out.weight, shallow.ff_out.weight)


def test_a_rollout_goes_on_from_the_heads_own_predictions(trained, tmp_path):
    folder, pipeline = trained
    base = pipeline.checkpoint.base
    kept = trajectories(folder / "trajectories")
    transitions = Transitions(kept, base)
    head = learned(tmp_path, kept, base, steps=3, horizon=3, kl=1.0, unconditional_every=2)
    first, second, _ = transitions.rollout(head, kept[:1], 1, 0, 3)
    (_, *arguments), target, _, _ = transitions.transition(kept[:1], 2, 0, head)
    assert torch.equal(second.features, head(first.features, *arguments))
    assert torch.equal(second.target, target)
    assert code_divergence(base, first._replace(features=first.target)).item() == pytest.approx(0, abs=1e-6)
    assert code_divergence(base, first._replace(features=100 * first.target)) > 1e-3


def test_a_head_goes_on_from_a_start(trained, tmp_path):
    folder, pipeline = trained
    kept, base = trajectories(folder / "trajectories"), pipeline.checkpoint.base
    first = learned(tmp_path / "first", kept, base, steps=2, ratio=4)
    assert same(first, learned(tmp_path / "none", kept, base, steps=0, head=first))
    further = learned(tmp_path / "further", kept, base, steps=2, head=first, clip=0.1, focus=0.5)
    assert further.config == first.config and not same(first, further)


@pytest.mark.parametrize("variant", [{}, {"time_embedding": False}, {"cross_attention": False}, {"n_blocks": 2}])
def test_a_widened_head_computes_what_it_did(variant):
    torch.manual_seed(0)
    sizes = {"d_model": 32, "n_heads": 2, "mlp_hidden_size": 48, **variant}
    narrow = ShortcutHead(ShortcutConfig(bottleneck_ratio=4, **sizes))
    wide = widened(narrow, ShortcutConfig(bottleneck_ratio=2, **sizes))  # each rotary frequency is one of the wide head's, too
    features, tokens, positions, ratio = torch.randn(2, 12, 32), torch.randn(2, 3, 32), torch.tensor([[1, 4, 9], [0, 2, 11]]), torch.tensor([0.3, 0.7])
    before, after = (head(features, tokens, positions, ratio, head.tables(12, features.device)) for head in (narrow, wide))
    torch.testing.assert_close(after, before, rtol=0, atol=1e-4)
    after.square().sum().backward()
    new = torch.ones(wide.config.width, dtype=torch.bool)
    new[: narrow.config.width] = False
    assert wide.proj_in.weight.grad[new].abs().sum(1).all(), "the new part of the stream would not learn"
    for block in wide.blocks[-1].cross_attn, wide.blocks[-1].self_attn:
        for writer in (block.attn_out, block.ff_out):
            assert writer.weight.grad[new].abs().sum(1).all()
        for channels in (block.k_proj, block.v_proj):
            assert (channels.weight.grad.abs().sum(1) > 0).all()


@pytest.mark.parametrize("ratio", [3, 0.5, 0, -1])
def test_a_ratio_must_suit_the_bases_heads(ratio):
    with pytest.raises(ValueError, match=rf"The ratio {ratio} gives a head of width .*multiple of 4.*Choose for example"):
        head_for(small_config(), ratio)


def test_a_head_is_widened_only_to_more():
    narrow, wide = (ShortcutConfig(d_model=32, n_heads=2, mlp_hidden_size=48, bottleneck_ratio=ratio) for ratio in (4, 2))
    for start, end in ((wide, narrow), (narrow, replace(narrow, bottleneck_ratio=1))):
        with pytest.raises(ValueError, match="expected a larger width"):
            widened(ShortcutHead(start), end)


def test_clipped_gradients_move_a_head_less(trained, tmp_path):
    folder, pipeline = trained
    kept, base = trajectories(folder / "trajectories"), pipeline.checkpoint.base
    start = learned(tmp_path / "start", kept, base, steps=2)

    def moved(clip: float) -> float:
        head = learned(tmp_path / f"clip-{clip}", kept, base, steps=2, head=start, clip=clip, weight_decay=0.0, ema=0.0)
        return sum((a - b).square().sum().item() for a, b in zip(head.parameters(), start.parameters())) ** 0.5

    assert 0 < moved(1e-12) < 0.01 * moved(0.0)  # AdamW divides by the gradients' size, down to 1e-8


@pytest.mark.parametrize("ratio", [2, 1])
def test_a_head_starts_with_features_that_do_not_move(trained, tmp_path, ratio):
    folder, pipeline = trained
    base = pipeline.checkpoint.base
    kept = trajectories(folder / "trajectories")
    head = learned(tmp_path, kept, base, steps=0, ratio=ratio)
    arguments, *_ = Transitions(kept, base).transition(kept[:1], 1, 0, head)
    assert torch.equal(head(*arguments), arguments[0])


def test_a_base_needs_an_image_tokenizer_or_a_start(tmp_path, capsys):
    assert main(["train-base", str(tmp_path)]) == 2
    assert f"Run `migm train-tokenizer {tmp_path}` first, or give --init-from." in capsys.readouterr().err


def test_the_bundled_model_is_trained_on_with_its_own_image_tokenizer(tmp_path):
    assert main(["train-base", str(tmp_path), "--init-from", "demo", "--steps", "1"]) == 0
    made = Pipeline.load(tmp_path / "checkpoint", None, dtype="fp32").checkpoint
    bundled = Pipeline.load(head=None, dtype="fp32").checkpoint
    assert same(made.image_tokenizer, bundled.image_tokenizer)
    assert not same(made.base, bundled.base)
    assert torch.equal(PatchCodebook.load(tmp_path / "checkpoint" / "codebook.safetensors").centres, PatchCodebook.load(DEMO / "codebook.safetensors").centres)
