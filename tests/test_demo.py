"""The bundled model: it is all there, fits together and runs."""

import numpy as np
import pytest
import torch

from migm_core.loading import DEMO
from migm_core.pipeline import Pipeline
from migm_core.worlds.shapes.evaluate import round_trip, unseen_scenes, verdicts
from migm_core.worlds.shapes.patches import PatchCodebook, scene_images


@pytest.fixture(scope="module")
def demo():
    return Pipeline.load(dtype="fp32", device="cpu")


def test_it_takes_at_most_25_megabytes():
    assert sum(path.stat().st_size for path in DEMO.rglob("*") if path.is_file()) <= 25e6


def test_its_encoder_finds_the_codes_that_its_base_was_trained_on(demo):
    images = scene_images(np.random.default_rng(1), 50, "test")
    codes = PatchCodebook.load(DEMO / "codebook.safetensors").codes(images)
    assert (demo.encode(images).codes == codes).float().mean() > 0.999


def test_its_own_settings_use_the_head(demo):
    result = demo.generate("a large red heart on a navy background", seed=0)
    kinds = [kind for kind, _ in result.step_seconds]
    settings = demo.checkpoint.settings
    assert (len(kinds), kinds.count("full")) == (settings["steps"], settings["budget"])
    assert kinds.count("shortcut") + kinds.count("skipped") == len(kinds) - kinds.count("full")
    assert kinds.count("full") < result.vanilla_passes < len(kinds)
    assert result.images[0].size == (64, 64)
    assert not torch.equal(result.canvas.codes, demo.generate("a large red heart on a cream background", seed=0).canvas.codes)


def test_its_image_tokenizer_keeps_the_renderers_images_right(demo):
    kept = round_trip(demo, 100, "dev")
    assert kept["rendered"] == 1 and kept["tokenized"] >= 0.99
    assert kept["psnr"] > 34


@pytest.mark.parametrize("method", ["shortcut", "vanilla"])
def test_it_generates_what_most_unseen_prompts_say(demo, method):
    right = verdicts(demo, unseen_scenes(20, "dev"), method=method)
    assert sum(right) > len(right) / 2
