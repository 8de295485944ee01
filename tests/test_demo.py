"""The bundled model: it is all there, fits together and runs."""

import numpy as np
import pytest
import torch

from migm_core.pipeline import DEMO, Pipeline
from migm_core.training.patches import PatchCodebook, scene_images


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
    assert kinds.count("shortcut") == len(kinds) - kinds.count("full")
    assert result.images[0].size == (64, 64)
    assert not torch.equal(result.canvas.codes, demo.generate("a large red heart on a cream background", seed=0).canvas.codes)
