"""Files that are no head, one for another base, or one that carries code."""

import pickle

import pytest
import torch
from refusal import refused
from safetensors.torch import save_file
from small_model import edit_tensors, make_small_head, small_config

from migm_core.checkpoints import convert, describe, load_checkpoint, load_head
from migm_core.pipeline import Pipeline


def test_a_head_for_another_base_tells_both_widths(small, tmp_path):
    path = make_small_head(tmp_path / "wide.safetensors", small_config(d_model=48, n_heads=3, n_kv_heads=3))
    refused(lambda: load_head(path, small_config()), str(path), "48", "32")
    refused(lambda: Pipeline.load(small.folder, path), str(path), "48", "32")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("proj_in.weight", None),
        ("blocks.0.cross_attn.k_proj.weight", None),
        ("blocks.999999999.self_attn.q_proj.weight", torch.ones(2)),
        ("blocks.one.self_attn.q_proj.weight", torch.ones(2)),
        ("moon.weight", torch.ones(2)),
        ("ln_f.weight", torch.ones(())),
        ("ln_f.weight", torch.ones(0)),
        ("proj_in.weight", torch.ones(32)),
        ("proj_out.weight", torch.ones(32, 15)),
        ("time_embedder.mlp.0.bias", torch.ones(3)),
    ],
)
def test_a_head_that_does_not_hold_together(copy, tmp_path, key, value):
    def damage(tensors):
        tensors.pop(key, None)
        if value is not None:
            tensors[key] = value

    edit_tensors(copy.head, damage)
    refused(lambda: load_head(copy.head, small_config()), str(copy.head))
    refused(lambda: convert(copy.head, tmp_path / "out.safetensors"), str(copy.head))
    assert not (tmp_path / "out.safetensors").exists()


def test_a_base_model_is_no_head_and_a_head_no_base_model(small):
    refused(lambda: load_head(small.folder / "model.safetensors", small_config()), "model.safetensors", "not a shortcut head")
    refused(lambda: load_head(small.folder, small_config()), str(small.folder), "folder")
    refused(lambda: load_checkpoint(small.head), str(small.head), "is a shortcut head for Lumina-DiMOO")


class CreatesAFile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle-2", "pickle-5"])
def test_a_head_that_carries_code_is_refused_and_the_code_does_not_run(tmp_path, form):
    created, path = tmp_path / "created", tmp_path / "head.pth"
    state = {"ln_f.weight": torch.ones(16), "extra": CreatesAFile(created)}
    if form.startswith("pickle"):
        path.write_bytes(pickle.dumps({"extra": CreatesAFile(created)}, protocol=int(form[-1])))
    else:
        torch.save(state, path, _use_new_zipfile_serialization=form == "zip")
    for action in (lambda: load_head(path, small_config()), lambda: describe(path), lambda: convert(path, tmp_path / "out.safetensors")):
        message = refused(action, str(path), "run code")
        assert "weights_only" not in message  # PyTorch's own words would invite to load it all the same
    assert not created.exists()
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", b"PK\x03\x04", bytes(range(256)) * 4])
def test_a_pth_that_is_something_else(tmp_path, content):
    path = tmp_path / "head.pth"
    path.write_bytes(content)
    refused(lambda: load_head(path, small_config()), str(path), f"{len(content):,} bytes")


def test_a_truncated_pth(tmp_path):
    path = tmp_path / "head.pth"
    torch.save({"ln_f.weight": torch.ones(1000)}, path)
    path.write_bytes(path.read_bytes()[:-2000])
    refused(lambda: load_head(path, small_config()), str(path), "damaged")


@pytest.mark.parametrize("value", [[torch.ones(2)], {"model": {"a": torch.ones(2)}}, {"a": 1}, {1: torch.ones(2)}, {}])
def test_a_pth_that_is_no_state_dict(tmp_path, value):
    path = tmp_path / "head.pth"
    torch.save(value, path)
    refused(lambda: load_head(path, small_config()), str(path), "state dict")


def test_an_unknown_kind_of_file(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"ONNX")
    refused(lambda: load_checkpoint(path), str(path), ".safetensors")
    other = tmp_path / "other.safetensors"
    save_file({"conv.weight": torch.ones(3)}, other)
    refused(lambda: describe(other), str(other), "conv.weight")
