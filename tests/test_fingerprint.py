"""Which base a head belongs to: one fingerprint in any dtype, another for another base."""

import pytest
import torch
from small_model import make_small_model

from migm_core.checkpoints.fingerprint import fingerprint, other_base, same_base
from migm_core.pipeline import Pipeline


@pytest.fixture(scope="module")
def bases(small, tmp_path_factory):
    other = make_small_model(tmp_path_factory.mktemp("other"), seed=7)
    load = lambda folder, dtype: Pipeline.load(folder, None, dtype=dtype, device="cpu").checkpoint.base  # noqa: E731
    return {dtype: load(small.folder, dtype) for dtype in ("fp32", "bf16", "fp16")}, load(other.folder, "fp32")


def test_a_fingerprint_is_that_of_the_base_in_any_dtype(bases):
    ours, other = bases
    texts = {dtype: fingerprint(base) for dtype, base in ours.items()}
    assert all(same_base(one, another) for one in texts.values() for another in texts.values())
    assert not any(same_base(text, fingerprint(other)) for text in texts.values())
    assert len(texts["fp32"]) == 128 and texts["fp32"] != texts["bf16"]


def test_a_base_that_was_trained_on_is_another(bases):
    base = bases[0]["fp32"]
    before = fingerprint(base)
    table = base.wte.weight.detach()
    changed = table + 0.05 * table.std() * torch.randn(table.shape, generator=torch.Generator().manual_seed(0))
    kept = table.clone()
    try:
        table.copy_(changed)
        assert not same_base(before, fingerprint(base))
    finally:
        table.copy_(kept)
    assert fingerprint(base) == before


def test_what_is_no_fingerprint_is_of_no_base(bases):
    text = fingerprint(bases[1])
    assert same_base(text, text) and not any(same_base(text, wrong) or same_base(wrong, text) for wrong in ("", "x", "é", text[:-4], 2 * text))


def test_a_head_of_another_base_is_named(bases):
    base, other = bases[0]["bf16"], bases[1]
    assert other_base("head.safetensors", fingerprint(bases[0]["fp32"]), base, "model") is None
    assert other_base("head.safetensors", None, base, "model") is None
    said = other_base("head.safetensors", fingerprint(other), base, "model")
    assert said.startswith("head.safetensors was trained on another base model of the same shape than model")
