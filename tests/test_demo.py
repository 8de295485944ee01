"""The bundled models: they are all there, fit together, and generate what they are asked for."""

import math

import numpy as np
import pytest
import torch

from migm_core.loading import BUNDLED, BUNDLED_HEADS
from migm_core.pipeline import Pipeline
from migm_core.worlds import lakeside
from migm_core.worlds.recipe.sizes import SIZES

MIB = 2**20
CARD = SIZES["card"]


@pytest.fixture(scope="module")
def demo():
    return Pipeline.load(dtype="fp32", device="cpu")


@pytest.fixture(scope="module")
def maskgit():
    return Pipeline.load("demo-classes", dtype="fp32", device="cpu")


def unseen(count: int) -> lakeside.Scenes:
    return lakeside.sample_scenes(count, torch.Generator().manual_seed(4), "test", CARD.variety)


def tensor_of(images) -> torch.Tensor:
    """float32 (N, 3, h, w) in 0..1."""
    return torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2) / 255


def fewest(right: float, count: int) -> int:
    """The least number of right pictures that a model has with this accuracy, but for one time in a thousand."""
    chance = lambda k: math.comb(count, k) * right**k * (1 - right) ** (count - k)  # noqa: E731
    return next(k for k in range(count + 1) if sum(map(chance, range(k + 1))) > 1e-3)


def test_what_chance_allows():
    assert fewest(0.5, 10) == 1 and fewest(1.0, 10) == 10 and fewest(0.9, 20) == 13


def test_they_take_at_most_45_mebibytes_and_maskgit_10_of_them():
    sizes = {name: sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) for name, folder in BUNDLED.items()}
    assert sum(sizes.values()) <= 45 * MIB and sizes["demo-classes"] <= 10 * MIB
    assert all(path.exists() for path in BUNDLED_HEADS.values())


@pytest.mark.parametrize(("model", "request_"), [("demo", "a red house by a lavender field"), ("demo-classes", "clear night over snow")])
def test_their_own_settings_use_the_head(model, request_, request):
    pipeline = request.getfixturevalue("demo" if model == "demo" else "maskgit")
    result = pipeline.generate(request_, seed=0)
    kinds = [kind for kind, _ in result.step_seconds]
    settings = pipeline.checkpoint.settings
    assert (len(kinds), kinds.count("full"), kinds.count("shortcut")) == (settings["steps"], settings["budget"], settings["steps"] - settings["budget"])
    assert result.images[0].size == (256, 256) and not result.notes
    assert result.canvas.codes.shape[1:] == (16, 16)


def test_words_that_the_model_does_not_know_are_named(demo):
    (said,) = demo.cautions(demo.settings(), "a small red castle beside a tree")
    assert "small, castle" in said


def test_its_image_tokenizer_keeps_the_renderers_pictures(demo):
    scenes = unseen(40)
    pictures = lakeside.render(scenes, CARD.pixels)
    kept = torch.cat([demo.decode(demo.encode(part)) for part in pictures.split(8)])
    right = sum(verdict.right for verdict in lakeside.judge(kept, scenes))
    assert right >= fewest(0.97, 40)
    assert -10 * (kept - pictures).square().mean().log10() > 29


def test_both_families_have_one_image_tokenizer(demo, maskgit):
    codes = demo.encode(lakeside.render(unseen(2), CARD.pixels))
    assert torch.allclose(demo.decode(codes), maskgit.decode(codes), atol=2e-2), "in 16 bits"


def test_it_generates_what_unseen_prompts_say(demo):
    count = 16
    texts = lakeside.prompts(unseen(count), 4)
    pictures = [demo.generate(text, seed=seed).images[0] for seed, text in enumerate(texts)]
    right = sum(verdict.right for verdict in lakeside.judge(tensor_of(pictures), lakeside.parse(texts)))
    assert right >= fewest(0.94, count), "416 prompts: 94.5%"


def test_maskgit_generates_its_classes(maskgit):
    count = 48
    classes = lakeside.random_classes(count, torch.Generator().manual_seed(4))
    pictures = [maskgit.generate(each, seed=seed, method="vanilla", steps=15).images[0] for seed, each in enumerate(classes.tolist())]
    right = sum(verdict.right for verdict in lakeside.judge_classes(tensor_of(pictures), classes))
    assert right >= fewest(0.67, count), "120 pictures: 69%"
