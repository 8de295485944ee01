"""Long sequences, odd shapes, runs that are broken off, and runs without end."""

import gc
import math
import sys

import numpy as np
import pytest
import torch
from small_model import CODES, PROMPT, SETTINGS

from migm_core.canvas import Canvas
from migm_core.families.lumina_dimoo.rule import LuminaRule
from migm_core.families.lumina_dimoo.tasks import text_guidance
from migm_core.modules.transformer import Rotary
from migm_core.sampling.backbone import Branch
from migm_core.sampling.loop import sample
from migm_core.sampling.methods import MLCache, Vanilla
from migm_core.sampling.noise import SeededNoise

METHODS = ("vanilla", "shortcut", "ml-cache")

# 2048x2048 pixels in tokens of 16, a newline a row, four tokens around them, and the longest prompt.
LONGEST = 128 * 128 + 128 + 4 + 2048


@pytest.fixture(scope="module", params=[(128, 500000.0), (64, 500000.0), (32, 1000.0)], ids=["base", "head", "bundled"])
def tables(request):
    """Tables of the longest sequence, and the angles in float64, formed in another way."""
    head_dim, theta = request.param
    frequencies = np.array([math.exp(-math.log(theta) * 2 * k / head_dim) for k in range(head_dim // 2)])
    angles = np.outer(np.arange(LONGEST, dtype=np.float64), frequencies)
    return Rotary.at(torch.arange(LONGEST), head_dim, theta), angles


def test_rotary_tables_do_not_drift_at_2048x2048(tables):
    rotary, angles = tables
    half = angles.shape[1]
    signs = [(rotary.cos[:, :half], np.cos), (rotary.cos[:, half:], np.cos), (-rotary.sin[:, :half], np.sin), (rotary.sin[:, half:], np.sin)]
    for table, function in signs:
        assert table.dtype == torch.float32 and table.shape == angles.shape
        error = np.abs(table.double().numpy() - function(angles))
        assert error.max() < 2**-24  # half of float32's last place, at 1; angles in float32 are off by 1e-3 here


def test_rotated_vectors_meet_by_their_distance_wherever_they_stand(tables):
    """What rotary embedding is for: q at i and k at j give what q at i - j and k at 0 give."""
    rotary, angles = tables
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, 1, 1, 2 * angles.shape[1], generator=generator) for _ in range(2))

    def score(i, j):
        rotated = (rotary.rows(torch.tensor([[at]])).rotate(x) for x, at in ((q, i), (k, j)))
        return float(next(rotated).flatten() @ next(rotated).flatten())

    for distance in (0, 1, 129, 4096, LONGEST - 1):
        for at in (0, (LONGEST - 1 - distance) // 2, LONGEST - 1 - distance):
            assert score(at + distance, at) == pytest.approx(score(distance, 0), abs=1e-4)


# 1536x768 and 512x2048 pixels in tokens of 16.
@pytest.mark.parametrize(("height", "width"), [(48, 96), (128, 32)])
@pytest.mark.parametrize("method", METHODS)
def test_grids_of_thousands_of_cells(pipeline, method, height, width):
    canvas = Canvas.empty(1, height, width)
    branches = [Branch(pipeline.checkpoint.prompts.prompt(PROMPT), 1.0)]
    method = pipeline.method(pipeline.settings(method=method, steps=3, budget=2))
    reports = []
    generators = [torch.Generator().manual_seed(0)]
    finished = sample(pipeline.checkpoint.base, branches, canvas, method, steps=3, rule=LuminaRule(1.0), noise=SeededNoise(generators), callback=reports.append)
    assert finished.shape == (1, height, width) and not finished.masked.any()
    used = finished.codes.unique()
    assert used.min() >= 0 and used.max() < CODES and len(used) > CODES / 2
    assert all(report.finite for report in reports)


@pytest.mark.parametrize(("height", "width"), [(48, 96), (128, 32), (1, 300), (300, 1)])
def test_every_cell_stands_in_its_place_and_every_row_ends_with_a_newline(pipeline, height, width):
    layout = pipeline.checkpoint.base.config.tokens
    codes = torch.arange(height * width).view(1, height, width) % layout.codebook_size
    sequence = pipeline.checkpoint.base.sequence(Branch(torch.arange(7), 1.0), Canvas(codes, torch.zeros_like(codes, dtype=torch.bool)))
    assert sequence.length == 7 + 4 + height * (width + 1)
    assert torch.equal(sequence.tokens[0, sequence.positions] - layout.image_codes, codes.flatten())
    ends = 7 + 2 + width + torch.arange(height) * (width + 1)
    assert (sequence.tokens[0, ends] == layout.newline).all()
    assert (sequence.tokens == layout.newline).sum() == height


@pytest.mark.parametrize("method", METHODS)
def test_image_i_of_a_batch_of_4_is_the_single_run_of_its_seed(pipeline, method):
    asked = {"method": method, "width": 96, "height": 40}
    together = pipeline.generate(PROMPT, seed=11, batch=4, **asked)
    assert together.canvas.shape == (4, 5, 12) and len(together.images) == 4
    for image in range(4):
        alone = pipeline.generate(PROMPT, seed=11 + image, **asked)
        assert torch.equal(together.canvas.codes[image], alone.canvas.codes[0])
        assert together.images[image].tobytes() == alone.images[0].tobytes()


@pytest.mark.parametrize("method", METHODS)
def test_a_prompt_of_2000_tokens(pipeline, method):
    words = ["red", "green", "small", "tree"] * 500
    assert len(pipeline.checkpoint.prompts.text(" ".join(words))) == 2000
    reports = []
    result = pipeline.generate(" ".join(words), method=method, callback=reports.append)
    assert len(result.images) == 1 and all(report.finite for report in reports)
    # The last word of two thousand is still read.
    seen = [_features(pipeline, " ".join([*words[:-1], last])) for last in ("tree", "house")]
    assert not torch.allclose(*seen, atol=1e-4)


def _features(pipeline, prompt: str) -> torch.Tensor:
    base = pipeline.checkpoint.base
    sequence = base.sequence(Branch(pipeline.checkpoint.prompts.prompt(prompt), 1.0), Canvas.empty(1, 2, 2))
    with torch.inference_mode():
        return base.features(sequence)[:, sequence.positions]


def test_ml_cache_that_recomputes_everything_is_vanilla_behind_a_long_prompt(pipeline):
    prompts = pipeline.checkpoint.prompts
    branches = text_guidance(prompts.prompt("red tree " * 1000), prompts.unconditional(), 2.0)

    def codes(method):
        generators = [torch.Generator().manual_seed(0)]
        return sample(pipeline.checkpoint.base, branches, Canvas.empty(1, 3, 4), method, steps=4, rule=LuminaRule(0.0), noise=SeededNoise(generators)).codes

    assert torch.equal(codes(MLCache(warmup=0.0, ratio=0.0)), codes(Vanilla()))


class Stop(Exception):
    pass


@pytest.mark.parametrize("method", METHODS)
def test_a_run_broken_off_at_any_step_leaves_no_trace(pipeline, method):
    undisturbed = pipeline.generate(PROMPT, method=method, seed=6)
    for last in range(SETTINGS["steps"]):

        def stop(report, last=last):
            if report.step == last:
                raise Stop

        with pytest.raises(Stop):
            pipeline.generate("a small green duck", method=method, seed=7, callback=stop)
        again = pipeline.generate(PROMPT, method=method, seed=6)
        assert torch.equal(again.canvas.codes, undisturbed.canvas.codes)
        assert again.images[0].tobytes() == undisturbed.images[0].tobytes()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/statm")
def test_200_runs_in_a_row_take_no_more_memory(pipeline):
    def run(index):
        pipeline.generate(PROMPT, method=METHODS[index % 3], width=16, height=16, steps=4, budget=2, seed=index)

    def resident():
        gc.collect()
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096

    def tensors():
        return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())

    for index in range(50):
        run(index)
    before, alive = resident(), tensors()
    for index in range(200):
        run(index)
    assert tensors() <= alive
    assert resident() - before < 4 * 2**20  # 200 runs that each leaked one 32 KB tensor would exceed it
