"""``migm inspect`` says complete exactly where ``migm generate`` loads a model; of weights it reads headers only."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small_model import edit_json, edit_tensors, make_small_head, make_small_model, shard, small_config

from migm_core.checkpoints import CheckpointError, TensorSource, convert, describe, load_checkpoint, load_head
from migm_core.cli import main
from migm_core.loading import BUNDLED
from migm_core.pipeline import Pipeline
from migm_core.tokenizers.amused_vq import ImageTokenizerConfig

BASE = "model.transformer."
ROWS = small_config().vocab_size
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
IMAGE_TOKENIZER = "vqvae/diffusion_pytorch_model.safetensors"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 16400\n"


def tensors(file: str, edit: Callable) -> Callable:
    return lambda folder: edit_tensors(folder / file, edit)


def config(file: str = "config.json", **values) -> Callable:
    return lambda folder: edit_json(folder / file, **values)


def text(file: str, content: str) -> Callable:
    return lambda folder: (folder / file).write_text(content)


def without(file: str) -> Callable:
    return lambda folder: (folder / file).unlink()


def cut(file: str, left: int) -> Callable:
    return lambda folder: (folder / file).write_bytes((folder / file).read_bytes()[:left])


def lost_and(tensor: str, file: str, **values) -> Callable:
    """A tensor lost, and values of config.json that nothing bounds then."""

    def damage(folder: Path) -> None:
        edit_tensors(folder / file, lambda t: t.pop(tensor))
        edit_json(folder / "config.json", **values)

    return damage


def shard_lost(folder: Path) -> None:
    shard(folder)
    (folder / "model-00002-of-00003.safetensors").unlink()


def words_past_the_table(folder: Path) -> None:
    values = json.loads((folder / "tokenizer.json").read_text())
    values["model"]["vocab"]["unheard"] = 500
    (folder / "tokenizer.json").write_text(json.dumps(values))


def other_image_tokenizer(folder: Path) -> None:
    """One that fits its config, but not the base model."""
    edit_json(folder / "vqvae" / "config.json", num_vq_embeddings=16)
    edit_tensors(folder / IMAGE_TOKENIZER, lambda t: t.update({"quantize.embedding.weight": t["quantize.embedding.weight"][:16].clone()}))


def set_tensor(name: str, value: torch.Tensor) -> Callable:
    return lambda t: t.update({name: value})


# What is wrong, and a word of what is said of it.
DAMAGES = {
    "no config": (without("config.json"), "config.json does not exist"),
    "no text tokenizer": (without("tokenizer.json"), "tokenizer.json does not exist"),
    "no image tokenizer": (without(IMAGE_TOKENIZER), "diffusion_pytorch_model.safetensors does not exist"),
    "no config of the image tokenizer": (without("vqvae/config.json"), "does not exist"),
    "no weights": (without(WEIGHTS), WEIGHTS),
    "no image tokenizer at all": (lambda folder: shutil.rmtree(folder / "vqvae"), "vqvae"),
    "a config that is none": (text("config.json", "{"), "not valid JSON"),
    "a config of another kind": (text("config.json", "[1]"), "expected a JSON object"),
    "a deep config": (text("config.json", "[" * 100_000), "not valid JSON"),
    "a pointer for a config": (text("config.json", POINTER), "Git LFS pointer"),
    "a pointer for a text tokenizer": (text("tokenizer.json", POINTER), "Git LFS pointer"),
    "a pointer for weights": (text(WEIGHTS, POINTER), "git lfs pull"),
    "a pointer for an image tokenizer": (text(IMAGE_TOKENIZER, POINTER), "git lfs pull"),
    "a page for a text tokenizer": (text("tokenizer.json", "<!DOCTYPE html><html>"), "web page"),
    "weights cut short": (cut(WEIGHTS, -1), "cut short"),
    "an image tokenizer cut short": (cut(IMAGE_TOKENIZER, 1000), "cut short"),
    "a shard lost": (shard_lost, "lacks the shard model-00002-of-00003.safetensors"),
    "a tensor lost": (tensors(WEIGHTS, lambda t: t.pop(BASE + "blocks.1.up_proj.weight")), "lacks model.transformer.blocks.1.up_proj.weight"),
    "the embedding lost": (tensors(WEIGHTS, lambda t: t.pop(BASE + "wte.weight")), "lacks model.transformer.wte.weight"),
    "all but a tensor lost": (tensors(WEIGHTS, lambda t: [t.pop(name) for name in list(t)[1:]]), "lacks"),
    "a size past all bounds, and no embedding": (lost_and(BASE + "wte.weight", WEIGHTS, embedding_size=10**18), "lacks model.transformer.wte.weight"),
    "a size past all bounds, and no MLP": (lost_and(BASE + "blocks.0.ff_proj.weight", WEIGHTS, mlp_hidden_size=10**40), "ff_proj"),
    "a code of 10**40 numbers": (config("vqvae/config.json", vq_embed_dim=10**40), "vq_embed_dim"),
    "channels past all bounds": (config("vqvae/config.json", block_out_channels=[8, 8, 8, 10**18]), "block_out_channels"),
    "a tensor too many": (tensors(WEIGHTS, set_tensor(BASE + "blocks.0.q_norm.weight", torch.ones(32))), "q_norm"),
    "a tensor of another shape": (tensors(WEIGHTS, set_tensor(BASE + "ff_out.weight", torch.ones(90, 32))), "[90, 32]"),
    "an embedding without columns": (tensors(WEIGHTS, set_tensor(BASE + "wte.weight", torch.ones(ROWS))), f"[{ROWS}]"),
    "an embedding of nothing": (tensors(WEIGHTS, set_tensor(BASE + "wte.weight", torch.ones(()))), "[]"),
    "a tensor of the image tokenizer lost": (tensors(IMAGE_TOKENIZER, lambda t: t.pop("decoder.conv_in.weight")), "decoder.conv_in.weight"),
    "the codebook lost": (tensors(IMAGE_TOKENIZER, lambda t: t.pop("quantize.embedding.weight")), "quantize.embedding.weight"),
    "a codebook of another shape": (tensors(IMAGE_TOKENIZER, set_tensor("quantize.embedding.weight", torch.ones(32))), "quantize.embedding.weight"),
    "another codebook": (other_image_tokenizer, "16 codes"),
    "an image tokenizer with attention": (config("vqvae/config.json", mid_block_add_attention=True), "mid_block_add_attention"),
    "an image tokenizer of other groups": (config("vqvae/config.json", norm_num_groups=7), "vqvae"),
    "an image tokenizer of another kind": (config("vqvae/config.json", _class_name="AutoencoderKL"), "_class_name"),
    "nothing but a marker": (tensors(WEIGHTS, lambda t: (t.clear(), t.update({BASE + "scaled_fp8": torch.zeros(0)}))), "lacks"),
    "no sizes": (config(n_heads=None), "n_heads is missing"),
    "another width": (config(d_model=64), "d_model"),
    "another depth": (config(n_layers=3), "n_layers"),
    "other heads": (config(n_heads=3), "n_heads"),
    "other mathematics": (config(scale_logits=True), "scale_logits"),
    "a number past all bounds": (config(rope_theta=10**400), "rope_theta"),
    "an infinite number": (text("config.json", json.dumps({**small_config().to_json(), "rms_norm_eps": float("inf")})), "rms_norm_eps"),
    "a token past the table": (config(tokens={**small_config().to_json()["tokens"], "mask": 1000}), "tokens.mask"),
    "the published token ids": (config(tokens=None), "image codes"),
    "no text tokenizer's content": (text("tokenizer.json", "{}"), "tokenizer.json"),
    "words past the table": (words_past_the_table, "500"),
    "no steps": (config("generation_config.json", steps=0), "steps is 0"),
    "a budget past the steps": (config("generation_config.json", budget=9), "budget is 9"),
    "an odd width": (config("generation_config.json", width=33), "width is 33"),
    "a setting of another kind": (config("generation_config.json", guidance_scale="strong"), "guidance_scale"),
    "a setting of the rule that is none": (config("generation_config.json", remasking="never"), "remasking is 'never'"),
    "a setting of the rule of another kind": (config("generation_config.json", remasking=1), "remasking is 1"),
    "settings that are none": (text("generation_config.json", "nothing"), "not valid JSON"),
    "an index of nothing": (text(INDEX, '{"weight_map": {}}'), "weight_map"),
    "an index of odd names": (text(INDEX, json.dumps({"weight_map": {"a": "x" * 5000}})), "plain file name"),
    "an index of a null byte": (text(INDEX, '{"weight_map": {"a": "x\\u0000y"}}'), "plain file name"),
    "an index that names no weights": (text(INDEX, '{"weight_map": {"a": "config.json"}}'), "config.json"),
    "a folder for weights": (lambda folder: ((folder / WEIGHTS).unlink(), (folder / WEIGHTS).mkdir()), "is a folder"),
    "a folder for a text tokenizer": (lambda folder: ((folder / "tokenizer.json").unlink(), (folder / "tokenizer.json").mkdir()), "is a folder"),
    "a link to nothing": (lambda folder: ((folder / WEIGHTS).unlink(), (folder / WEIGHTS).symlink_to("../blobs/abc")), "is a link to ../blobs/abc"),
}


def verdict(path: Path) -> str:
    """What inspecting says is wrong; "" where it says complete."""
    try:
        last = describe(path).splitlines()[-1]
    except CheckpointError as error:
        return str(error)
    assert last.startswith(("  complete", "  not complete")), last
    return "" if last.startswith("  complete") else last


@pytest.mark.parametrize(("damage", "said"), DAMAGES.values(), ids=DAMAGES)
def test_what_does_not_load_is_not_called_complete_and_the_words_are_the_same(copy, damage, said):
    damage(copy.folder)
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(copy.folder)
    assert said in str(error.value)
    assert str(error.value) in verdict(copy.folder)


def shards(folder: Path) -> None:
    shard(folder)


def padded(folder: Path) -> None:
    edit_tensors(folder / WEIGHTS, lambda t: t.update({BASE + name: torch.cat([t[BASE + name]] * 2) for name in ("wte.weight", "ff_out.weight")}))


# What looks odd and loads all the same.
HARMLESS = {
    "nothing": lambda folder: None,
    "shards": shards,
    "a padded table": padded,
    "no settings": without("generation_config.json"),
    "no tokenizer_config": without("tokenizer_config.json"),
    "fewer steps than the published budget": text("generation_config.json", '{"steps": 4}'),
    "one step": text("generation_config.json", '{"steps": 1}'),
    "transformers' own generation_config": text("generation_config.json", '{"_from_model_config": true, "eos_token_id": 2, "transformers_version": "4.46.0"}'),
    "bookkeeping": config(transformers_version="4.46.0", _name_or_path="x", architectures=["Y"], eos_token_id=2, attention_dropout=0.1, init_std=0.02),
    "a config with a byte order mark": lambda folder: (folder / "config.json").write_bytes(b"\xef\xbb\xbf" + (folder / "config.json").read_bytes()),
    "another case": lambda folder: ((folder / WEIGHTS).rename(folder / "model.SAFETENSORS"), (folder / IMAGE_TOKENIZER).rename(folder / IMAGE_TOKENIZER.upper().replace("VQVAE", "vqvae"))),
}


@pytest.mark.parametrize("change", HARMLESS.values(), ids=HARMLESS)
def test_what_loads_is_called_complete(copy, change):
    change(copy.folder)
    assert load_checkpoint(copy.folder).base.wte.weight.shape[1] == 32
    assert verdict(copy.folder) == ""
    assert Pipeline.load(copy.folder, dtype="fp32", device="cpu").settings().steps


@pytest.mark.parametrize("name", BUNDLED)
def test_a_bundled_model_is_complete(name):
    assert verdict(BUNDLED[name]) == ""


@pytest.mark.parametrize("sizes", [{"n_heads": 4, "n_kv_heads": 2}, {"n_layers": 1}, {"mlp_hidden_size": 40}])
def test_models_of_other_sizes_are_complete(tmp_path, sizes):
    assert verdict(make_small_model(tmp_path, **sizes).folder) == ""


# Single files and parts.


@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.int8, torch.float8_e4m3fn], ids=str)
def test_a_single_file_is_complete_and_what_it_lacks_is_named(small, tmp_path, dtype):
    path = tmp_path / "single.safetensors"
    convert(small.folder, path, dtype=dtype)
    assert verdict(path) == ""
    source = TensorSource.open(path)
    whole, metadata = {name: source.get(name) for name in source.shapes}, source.metadata
    for lost, said in [(BASE + "ln_f.weight", "ln_f.weight"), ("vqvae.quant_conv.bias", "quant_conv.bias"), ("tokenizer_json", "weights only")]:
        save_file({name: tensor for name, tensor in whole.items() if name != lost}, path, metadata)
        assert said in verdict(path)
    for lost in ("config", "vqvae_config"):
        save_file(whole, path, {key: value for key, value in metadata.items() if key != lost})
        assert "weights only" in verdict(path)
    for odd in (torch.zeros(4, 4), torch.zeros(4, 4, dtype=torch.uint8), torch.zeros(9, dtype=torch.uint8)):
        save_file({**whole, "tokenizer_json": odd}, path, metadata)
        assert verdict(path)
    for odd in ("{", "[]", "[" * 100_000):
        save_file(whole, path, {**metadata, "config": odd})
        assert "config" in verdict(path)
        with pytest.raises(CheckpointError):
            load_checkpoint(path)


@pytest.mark.parametrize("odd", [torch.zeros(32), torch.zeros(4, 8, dtype=torch.uint8), torch.zeros((), dtype=torch.uint8), torch.zeros(32, dtype=torch.int8)])
def test_a_layers_description_that_is_no_text(small, tmp_path, odd):
    path = tmp_path / "single.safetensors"
    convert(small.folder, path, dtype=torch.int8)
    source = TensorSource.open(path)
    tensors = {name: source.get(name) for name in source.shapes}
    save_file({**tensors, BASE + "blocks.0.q_proj.comfy_quant": odd}, path, source.metadata)
    assert "blocks.0.q_proj.comfy_quant is not valid JSON" in verdict(path)
    with pytest.raises(CheckpointError, match="comfy_quant"):
        load_checkpoint(path)


def test_weights_by_themselves_are_not_complete(copy):
    shard(copy.folder)
    for path in copy.folder.glob("model-*"):
        assert "weights only" in verdict(path)
        with pytest.raises(CheckpointError, match="weights only"):
            load_checkpoint(path)


def test_an_image_tokenizer_by_itself(copy):
    for path in (copy.folder / "vqvae", copy.folder / IMAGE_TOKENIZER):
        assert verdict(path) == ""
    edit_json(copy.folder / "vqvae" / "config.json", latent_channels=5)
    for path in (copy.folder / "vqvae", copy.folder / IMAGE_TOKENIZER):
        assert "latent_channels is 5" in verdict(path)
    (copy.folder / "vqvae" / "config.json").unlink()
    assert "config.json does not exist" in verdict(copy.folder / "vqvae")


def test_a_gguf_file_is_complete_where_it_loads(copy):
    gguf = pytest.importorskip("gguf")
    path = copy.folder / "model.GGUF"
    weights = load_file(copy.folder / WEIGHTS)
    (copy.folder / WEIGHTS).unlink()

    def write(kind=gguf.GGMLQuantizationType.Q8_0):
        writer = gguf.GGUFWriter(path, "llada")
        for name, tensor in weights.items():
            of_tensor = kind if tensor.dim() == 2 else gguf.GGMLQuantizationType.F32
            writer.add_tensor(name, gguf.quants.quantize(tensor.numpy(), of_tensor), raw_dtype=of_tensor)
        writer.write_header_to_file(), writer.write_kv_data_to_file(), writer.write_tensors_to_file(), writer.close()

    write()
    assert verdict(path) == ""
    load_checkpoint(path)
    content = path.read_bytes()
    for damaged in (content[:100], content[: len(content) // 2], POINTER.encode(), b""):
        path.write_bytes(damaged)
        assert verdict(path)
    del weights[BASE + "ln_f.weight"]
    write()
    assert "lacks model.transformer.ln_f.weight" in verdict(path)
    with pytest.raises(CheckpointError):
        load_checkpoint(path)


@pytest.mark.parametrize("key", ["proj_out.bias", "blocks.0.cross_attn.k_proj.weight", "adaLN_modulation.bias", "ln_f.weight"])
def test_a_head_that_does_not_load_is_not_complete(copy, key):
    edit_tensors(copy.head, lambda t: t.pop(key))
    with pytest.raises(CheckpointError) as error:
        load_head(copy.head, small_config())
    try:
        said = describe(copy.head)
    except CheckpointError as refusal:
        said = str(refusal)
    assert key in said and str(error.value) in said


def test_a_head_of_an_odd_width_is_refused_in_words(tmp_path, copy):
    edit_tensors(copy.head, lambda t: t.update({"proj_in.weight": torch.ones(16, 31)}))
    for action in (lambda: describe(copy.head), lambda: load_head(copy.head, small_config())):
        with pytest.raises(CheckpointError, match="31"):
            action()


# What it says beside.


def test_keys_that_nobody_knows_are_named(copy):
    edit_json(copy.folder / "config.json", moon_phase=3, sun=None, quiet=False, mask_token_id=5, transformers_version="5")
    edit_json(copy.folder / "vqvae" / "config.json", moon_channels=4)
    lines = [line for line in describe(copy.folder).splitlines() if line.startswith("  ignored")]
    assert [line.split(": ")[1] for line in lines] == ["moon_phase, mask_token_id", "moon_channels"]


def test_the_published_keys_are_all_known(copy):
    """Those that configs of the family are known to have."""
    published = {
        "activation_type": "silu", "alibi": False, "alibi_bias_max": 8.0, "architectures": ["LLaDAForMultiModalGeneration"], "attention_dropout": 0.0,
        "attention_layer_norm": False, "attention_layer_norm_with_affine": True, "auto_map": {"AutoConfig": "x.Y"}, "bias_for_layer_norm": False,
        "block_group_size": 1, "block_type": "llama", "embedding_dropout": 0.0, "eos_token_id": 126081, "flash_attention": False,
        "include_bias": False, "include_qkv_bias": False, "init_cutoff_factor": None, "init_device": "meta", "init_fn": "mitchell", "init_std": 0.02,
        "input_emb_norm": False, "layer_norm_type": "rms", "layer_norm_with_affine": True, "mask_token_id": small_config().tokens.mask, "mlp_ratio": 4,
        "model_type": "llada", "multi_query_attention": None, "pad_token_id": 126081, "precision": "amp_bf16", "residual_dropout": 0.0,
        "rope": True, "rope_full_precision": True, "scale_logits": False, "transformers_version": "4.46.3", "use_cache": False, "weight_tying": False,
        "_name_or_path": "x", "torch_dtype": "bfloat16", "clip_qkv": None, "rope_scaling": None, "sliding_window": None,
    }
    edit_json(copy.folder / "config.json", **published)
    assert verdict(copy.folder) == "" and "ignored" not in describe(copy.folder)
    load_checkpoint(copy.folder)


def test_the_image_tokenizers_of_the_reference_are_all_known():
    values = json.loads((Path(__file__).parent / "data" / "reference" / "vqvae" / "config.json").read_text())
    assert ImageTokenizerConfig.from_json(values).downscale_factor == 8
    assert "ignored" not in describe(Path(__file__).parent / "data" / "reference" / "vqvae")


def test_no_tensor_is_read(copy, monkeypatch):
    class HeadersOnly:
        def __init__(self, *args, **kw):
            self.file = safe_open(*args, **kw)

        def __getattr__(self, name):
            assert name in ("metadata", "keys", "get_slice"), name  # slices, for their shapes and dtypes
            return getattr(self.file, name)

    monkeypatch.setattr("migm_core.checkpoints.source.safe_open", HeadersOnly)
    assert verdict(copy.folder) == ""
    with pytest.raises(AssertionError, match="get_tensor"):
        load_checkpoint(copy.folder)


def test_the_command_says_it_and_never_shows_a_traceback(copy, capsys, tmp_path):
    (copy.folder / "tokenizer.json").write_text("{}")
    assert main(["inspect", str(copy.folder)]) == 0
    assert "not complete" in capsys.readouterr().out
    (copy.folder / WEIGHTS).write_text(POINTER)
    assert main(["inspect", str(copy.folder)]) == 2
    assert "git lfs pull" in capsys.readouterr().err


def test_heads_of_every_variant_are_said_without_a_complaint(tmp_path):
    for n, variant in enumerate([{}, {"bottleneck_ratio": 1}, {"time_embedding": False}, {"cross_attention": False}]):
        assert "not complete" not in describe(make_small_head(tmp_path / f"{n}.safetensors", small_config(), **variant))
