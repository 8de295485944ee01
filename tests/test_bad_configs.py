"""Whatever is wrong with a JSON file of a checkpoint, one clear error names the file and the key."""

import os

import pytest
import torch
from refusal import refused
from small_model import edit_json, small_config

from migm_core.checkpoints import load_checkpoint, load_head


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
        assert load_checkpoint(copy.folder).base.wte.weight.shape == (small_config().vocab_size, 32)
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
