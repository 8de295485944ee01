"""Files of MaskGIT that do not fit each other are refused by name."""

import json
import shutil
import signal
from pathlib import Path

import pytest
import torch
import yaml
from maskgit_folder import BASE, DATA, HEAD, N_HEADS, published
from safetensors.torch import load_file, save_file

from migm_core.checkpoints import CheckpointError, describe, load_checkpoint, load_head, save_head
from migm_core.families.maskgit.head import MaskGitHead, MaskGitHeadConfig


@pytest.fixture
def folder(tmp_path):
    return published(tmp_path / "model")


def test_a_head_of_the_other_family_is_refused_in_words(folder, small):
    lumina, maskgit = load_checkpoint(small.folder).base.config, load_checkpoint(folder).base.config
    with pytest.raises(CheckpointError, match="is a shortcut head for MaskGIT, but the base is of Lumina-DiMOO"):
        load_head(HEAD, lumina)
    with pytest.raises(CheckpointError, match="is a shortcut head for Lumina-DiMOO, but the base is of MaskGIT"):
        load_head(small.head, maskgit)


def test_a_head_for_another_width_is_refused(folder, tmp_path):
    save_head(tmp_path / "head.safetensors", MaskGitHead(MaskGitHeadConfig(d_model=96, n_heads=4)))
    with pytest.raises(CheckpointError, match="trained for a base model of width 96, but this base has width 48"):
        load_head(tmp_path / "head.safetensors", load_checkpoint(folder).base.config)


def test_a_missing_or_extra_tensor_is_named(tmp_path):
    published(tmp_path)
    (tmp_path / BASE.name).unlink()
    weights = load_file(DATA / "base.safetensors")
    save_file({name: tensor for name, tensor in weights.items() if name != "first_layer.6.bias"}, tmp_path / "base.safetensors")
    with pytest.raises(CheckpointError, match="lacks first_layer.6.bias of the MaskGIT base model"):
        load_checkpoint(tmp_path)
    save_file({**weights, "last_layer.9.bias": torch.zeros(1)}, tmp_path / "base.safetensors")
    with pytest.raises(CheckpointError, match="holds last_layer.9.bias, which the MaskGIT base model does not have"):
        load_checkpoint(tmp_path)


def change_yaml(folder: Path, change) -> None:
    path = folder / "VQGAN" / "model.yaml"
    values = yaml.safe_load(path.read_text())
    change(values["model"])
    path.write_text(yaml.safe_dump(values))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda model: model["params"].update(n_embed=32), "n_embed is 32, but the weights of .* have 24"),
        (lambda model: model["params"]["ddconfig"].update(ch_mult=[1, 1]), "the length of ch_mult is 2"),
        (lambda model: model["params"]["ddconfig"].update(z_channels=32), "z_channels is 32"),
        (lambda model: model["params"]["ddconfig"].update(attn_resolutions=[]), "attn"),
        (lambda model: model["params"].pop("ddconfig"), "a table ddconfig"),
        (lambda model: model.update(target="taming.models.vqgan.GumbelVQ"), "only a VQModel is supported"),
        (lambda model: model.pop("params"), "a table params"),
    ],
)
def test_a_model_yaml_that_does_not_fit_is_refused(folder, change, message):
    change_yaml(folder, change)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(folder)


@pytest.mark.skipif(not hasattr(signal, "alarm"), reason="needs a Unix alarm clock")
@pytest.mark.parametrize(
    "change",
    [
        lambda model, nested: model.update(target=nested),
        lambda model, nested: model["params"].update(remap=nested),
        lambda model, nested: model["params"].update(n_embed=nested),
        lambda model, nested: model["params"]["ddconfig"].update(ch_mult=nested),
        lambda model, nested: model["params"]["ddconfig"].update(attn_type=nested),
    ],
)
def test_lists_that_repeat_each_other_are_not_written_out(folder, change):
    nested = [1]
    for _ in range(30):
        nested = [nested] * 10  # a few hundred bytes of YAML, and 10^30 as text
    change_yaml(folder, lambda model: change(model, nested))
    signal.alarm(60)  # ends the tests
    try:
        with pytest.raises(CheckpointError, match="model.yaml"):
            load_checkpoint(folder)
    finally:
        signal.alarm(0)


def test_an_unknown_key_of_a_model_yaml_may_be_a_number(folder):
    change_yaml(folder, lambda model: model["params"]["ddconfig"].update({12345: 1, True: 1, "new": 1}))
    path = folder / "VQGAN" / "model.yaml"
    path.write_text(path.read_text().replace("12345:", f"0x{'f' * 900}:"))
    (line,) = (line for line in describe(folder / "VQGAN").splitlines() if line.startswith("  ignored"))
    assert {*line.partition("known here: ")[2].split(", ")} == {"a number of too many digits", "True", "new"}


@pytest.mark.parametrize("text", ["model: [", "- 1", "", "model: !!python/object/apply:os.system ['touch ran']", "\x00"])
def test_a_bad_model_yaml_is_refused(folder, text):
    (folder / "VQGAN" / "model.yaml").write_text(text)
    with pytest.raises(CheckpointError, match="model.yaml"):
        load_checkpoint(folder)
    assert not Path("ran").exists()


def test_a_vqgan_with_another_codebook_is_refused(folder):
    (folder / "config.json").write_text(json.dumps({"n_heads": N_HEADS, "codebook_size": 16}))
    with pytest.raises(CheckpointError, match="has 24 image codes, but the base model .* 16. They are not of one checkpoint"):
        load_checkpoint(folder)


def test_a_base_model_without_its_vqgan_is_refused(folder):
    shutil.rmtree(folder / "VQGAN")
    with pytest.raises(CheckpointError, match="without its image tokenizer. Expected VQGAN/last.ckpt and VQGAN/model.yaml"):
        load_checkpoint(folder)


def test_a_vqgan_alone_is_no_checkpoint(folder):
    with pytest.raises(CheckpointError, match="is an image tokenizer \\(VQGAN\\), not a model"):
        load_checkpoint(folder / "VQGAN")
    with pytest.raises(CheckpointError, match="is an image tokenizer \\(VQGAN\\), not a model"):
        load_checkpoint(folder / "VQGAN" / "last.ckpt")
