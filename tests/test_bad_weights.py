"""Whatever is wrong with a model's weights, one clear error names it, before anything is generated or written."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from refusal import refused
from small_model import PROMPT, edit_json, edit_tensors, shard, write_json

from migm_core.checkpoints import convert, describe, load_checkpoint
from migm_core.pipeline import Pipeline

BASE = "model.transformer."
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
BLOCK_KEY = BASE + "blocks.1.ff_proj.weight"


# Files of the base model.


@pytest.mark.parametrize("name", ["nothing-here", "nothing.safetensors", "nothing.pth"])
def test_a_path_that_is_not_there(tmp_path, name):
    for action in (Pipeline.load, describe, lambda path: convert(path, tmp_path / "out.safetensors")):
        refused(lambda: action(tmp_path / name), str(tmp_path / name), "does not exist")
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize("name", [WEIGHTS, "config.json", "tokenizer.json", "vqvae/config.json", "vqvae/diffusion_pytorch_model.safetensors"])
def test_a_file_missing_from_the_folder_is_named(copy, name):
    (copy.folder / name).unlink()
    refused(lambda: load_checkpoint(copy.folder), str(copy.folder), Path(name).name)


def test_a_folder_with_nothing_of_the_kind(tmp_path):
    refused(lambda: load_checkpoint(tmp_path), str(tmp_path), WEIGHTS, INDEX)


@pytest.mark.parametrize("name", [WEIGHTS, "vqvae/diffusion_pytorch_model.safetensors"])
@pytest.mark.parametrize("left", [0, 7, 1000, -1])
def test_truncated_weights(copy, name, left):
    path = copy.folder / name
    path.write_bytes(path.read_bytes()[:left])
    refused(lambda: load_checkpoint(copy.folder), str(path), f"{path.stat().st_size:,} bytes", "download it again")


def test_corrupt_header(copy):
    path = copy.folder / WEIGHTS
    content = bytearray(path.read_bytes())
    content[8:40] = os.urandom(32)
    path.write_bytes(content)
    refused(lambda: load_checkpoint(copy.folder), str(path), "damaged")


def test_a_header_that_claims_more_than_the_file_holds(copy):
    path = copy.folder / WEIGHTS
    path.write_bytes((2**62).to_bytes(8, "little") + path.read_bytes()[8:])
    refused(lambda: load_checkpoint(copy.folder), str(path), "damaged")


def test_a_missing_shard_is_named(copy):
    shard(copy.folder)
    (copy.folder / "model-00002-of-00003.safetensors").unlink()
    refused(lambda: load_checkpoint(copy.folder), "model-00002-of-00003.safetensors", str(copy.folder))


def test_a_tensor_missing_from_its_shard_is_named(copy):
    shard(copy.folder)
    weight_map = json.loads((copy.folder / INDEX).read_text())["weight_map"]
    path = copy.folder / weight_map[BLOCK_KEY]
    edit_tensors(path, lambda tensors: tensors.pop(BLOCK_KEY))
    refused(lambda: load_checkpoint(copy.folder), str(path), BLOCK_KEY)


@pytest.mark.parametrize("name", ["../outside.safetensors", "/etc/passwd", "sub/../../outside.safetensors", ".."])
def test_an_index_that_points_outside_its_folder(copy, name):
    shutil.copy(copy.folder / WEIGHTS, copy.folder.parent / "outside.safetensors")
    write_json(copy.folder / INDEX, {"weight_map": {BLOCK_KEY: name}})
    refused(lambda: load_checkpoint(copy.folder), INDEX, repr(name), "plain file name")


@pytest.mark.parametrize("content", ["{", "[]", '{"weight_map": {}}', '{"weight_map": {"a": 1}}'])
def test_a_broken_index(copy, content):
    (copy.folder / INDEX).write_text(content)
    refused(lambda: load_checkpoint(copy.folder), str(copy.folder / INDEX))


def test_a_missing_key_is_named(copy):
    edit_tensors(copy.folder / WEIGHTS, lambda tensors: tensors.pop(BLOCK_KEY))
    refused(lambda: load_checkpoint(copy.folder), str(copy.folder), BLOCK_KEY, "lacks")


def test_an_extra_key_is_named(copy):
    edit_tensors(copy.folder / WEIGHTS, lambda tensors: tensors.update({BASE + "blocks.0.q_norm.weight": torch.ones(32)}))
    refused(lambda: load_checkpoint(copy.folder), str(copy.folder), BASE + "blocks.0.q_norm.weight")


def test_a_wrongly_shaped_key_is_named_with_both_shapes(copy):
    edit_tensors(copy.folder / WEIGHTS, lambda tensors: tensors.update({BLOCK_KEY: torch.ones(63, 32)}))
    refused(lambda: load_checkpoint(copy.folder), BLOCK_KEY, "[63, 32]", "[64, 32]")


@pytest.mark.parametrize("key", ["wte.weight", "ln_f.weight", "ff_out.weight", "blocks.0.ff_proj.weight"])
@pytest.mark.parametrize("shape", [(), (0,), (31,), (3, 3), (2, 2, 2)])
def test_no_shape_of_a_key_gets_past_the_check(copy, key, shape):
    edit_tensors(copy.folder / WEIGHTS, lambda tensors: tensors.update({BASE + key: torch.ones(shape)}))
    refused(lambda: load_checkpoint(copy.folder), str(copy.folder))


def test_an_image_tokenizer_with_another_codebook(copy):
    edit_json(copy.folder / "vqvae" / "config.json", num_vq_embeddings=64)
    refused(lambda: load_checkpoint(copy.folder), "vqvae", "64", "32")


# Weights that are not numbers.


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_broken_base_is_named_at_the_first_step(copy, value):
    edit_tensors(copy.folder / WEIGHTS, lambda tensors: tensors[BLOCK_KEY].fill_(value))
    steps = []
    pipeline = Pipeline.load(copy.folder, copy.head, dtype="fp32")
    refused(lambda: pipeline.generate(PROMPT, callback=steps.append), str(copy.folder), BLOCK_KEY, "base model")
    assert not steps


def test_a_broken_head_is_named_at_its_first_step(copy):
    key = "blocks.0.self_attn.ff_proj.weight"
    edit_tensors(copy.head, lambda tensors: tensors[key][0].fill_(float("nan")))
    steps = []
    pipeline = Pipeline.load(copy.folder, copy.head, dtype="fp32")
    refused(lambda: pipeline.generate(PROMPT, callback=steps.append), str(copy.head), key, "shortcut head")
    assert [report.kind for report in steps] == ["full"]


def test_a_broken_image_tokenizer_is_named(copy):
    path = copy.folder / "vqvae" / "diffusion_pytorch_model.safetensors"
    edit_tensors(path, lambda tensors: tensors["decoder.conv_in.weight"].fill_(float("nan")))
    pipeline = Pipeline.load(copy.folder, dtype="fp32")
    refused(lambda: pipeline.generate(PROMPT), str(copy.folder), "decoder.conv_in.weight", "image tokenizer")
