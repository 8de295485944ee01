"""Settings out of their range are named with their values, and what is at the edge of it is taken."""

import pytest
import torch
from refusal import refused
from small_model import PROMPT

from migm_core.pipeline import Pipeline
from migm_core.settings import MAX_STEPS


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"width": 36}, ["width", "36", "multiple of 8"]),
        ({"height": 0}, ["height", "0", "multiple of 8"]),
        ({"width": -32}, ["width", "-32"]),
        ({"width": 8 * 10**6, "height": 8 * 10**6}, ["8000000x8000000", "limit"]),
        ({"budget": 1}, ["budget", "1", "2"]),
        ({"budget": 9}, ["budget", "9", "8"]),
        ({"steps": 4, "budget": 5}, ["budget", "5", "4"]),
        ({"steps": 0}, ["steps", "0", "1"]),
        ({"steps": -3}, ["steps", "-3", "1"]),
        ({"steps": 10**9}, ["steps", "1000000000", str(MAX_STEPS)]),
        ({"temperature": -0.1}, ["temperature", "-0.1"]),
        ({"temperature": float("nan")}, ["temperature", "nan"]),
        ({"temperature": float("inf")}, ["temperature", "inf"]),
        ({"guidance_scale": -1.0}, ["guidance_scale", "-1.0"]),
        ({"guidance_scale": float("nan")}, ["guidance_scale", "nan"]),
        ({"guidance_scale": 1e30}, ["guidance_scale", "1e+30", "1000"]),
        ({"seed": -1}, ["seed", "-1", "2**64"]),
        ({"seed": 2**64}, ["seed", str(2**64), "2**64"]),
        ({"seed": 2**64 - 1, "batch": 2}, ["seed", "2**64"]),
        ({"batch": 0}, ["batch", "0"]),
        ({"batch": 10**9}, ["batch", "1000000000"]),
        ({"method": "magic"}, ["method", "magic", "vanilla"]),
    ],
)
def test_a_setting_out_of_range_is_named_with_its_value(pipeline, asked, expected):
    steps = []
    refused(lambda: pipeline.generate(PROMPT, callback=steps.append, **asked), *expected, error=ValueError)
    assert not steps


def test_an_unknown_setting_that_is_near_none_lists_them_in_one_order(pipeline):
    said = refused(lambda: pipeline.settings(zzz=1), "'zzz'", error=ValueError)
    assert "There are width, height, steps, guidance_scale, image_guidance_scale, task, method, seed, batch, budget," in said


def test_a_revision_is_of_a_repository(small):
    for model in ("demo", small.folder):
        refused(lambda: Pipeline.load(model, revision="v1"), "revision is 'v1'", "no repository", error=ValueError)


def test_the_largest_seed_is_one(pipeline):
    assert len(pipeline.generate(PROMPT, seed=2**64 - 1, steps=2).images) == 1


def test_the_shortcut_method_without_a_head(small):
    pipeline = Pipeline.load(small.folder, None, dtype="fp32")
    refused(lambda: pipeline.generate(PROMPT, method="shortcut"), "shortcut head", "vanilla", error=ValueError)


def test_a_single_step_needs_no_head(pipeline):
    assert pipeline.generate(PROMPT, steps=1).settings.method == "vanilla"


def test_an_empty_prompt_is_a_prompt(pipeline):
    assert pipeline.generate("").images[0].size == (32, 32)


@pytest.mark.parametrize("device", ["moon", "meta", "cuda:99"])
def test_a_device_that_is_not_there(small, device):
    refused(lambda: Pipeline.load(small.folder, device=device), device, "cpu", error=ValueError)


@pytest.mark.parametrize("dtype", ["int4", torch.float64, torch.float8_e4m3fn, torch.float8_e5m2, torch.int8, torch.complex64], ids=str)
def test_a_dtype_that_no_model_runs_in(small, dtype):
    refused(lambda: Pipeline.load(small.folder, dtype=dtype), str(dtype), "auto, bf16, fp16, fp32", error=ValueError)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_dtypes_that_models_run_in(small, dtype):
    pipeline = Pipeline.load(small.folder, small.head, dtype=dtype, device="cpu")
    assert pipeline.dtype == dtype and len(pipeline.generate(PROMPT, steps=2).images) == 1
