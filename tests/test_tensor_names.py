"""Weights are found under the names that training and other programs give them, and nothing is guessed where two could be meant."""

import json

import pytest
import torch
from refusal import refused
from safetensors.torch import load_file, save_file
from small_model import PROMPT, edit_tensors, shard, small_config

from migm_core.checkpoints import TensorSource, convert, describe, load_checkpoint, load_head
from migm_core.families.lumina_dimoo.files import build_base
from migm_core.pipeline import Pipeline

BASE = "model.transformer."
WEIGHTS = "model.safetensors"
IMAGE_TOKENIZER = "vqvae/diffusion_pytorch_model.safetensors"


def renamed(tensors: dict, change) -> None:
    """Give all tensors of a table other names, in place."""
    for name in list(tensors):
        tensors[change(name)] = tensors.pop(name)


def instead(prefix: str):
    return lambda name: prefix + name.removeprefix(BASE)


def mixed(name: str) -> str:
    return name.replace("blocks.0.", "blocks.0._orig_mod.") if "blocks.0." in name else f"_orig_mod.{name}"


BASE_NAMES = {
    "module": lambda name: f"module.{name}",
    "compiled": lambda name: f"_orig_mod.{name}",
    "both": lambda name: f"module._orig_mod.{name}",
    "inside": lambda name: name.replace("model.", "model._orig_mod.", 1),
    "each block": mixed,
    "none": instead(""),
    "ComfyUI": instead("model.diffusion_model."),
    "ComfyUI, published": lambda name: f"model.diffusion_model.{name}",
    "transformer": instead("transformer."),
    "model": instead("model."),
}


def codes(model, head=None):
    return Pipeline.load(model, head, dtype="fp32", device="cpu").generate(PROMPT).canvas.codes.tolist()


@pytest.fixture(scope="module")
def expected(small):
    return codes(small.folder, small.head)


@pytest.mark.parametrize("change", BASE_NAMES.values(), ids=BASE_NAMES)
def test_a_base_model_under_other_names_is_the_same(copy, expected, change):
    edit_tensors(copy.folder / WEIGHTS, lambda tensors: renamed(tensors, change))
    assert codes(copy.folder, copy.head) == expected
    assert describe(copy.folder).splitlines()[-1].startswith("  complete")


def test_shards_whose_names_begin_differently_are_one_model(copy, expected):
    shard(copy.folder)
    index = copy.folder / "model.safetensors.index.json"
    weight_map = json.loads(index.read_text())["weight_map"]
    changes = dict(zip(sorted(set(weight_map.values())), (instead(""), mixed, instead("transformer."))))
    for file, change in changes.items():
        edit_tensors(copy.folder / file, lambda tensors: renamed(tensors, change))
    index.write_text(json.dumps({"weight_map": {changes[file](name): file for name, file in weight_map.items()}}))
    assert codes(copy.folder, copy.head) == expected


@pytest.mark.parametrize("change", BASE_NAMES.values(), ids=BASE_NAMES)
def test_a_base_model_in_a_state_dict_of_pytorch(copy, small, change):
    tensors = load_file(copy.folder / WEIGHTS)
    renamed(tensors, change)
    torch.save(tensors, copy.folder / "base.pth")
    source = TensorSource.open(copy.folder / "base.pth")
    base = build_base(json.loads((copy.folder / "config.json").read_text()), "config.json", source.prefixed(BASE))
    plain = load_checkpoint(small.folder).base.state_dict()
    assert all(torch.equal(tensor, plain[name]) for name, tensor in base.state_dict().items())
    assert source.written(BASE + "wte.weight") == change(BASE + "wte.weight")


HEAD_PREFIXES = ["module.", "_orig_mod.", "module._orig_mod.", "model.", "model.diffusion_model.", "head."]


@pytest.mark.parametrize("form", ["pth", "safetensors"])
@pytest.mark.parametrize("prefix", HEAD_PREFIXES)
def test_a_head_under_other_names_is_the_same(copy, small, expected, prefix, form):
    tensors = load_file(copy.head)
    renamed(tensors, lambda name: prefix + name)
    path = copy.folder / f"head.{form}"
    torch.save(tensors, path) if form == "pth" else save_file(tensors, path)
    assert "shortcut head" in describe(path)
    assert codes(small.folder, path) == expected


def test_a_converted_file_has_the_published_names(copy, small, expected, tmp_path):
    edit_tensors(copy.folder / WEIGHTS, lambda tensors: renamed(tensors, instead("model.diffusion_model.")))
    edit_tensors(copy.folder / IMAGE_TOKENIZER, lambda tensors: renamed(tensors, lambda name: f"first_stage_model.{name}"))
    edit_tensors(copy.head, lambda tensors: renamed(tensors, lambda name: f"module.{name}"))
    convert(copy.folder, tmp_path / "model.safetensors")
    convert(copy.head, tmp_path / "head.safetensors")
    convert(small.folder, tmp_path / "plain.safetensors")
    assert load_file(tmp_path / "model.safetensors").keys() == load_file(tmp_path / "plain.safetensors").keys()
    assert load_file(tmp_path / "head.safetensors").keys() == load_file(small.head).keys()
    assert codes(tmp_path / "model.safetensors", tmp_path / "head.safetensors") == expected


def test_a_single_file_under_other_names_is_the_same(small, expected, tmp_path):
    convert(small.folder, tmp_path / "single.safetensors")
    source = TensorSource.open(tmp_path / "single.safetensors")
    tensors = {("module." + name).replace("module.model.", "module.model._orig_mod.").replace(".vqvae.", ".vae."): source.get(name) for name in source.shapes}
    save_file(tensors, tmp_path / "other.safetensors", source.metadata)
    assert codes(tmp_path / "other.safetensors", small.head) == expected


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model.", "module.model.transformer."])
@pytest.mark.parametrize("form", ["weight_scale", "scale_weight", "metadata"])
def test_a_quantised_file_under_other_names_is_the_same(small, tmp_path, prefix, form):
    convert(small.folder, tmp_path / "single.safetensors", dtype=torch.float8_e4m3fn)
    source = TensorSource.open(tmp_path / "single.safetensors")
    tensors, metadata = {name: source.get(name) for name in source.shapes}, dict(source.metadata)
    renamed(tensors, lambda name: prefix + name.removeprefix(BASE) if name.startswith(BASE) else name)
    if form == "scale_weight":
        renamed(tensors, lambda name: name.replace(".weight_scale", ".scale_weight"))
        tensors["scaled_fp8"] = torch.empty(0, dtype=torch.float8_e4m3fn)
    if form != "weight_scale":
        for name in [name for name in tensors if name.endswith(".comfy_quant")]:
            del tensors[name]
    if form == "metadata":
        layers = {name.removesuffix(".weight_scale"): {"format": "float8_e4m3fn"} for name in tensors if name.endswith(".weight_scale")}
        metadata["_quantization_metadata"] = json.dumps({"format_version": "1.0", "layers": layers})
    save_file(tensors, tmp_path / "other.safetensors", metadata)
    text = describe(tmp_path / "other.safetensors")
    assert "14 linear layers in float8_e4m3fn" in text and text.splitlines()[-1].startswith("  complete")
    assert codes(tmp_path / "other.safetensors") == codes(tmp_path / "single.safetensors")


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "vqvae.", "vae.", "first_stage_model.", "module.vq_model."])
def test_an_image_tokenizer_under_other_names_is_the_same(copy, expected, prefix):
    edit_tensors(copy.folder / IMAGE_TOKENIZER, lambda tensors: renamed(tensors, lambda name: prefix + name))
    assert codes(copy.folder, copy.head) == expected
    assert "32 codes" in describe(copy.folder / "vqvae")


def test_unknown_prefixes_are_named(copy):
    edit_tensors(copy.folder / WEIGHTS, lambda tensors: renamed(tensors, instead("brain.")))
    edit_tensors(copy.head, lambda tensors: renamed(tensors, lambda name: "brain.stem." + name))
    for action in (load_checkpoint, describe):
        refused(lambda: action(copy.folder), "brain.wte.weight", BASE + "wte.weight", "rename")
    for action in (lambda path: load_head(path, small_config()), describe):
        refused(lambda: action(copy.head), "brain.stem.blocks.0.self_attn", "rename")
    edit_tensors(copy.folder / IMAGE_TOKENIZER, lambda tensors: renamed(tensors, lambda name: "eye." + name))
    refused(lambda: describe(copy.folder / "vqvae"), "eye.quantize.embedding.weight")


def test_two_names_of_one_tensor_are_refused_and_both_named(copy):
    edit_tensors(copy.folder / WEIGHTS, lambda tensors: tensors.update({"model.wte.weight": torch.ones(96, 32)}))
    for action in (load_checkpoint, describe):
        refused(lambda: action(copy.folder), "model.wte.weight", BASE + "wte.weight")


def test_what_else_is_in_the_file_is_named_and_left_alone(copy, expected):
    edit_tensors(copy.folder / WEIGHTS, lambda tensors: tensors.update({"ema.wte.weight": torch.ones(2, 2), "optimizer.step": torch.ones(1)}))
    assert "2 other tensors, such as ema.wte.weight" in describe(copy.folder)
    assert codes(copy.folder, copy.head) == expected


@pytest.mark.parametrize("prefix", ["module.", "", "model.diffusion_model."])
def test_messages_say_names_as_the_file_has_them(copy, prefix):
    def damage(tensors):
        renamed(tensors, instead(prefix))
        tensors[prefix + "blocks.0.q_norm.weight"] = torch.ones(32)

    edit_tensors(copy.folder / WEIGHTS, damage)
    refused(lambda: load_checkpoint(copy.folder), f"holds {prefix}blocks.0.q_norm.weight,")


def test_a_head_is_no_base_without_prefix_nor_the_other_way_round(copy, tmp_path):
    edit_tensors(copy.folder / WEIGHTS, lambda tensors: renamed(tensors, instead("")))
    refused(lambda: load_head(copy.folder / WEIGHTS, small_config()), "not a shortcut head")
    assert "base model" in describe(copy.folder / WEIGHTS) and "shortcut head" in describe(copy.head)
    # Without its embedding, too, a base model is one.
    edit_tensors(copy.folder / WEIGHTS, lambda tensors: tensors.pop("wte.weight"))
    refused(lambda: load_checkpoint(copy.folder), f"lacks {BASE}wte.weight")
