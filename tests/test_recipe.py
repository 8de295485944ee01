"""The recipe that trains the models of the lakeside world: its parts, and the whole of it at tiny size."""

import json
import subprocess
import sys

import pytest
import torch

from migm_core.canvas import Canvas
from migm_core.models.image_tokenizer import ImageTokenizer
from migm_core.models.lumina import Lumina
from migm_core.models.shortcut import ShortcutHead
from migm_core.pipeline import Pipeline
from migm_core.sampling.methods import Shortcut, Vanilla
from migm_core.sampling.sampler import sample
from migm_core.sampling.sequence import Branch, Sequence, text_guidance
from migm_core.training import codebook as codebooks
from migm_core.training.distributed import World
from migm_core.training.masked import random_unknown
from migm_core.training.padded import PaddedBase, PaddedShortcut, new_tokens, predict
from migm_core.training.picture_tokenizer import fold, standardised
from migm_core.training.shortcut_rounds import RunSettings, make_runs, movement
from migm_core.training.stage import Stage, rate
from migm_core.worlds.recipe import lessons, weights
from migm_core.worlds.recipe.__main__ import main
from migm_core.worlds.recipe.dry_run import dry_run
from migm_core.worlds.recipe.evaluation import paired, wilson
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
        plain = Sequence(Branch(padded.encoder.prompt(text), 1.0), canvas, base)
        filled = Sequence(Branch(padded.prompts([text])[0], 1.0), canvas, base)
        expected = base.features(plain.tokens, plain.rotary)
        found = PaddedBase(base).features(filled.tokens, filled.rotary)
        torch.testing.assert_close(found[:, -expected.shape[1] :], expected, atol=1e-5, rtol=1e-4)


def test_a_prompt_that_is_too_long_is_refused(padded):
    with pytest.raises(ValueError, match="at most 76"):
        padded.prompts(["lake " * 80])


@pytest.mark.parametrize("method", ["vanilla", "shortcut"])
def test_sampling_filled_up_gives_the_same_tokens(base, head, padded, method):
    for k, text in enumerate(TEXTS):
        plain = text_guidance(padded.encoder.prompt(text), padded.encoder.unconditional(), 4.0)
        filled = text_guidance(padded.prompts([text]), padded.unconditional()[None], 4.0)
        settings = {"steps": 8, "temperature": 1.0}
        canvas = Canvas.empty(1, 8, 8)
        ways = {"vanilla": (Vanilla(), PaddedShortcut(None, 0)), "shortcut": (Shortcut(head, 3), PaddedShortcut(head, 3))}[method]
        generators = [[torch.Generator().manual_seed(k)] for _ in range(2)]
        expected = sample(base, plain, canvas, ways[0], generators=generators[0], **settings)
        found = sample(PaddedBase(base), filled, canvas, ways[1], generators=generators[1], **settings)
        assert torch.equal(found.codes, expected.codes)


def test_the_head_reads_no_fill_and_no_prompt_of_the_other_branch(base, head, padded):
    branches = text_guidance(padded.prompts(TEXTS), padded.unconditional().expand(2, -1), 4.0)
    canvas = Canvas(torch.randint(32, (2, 8, 8)), torch.rand(2, 8, 8) < 2)
    sequences = [Sequence(b, canvas, base) for b in branches]
    for fixed in (torch.tensor([[3, 9], [4, 60]]), torch.zeros(2, 0, dtype=torch.int64)):
        for s in sequences:
            s.fix(fixed, fixed % 32)
        tokens = torch.cat([s.tokens for s in sequences])
        features, ratio = torch.randn(4, tokens.shape[1], 32), torch.full((4,), 0.5)
        there, positions, known = new_tokens(sequences, fixed, base.config.tokens.end_of_text)
        visible = PaddedBase(base).visible(tokens)
        found = predict(head, features, base.wte(there), positions, known, visible, ratio, head.rotary(tokens.shape[1], "cpu"))
        for row in range(4):
            first = int((~visible[row, 0, 0]).sum())  # of the sequence without its fill
            keep = known[row]
            expected = head(
                features[row : row + 1, first:], base.wte(there[row : row + 1, keep]), positions[row : row + 1, keep] - first, ratio[:1],
                head.rotary(tokens.shape[1] - first, "cpu"),
            )  # fmt: skip
            torch.testing.assert_close(found[row, first:], expected[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("own", [False, True])
def test_runs_hold_the_features_of_their_states(base, head, padded, own):
    model, settings = PaddedBase(base), RunSettings(8, steps=8)
    runs = make_runs(model, padded.prompts(TEXTS), padded.unconditional(), settings, 5, head if own else None, 3)
    rows = torch.tensor([1, 0])
    for step in range(8):
        sequences = runs.sequences(rows, step, model)
        assert runs.masked_before(rows, step).shape[1] == settings.masked[step]
        assert runs.fixed_by(rows, step).shape[1] == settings.masked[step] - settings.masked[step + 1]
        expected = torch.cat([model.features(s.tokens, s.rotary) for s in sequences])
        visible = torch.cat([model.visible(s.tokens) for s in sequences])[:, 0, 0]
        torch.testing.assert_close(runs.features_of(rows, step)[visible], expected[visible], atol=1e-5, rtol=1e-4)
    moved = movement(model, runs)
    assert len(moved) == 7 and (moved >= 0).all()


def test_features_that_hardly_move_still_give_chances(head, padded):
    still = Lumina(TINY.base(), output_rows="all").requires_grad_(False)
    still.ff_out.weight.mul_(1e-3)
    runs = make_runs(PaddedBase(still), padded.prompts(TEXTS), padded.unconditional(), RunSettings(8, steps=8), 5)
    assert (movement(PaddedBase(still), runs) >= 0).all()


def test_masks_follow_the_cosine_schedule():
    unknown = random_unknown(512, 8, 8, torch.Generator().manual_seed(0))
    counts = unknown.sum((1, 2))
    assert counts.min() >= 1 and counts.max() == 64
    assert abs(counts.float().mean() / 64 - 2 / torch.pi) < 0.02
    assert (unknown.float().mean(0) - 2 / torch.pi).abs().max() < 0.1


def test_a_codebook_finds_clusters_and_revives_dead_entries():
    generator = torch.Generator().manual_seed(0)
    centres = 10 * torch.randn(8, 3, generator=generator)
    latents = centres[torch.randint(8, (2000,), generator=generator)] + 0.01 * torch.randn(2000, 3, generator=generator)
    found = codebooks.fit(latents, 8, generator)
    assert torch.cdist(centres, found).min(1).values.max() < 0.1
    entries = found.clone()
    entries[0] = 1000
    moving = codebooks.MovingCodebook(entries, decay=0.5)
    for _ in range(20):
        moving.update(latents, codebooks.nearest(latents, entries), torch.ones(2000))
    assert moving.revive(latents, generator) == 1 and entries.abs().max() < 100


def test_folding_makes_the_encoder_give_standardised_latents():
    torch.manual_seed(0)
    model, images = ImageTokenizer(TINY.tokenizer), torch.rand(4, 3, 32, 32)
    moments = torch.stack([torch.zeros(8), torch.ones(8)])
    with torch.no_grad():
        for _ in range(200):
            expected = standardised(model.latents(images), moments)
        fold(model, moments)
        torch.testing.assert_close(model.latents(images), expected, atol=1e-3, rtol=1e-3)


def test_a_stage_counts_the_time_of_all_its_calls(tmp_path):
    stage = Stage(tmp_path, 100)
    stage._before = 40
    stage.tick(7)
    stage.save({})
    again = Stage(tmp_path, 100)
    again.resume()
    assert (again.step, again.seen) == (1, 7) and 0.4 <= again.progress() < 0.5
    assert Stage(tmp_path, 100, until=0).progress() == 1
    assert rate(0.0, 0) < 0.02 and rate(0.3, 500) == 1 and rate(1.0, 500) == 0


def test_fills_are_the_same_for_whoever_asks_and_of_training_scenes_only():
    first, again = (lessons.Told(TINY, 5, 2, 3)[7] for _ in range(2))
    assert all((first[name] == again[name]).all() for name in first)
    assert first["prompts"].shape == (5, 2, 76)
    scenes, prompts = next(lessons.stream(TINY, 5, 2, 3, 7, World(), 0))
    assert (scenes.split() == 2).all() and torch.equal(prompts, torch.from_numpy(first["prompts"]).long())


def test_intervals():
    low, high = wilson(95, 100)
    assert 0.885 < low < 0.90 and 0.97 < high < 0.98
    mean, low, high = paired([True] * 90 + [False] * 10, [True] * 100)
    assert mean == pytest.approx(0.1) and 0.03 < low < 0.05 and high > 0.15


def test_the_dry_run_tells_sizes_and_rates():
    report = dry_run(TINY)
    assert "parameters: tokenizer" in report and "samples a second" in report


def test_the_whole_recipe(tmp_path):
    work, out = tmp_path / "work", tmp_path / "out"
    common = ["--size", "tiny", "--device", "cpu"]
    times = ["--reader", "0", "--tokenizer", "9", "--base", "3", "--head", "3", "--evaluation", "4", "--seconds", "60", "--prompts", "4"]
    main(["all", str(work), "--out", str(out), *times, *common])
    assert {"report.txt", "tokenizer.png", "pictures.png", "weights-1.safetensors"} == {p.name for p in out.iterdir()}
    report = json.loads((work / "evaluation.json").read_text())
    assert report["rows"][0]["way"] == "vanilla 8, guidance 4, temperature 1" and len(report["rows"]) > 1

    # The product reads what came of it.
    main(["assemble", str(work), *common])
    pipeline = Pipeline.load(work / "checkpoint", work / "checkpoint" / "shortcut.safetensors", dtype="fp32", device="cpu")
    result = pipeline.generate("A red balloon over the lake.", seed=1)
    assert result.images[0].size == (128, 128) and result.settings.budget == 3

    # In a later session, a stage goes on from the weights alone; in the same one, from its checkpoint.
    later = tmp_path / "later"
    main(["base", str(later), "--init-from", str(out), "--seconds", "1", *common])
    assert weights.load(later, "tokenizer").keys() == weights.load(work, "tokenizer").keys()
    steps = torch.load(later / "base" / "checkpoint.pt")["step"]
    main(["base", str(later), "--seconds", "3", *common])
    assert torch.load(later / "base" / "checkpoint.pt")["step"] > steps

    # Two processes share a stage.
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "migm_core.worlds.recipe"]
    done = subprocess.run([*command, "head", str(work), "--seconds", "6", *common], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert torch.load(work / "head" / "checkpoint.pt")["spent"] >= 6
