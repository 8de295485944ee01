"""A head learns from recorded runs, from states of its own, and from runs sampled again."""

import json

import numpy as np
import pytest
import torch
from training_runs import PROMPTS, collect, learned, learned_head, same, trajectories

from migm_core.checkpoints import load_head, save_head
from migm_core.families.lumina_dimoo.rule import LuminaRule
from migm_core.pipeline import Pipeline
from migm_core.sampling.backbone import Branch
from migm_core.training import transitions as of_transitions
from migm_core.training.head import validate
from migm_core.training.resample import resample
from migm_core.training.trajectories import canvas_at, unmasked_by
from migm_core.training.transitions import Transitions, code_divergence, feature_drift


def test_a_sampled_rollout_of_one_step_is_the_recorded_one(recorded):
    folder, pipeline = recorded
    base, kept = pipeline.checkpoint.base, trajectories(folder / "trajectories")
    transitions, head = Transitions(kept, base, LuminaRule()), learned_head(base)
    one = transitions.sampled_rollout(head, kept[:1], 1, 0, 1, [])
    other = next(transitions.rollout(head, kept[:1], 1, 0, 1))
    assert torch.equal(one.features, other.features) and torch.equal(one.target, other.target)


def test_a_sampled_rollout_goes_along_tokens_of_the_heads_own(recorded):
    folder, pipeline = recorded
    base, kept = pipeline.checkpoint.base, trajectories(folder / "trajectories")
    transitions, head = Transitions(kept, base, LuminaRule()), learned_head(base)
    generators = [[torch.Generator().manual_seed(k + seed) for k in range(2)] for seed in (0, 0, 9)]
    results = [transitions.sampled_rollout(head, kept[:2], 1, 0, 3, of_seed) for of_seed in generators]
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


def test_without_guidance_the_unconditional_features_are_left_to_the_training(recorded, tmp_path):
    _, pipeline = recorded
    collect(pipeline, tmp_path, guidance_scale=0.0)
    kept = trajectories(tmp_path)
    assert kept[0].features(0, 2) is not None and kept[0].features(1, 2) is None
    head = learned(tmp_path / "head", kept, pipeline.checkpoint.base, steps=2)
    transitions = Transitions(kept, pipeline.checkpoint.base, LuminaRule())
    _, target, sequence, _ = transitions.transition(kept[:1], 2, 1, head)
    assert torch.equal(pipeline.checkpoint.base.features(sequence), target)


def test_focus_favours_the_transitions_that_change_what_is_expected(recorded):
    folder, pipeline = recorded
    kept = trajectories(folder / "trajectories")

    drifts = {t.path: feature_drift(pipeline.checkpoint.base, [t])[0] for t in kept}

    def mean(focus: float) -> float:
        transitions = Transitions(kept, pipeline.checkpoint.base, LuminaRule(), focus)
        rng = np.random.default_rng(0)
        sampled = [transitions.sample(rng, 1) for _ in range(300)]
        return float(np.mean([drifts[chosen.path][step] for (chosen,), step in sampled]))

    nats = np.stack(list(drifts.values()))
    assert mean(0.0) == pytest.approx(nats.mean(), rel=0.2)
    assert mean(1.0) == pytest.approx((nats**2).sum() / nats.sum(), rel=0.2)  # chances in proportion to the drift
    assert mean(1.0) > 1.2 * mean(0.0)


def test_feature_drift_of_many_is_that_of_each(recorded, monkeypatch):
    folder, pipeline = recorded
    kept, base = trajectories(folder / "trajectories")[:2], pipeline.checkpoint.base
    each = np.concatenate([feature_drift(base, [t]) for t in kept])
    assert each.shape == (2, kept[0].steps - 1) and (each >= 0).all() and not np.array_equal(each[0], each[1])
    np.testing.assert_allclose(feature_drift(base, kept), each, rtol=1e-4, atol=1e-6)
    monkeypatch.setattr(of_transitions, "LOGITS_AT_ONCE", 1)
    np.testing.assert_allclose(feature_drift(base, kept), each, rtol=1e-4, atol=1e-6)


def test_focus_needs_features(recorded, tmp_path):
    _, pipeline = recorded
    collect(pipeline, tmp_path, PROMPTS[:1], keep_features=False)
    with pytest.raises(ValueError, match="trajectory-000000.safetensors holds no features"):
        Transitions(trajectories(tmp_path), pipeline.checkpoint.base, LuminaRule(), 0.5)


def test_a_resampled_run_is_what_the_base_samples_from_a_recorded_state(recorded):
    folder, pipeline = recorded
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


def test_a_head_learns_from_resampled_runs(recorded, tmp_path):
    folder, pipeline = recorded
    recorded = trajectories(folder / "trajectories")
    settings = {"steps": 4, "batch": 2, "horizon": 2, "focus": 0.5}
    once, again = (learned(tmp_path / name, recorded, pipeline.checkpoint.base, **settings, resample_every=2) for name in ("once", "again"))
    assert same(once, again)
    assert not same(once, learned(tmp_path / "recorded", recorded, pipeline.checkpoint.base, **settings))


def test_a_head_learns_from_a_base_in_bfloat16(recorded, tmp_path):
    folder, _ = recorded
    pipeline = Pipeline.load(folder / "model", None, dtype="bf16", device="cpu")
    collect(pipeline, tmp_path)
    kept, base = trajectories(tmp_path), pipeline.checkpoint.base
    assert kept[0].features(0, 1).dtype == torch.bfloat16
    head = learned(tmp_path / "head", kept, base, steps=2, horizon=2, kl=1.0, focus=0.5, resample_every=1)
    assert {p.dtype for p in head.parameters()} == {torch.float32}
    assert json.loads((tmp_path / "head" / "log.jsonl").read_text().splitlines()[-1])["loss"] > 0


@pytest.mark.parametrize(("keep_features", "muon"), [(True, 0.0), (True, 0.02), (False, 0.0)])
def test_a_trained_head_predicts_better_than_no_motion(recorded, tmp_path, keep_features, muon):
    folder, pipeline = recorded
    base = pipeline.checkpoint.base
    source = folder / "trajectories"
    if not keep_features:
        source = tmp_path / "tokens-only"
        collect(pipeline, source, keep_features=False)
    kept = trajectories(source)
    head = learned(tmp_path / "head", kept, base, steps=150, ema=0.9, muon_lr=muon)
    scores = validate(head, Transitions(kept, base, LuminaRule()), batch=1)
    assert scores["val_mse"] < 0.9 * scores["val_mse_still"]
    save_head(tmp_path / "head.safetensors", head)
    assert same(load_head(tmp_path / "head.safetensors", base.config, dtype=torch.float32), head)


def test_a_rollout_goes_on_from_the_heads_own_predictions(recorded, tmp_path):
    folder, pipeline = recorded
    base = pipeline.checkpoint.base
    kept = trajectories(folder / "trajectories")
    transitions = Transitions(kept, base, LuminaRule())
    head = learned(tmp_path, kept, base, steps=3, horizon=3, kl=1.0, unconditional_every=2)
    first, second, _ = transitions.rollout(head, kept[:1], 1, 0, 3)
    (_, *arguments), target, _, _ = transitions.transition(kept[:1], 2, 0, head)
    assert torch.equal(second.features, head(first.features, *arguments))
    assert torch.equal(second.target, target)
    assert code_divergence(base, first._replace(features=first.target)).item() == pytest.approx(0, abs=1e-6)
    assert code_divergence(base, first._replace(features=100 * first.target)) > 1e-3


def test_clipped_gradients_move_a_head_less(recorded, tmp_path):
    folder, pipeline = recorded
    kept, base = trajectories(folder / "trajectories"), pipeline.checkpoint.base
    start = learned(tmp_path / "start", kept, base, steps=2)

    def moved(clip: float) -> float:
        head = learned(tmp_path / f"clip-{clip}", kept, base, steps=2, head=start, clip=clip, weight_decay=0.0, ema=0.0)
        return sum((a - b).square().sum().item() for a, b in zip(head.parameters(), start.parameters())) ** 0.5

    assert 0 < moved(1e-12) < 0.01 * moved(0.0)  # AdamW divides by the gradients' size, down to 1e-8
