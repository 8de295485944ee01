"""MaskGIT's files: the published ones and ours, where users have them; converted and described."""

import json
import os
import shutil

import pytest
import torch
from maskgit_folder import BASE, DATA, HEAD, N_HEADS, published, same
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from migm_core.checkpoints import CheckpointError, TensorSource, convert, describe, load_checkpoint, load_head, save_head
from migm_core.cli import main
from migm_core.families import detect
from migm_core.families.maskgit.files import Located


@pytest.fixture
def folder(tmp_path):
    return published(tmp_path / "model")


# Folders


@pytest.mark.parametrize(
    ("base", "vqgan", "given"),
    [
        (".", "VQGAN", "."),
        (".", "vqgan", "."),
        (".", "VQGAN", BASE.name),
        ("MaskGIT", "VQGAN", "."),
        ("MaskGIT", "VQGAN", "MaskGIT"),
        ("pretrained_maskgit/MaskGIT", "pretrained_maskgit/VQGAN", "."),
        ("pretrained_maskgit/MaskGIT", "pretrained_maskgit/VQGAN", "pretrained_maskgit"),
    ],
)
def test_published_files_are_found_where_users_have_them(tmp_path, base, vqgan, given):
    path = published(tmp_path, base, vqgan) / given
    family, _ = detect(path)
    assert family.name == "maskgit"
    checkpoint = load_checkpoint(path)
    expected = load_file(DATA / "base.safetensors")
    assert torch.equal(checkpoint.base.tok_emb.weight, expected["tok_emb.weight"])
    assert (checkpoint.base.config.n_heads, checkpoint.base.config.n_classes, checkpoint.image_tokenizer.config.n_embed) == (N_HEADS, 10, 24)
    assert (checkpoint.settings["width"], checkpoint.settings["height"], checkpoint.settings["steps"]) == (24, 24, 15)


def test_without_a_word_a_model_has_16_heads(folder):
    (folder / "config.json").unlink()
    assert load_checkpoint(folder).base.config.n_heads == 16
    assert "48, 16 heads (assumed)" in describe(folder) and "note          Nothing says how many attention heads" in describe(folder)
    with pytest.raises(CheckpointError, match="width 24.* does not divide into n_heads 16.*config.json"):
        load_head(HEAD, load_checkpoint(folder).base.config)


def test_a_number_of_heads_that_is_a_guess_is_said_and_stays_one(folder, tmp_path, capsys):
    convert(folder, tmp_path / "said.safetensors")
    (folder / "config.json").unlink()
    convert(folder, tmp_path / "guessed.safetensors")
    for path, guessed in ((folder, True), (tmp_path / "guessed.safetensors", True), (tmp_path / "said.safetensors", False)):
        assert main(["generate", "3", "--model", str(path), "--device", "cpu", "--out", str(tmp_path / "a.png"), "--report", str(tmp_path / "run.json")]) == 0
        doubt = "its width, 48, is none of the published ones, 768 and 1024: 16 are assumed"
        assert (doubt in capsys.readouterr().err) == guessed == any(doubt in caution for caution in json.loads((tmp_path / "run.json").read_text())["cautions"])


@pytest.mark.parametrize(("width", "said", "guessed"), [(768, {}, False), (1024, {}, False), (512, {}, True), (512, {"n_heads": 16}, False)])
def test_of_a_published_width_the_number_of_heads_is_known(width, said, guessed, tmp_path):
    save_file({"tok_emb.weight": torch.zeros(20, width)}, tmp_path / "base.safetensors")
    found = Located(TensorSource.open(tmp_path / "base.safetensors"), None, {}, "", said, "", {}, "")
    assert (f"its width, {width}," in found.doubt()) == bool(found.doubt()) == guessed


def test_a_config_of_another_model_beside_it_says_nothing(folder):
    (folder / "config.json").write_text(json.dumps({"model_type": "llada", "n_heads": 32}))
    assert load_checkpoint(folder).base.config.n_heads == 16


@pytest.mark.parametrize(
    ("config", "steps"),
    [(None, 5), ({}, 5), ({"n_heads": N_HEADS}, 5), ({"model_type": "maskgit"}, 5), ({"model_type": "llada"}, 15)],
    ids=str,
)
def test_its_own_settings_need_no_config_and_are_not_another_models(folder, config, steps):
    (folder / "config.json").unlink()
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text(json.dumps({"steps": 5}))
    for path in (folder, folder / BASE.name):
        assert load_checkpoint(path).settings["steps"] == detect(path)[0].own_settings(path)[0]["steps"] == steps


@pytest.mark.parametrize(("said", "message"), [({"n_heads": 7}, "not a multiple of n_heads 7"), ({"n_heads": "4"}, "n_heads is '4'"), ({"n_classes": 9}, "n_classes is 9, but .* have 10")])
def test_a_config_that_does_not_fit_is_refused(folder, said, message):
    (folder / "config.json").write_text(json.dumps(said))
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(folder)


def test_of_several_base_models_one_must_be_named(folder):
    shutil.copy(BASE, folder / "MaskGIT_ImageNet_other.pth")
    with pytest.raises(CheckpointError, match="several MaskGIT base models, MaskGIT_ImageNet_other.pth, MaskGIT_ImageNet_tiny.pth. Give the path"):
        load_checkpoint(folder)
    assert load_checkpoint(folder / BASE.name).path == folder / BASE.name


def test_a_checkpoint_may_name_its_classes(folder):
    names = [f"thing {number}" for number in range(10)]
    (folder / "config.json").write_text(json.dumps({"n_heads": N_HEADS, "class_names": names}))
    checkpoint = load_checkpoint(folder)
    assert checkpoint.prompts.number("Thing 7") == 7
    convert(folder, folder / "all.safetensors")
    assert load_checkpoint(folder / "all.safetensors").prompts.names == tuple(names)
    (folder / "config.json").write_text(json.dumps({"n_heads": N_HEADS, "class_names": names[1:]}))
    with pytest.raises(CheckpointError, match="9 class names for 10 classes"):
        load_checkpoint(folder)


# Converting


def test_a_folder_becomes_one_file(folder, tmp_path):
    target = tmp_path / "maskgit.safetensors"
    convert(folder, target)
    before, after = load_checkpoint(folder), load_checkpoint(target)
    assert same(before.base, after.base) and same(before.image_tokenizer, after.image_tokenizer)
    assert (before.base.config, before.image_tokenizer.config, before.settings) == (after.base.config, after.image_tokenizer.config, after.settings)
    with safe_open(target, "pt") as file:
        assert not [name for name in file.keys() if "loss" in name]
        assert "transformer.layers.0.0.fn.mha.in_proj_weight" in file.keys()  # as published
    again = tmp_path / "again.safetensors"
    convert(target, again)
    assert again.read_bytes() == target.read_bytes()


def test_a_file_in_half_precision_keeps_its_image_tokenizer(folder, tmp_path):
    target = tmp_path / "half.safetensors"
    convert(folder, target, dtype=torch.bfloat16)
    checkpoint = load_checkpoint(target, dtype=torch.bfloat16)
    assert torch.equal(checkpoint.base.tok_emb.weight, load_checkpoint(folder).base.tok_emb.weight.bfloat16())
    assert same(checkpoint.image_tokenizer, load_checkpoint(folder).image_tokenizer)
    assert TensorSource.open(target).dtypes["tok_emb.weight"] == torch.bfloat16


def test_the_parts_become_files_by_themselves(folder, tmp_path):
    whole = load_checkpoint(folder)
    parts = tmp_path / "parts"
    convert(folder / "VQGAN", parts / "VQGAN" / "vqgan.safetensors")
    shutil.move(folder / "VQGAN", folder / "elsewhere")
    convert(folder / BASE.name, parts / "base.safetensors")
    assert same(load_checkpoint(parts).base, whole.base) and same(load_checkpoint(parts).image_tokenizer, whole.image_tokenizer)
    convert(folder / "elsewhere" / "last.ckpt", tmp_path / "vqgan.safetensors")
    assert (tmp_path / "vqgan.safetensors").read_bytes() == (parts / "VQGAN" / "vqgan.safetensors").read_bytes()


def test_a_published_head_becomes_safetensors(folder, tmp_path):
    base = load_checkpoint(folder).base.config
    convert(HEAD, tmp_path / "head.safetensors")
    head = load_head(tmp_path / "head.safetensors", base)
    assert same(head, load_head(HEAD, base)) and same(head, load_head(DATA / "head_default.safetensors", base))
    save_head(tmp_path / "saved.safetensors", head)
    assert (tmp_path / "saved.safetensors").read_bytes() == (tmp_path / "head.safetensors").read_bytes()


@pytest.mark.parametrize("given", [".", "MaskGIT", "MaskGIT/model.safetensors"])
@pytest.mark.parametrize("place", [".", "pretrained_maskgit"])
def test_no_conversion_writes_over_a_file_of_its_source(tmp_path, place, given, capsys):
    model = published(tmp_path / "model", f"{place}/MaskGIT", f"{place}/VQGAN")
    base, vqgan = model / place / "MaskGIT", model / place / "VQGAN"
    convert(base / BASE.name, base / "model.safetensors")
    convert(vqgan, vqgan / "last.safetensors")
    for file in (base / BASE.name, vqgan / "last.ckpt"):
        file.unlink()
    source = model if given == "." else model / place / given
    read = [base / "model.safetensors", base / "config.json", vqgan / "last.safetensors", vqgan / "model.yaml"]
    before = [file.read_bytes() for file in read]
    for number, file in enumerate(read):
        links = [tmp_path / f"{kind}-{number}.safetensors" for kind in ("soft", "hard")]
        links[0].symlink_to(file)
        os.link(file, links[1])
        for target in (file, *links) if file.suffix == ".safetensors" else links:
            assert main(["convert", str(source), str(target), "--dtype", "fp16"]) == 2
            assert "Choose another path" in capsys.readouterr().err
    assert [file.read_bytes() for file in read] == before
    for _ in range(2):  # a former target may be written over
        convert(source, tmp_path / "new.safetensors", dtype=torch.float16)


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
def test_8_bits_are_refused(folder, tmp_path, dtype):
    with pytest.raises(ValueError, match="too small for 8 bits"):
        convert(folder, tmp_path / "small.safetensors", dtype=dtype)
    assert not (tmp_path / "small.safetensors").exists()


# Inspecting


def test_each_kind_of_file_is_described(folder, tmp_path):
    said = describe(folder)
    assert f"{folder / BASE.name}: MaskGIT base model" in said
    assert "3 layers, width 48, 4 heads, MLP 96" in said
    assert "24x24 pixels, 6x6 tokens" in said
    assert "24 image codes, the mask, 10 classes, no class" in said
    assert "that only training needs" in said
    assert f"{folder / 'VQGAN' / 'last.ckpt'}: image tokenizer (VQGAN)" in said
    assert said.endswith("complete      all that loading needs is there and fits together")
    assert describe(folder / BASE.name) == said
    assert "4 pixels a token" in describe(folder / "VQGAN") and "complete      its config" in describe(folder / "VQGAN" / "last.ckpt")
    assert "MaskGIT shortcut head\n  variant       1 block, bottleneck ratio 2, time embedding\n  fits          a MaskGIT base model of width 48" in describe(HEAD)
    assert "2 blocks, bottleneck ratio 2" in describe(DATA / "head_two_blocks.safetensors")
    assert "1 block, bottleneck ratio 1, no time embedding" not in describe(DATA / "head_wide.safetensors")
    convert(folder, tmp_path / "all.safetensors")
    assert "MaskGIT base model with image tokenizer" in describe(tmp_path / "all.safetensors")


def test_a_description_says_what_is_missing(folder):
    (folder / "VQGAN" / "model.yaml").unlink()
    assert "not complete" in describe(folder / "VQGAN") and "codebook      24 codes" in describe(folder / "VQGAN")
    last = describe(folder).splitlines()[-1]
    assert last.startswith("  not complete  ") and "model.yaml does not exist" in last
    shutil.rmtree(folder / "VQGAN")
    last = describe(folder).splitlines()[-1]
    assert last.startswith("  not complete  ") and "without its image tokenizer. Expected VQGAN/last.ckpt" in last
