"""The recipe that trains the models of the lakeside world: its parts, and the whole of it at tiny size."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from itertools import count
from pathlib import Path

import pytest
import torch
from PIL import Image

from migm_core.canvas import Canvas
from migm_core.families.lumina_dimoo.backbone import Lumina
from migm_core.families.lumina_dimoo.head import ShortcutHead
from migm_core.families.lumina_dimoo.initial import deepened
from migm_core.families.lumina_dimoo.rule import LuminaRule
from migm_core.families.lumina_dimoo.tasks import text_guidance
from migm_core.families.maskgit.backbone import MaskGit
from migm_core.families.maskgit.head import MaskGitHead
from migm_core.families.maskgit.rule import MaskGitRule
from migm_core.families.maskgit.tasks import class_guidance
from migm_core.pipeline import Pipeline
from migm_core.sampling.backbone import Branch
from migm_core.sampling.loop import sample
from migm_core.sampling.methods import Shortcut, Vanilla
from migm_core.sampling.noise import SeededNoise
from migm_core.tokenizers.amused_vq import ImageTokenizer, ImageTokenizerConfig
from migm_core.tokenizers.vqgan import Vqgan
from migm_core.training import codebook as codebooks
from migm_core.training.distributed import World
from migm_core.training.inner_levels import InnerLevels
from migm_core.training.masked import on_policy_states, random_masks
from migm_core.training.picture_tokenizer import fold, standardised, train_picture_tokenizer, uncompiled
from migm_core.worlds.recipe import lessons, maskgit, stages, weights
from migm_core.worlds.recipe.__main__ import main
from migm_core.worlds.recipe.batched import BatchedShortcut
from migm_core.worlds.recipe.dry_run import dry_run
from migm_core.worlds.recipe.evaluation import Row, Way, paired, wilson
from migm_core.worlds.recipe.figure import COLOURS, points, save_curve
from migm_core.worlds.recipe.maskgit import ClassBase
from migm_core.worlds.recipe.padded import PaddedBase, new_tokens, predict
from migm_core.worlds.recipe.pieces import SHARES, Plan
from migm_core.worlds.recipe.rounds import RunSettings, feature_drift, make_runs, record_runs, replayed, rollout_losses
from migm_core.worlds.recipe.sizes import SIZES
from migm_core.worlds.recipe.stages import Task

ROOT = Path(__file__).parents[1]
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
    error, kl = rollout_losses(model, head, runs, torch.arange(4), 0, 3)
    assert error > 0 and kl > 0 and len(feature_drift(model, runs)) == 5


def test_one_image_tokenizer_serves_both_families():
    torch.manual_seed(3)
    tokenizer = ImageTokenizer(TINY.tokenizer).requires_grad_(False)
    vqgan = maskgit.as_vqgan(tokenizer, TINY.pixels)
    codes, images = torch.randint(32, (2, 8, 8)), torch.rand(2, 3, 128, 128)
    torch.testing.assert_close(vqgan.decode(codes), tokenizer.decode(codes), atol=1e-5, rtol=0)
    grey = torch.full_like(images, 0.5)
    for model in (tokenizer, vqgan):
        model.encoder.conv_in.padding_mode = "replicate"  # else they see other edges
        model.encoder.conv_in._reversed_padding_repeated_twice = [1, 1, 1, 1]
    torch.testing.assert_close(vqgan.latents(images), tokenizer.latents(images), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(tokenizer.latents(grey), tokenizer.latents(images))
    with pytest.raises(ValueError, match="32 groups"):
        maskgit.vqgan_config(ImageTokenizerConfig(block_out_channels=(24, 48), norm_num_groups=8), 64)


def test_the_bundled_models_are_small_enough():
    sizes = SIZES["card"]
    count = lambda model: sum(p.numel() for p in model.parameters())  # noqa: E731
    with torch.device("meta"):
        of_classes = count(MaskGit(sizes.class_base())) + count(MaskGitHead(sizes.class_head())) + count(Vqgan(maskgit.vqgan_config(sizes.tokenizer, 256)))
        base = Lumina(sizes.base(), output_rows="all")
        other = count(ShortcutHead(sizes.head())) + count(ImageTokenizer(sizes.tokenizer)) + count(base) - count(base.blocks)
    assert 2 * of_classes < 9.95 * 2**20
    assert count(base.blocks) + 2 * (other + of_classes) < 44 * 2**20  # blocks in 8 bits


def test_on_policy_states_unmask_some_more_tokens(base, padded):
    generator = torch.Generator().manual_seed(0)
    codes, masked = torch.randint(32, (2, 8, 8), generator=generator), torch.rand(2, 8, 8, generator=generator) < 0.7
    shown, still = on_policy_states(PaddedBase(base), padded.prompts(TEXTS), codes, masked, generator)
    assert (still <= masked).all() and still.any((1, 2)).all() and (still.sum() < masked.sum())
    assert (shown == codes)[~masked | still].all()


def test_codes_are_kept_for_the_model_of_classes(tmp_path):
    kept = lessons.Codes(tmp_path, "a", 8)
    codes, classes = torch.randint(2048, (5, 8, 8)), torch.arange(5)
    kept.add(codes[:2], classes[:2], 0)
    kept.add(codes[2:], classes[2:], 1)
    with open(tmp_path / "a-1.u16", "ab") as file:
        file.write(b"half a row")
    found, of_them = kept.all()
    assert torch.equal(found.long().view(5, 8, 8), codes) and torch.equal(of_them, classes)
    assert not len(lessons.Codes(tmp_path, "b", 8).all()[0])


def test_small_objects_count_as_much_as_large_ones():
    masks = torch.zeros(1, 4, 256, 256, dtype=torch.bool)
    masks[0, 0, 20:60, 20:60], masks[0, 1, 100:190, 100:190] = True, True
    weights = lessons.object_weights(masks)[0, 0]
    assert weights[40, 40] > weights[150, 150] > 2 * weights[0, 255] > 0
    tokens = lessons.token_weights(masks, 16)[0]
    assert tokens.shape == (16, 16) and tokens[8, 8] == pytest.approx(4 * tokens[0, 15].item())


def test_the_curve_is_drawn(tmp_path):
    rows = [Row(str(way), 100, seconds, right, wilson(int(100 * right), 100), settings=asdict(way)) for way, seconds, right in CURVE]
    save_curve(tmp_path / "curve.png", rows)
    with Image.open(tmp_path / "curve.png") as image:
        colours = {colour for _, colour in image.getcolors(2**20)}
    assert set(COLOURS.values()) <= colours
    assert [row.settings["steps"] for _, row in points(rows)["vanilla"]] == [16, 64]
    save_curve(tmp_path / "none.png", [Row("vanilla", 4, 1.0, settings=asdict(Way()))])
    assert not (tmp_path / "none.png").exists()


CURVE = [(Way(), 20.0, 0.9), (Way(steps=16), 5.0, 0.6), (Way(11), 5.5, 0.88), (Way(guidance_scale=0.0), 10.0, 0.4)]


def test_features_that_hardly_move_still_give_chances(head, padded):
    still = Lumina(TINY.base(), output_rows="all").requires_grad_(False)
    still.ff_out.weight.mul_(1e-3)
    runs = make_runs(PaddedBase(still), padded.prompts(TEXTS), padded.unconditional(), RunSettings(8, steps=8), 5)
    assert (feature_drift(PaddedBase(still), runs) >= 0).all()


def test_masks_follow_the_cosine_schedule():
    masks = random_masks(512, 8, 8, torch.Generator().manual_seed(0))
    counts = masks.sum((1, 2))
    assert counts.min() >= 1 and counts.max() == 64
    assert abs(counts.float().mean() / 64 - 2 / torch.pi) < 0.02
    assert (masks.float().mean(0) - 2 / torch.pi).abs().max() < 0.1


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


SMALL_TOKENIZER = ImageTokenizerConfig(block_out_channels=(8, 8, 16), latent_channels=4, num_vq_embeddings=16, layers_per_block=1, norm_num_groups=4)


def test_the_outermost_level_begins_with_what_the_inner_ones_show():
    torch.manual_seed(0)
    inner, images = InnerLevels(ImageTokenizer(SMALL_TOKENIZER)), torch.rand(2, 3, 32, 32)
    inner.norm.weight.data.uniform_()
    torch.nn.init.dirac_(inner.to_pixels.weight)  # sees no neighbours, which are nearer in the larger picture
    whole = uncompiled(inner)
    with torch.no_grad():
        latents = inner.latents(images)
        torch.testing.assert_close(latents, whole.latents(images), atol=1e-5, rtol=1e-4)
        half = inner.decode_latents(latents)
        enlarged = whole.decode_latents(latents)
        torch.testing.assert_close(enlarged, torch.nn.functional.interpolate(half, scale_factor=2.0), atol=1e-5, rtol=1e-4)
        assert half.shape[-1] == 16 and half.std() > 0.1
        inner.begin_outer()
        inner.use_outer()
        torch.testing.assert_close(inner.decode_latents(latents), enlarged, atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="two equal numbers"):
        InnerLevels(ImageTokenizer(ImageTokenizerConfig(block_out_channels=(8, 16), norm_num_groups=4)))


def test_a_tokenizer_whose_outermost_level_learns_last(tmp_path):
    def pictures(step: int):
        generator = torch.Generator().manual_seed(step)
        while True:
            colours = torch.rand(8, 3, 4, 4, generator=generator)
            yield torch.nn.functional.interpolate(colours, scale_factor=4.0), torch.ones(8, 1, 16, 16)

    def train(seconds: float) -> tuple[ImageTokenizer, list[int]]:
        """Seconds are counted by the steps, 40 of them each."""
        phases, read = [], [0]

        def clock() -> float:
            read[0] += 1
            return read[0] / 160

        found = train_picture_tokenizer(tmp_path, SMALL_TOKENIZER, pictures, seconds=seconds, clock=clock, outer_last=True, watch=lambda _, phase: phases.append(phase))
        return found, phases

    images = next(pictures(10**6))[0]
    first, phases = train(3)
    assert phases[-1] == 2 and len(first.encode(images).unique()) > 4
    error = (first.decode(first.encode(images)) - images).square().mean()
    assert error < 0.8 * images.var()
    later, _ = train(5)
    assert torch.equal(later.encode(images), first.encode(images)), "codes stand still when the training goes on"
    assert (later.decode(later.encode(images)) - images).square().mean() < error


def test_prompts_are_trimmed_to_the_longest(padded):
    prompts = padded.prompts(TEXTS)
    trimmed = padded.trimmed(prompts)
    assert trimmed.shape[1] == int((prompts != padded.fill).sum(1).max()) < padded.length
    assert torch.equal(trimmed, prompts[:, -trimmed.shape[1] :])
    shown = next(lessons.samples(TINY, ImageTokenizer(TINY.tokenizer), 0, World()))[0]
    assert (shown != padded.fill).sum(1).max() == shown.shape[1] < padded.length


def test_a_base_that_learns_with_half_of_its_layers_first(tmp_path, monkeypatch):
    sizes = replace(TINY, n_layers=4, shallow_share=0.5, on_policy_every=0)
    monkeypatch.setattr(stages, "LOOK", 2)
    weights.save(tmp_path, "tokenizer", ImageTokenizer(sizes.tokenizer))
    worked = count(0, 0.25)
    stages.base(Task(tmp_path, sizes, seconds=8, clock=lambda: next(worked)))
    shallow, deep = (torch.load(tmp_path / name / "checkpoint.pt")["learner"] for name in ("base-shallow", "base"))
    layers = lambda state: len({name.split(".")[1] for name in state if name.startswith("blocks.")})  # noqa: E731
    shallow = {name.removeprefix("module."): value for name, value in shallow["average"].items() if name != "n_averaged"}
    deep = deep["model"]
    assert (layers(shallow), layers(deep)) == (2, 4)
    assert weights.load(tmp_path, "base", Lumina(sizes.base(), output_rows="all")).keys() == deep.keys()
    first, second = (deep[f"blocks.{k}.attn_out.weight"] for k in (0, 1))
    assert not torch.equal(first, shallow["blocks.0.attn_out.weight"]) and second.any(), "all layers learn on"

    # What is saved on the way computes what the shallow one does, and has all layers.
    few = Lumina(replace(sizes.base(), n_layers=2), output_rows="all")
    few.load_state_dict(shallow)
    many = deepened(few, 4)
    tokens = torch.randint(200, (1, 90))
    with torch.no_grad():
        torch.testing.assert_close(many(tokens, many.rotary(90, "cpu")), few(tokens, few.rotary(90, "cpu")))


def test_a_size_without_a_model_of_classes(tmp_path):
    sizes = SIZES["cpu"]
    assert sizes.side >= 12 and sizes.classes is None
    assert "model of classes" not in dry_run(sizes)
    with pytest.raises(ValueError, match="no model of classes"):
        main(["classes", str(tmp_path), "--size", "cpu", "--device", "cpu", "--seconds", "1"])
    seconds = Plan(600.0, dict.fromkeys(SHARES), None).of(tmp_path, sizes)
    assert seconds["classes"] == seconds["class-head"] == 0 < seconds["base"]
    told = lessons.Told(sizes, 400, 1, 5)[0]
    assert told["prompts"].shape == (400, 1, sizes.prompt_length) and (told["size"] == 1).all()


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
    """The script of tests/tools, in two pieces; then what comes of it."""
    work, out = tmp_path / "work", tmp_path / "out"
    common = ["--size", "tiny", "--device", "cpu", "--prompts", "4"]
    times = {"reader": 3, "tokenizer": 8, "base": 3, "trajectories": 2, "head": 3, "classes": 2, "class-head": 2, "evaluation": 90}
    options = [part for name, seconds in times.items() for part in (f"--{name}", str(seconds))]
    environment = {**os.environ, "WORK": str(work), "OUT": str(out), "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}

    def piece(seconds: int) -> str:
        command = ["bash", str(ROOT / "tests/tools/card_recipe.sh"), str(seconds), *options, *common]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Traceback" not in done.stdout + done.stderr, done.stdout + done.stderr
        return done.stdout

    said = piece(12)
    assert "Not finished" in said and "Writes" in said
    done = f"All is done: {', '.join(times)}."
    for _ in range(20):
        if done in said.splitlines():
            break
        said = piece(60)
    assert done in said.splitlines()
    assert {"report.txt", "tokenizer.jpg", "pictures.jpg", "curve.png", "weights-1.safetensors"} == {p.name for p in out.iterdir()}
    report = json.loads((work / "evaluation.json").read_text())
    assert report["rows"][0]["way"] == "vanilla 8, guidance 4, temperature 1" and len(report["rows"]) > 1
    assert [row["way"] for row in report["classes"]][:2] == ["vanilla 6, guidance 2.8, temperature 1", "shortcut 3 of 6, guidance 2.8, temperature 1"]
    assert "a_second" in (work / "tokenizer" / "log.jsonl").read_text()

    # On another machine, a stage goes on from the weights alone; on the same one, from its checkpoint.
    later = tmp_path / "later"
    common = common[:4]
    main(["base", str(later), "--init-from", str(out), "--seconds", "1", *common])
    assert weights.read(later / "tokenizer.safetensors").keys() == weights.read(work / "tokenizer.safetensors").keys()
    steps = torch.load(later / "base" / "checkpoint.pt")["step"]
    main(["base", str(later), "--seconds", "20", *common])
    assert torch.load(later / "base" / "checkpoint.pt")["step"] > steps

    # The product reads what came of it.
    shutil.copy(work / "evaluation.json", later)
    main(["assemble", str(later), "--init-from", str(out), "--int8", *common])
    pipeline = Pipeline.load(later / "checkpoint", later / "checkpoint" / "shortcut.safetensors", dtype="fp32", device="cpu")
    result = pipeline.generate("A red balloon over the lake.", seed=1)
    assert result.images[0].size == (128, 128) and result.settings.method_settings["budget"] == 3
    main(["timing", str(later), *common])
    times = json.loads((later / "times.json").read_text())["seconds"]
    assert "vanilla 8, guidance 4, temperature 1" in times and len(times) > 3
    pipeline = Pipeline.load(later / "maskgit", later / "maskgit" / "shortcut.safetensors", dtype="fp32", device="cpu")
    result = pipeline.generate("misty night over snow", seed=1)
    assert result.images[0].size == (128, 128) and result.settings.steps == 6

    # Two processes share stages.
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "migm_core.worlds.recipe"]
    done = subprocess.run([*command, "head", str(later), "--seconds", "4", *common], capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0 and "2 processes" in done.stdout, done.stdout + done.stderr
    assert torch.load(later / "head" / "checkpoint.pt")["seen"] > 0
