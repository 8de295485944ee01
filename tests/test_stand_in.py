"""The stand-in of the published checkpoint: of the published size on paper, and in the published layout when it is written small."""

import json
import shutil

import pytest
import torch
from small_model import edit_tensors
from stand_in import HEAD, planned, size, write_stand_in

from migm_core.checkpoints import CheckpointError, describe, load_checkpoint
from migm_core.families.lumina_dimoo.backbone import Lumina
from migm_core.families.lumina_dimoo.config import LuminaConfig
from migm_core.families.lumina_dimoo.head import ShortcutConfig, ShortcutHead
from migm_core.pipeline import Pipeline
from migm_core.tokenizers.amused_vq import ImageTokenizerConfig

LAYERS = 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The published vocabulary, tokens and number of codes; narrow layers."""
    path = tmp_path_factory.mktemp("stand_in") / "model"
    config = LuminaConfig(d_model=16, n_heads=2, n_kv_heads=2, n_layers=LAYERS, mlp_hidden_size=32)
    image = ImageTokenizerConfig(block_out_channels=(4, 4, 4, 4, 4), latent_channels=4, layers_per_block=1, norm_num_groups=2)
    write_stand_in(path, config, image, dtype=torch.float32, shard_bytes=862 * 10**4)
    return path


def test_32_layers_are_the_published_size():
    base = planned(Lumina(LuminaConfig(), output_rows="all", device="meta"), torch.bfloat16)
    assert size(base) == pytest.approx(16.2e9, rel=0.01)
    assert len(base) == 32 * 9 + 3
    head = planned(ShortcutHead(ShortcutConfig(4096, 32, 12288), device="meta"), torch.bfloat16)
    assert size(head) / 2 == pytest.approx(220e6, rel=0.01)


def test_it_lies_in_shards_with_an_index(folder):
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    shards = sorted(path.name for path in folder.glob("model-*.safetensors"))
    assert shards == [f"model-0000{k}-of-00003.safetensors" for k in (1, 2, 3)] == sorted(set(index["weight_map"].values()))
    assert index["metadata"]["total_size"] == pytest.approx(sum((folder / name).stat().st_size for name in shards), rel=0.01)
    assert "tokens" not in json.loads((folder / "config.json").read_text())


def test_it_is_what_it_says(folder):
    text = describe(folder)
    for part in (f"{LAYERS} layers, width 16", "8192 image codes, from token 126356", "134656 rows", "16 pixels", "complete"):
        assert part in text
    assert "fits          a base model of width 16 (MLP 32)" in describe(folder / HEAD)


def test_it_generates(folder):
    pipeline = Pipeline.load(folder, folder / HEAD, dtype="fp32", device="cpu")
    system = "36289 289 3972 4631 297 268 3019 12166 13"
    assert pipeline.checkpoint.prompts.prompt("lighthouse").tolist() == [126332, *map(int, system.split()), 126333, 126334, 0, 126335]
    result = pipeline.generate("a lighthouse", width=64, height=32, steps=4, budget=2)
    assert result.images[0].size == (64, 32) and result.full_steps == [0, 2]


def test_no_two_of_its_tensors_or_rows_are_alike(folder):
    pipeline = Pipeline.load(folder, None, dtype="fp32", device="cpu")
    blocks = pipeline.checkpoint.base.blocks
    rows = torch.cat([weight for block in blocks for weight in (block.q_proj.weight, block.k_proj.weight, block.up_proj.weight)])
    assert len(rows.unique(dim=0)) == len(rows)
    assert rows.std() == pytest.approx(16**-0.5, rel=0.1)


LAYER = "model.transformer.blocks.1.ff_out.weight"
CHANGES = {
    "missing": lambda path: path.unlink(),
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "of another model": lambda path: edit_tensors(path, lambda tensors: tensors.update({LAYER: torch.zeros(16, 33)})),
    "without a tensor": lambda path: edit_tensors(path, lambda tensors: tensors.pop(LAYER)),
    "with one more": lambda path: edit_tensors(path, lambda tensors: tensors.update({LAYER + "_too": torch.zeros(1)})),
    "with one of another": lambda path: edit_tensors(path, lambda tensors: tensors.update({"model.transformer.wte.weight": torch.zeros(1)})),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_shard_that_is_not_what_it_was_is_named(folder, tmp_path, change):
    shutil.copytree(folder, tmp_path / "copy")
    shard = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"][LAYER]
    assert shard == "model-00002-of-00003.safetensors"
    CHANGES[change](tmp_path / "copy" / shard)
    with pytest.raises(CheckpointError, match=shard):
        load_checkpoint(tmp_path / "copy")
