"""The training pipeline, end to end on models of a few thousand parameters."""

import argparse
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from small_model import CODES, small_config, small_image_tokenizer_config
from torch.distributed.run import get_args_parser

from migm_core.checkpoints import load_checkpoint, load_head, save_checkpoint, save_head
from migm_core.cli import main
from migm_core.models.lumina import Lumina
from migm_core.models.shortcut import ShortcutConfig, ShortcutHead
from migm_core.pipeline import DEMO, Pipeline
from migm_core.sampling.sequence import Branch, Sequence
from migm_core.training import head as of_head
from migm_core.training.base import deepened, train_base
from migm_core.training.commands import add_commands
from migm_core.training.head import TransitionSet, head_for, movement, prediction_error, train_head
from migm_core.training.muon import orthogonalise
from migm_core.training.patches import PatchCodebook, scene_images
from migm_core.training.redraw import redraw
from migm_core.training.tokenizer import train_tokenizer
from migm_core.training.trajectories import Trajectory, canvas_at, collect, fixed_by
from migm_core.training.vocabulary import demo_text_tokenizer
from migm_core.training.widen import widened

ROOT = Path(__file__).resolve().parents[1]
BATCH = {0: 1, 2: 2}
PROMPTS = ["a small red star on a navy background", "a large blue circle on a mint background", "a large red heart on a cream background"]
SETTINGS = {"width": 64, "height": 64, "steps": 6, "budget": 3, "guidance": 1.0, "temperature": 1.0}


@pytest.fixture(scope="module")
def codebook():
    return PatchCodebook(PatchCodebook.fit(8, seed=0, scenes=100).centres[:CODES])  # few, so that models are small


@pytest.fixture(scope="module")
def trained(codebook, tmp_path_factory):
    """A checkpoint that went through a few steps of training, and trajectories of it."""
    folder = tmp_path_factory.mktemp("trained")
    image_tokenizer = train_tokenizer(folder / "tokenizer", codebook, steps=2, batch=2, config=small_image_tokenizer_config())
    base = train_base(folder / "base", codebook, steps=4, batch=BATCH, config=small_config())
    save_checkpoint(folder / "checkpoint", base, image_tokenizer, demo_text_tokenizer().backend_tokenizer.to_str(), SETTINGS)
    pipeline = Pipeline.load(folder / "checkpoint", None, dtype="fp32", device="cpu")
    collect(pipeline, PROMPTS, folder / "trajectories", steps=6, guidance=1.0, temperature=1.0, batch=2)
    return folder, pipeline


def trajectories(folder: Path) -> list[Trajectory]:
    return [Trajectory.open(path) for path in sorted(folder.glob("*.safetensors"))]


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values()))


def test_an_interrupted_run_ends_like_an_uninterrupted_one(codebook, tmp_path, monkeypatch):
    whole = train_base(tmp_path / "whole", codebook, steps=4, batch=BATCH, config=small_config())
    from migm_core.training import run as module

    tick = module.TrainingRun.tick

    def stop_after_two(self, losses, state, **kw):
        tick(self, losses, state, **kw)
        if self.step == 2:
            self.save(state())
            raise KeyboardInterrupt

    monkeypatch.setattr(module.TrainingRun, "tick", stop_after_two)
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
        assert canvas_at([trajectory], 0).unknown.all()
        fixed = torch.cat([fixed_by([trajectory], step)[0] for step in range(trajectory.steps)])
        assert fixed.sort().values.tolist() == list(range(64))


def test_features_computed_anew_equal_the_stored_ones(trained):
    folder, pipeline = trained
    base = pipeline.checkpoint.base
    kept = trajectories(folder / "trajectories")
    transitions = TransitionSet(kept, base, torch.device("cpu"))
    head = train_head(folder / "head-untrained", kept, base, steps=0)
    for branch in range(2):
        (features, _, positions, ratio, _), target, sequence = transitions.transition(kept[:1], 2, branch, head)
        assert torch.allclose(base.features(sequence.tokens, sequence.rotary), target, atol=5e-3)
        new = fixed_by(kept[:1], 2).shape[1] + (len(kept[0].prompts[0]) if branch == 0 else 0)
        assert positions.shape == (1, new)
        assert ratio.item() == pytest.approx((kept[0].fixed_at >= 3).float().mean().item())


def test_a_trajectory_that_does_not_tell_its_settings_is_named(trained, tmp_path):
    folder, _ = trained
    whole = next((folder / "trajectories").glob("*.safetensors"))
    save_file(load_file(whole), tmp_path / "trajectory-000000.safetensors", {"steps": "6"})
    with pytest.raises(ValueError, match="trajectory-000000.safetensors does not say with what guidance, temperature"):
        trajectories(tmp_path)


def test_without_guidance_the_unconditional_features_are_left_to_the_training(trained, tmp_path):
    _, pipeline = trained
    collect(pipeline, PROMPTS, tmp_path, steps=6, guidance=0.0, temperature=1.0)
    kept = trajectories(tmp_path)
    assert kept[0].features(0, 2) is not None and kept[0].features(1, 2) is None
    head = train_head(tmp_path / "head", kept, pipeline.checkpoint.base, steps=2)
    transitions = TransitionSet(kept, pipeline.checkpoint.base, torch.device("cpu"))
    _, target, sequence = transitions.transition(kept[:1], 2, 1, head)
    assert torch.equal(pipeline.checkpoint.base.features(sequence.tokens, sequence.rotary), target)


def test_focus_favours_the_transitions_that_change_what_is_expected(trained):
    folder, pipeline = trained
    kept = trajectories(folder / "trajectories")

    movements = {t.path: movement(pipeline.checkpoint.base, [t])[0] for t in kept}

    def mean(focus: float) -> float:
        transitions = TransitionSet(kept, pipeline.checkpoint.base, torch.device("cpu"), focus)
        rng = np.random.default_rng(0)
        drawn = [transitions.draw(rng, 1) for _ in range(300)]
        return float(np.mean([movements[chosen.path][step] for (chosen,), step in drawn]))

    nats = np.stack(list(movements.values()))
    assert mean(0.0) == pytest.approx(nats.mean(), rel=0.2)
    assert mean(1.0) == pytest.approx((nats**2).sum() / nats.sum(), rel=0.2)  # chances in proportion to the movement
    assert mean(1.0) > 1.2 * mean(0.0)


def test_movement_of_many_is_that_of_each(trained, monkeypatch):
    folder, pipeline = trained
    kept, base = trajectories(folder / "trajectories")[:2], pipeline.checkpoint.base
    each = np.concatenate([movement(base, [t]) for t in kept])
    assert each.shape == (2, kept[0].steps - 1) and (each >= 0).all() and not np.array_equal(each[0], each[1])
    np.testing.assert_allclose(movement(base, kept), each, rtol=1e-4, atol=1e-6)
    monkeypatch.setattr(of_head, "LOGITS_AT_ONCE", 1)
    np.testing.assert_allclose(movement(base, kept), each, rtol=1e-4, atol=1e-6)


def test_focus_needs_features(trained, tmp_path):
    _, pipeline = trained
    collect(pipeline, PROMPTS[:1], tmp_path, steps=6, guidance=1.0, temperature=1.0, keep_features=False)
    with pytest.raises(ValueError, match="trajectory-000000.safetensors holds no features"):
        TransitionSet(trajectories(tmp_path), pipeline.checkpoint.base, torch.device("cpu"), 0.5)


def test_a_redrawn_run_is_what_the_base_draws_from_a_recorded_state(trained):
    folder, pipeline = trained
    recorded = trajectories(folder / "trajectories")[:2]
    base, (first, ahead) = pipeline.checkpoint.base, (1, 3)
    redrawn = [redraw(base, recorded, first, ahead, np.random.default_rng(seed)) for seed in (0, 0, 1)]
    for old, new in zip(recorded, redrawn[0]):
        before = old.fixed_at < first
        assert torch.equal(new.fixed_at < first, before) and torch.equal(new.codes.flatten()[before], old.codes.flatten()[before])
        for step in range(first, first + ahead):
            assert fixed_by([new], step).shape == fixed_by([old], step).shape, "the schedule is not the recorded one's"
        for branch, step in ((0, first), (0, first + ahead), (1, first + ahead)):
            sequence = Sequence(Branch(new.prompts[branch], 1.0), canvas_at([new], step), base)
            anew = base.features(sequence.tokens, sequence.rotary)[0]
            torch.testing.assert_close(new.features(branch, step), anew, rtol=0, atol=1e-5 * float(anew.abs().max()))
    codes = [torch.stack([t.codes for t in of_seed]) for of_seed in redrawn]
    assert torch.equal(codes[0], codes[1]), "one seed drew two things"
    assert not torch.equal(codes[0], codes[2]), "two seeds drew the same"


def test_a_head_learns_from_redrawn_runs(trained, tmp_path):
    folder, pipeline = trained
    recorded = trajectories(folder / "trajectories")
    settings = {"steps": 4, "batch": 2, "rollout": 2, "focus": 0.5}
    once, again = (train_head(tmp_path / name, recorded, pipeline.checkpoint.base, **settings, redraw_every=2) for name in ("once", "again"))
    assert same(once, again)
    assert not same(once, train_head(tmp_path / "recorded", recorded, pipeline.checkpoint.base, **settings))


def test_a_head_learns_from_a_base_in_bfloat16(trained, tmp_path):
    folder, _ = trained
    pipeline = Pipeline.load(folder / "checkpoint", None, dtype="bf16", device="cpu")
    collect(pipeline, PROMPTS, tmp_path, steps=6, guidance=1.0, temperature=1.0)
    kept, base = trajectories(tmp_path), pipeline.checkpoint.base
    assert kept[0].features(0, 1).dtype == torch.bfloat16
    head = train_head(tmp_path / "head", kept, base, steps=2, rollout=2, kl=1.0, focus=0.5, redraw_every=1)
    assert {p.dtype for p in head.parameters()} == {torch.float32}
    assert json.loads((tmp_path / "head" / "log.jsonl").read_text().splitlines()[-1])["loss"] > 0


def test_collecting_again_writes_nothing_anew(trained):
    folder, pipeline = trained
    before = {path: path.stat().st_mtime_ns for path in (folder / "trajectories").iterdir()}
    collect(pipeline, PROMPTS, folder / "trajectories", steps=6, guidance=1.0, temperature=1.0)
    assert before == {path: path.stat().st_mtime_ns for path in (folder / "trajectories").iterdir()}


@pytest.mark.parametrize(("keep_features", "muon"), [(True, 0.0), (True, 0.02), (False, 0.0)])
def test_a_trained_head_predicts_better_than_no_motion(trained, tmp_path, keep_features, muon):
    from migm_core.training.head import validate

    folder, pipeline = trained
    base = pipeline.checkpoint.base
    source = folder / "trajectories"
    if not keep_features:
        source = tmp_path / "tokens-only"
        collect(pipeline, PROMPTS, source, steps=6, guidance=1.0, temperature=1.0, keep_features=False)
    kept = trajectories(source)
    head = train_head(tmp_path / "head", kept, base, steps=150, ema=0.9, muon=muon)
    scores = validate(head, TransitionSet(kept, base, torch.device("cpu")), batch=1)
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
from migm_core.training.head import train_head
from migm_core.training.trajectories import Trajectory, collect
source, target = Path(sys.argv[1]), Path(sys.argv[2])
with joined_world("cpu") as world:
    pipeline = Pipeline.load(source / "checkpoint", None, dtype="fp32", device="cpu")
    collect(pipeline, {prompts!r}, target / "trajectories", steps=6, guidance=1.0, temperature=1.0, world=world)
    world.wait()
    shards = [Trajectory.open(path) for path in sorted((target / "trajectories").glob("*.safetensors"))]
    head = train_head(target / "head", shards, pipeline.checkpoint.base, steps=5, world=world)
    torch.save(head.state_dict(), target / f"rank{{world.rank}}.pt")
"""


def run_by_two(script: Path, *arguments: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]


def test_no_option_is_mistaken_for_one_of_torchruns():
    """torchrun also reads the command's own options, and takes a beginning of one of its own for it."""
    theirs = [name for action in get_args_parser()._actions for name in action.option_strings]
    commands = argparse.ArgumentParser().add_subparsers()
    add_commands(commands)
    ours = {name for parser in commands.choices.values() for action in parser._actions for name in action.option_strings if name != "--help"}
    assert "--init-from" in ours
    assert [(one, other) for one in ours if one.startswith("--") for other in theirs if other.startswith(one)] == []


def test_two_processes_share_collecting_and_train_one_head(trained, tmp_path):
    folder, _ = trained
    script = tmp_path / "job.py"
    script.write_text(DISTRIBUTED.format(paths=[str(ROOT)], prompts=PROMPTS))
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
from migm_core.training.base import train_base
from migm_core.training.distributed import joined_world
from migm_core.training.patches import PatchCodebook
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
    from migm_core.config import LuminaConfig
    from migm_core.models.shortcut import ShortcutHead

    head = ShortcutHead(head_for(LuminaConfig()), device="meta")
    assert sum(p.numel() for p in head.parameters()) == pytest.approx(220e6, rel=0.05)


def test_added_layers_change_nothing_before_they_are_trained(trained):
    base = trained[1].checkpoint.base
    shallow = Lumina(base.config, output_rows="all")
    deep = deepened(shallow, base.config.n_layers + 3)
    assert len(deep.blocks) == deep.config.n_layers == base.config.n_layers + 3
    tokens = torch.arange(20).view(1, 20)
    rotary = shallow.rotary(20, tokens.device)
    assert torch.equal(deep.features(tokens, rotary), shallow.features(tokens, rotary))
    assert torch.equal(deep.ff_out.weight, shallow.ff_out.weight)


def test_a_rollout_goes_on_from_the_heads_own_predictions(trained, tmp_path):
    folder, pipeline = trained
    base = pipeline.checkpoint.base
    kept = trajectories(folder / "trajectories")
    transitions = TransitionSet(kept, base, torch.device("cpu"))
    head = train_head(tmp_path, kept, base, steps=3, rollout=3, kl=1.0, unconditional_every=2)
    first, second, _ = transitions.rollout(head, head, kept[:1], 1, 0, 3)
    (_, *arguments), target, _ = transitions.transition(kept[:1], 2, 0, head)
    assert torch.equal(second.features, head(first.features, *arguments))
    assert torch.equal(second.target, target)
    assert prediction_error(base, first._replace(features=first.target)).item() == pytest.approx(0, abs=1e-6)
    assert prediction_error(base, first._replace(features=100 * first.target)) > 1e-3


def test_a_head_goes_on_from_a_start(trained, tmp_path):
    folder, pipeline = trained
    kept, base = trajectories(folder / "trajectories"), pipeline.checkpoint.base
    first = train_head(tmp_path / "first", kept, base, steps=2, config=head_for(base.config, 4))
    assert same(first, train_head(tmp_path / "none", kept, base, steps=0, start=first))
    further = train_head(tmp_path / "further", kept, base, steps=2, start=first, clip=0.1, focus=0.5)
    assert further.config == first.config and not same(first, further)


@pytest.mark.parametrize("variant", [{}, {"time_embedding": False}, {"cross_attention": False}, {"n_blocks": 2}])
def test_a_widened_head_computes_what_it_did(variant):
    torch.manual_seed(0)
    sizes = {"d_model": 32, "n_heads": 2, "mlp_hidden_size": 48, **variant}
    narrow = ShortcutHead(ShortcutConfig(bottleneck_ratio=4, **sizes))
    wide = widened(narrow, ShortcutConfig(bottleneck_ratio=2, **sizes))  # each rotary frequency is one of the wide head's, too
    features, tokens, positions, ratio = torch.randn(2, 12, 32), torch.randn(2, 3, 32), torch.tensor([[1, 4, 9], [0, 2, 11]]), torch.tensor([0.3, 0.7])
    before, after = (head(features, tokens, positions, ratio, head.rotary(12, features.device)) for head in (narrow, wide))
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
    start = train_head(tmp_path / "start", kept, base, steps=2)

    def moved(clip: float) -> float:
        head = train_head(tmp_path / f"clip-{clip}", kept, base, steps=2, start=start, clip=clip, weight_decay=0.0, ema=0.0)
        return sum((a - b).square().sum().item() for a, b in zip(head.parameters(), start.parameters())) ** 0.5

    assert 0 < moved(1e-12) < 0.01 * moved(0.0)  # AdamW divides by the gradients' size, down to 1e-8


@pytest.mark.parametrize("ratio", [2, 1])
def test_a_head_starts_with_features_that_do_not_move(trained, tmp_path, ratio):
    folder, pipeline = trained
    base = pipeline.checkpoint.base
    kept = trajectories(folder / "trajectories")
    head = train_head(tmp_path, kept, base, steps=0, config=head_for(base.config, ratio))
    arguments, _, _ = TransitionSet(kept, base, torch.device("cpu")).transition(kept[:1], 1, 0, head)
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
