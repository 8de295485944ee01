"""The recipe that trains the models of the lakeside world: its parts, and the whole of it at tiny size."""

import json
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from itertools import count
from pathlib import Path

import pytest
import torch
from PIL import Image

from migm_core.families.lumina_dimoo.backbone import Lumina
from migm_core.families.lumina_dimoo.head import ShortcutHead
from migm_core.families.lumina_dimoo.initial import deepened, initialise
from migm_core.families.maskgit.backbone import MaskGit
from migm_core.families.maskgit.head import MaskGitHead
from migm_core.pipeline import Pipeline
from migm_core.tokenizers.amused_vq import ImageTokenizer
from migm_core.tokenizers.vqgan import Vqgan
from migm_core.training.distributed import World
from migm_core.training.masked import random_masks
from migm_core.worlds.lakeside import reader
from migm_core.worlds.lakeside.words import WORDS
from migm_core.worlds.recipe import lessons, maskgit, weights
from migm_core.worlds.recipe.__main__ import main
from migm_core.worlds.recipe.dry_run import dry_run
from migm_core.worlds.recipe.embeddings import embed_alike
from migm_core.worlds.recipe.evaluation import Row, Way, paired, wilson
from migm_core.worlds.recipe.figure import COLOURS, points, save_curve
from migm_core.worlds.recipe.pieces import SHARES, Plan
from migm_core.worlds.recipe.sizes import SIZES
from migm_core.worlds.recipe.stages import text_to_image
from migm_core.worlds.recipe.task import Task

ROOT = Path(__file__).parents[1]
TINY = SIZES["tiny"]


def test_the_bundled_models_are_small_enough():
    sizes = SIZES["card"]
    count = lambda model: sum(p.numel() for p in model.parameters())  # noqa: E731
    with torch.device("meta"):
        of_classes = count(MaskGit(sizes.class_base())) + count(MaskGitHead(sizes.class_head())) + count(Vqgan(maskgit.vqgan_config(sizes.tokenizer, 256)))
        base = Lumina(sizes.base(), output_rows="all")
        other = count(ShortcutHead(sizes.head())) + count(ImageTokenizer(sizes.tokenizer)) + count(base) - count(base.blocks)
    assert 2 * of_classes < 9.95 * 2**20
    assert count(base.blocks) + 2 * (other + of_classes) < 44 * 2**20  # blocks in 8 bits


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


def test_masks_follow_the_cosine_schedule():
    masks = random_masks((512, 8, 8), torch.Generator().manual_seed(0))
    counts = masks.sum((1, 2))
    assert counts.min() >= 1 and counts.max() == 64
    assert abs(counts.float().mean() / 64 - 2 / torch.pi) < 0.02
    assert (masks.float().mean(0) - 2 / torch.pi).abs().max() < 0.1


def test_a_base_that_learns_with_half_of_its_layers_first(tmp_path, monkeypatch):
    sizes = replace(TINY, n_layers=4, shallow_share=0.5, on_policy_every=0)
    monkeypatch.setattr(text_to_image, "LOOK", 2)
    weights.save(tmp_path, "tokenizer", ImageTokenizer(sizes.tokenizer))
    worked = count(0, 0.25)
    text_to_image.base(Task(tmp_path, sizes, seconds=8, clock=lambda: next(worked)))
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


def test_a_base_that_began_with_weights_has_all_of_its_time_when_it_goes_on(tmp_path, monkeypatch):
    sizes = replace(TINY, n_layers=4, shallow_share=0.5, on_policy_every=0)
    monkeypatch.setattr(text_to_image, "LOOK", 2)
    weights.save(tmp_path, "tokenizer", ImageTokenizer(sizes.tokenizer))
    weights.save(tmp_path, "base", Lumina(sizes.base(), output_rows="all"))
    rates, train = [], text_to_image.train_masked

    def watched(*args, **how):
        rates.append({name: how.get(name) for name in ("muon_lr", "adam_lr", "level", "warm_up", "floor")})
        return train(*args, **how)

    monkeypatch.setattr(text_to_image, "train_masked", watched)
    for seconds in (2, 4):  # the second is more than half of its time from where the first ends
        worked = count(0, 0.25)
        text_to_image.base(Task(tmp_path, sizes, seconds=seconds, clock=lambda: next(worked)))  # noqa: B023
    assert not (tmp_path / "base-shallow").exists()
    assert len(rates) == 2 and rates[0] == rates[1]
    assert torch.load(tmp_path / "base" / "checkpoint.pt")["spent"] >= 4
    weights.save(tmp_path, "tasks", Lumina(sizes.base(), output_rows="all"))
    with pytest.raises(ValueError, match="has learned other tasks"):
        text_to_image.base(Task(tmp_path, sizes, seconds=8))


def test_words_of_one_meaning_and_codes_of_one_look_begin_alike():
    torch.manual_seed(0)
    model, codebook = Lumina(replace(TINY, d_model=256).base(), output_rows="all"), torch.randn(32, 8)
    codebook[1] = codebook[0] + 0.01
    initialise(model)
    before = model.wte.weight.detach().clone()
    embed_alike(model, codebook)
    alike = lambda a, b: torch.cosine_similarity(model.wte.weight[a], model.wte.weight[b], dim=0).item()  # noqa: E731
    first = model.config.tokens.image_codes
    grass, meadow, snow = (WORDS.index(word) for word in ("grass", "meadow", "snow"))
    assert alike(grass, meadow) > 0.85 > 0.6 > abs(alike(grass, snow)) and alike(first, first + 1) > 0.6 > alike(first, first + 2)
    changed = (model.wte.weight != before).any(1)
    assert changed[first : first + 32].all() and not changed[[grass, snow, model.config.tokens.mask]].any() and changed[meadow]
    logits = model.code_logits(model(torch.tensor([[model.config.tokens.mask]]), model.rotary(1, "cpu")))
    assert 0 < logits.std() < 0.5, "a masked token may be any code"


def test_a_size_without_a_model_of_classes(tmp_path):
    sizes = SIZES["cpu"]
    assert sizes.side >= 12 and sizes.classes is None
    assert "model of classes" not in dry_run(sizes)
    with pytest.raises(ValueError, match="no model of classes"):
        main(["classes", str(tmp_path), "--size", "cpu", "--device", "cpu", "--seconds", "1"])
    seconds = Plan(600.0, dict.fromkeys(SHARES), None).of(tmp_path, sizes)
    assert seconds["classes"] == seconds["class-head"] == 0 < seconds["base"]
    assert seconds["reader"] == 0, "it is trained already"
    told = lessons.Told(sizes, 400, 1, 5)[0]
    assert told["prompts"].shape == (400, 1, sizes.prompt_length) and (told["size"] == 1).all()


def test_fills_are_the_same_for_whoever_asks_and_of_training_scenes_only():
    first, again = (lessons.Told(TINY, 5, 2, 3)[7] for _ in range(2))
    assert all((first[name] == again[name]).all() for name in first)
    assert first["prompts"].shape == (5, 2, 76)
    scenes, prompts = next(lessons.stream(TINY, 5, 2, 3, 7, World(), 0))
    assert (scenes.split() == 2).all() and torch.equal(prompts, torch.from_numpy(first["prompts"]).long())


def test_weights_that_come_with_a_size_begin_an_empty_folder_only(tmp_path, monkeypatch):
    monkeypatch.setattr("migm_core.worlds.recipe.__main__.TRAINED", tmp_path)
    (tmp_path / "tiny").mkdir()
    weights.save(tmp_path, "tokenizer", ImageTokenizer(TINY.tokenizer))
    weights.pack(tmp_path, tmp_path / "tiny")
    empty, begun = tmp_path / "empty", tmp_path / "begun"
    (begun / "base").mkdir(parents=True)
    for folder in (empty, begun):
        main(["dry-run", str(folder), "--size", "tiny"])
    assert weights.read(empty / "tokenizer.safetensors").keys() == ImageTokenizer(TINY.tokenizer).state_dict().keys()
    assert Plan(600.0, dict.fromkeys(SHARES), None).of(empty, TINY)["tokenizer"] == 0
    assert not (begun / "tokenizer.safetensors").exists(), "they would not fit what has learned there"


def test_intervals():
    low, high = wilson(95, 100)
    assert 0.885 < low < 0.90 and 0.97 < high < 0.98
    mean, low, high = paired([True] * 90 + [False] * 10, [True] * 100)
    assert mean == pytest.approx(0.1) and 0.03 < low < 0.05 and high > 0.15


def test_the_dry_run_tells_sizes_and_rates():
    report = dry_run(TINY)
    assert "parameters: tokenizer" in report and "samples a second" in report


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library keeps freed memory in its own way")
def test_freed_memory_stays_with_the_process():
    code = """
import torch
from migm_core.worlds.recipe.allocator import keep_freed_memory
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
for kept in (False, True):
    kept = kept and keep_freed_memory()
    before = resident()
    torch.ones(2**26)
    print(kept, (resident() - before) // 2**20)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True)
    (without, given_back), (kept, held) = (line.split() for line in done.stdout.splitlines())
    assert (without, kept) == ("False", "True")
    assert int(given_back) < 64 and int(held) > 192, "MB of 256"


def test_the_whole_recipe(tmp_path):
    """The script of tests/tools, in two pieces; then what comes of it."""
    work, out = tmp_path / "work", tmp_path / "out"
    common = ["--size", "tiny", "--device", "cpu", "--prompts", "4"]
    times = {"reader": 3, "tokenizer": 8, "base": 3, "tasks": 4, "trajectories": 2, "head": 3, "classes": 2, "class-head": 2, "evaluation": 90}
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
    assert {"report.txt", "details.jpg", "pictures.jpg", "curve.png", "weights-1.safetensors"} == {p.name for p in out.iterdir()}
    report = json.loads((work / "evaluation.json").read_text())
    assert report["rows"][0]["way"] == "vanilla 8, guidance 4, temperature 1" and len(report["rows"]) > 1
    assert [row["way"] for row in report["classes"]][:2] == ["vanilla 6, guidance 2.8, temperature 1", "shortcut 3 of 6, guidance 2.8, temperature 1"]
    of_tasks = [row["way"].split(",")[0] for row in report["tasks"]]
    assert of_tasks[:2] == ["edit", "edit"] and of_tasks[-1] == "caption" and set(of_tasks) == set(TINY.tasks)
    assert "a_second" in (work / "tokenizer" / "log.jsonl").read_text()

    # On another machine, a stage goes on from the weights alone; on the same one, from its checkpoint.
    later = tmp_path / "later"
    common = common[:4]
    main(["tasks", str(later), "--init-from", str(out), "--seconds", "1", *common])
    assert (later / "reader.safetensors").exists() and reader.WEIGHTS.parent == Path(reader.__file__).parent, "a command leaves the judge as it was"
    assert weights.read(later / "tokenizer.safetensors").keys() == weights.read(work / "tokenizer.safetensors").keys()
    steps = torch.load(later / "tasks" / "checkpoint.pt")["step"]
    main(["tasks", str(later), "--seconds", "20", *common])
    assert torch.load(later / "tasks" / "checkpoint.pt")["step"] > steps

    # The product reads what came of it.
    shutil.copy(work / "evaluation.json", later)
    main(["assemble", str(later), "--init-from", str(out), "--int8", *common])
    pipeline = Pipeline.load(later / "checkpoint", later / "checkpoint" / "shortcut.safetensors", dtype="fp32", device="cpu")
    assert pipeline.checkpoint.trained.tasks == ("text-to-image", "paint", "edit", "control", "dense", "subject", "understanding")
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
