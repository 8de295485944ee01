"""Whatever is wrong with a file or a setting, there is one clear error, before anything is generated or written."""

import json
import os
import pickle
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from small_model import PROMPT, edit_json, edit_tensors, make_small_head, shard, small_config, write_json
from tokenizers import Tokenizer

from migm_core.checkpoints import CheckpointError, convert, describe, load_checkpoint, load_head
from migm_core.cli import main
from migm_core.families.lumina_dimoo.prompts import MAX_PROMPT_CHARACTERS, MAX_PROMPT_TOKENS
from migm_core.pipeline import Pipeline
from migm_core.settings import MAX_STEPS

BASE = "model.transformer."
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
BLOCK_KEY = BASE + "blocks.1.ff_proj.weight"


def refused(action, *expected: str, error=CheckpointError) -> str:
    """The message of the error that ``action`` raises; each of ``expected`` must be in it."""
    with pytest.raises(error) as caught:
        action()
    message = str(caught.value)
    for part in expected:
        assert part in message, message
    return message


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


# config.json.


@pytest.mark.parametrize("name", ["config.json", "vqvae/config.json", "generation_config.json"])
@pytest.mark.parametrize("content", ['{"d_model": 32,', "", "[1, 2]", "null", "\udcff"])
def test_invalid_json(copy, name, content):
    path = copy.folder / name
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    refused(lambda: load_checkpoint(copy.folder), str(path), "JSON")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("activation_type", "gelu"),
        ("block_type", "sequential"),
        ("layer_norm_type", "default"),
        ("include_bias", True),
        ("weight_tying", True),
        ("include_qkv_bias", True),
        ("alibi", True),
        ("rope", False),
        ("attention_layer_norm", True),
        ("input_emb_norm", True),
        ("scale_logits", True),
        ("clip_qkv", 8.0),
        ("clip_qkv", 0),
        ("rope_full_precision", False),
        ("rope_scaling", {"type": "linear", "factor": 2.0}),
        ("layer_norm_with_affine", False),
        ("bias_for_layer_norm", True),
        ("norm_after", True),
        ("qk_norm", True),
        ("sliding_window", 1024),
        ("partial_rotary_factor", 0.5),
        ("causal", True),
        ("multi_query_attention", True),
        ("rope_theta", 10**400),
        ("rms_norm_eps", float("nan")),
        ("d_model", "32"),
        ("d_model", 0),
        ("d_model", -32),
        ("d_model", None),
        ("n_heads", 3),
        ("n_kv_heads", 5),
        ("n_layers", 2.5),
        ("rope_theta", "large"),
        ("tokens", [1, 2]),
        ("tokens", {"mask": -1}),
        ("tokens", {"moon": 3}),
        ("tokens", {"mask": 10**9}),
    ],
)
def test_another_architecture_names_its_key(copy, key, value):
    edit_json(copy.folder / "config.json", **{key: value})
    refused(lambda: load_checkpoint(copy.folder), str(copy.folder / "config.json"), key)


@pytest.mark.parametrize("key", ["d_model", "n_layers", "mlp_hidden_size", "vocab_size", "n_heads", "n_kv_heads", "max_sequence_length"])
@pytest.mark.parametrize("value", [10**6, 10**12, 10**40])
def test_huge_sizes_are_refused_without_allocating(copy, key, value):
    edit_json(copy.folder / "config.json", **{key: value})
    if key in ("vocab_size", "max_sequence_length"):  # the true size is the tensor's, and a length bounds nothing
        assert load_checkpoint(copy.folder).base.wte.weight.shape == (96, 32)
    else:
        refused(lambda: load_checkpoint(copy.folder), str(copy.folder), key)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("layers_per_block", 10**9),
        ("latent_channels", 10**12),
        ("num_vq_embeddings", 10**12),
        ("norm_num_groups", 7),
        ("block_out_channels", [8] * 10_000),
        ("block_out_channels", [10**12] * 4),
        ("block_out_channels", 8),
        ("in_channels", "three"),
        ("act_fn", "relu"),
        ("vq_embed_dim", -4),
        ("vq_embed_dim", True),
        ("layers_per_block", True),
        ("block_out_channels", [True] * 4),
        ("norm_type", "spatial"),
        ("lookup_from_codebook", False),
        ("mid_block_add_attention", True),
        ("in_channels", 4),
        ("out_channels", 1),
        ("_class_name", "AutoencoderKL"),
        ("down_block_types", ["AttnDownEncoderBlock2D"] * 4),
        ("down_block_types", ["DownEncoderBlock2D"] * 3),
        ("up_block_types", "UpDecoderBlock2D"),
    ],
)
def test_an_image_tokenizer_of_impossible_sizes(copy, key, value):
    edit_json(copy.folder / "vqvae" / "config.json", **{key: value})
    refused(lambda: load_checkpoint(copy.folder), str(copy.folder / "vqvae"))


def test_half_a_character_in_a_file_leaves_an_error_that_a_log_can_hold(copy, tmp_path):
    torch.save({"\ud800": torch.zeros(1)}, tmp_path / "head.pth")
    refused(lambda: load_head(tmp_path / "head.pth", small_config()), "head.pth").encode()
    edit_json(copy.folder / "config.json", activation_type="\ud800")
    refused(lambda: load_checkpoint(copy.folder), "activation_type", "\\ud800").encode()
    lost = tmp_path / os.fsdecode(b"\xff.safetensors")
    refused(lambda: load_checkpoint(lost), "\\udcff.safetensors does not exist").encode()


@pytest.mark.parametrize(("key", "value"), [("steps", "64"), ("steps", 6.5), ("guidance_scale", "strong"), ("width", True)])
def test_senseless_settings_in_the_checkpoint_are_named(copy, key, value):
    edit_json(copy.folder / "generation_config.json", **{key: value})
    refused(lambda: load_checkpoint(copy.folder), str(copy.folder), key, repr(value))


def test_a_setting_by_its_name_of_version_0_2_is_not_passed_over(copy):
    edit_json(copy.folder / "generation_config.json", guidance=0.0)
    refused(lambda: load_checkpoint(copy.folder), str(copy.folder), "Rename the key to guidance_scale")


@pytest.mark.parametrize("content", ["{}", "not json", '{"model": {"type": "Moon"}}'])
def test_a_broken_text_tokenizer(copy, content):
    (copy.folder / "tokenizer.json").write_text(content)
    refused(lambda: load_checkpoint(copy.folder), str(copy.folder / "tokenizer.json"))


PANICS = {
    "normalizer": ({"type": "Precompiled", "precompiled_charsmap": "AAAA"}, "precompiled_charsmap is damaged"),
    "model": ({"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": ["a b"]}, "needs the token 'ab'"),
}


@pytest.mark.parametrize("part", PANICS)
def test_a_text_tokenizer_that_makes_the_library_panic(copy, part):
    """The library's panics are BaseExceptions that no ``except Exception`` catches: a host's worker would die of one."""
    path = copy.folder / "tokenizer.json"
    value, said = PANICS[part]
    edit_json(path, **{part: value})
    with pytest.raises(BaseException) as panic:
        Tokenizer.from_str(path.read_text())
    assert not isinstance(panic.value, Exception)
    refused(lambda: load_checkpoint(copy.folder), str(path), said)


BOMBS = {
    "replaces by more": {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 100},
    "replaces again and again": {"type": "Sequence", "normalizers": [{"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}] * 30},
    "replaces nothing": {"type": "Sequence", "normalizers": [{"type": "Replace", "pattern": {"Regex": ""}, "content": "aaa"}] * 3},
    "prepends": {"type": "Prepend", "prepend": "a" * 10**6},
    "takes steps": {"type": "Sequence", "normalizers": [{"type": "Lowercase"}] * 1000},
}


@pytest.mark.parametrize("what", BOMBS)
def test_a_text_tokenizer_that_blows_up(copy, what):
    edit_json(copy.folder / "tokenizer.json", normalizer=BOMBS[what])
    refused(lambda: load_checkpoint(copy.folder), "tokenizer.json: normalizer", "belongs to the model")


def test_the_library_reports_no_panic_before_the_sentence(copy, capfd):
    edit_json(copy.folder / "tokenizer.json", pre_tokenizer={"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False})
    refused(lambda: Pipeline.load(copy.folder, device="cpu").generate("a" * 40 + "b"), "tokenizer.json", "prompt")
    assert capfd.readouterr() == ("", "")


def test_a_text_tokenizer_that_fails_on_a_prompt(copy):
    path = copy.folder / "tokenizer.json"
    split = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
    edit_json(path, pre_tokenizer=split)  # a panic: the pattern needs more tries than are allowed
    pipeline = Pipeline.load(copy.folder, device="cpu")
    refused(lambda: pipeline.generate("a" * 40 + "b"), str(path), "prompt")
    edit_json(path, pre_tokenizer=None, model={**json.loads(path.read_text())["model"], "unk_token": "[none]"})
    refused(lambda: Pipeline.load(copy.folder, device="cpu").generate("cat"), str(path), "prompt")


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_while_a_prompt_is_read_is_no_fault_of_its_tokenizer(pipeline, interrupt):
    class Interrupted:
        def encode(self, *args, **kwargs):
            raise interrupt

    with pytest.raises(interrupt):
        replace(pipeline.checkpoint.prompts, plain=Interrupted()).prompt(PROMPT)


def test_prompts_are_neither_cut_nor_filled_up(copy, pipeline):
    edit_json(
        copy.folder / "tokenizer.json",
        truncation={"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 5},
        padding={"strategy": {"Fixed": 30}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0, "pad_token": "x"},
    )
    prompts = load_checkpoint(copy.folder).prompts
    assert prompts.prompt(PROMPT).tolist() == pipeline.checkpoint.prompts.prompt(PROMPT).tolist()
    assert prompts.unknown_words("red cat") == ["cat"]


def test_a_text_tokenizer_of_a_larger_model(copy):
    path = copy.folder / "tokenizer.json"
    values = json.loads(path.read_text())
    values["model"]["vocab"]["unheard"] = 126000
    write_json(path, values)
    refused(lambda: load_checkpoint(copy.folder), str(path), "126000", "96 rows")


# Heads.


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
    refused(lambda: load_head(small.folder / WEIGHTS, small_config()), WEIGHTS, "not a shortcut head")
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


# Settings.


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


def test_the_largest_seed_is_one(pipeline):
    assert len(pipeline.generate(PROMPT, seed=2**64 - 1, steps=2).images) == 1


def test_the_shortcut_method_without_a_head(small):
    pipeline = Pipeline.load(small.folder, None, dtype="fp32")
    refused(lambda: pipeline.generate(PROMPT, method="shortcut"), "shortcut head", "vanilla", error=ValueError)


def test_a_single_step_needs_no_head(pipeline):
    assert pipeline.generate(PROMPT, steps=1).settings.method == "vanilla"


def test_an_empty_prompt_is_a_prompt(pipeline):
    assert pipeline.generate("").images[0].size == (32, 32)


def test_a_prompt_of_5000_words_is_refused_with_the_limit(pipeline):
    words = " ".join(["red heart"] * 2500)
    refused(lambda: pipeline.generate(words), "5000 words", str(MAX_PROMPT_TOKENS), error=ValueError)
    refused(lambda: pipeline.generate(PROMPT, words), "5000 words", str(MAX_PROMPT_TOKENS), error=ValueError)


def test_a_prompt_of_20_megabytes_is_refused_unread(pipeline):
    prompts = replace(pipeline.checkpoint.prompts, plain=None)  # which would take minutes
    for words in ("red " * 5 * 10**6, "r" * 2 * 10**7):
        refused(lambda: prompts.prompt(words), f"{len(words):,} characters", f"{MAX_PROMPT_CHARACTERS:,}", error=ValueError)
        refused(lambda: prompts.unconditional(words), f"{len(words):,} characters", error=ValueError)
        refused(lambda: prompts.unknown_words(words), f"{len(words):,} characters", error=ValueError)


@pytest.mark.parametrize("text", ["red \ud800 heart", "red \udcff"])
def test_half_a_character_is_no_text(pipeline, text):
    refused(lambda: pipeline.generate(text), f"U+{ord(text[4]):04X} as character 5", error=ValueError)


@pytest.mark.parametrize("device", ["moon", "meta", "cuda:99"])
def test_a_device_that_is_not_there(small, device):
    refused(lambda: Pipeline.load(small.folder, device=device), device, "cpu", error=ValueError)


def test_an_unknown_dtype(small):
    refused(lambda: Pipeline.load(small.folder, dtype="int4"), "int4", "bf16", error=ValueError)


# The same through the command line: status 2, one line on stderr, nothing on stdout, nothing written.


def complaint(capsys, *argv) -> str:
    assert main([str(part) for part in argv]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert re.fullmatch(r"migm: [^\n]+\n", printed.err), printed.err
    assert "Traceback" not in printed.err
    return printed.err


@pytest.fixture
def generate(small, tmp_path, capsys):
    """Run ``migm generate`` with the tiny model; gives its complaint and sees that it wrote nothing."""
    folder = tmp_path / "out"
    folder.mkdir()

    def run(*options, model=small.folder, head=small.head) -> str:
        line = complaint(capsys, "generate", PROMPT, "--model", model, "--head", head, "--out", folder / "image.png", *options)
        assert not list(folder.iterdir())
        return line

    return run


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--size", "36x32"], "width is 36"),
        (["--size", "0x0"], "width is 0"),
        (["--size", "800000x800000"], "limit"),
        (["--size", "large"], "'large' is no size"),
        (["--budget", "1"], "budget is 1"),
        (["--budget", "9"], "budget is 9"),
        (["--steps", "0"], "steps is 0"),
        (["--steps", "many"], "many"),
        (["--temperature", "-1"], "temperature is -1"),
        (["--cfg", "nan"], "is nan, but must be a number from 0"),
        (["--seed", "-1"], "seed is -1"),
        (["--seed", str(2**64)], f"seed is {2**64}"),
        (["--batch", "0"], "batch is 0"),
        (["--batch", "1000000000"], "batch is 1000000000"),
        (["--method", "magic"], "magic"),
        (["--device", "moon"], "moon"),
        (["--dtype", "int4"], "int4"),
        (["--head", "none", "--method", "shortcut"], "needs a shortcut head"),
        (["--moon"], "--moon"),
    ],
)
def test_the_command_line_refuses_bad_settings(generate, options, expected):
    assert expected in generate(*options)


def test_the_command_line_names_bad_files(generate, copy, tmp_path):
    assert "nowhere does not exist" in generate(model=tmp_path / "nowhere")
    assert "nowhere.pth does not exist" in generate(head=tmp_path / "nowhere.pth")
    edit_tensors(copy.head, lambda tensors: tensors["proj_in.weight"].fill_(float("nan")))
    assert "proj_in.weight" in generate(head=copy.head)
    (copy.folder / WEIGHTS).write_bytes(b"\0" * 100)
    assert WEIGHTS in generate(model=copy.folder)


def test_the_command_line_refuses_what_it_cannot_read(capsys, tmp_path, small):
    assert "does not exist" in complaint(capsys, "inspect", tmp_path / "nowhere")
    assert "ends in .safetensors" in complaint(capsys, "convert", small.folder, tmp_path / "out.bin")
    assert "source itself" in complaint(capsys, "convert", small.head, small.head)
    file = tmp_path / "file"
    file.write_text("")
    assert str(file) in complaint(capsys, "convert", small.head, file / "out.safetensors")
    assert "COMMAND" in complaint(capsys)


@pytest.mark.parametrize("option", ["--out", "--report"])
def test_outputs_that_cannot_be_written_are_found_before_anything_is_loaded(capsys, tmp_path, option):
    suffix = {"--out": ".png", "--report": ".json"}[option]
    file = tmp_path / "file"
    file.write_text("")
    (tmp_path / f"folder{suffix}").mkdir()
    for path, reason in [
        (tmp_path / "nowhere" / f"x{suffix}", "no folder"),
        (file / f"x{suffix}", "no folder"),
        (tmp_path / f"folder{suffix}", "it is a folder"),
        (tmp_path / "x.gif", f"ends in {suffix}"),
    ]:
        # A model that does not exist, either, would be the complaint if it were looked for first.
        line = complaint(capsys, "generate", PROMPT, "--model", tmp_path / "no-model", "--out", tmp_path / "good.png", option, path)
        assert str(path) in line and reason in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", f"folder{suffix}"]


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder in which even root cannot write")
def test_a_folder_that_takes_no_files(capsys, tmp_path):
    line = complaint(capsys, "generate", PROMPT, "--model", tmp_path / "no-model", "--out", "/proc/image.png")
    assert "/proc/image.png cannot be written" in line


def test_a_folder_in_the_place_of_an_image_of_a_batch(generate, tmp_path):
    (tmp_path / "name-1.png").mkdir()
    assert "name-1.png" in generate("--batch", 2, "--out", tmp_path / "name.png")
    assert not (tmp_path / "name-0.png").exists()
