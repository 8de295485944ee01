"""The recipe's batches of runs: what is filled up and what is recorded gives what the engine gives."""

import pytest
import torch

from migm_core.canvas import Canvas
from migm_core.families.lumina_dimoo.backbone import Lumina
from migm_core.families.lumina_dimoo.head import ShortcutHead
from migm_core.families.lumina_dimoo.rule import LuminaRule
from migm_core.families.lumina_dimoo.tasks import text_guidance
from migm_core.families.maskgit.backbone import MaskGit
from migm_core.families.maskgit.head import MaskGitHead
from migm_core.families.maskgit.rule import MaskGitRule
from migm_core.families.maskgit.tasks import class_guidance
from migm_core.sampling.backbone import Branch
from migm_core.sampling.loop import sample
from migm_core.sampling.methods import Shortcut, Vanilla
from migm_core.sampling.noise import SeededNoise
from migm_core.tokenizers.amused_vq import ImageTokenizer
from migm_core.training.distributed import World
from migm_core.training.head import zero_init
from migm_core.training.masked import losses, on_policy_states
from migm_core.worlds.recipe import lessons, maskgit, rounds
from migm_core.worlds.recipe.batched import BatchedShortcut
from migm_core.worlds.recipe.maskgit import ClassBase
from migm_core.worlds.recipe.padded import NarrowBase, PaddedBase, new_tokens, predict
from migm_core.worlds.recipe.rounds import RunSettings, divergence_left, feature_drift, make_runs, record_runs, replayed, rollout_losses
from migm_core.worlds.recipe.sizes import SIZES

TINY = SIZES["tiny"]
TEXTS = ["A red balloon.", "At night a large yellow house on the sand and a small duck."]


@pytest.fixture(scope="module")
def base():
    torch.manual_seed(0)
    return Lumina(TINY.base(), output_rows="all").requires_grad_(False)


@pytest.fixture(scope="module")
def head():
    torch.manual_seed(1)
    return ShortcutHead(TINY.head()).requires_grad_(False)


@pytest.fixture(scope="module")
def padded():
    return lessons.padded_prompts(TINY)


def test_filling_up_a_prompt_changes_no_feature(base, padded):
    canvas = Canvas(torch.randint(32, (1, 8, 8)), torch.rand(1, 8, 8) < 0.5)
    for text in TEXTS:
        plain = base.sequence(Branch(padded.encoder.prompt(text), 1.0), canvas)
        filled = base.sequence(Branch(padded.prompts([text])[0], 1.0), canvas)
        expected = base(plain.tokens, plain.rotary)
        found = PaddedBase(base).hidden(filled.tokens, filled.rotary)
        torch.testing.assert_close(found[:, -expected.shape[1] :], expected, atol=1e-5, rtol=1e-4)


def test_a_prompt_that_is_too_long_is_refused(padded):
    with pytest.raises(ValueError, match="at most 76"):
        padded.prompts(["lake " * 80])


def test_prompts_are_trimmed_to_the_longest(padded):
    prompts = padded.prompts(TEXTS)
    trimmed = padded.trimmed(prompts)
    assert trimmed.shape[1] == int((prompts != padded.fill).sum(1).max()) < padded.length
    assert torch.equal(trimmed, prompts[:, -trimmed.shape[1] :])
    shown = next(lessons.samples(TINY, ImageTokenizer(TINY.tokenizer), 0, World()))[0]
    assert (shown != padded.fill).sum(1).max() == shown.shape[1] < padded.length


@pytest.mark.parametrize("method", ["vanilla", "shortcut"])
def test_sampling_filled_up_gives_the_same_tokens(base, head, padded, method):
    for k, text in enumerate(TEXTS):
        plain = text_guidance(padded.encoder.prompt(text), padded.encoder.unconditional(), 4.0)
        filled = text_guidance(padded.prompts([text]), padded.unconditional()[None], 4.0)
        settings = {"steps": 8, "rule": LuminaRule(1.0)}
        canvas = Canvas.empty(1, 8, 8)
        ways = {"vanilla": (Vanilla(), BatchedShortcut(None, 0)), "shortcut": (Shortcut(head, 3), BatchedShortcut(head, 3))}[method]
        noise = [SeededNoise.of_seeds([k], torch.device("cpu")) for _ in range(2)]
        expected = sample(base, plain, canvas, ways[0], noise=noise[0], **settings)
        found = sample(PaddedBase(base), filled, canvas, ways[1], noise=noise[1], **settings)
        assert torch.equal(found.codes, expected.codes)


def test_the_head_reads_no_fill_and_no_prompt_of_the_other_branch(base, head, padded):
    branches = text_guidance(padded.prompts(TEXTS), padded.unconditional().expand(2, -1), 4.0)
    canvas = Canvas(torch.randint(32, (2, 8, 8)), torch.rand(2, 8, 8) < 2)
    sequences = [base.sequence(b, canvas) for b in branches]
    for fixed in (torch.tensor([[3, 9], [4, 60]]), torch.zeros(2, 0, dtype=torch.int64)):
        for s in sequences:
            s.unmask(fixed, fixed % 32)
        tokens = torch.cat([s.tokens for s in sequences])
        features, ratio = torch.randn(4, tokens.shape[1], 32), torch.full((4,), 0.5)
        there, positions, known = new_tokens(sequences, fixed, base.config.tokens.end_of_text)
        visible = PaddedBase(base).visible(tokens)
        found = predict(head, features, base.wte(there), positions, known, visible, ratio, head.tables(tokens.shape[1], "cpu"))
        for row in range(4):
            first = int((~visible[row, 0, 0]).sum())  # of the sequence without its fill
            keep = known[row]
            expected = head(
                features[row : row + 1, first:], base.wte(there[row : row + 1, keep]), positions[row : row + 1, keep] - first, ratio[:1],
                head.tables(tokens.shape[1] - first, "cpu"),
            )  # fmt: skip
            torch.testing.assert_close(found[row, first:], expected[0], atol=1e-5, rtol=1e-4)


def test_features_that_hardly_move_still_give_chances(head, padded):
    still = Lumina(TINY.base(), output_rows="all").requires_grad_(False)
    still.ff_out.weight.mul_(1e-3)
    runs = make_runs(PaddedBase(still), padded.prompts(TEXTS), padded.unconditional(), RunSettings(8, steps=8), 5)
    assert (feature_drift(PaddedBase(still), runs) >= 0).all()


@pytest.mark.parametrize("own", [False, True])
def test_runs_hold_the_features_of_their_states(base, head, padded, own):
    model, settings = PaddedBase(base), RunSettings(8, steps=8)
    runs = make_runs(model, padded.prompts(TEXTS), padded.unconditional(), settings, 5, head if own else None, 3)
    rows = torch.tensor([1, 0])
    for step in range(8):
        sequences = runs.sequences(rows, step, model)
        assert runs.masked_before(rows, step).shape[1] == settings.masked[step]
        assert runs.unmasked_by(rows, step).shape[1] == settings.masked[step] - settings.masked[step + 1]
        expected = torch.cat([model.features(s) for s in sequences])
        visible = torch.cat([model.visible(s.tokens) for s in sequences])[:, 0, 0]
        torch.testing.assert_close(runs.features_of(rows, step)[visible], expected[visible], atol=1e-5, rtol=1e-4)
    drift = feature_drift(model, runs)
    assert len(drift) == 7 and (drift >= 0).all()


def test_recorded_runs_replay_to_the_same_features(base, padded):
    model, settings = PaddedBase(base), RunSettings(8, steps=8)
    prompts, unconditional = padded.prompts(TEXTS), padded.unconditional()
    expected = make_runs(model, prompts, unconditional, settings, 5)
    recorded = record_runs(model, prompts, unconditional, settings, 5)
    found = replayed(model, recorded, unconditional, settings)
    assert torch.equal(found.codes, expected.codes) and torch.equal(found.unmasked_at, expected.unmasked_at)
    assert all(torch.equal(a, b) for a, b in zip(found.prompts, expected.prompts))
    rows = torch.arange(2)
    for step in range(8):
        counts = model.counted(found.sequences(rows, step, model))[..., 0]
        torch.testing.assert_close(found.features_of(rows, step)[counts], expected.features_of(rows, step)[counts], atol=1e-5, rtol=1e-4)


@pytest.fixture(scope="module")
def of_classes():
    torch.manual_seed(2)
    base, head = MaskGit(TINY.class_base()), MaskGitHead(TINY.class_head())
    maskgit.initialise(base)
    base.tok_emb.weight.data.mul_(30)  # so that logits differ
    return base.requires_grad_(False), head.requires_grad_(False)


@pytest.mark.parametrize("budget", [0, 3])
def test_classes_sampled_as_one_batch_give_the_same_tokens(of_classes, budget):
    base, head = of_classes
    numbers, config = torch.tensor([0, 47]), base.config
    plain = class_guidance(config, numbers.tolist(), 2.8)
    batched = ClassBase(base).branches(maskgit.class_prompts(numbers, config.codebook_size), torch.tensor([config.dropped_class]), 2.8)
    settings = {"steps": 6, "rule": MaskGitRule()}
    methods = (Shortcut(head, 3, divide_first=True) if budget else Vanilla(), BatchedShortcut(head if budget else None, budget, divide_first=True))
    expected, found = (
        sample(model, branches, Canvas.empty(2, 8, 8), method, noise=SeededNoise.of_seeds([1, 2], torch.device("cpu")), **settings).codes
        for model, branches, method in zip((base, ClassBase(base)), (plain, batched), methods)
    )
    assert torch.equal(found, expected)


def test_a_head_of_classes_learns_by_growing_guidance(of_classes):
    base, head = of_classes
    model, settings = ClassBase(base), RunSettings(8, 6, 2.8, MaskGitRule(), (3,), divide_first=True)
    assert settings.weights(0) == [1, 0] and settings.weights(5) == [3.8, -2.8]
    runs = make_runs(model, maskgit.class_prompts(torch.arange(4), 32), torch.tensor([base.config.dropped_class]), settings, 3)
    error, kl = rollout_losses(model, head, runs, torch.arange(4), 0, 3, torch.Generator())
    assert error > 0 and kl > 0 and len(feature_drift(model, runs)) == 5


def test_a_head_that_changes_nothing_loses_one(base, padded, monkeypatch):
    monkeypatch.setattr(rounds, "ERROR_FLOOR", 0.0)
    monkeypatch.setattr(rounds, "KL_FLOOR", 0.0)
    still, model, settings = ShortcutHead(TINY.head()), PaddedBase(base), RunSettings(8, steps=8, budgets=(2, 4))
    zero_init(still)
    runs = make_runs(model, padded.prompts(TEXTS), padded.unconditional(), settings, 5)
    assert settings.longest_rollout == 3  # full steps 0 and 4 of 8
    for step in range(4):
        assert [loss.item() for loss in rollout_losses(model, still, runs, torch.arange(2), step, 3, torch.Generator())] == pytest.approx([1, 1], rel=1e-4)


def test_a_head_that_changes_nothing_leaves_all_of_the_divergence(base, padded):
    torch.manual_seed(6)
    model, settings = PaddedBase(base), RunSettings(8, steps=8, budgets=(2,))
    runs = make_runs(model, padded.prompts(TEXTS), padded.unconditional(), settings, 5)
    still, wrong = ShortcutHead(TINY.head()), ShortcutHead(TINY.head())
    zero_init(still)
    assert divergence_left(model, still, runs, 2) == pytest.approx(1, rel=1e-4)
    assert divergence_left(model, wrong, runs, 2) > 1


def test_a_base_that_computes_masked_tokens_alone_learns_the_same(padded):
    torch.manual_seed(5)
    base = Lumina(TINY.base(), output_rows="all")
    codes, masked = torch.randint(32, (2, 8, 8)), torch.rand(2, 8, 8) < 0.6
    found = []
    for view in (PaddedBase, NarrowBase):
        base.zero_grad()
        each = losses(view(base), padded.prompts(TEXTS), codes, masked)
        each.square().sum().backward()
        found.append((each.detach(), [p.grad for p in base.parameters()]))
    assert found[0][0][masked].min() > 0 == found[0][0][~masked].max()
    torch.testing.assert_close(*found, atol=1e-4, rtol=1e-4)


def test_on_policy_states_unmask_some_more_tokens(base, padded):
    generator = torch.Generator().manual_seed(0)
    codes, masked = torch.randint(32, (2, 8, 8), generator=generator), torch.rand(2, 8, 8, generator=generator) < 0.7
    shown, still = on_policy_states(PaddedBase(base), padded.prompts(TEXTS), codes, masked, generator)
    assert (still <= masked).all() and still.any((1, 2)).all() and (still.sum() < masked.sum())
    assert (shown == codes)[~masked | still].all()
