"""Quantised weights: how far they are from what they stand for, that files with them come back and run, and what a bad one says."""

import json
import re
import sys

import pytest
import torch
from quantisation_error import compare
from refusal import refused
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small_model import PROMPT, edit_tensors, make_small_model, shard

from migm_core.checkpoints import convert, describe, load_checkpoint
from migm_core.checkpoints.quantised import description_bytes
from migm_core.cli import main
from migm_core.modules.quantised import dequantise, per_channel_scales, quantise
from migm_core.pipeline import Pipeline

DTYPES = {"fp8": torch.float8_e4m3fn, "int8": torch.int8}
FORMATS = {"fp8": "float8_e4m3fn", "int8": "int8_tensorwise"}
LINEAR = ("q_proj", "k_proj", "v_proj", "attn_out", "ff_proj", "up_proj", "ff_out")
BLOCK = "model.transformer.blocks.0."


@pytest.fixture(scope="module", params=DTYPES)
def kept(request, small, tmp_path_factory):
    """The name of a dtype, and the tiny checkpoint converted to it. Tests only read it."""
    target = tmp_path_factory.mktemp(request.param) / "model.safetensors"
    assert main(["convert", str(small.folder), str(target), "--dtype", request.param]) == 0
    return request.param, target


@pytest.fixture
def damaged(kept, tmp_path):
    """A copy of the converted checkpoint after an edit of its tensors."""

    def damage(edit):
        with safe_open(kept[1], "pt") as file:
            metadata = file.metadata()
        tensors = load_file(kept[1])
        edit(tensors)
        path = tmp_path / "damaged.safetensors"
        save_file(tensors, path, metadata)
        return path

    return damage


def load(path, head=None):
    return Pipeline.load(path, head, dtype="fp32", device="cpu")


def codes(path, head=None, **asked) -> list:
    return load(path, head).generate(PROMPT, **asked).canvas.codes.tolist()


# Numbers.


@pytest.mark.parametrize("dtype", DTYPES.values())
def test_no_weight_moves_by_more_than_half_a_step(dtype):
    weight = torch.randn(64, 500, generator=torch.Generator().manual_seed(0)) * torch.logspace(-8, 4, 64)[:, None]
    scale = per_channel_scales(weight, dtype)
    error = (dequantise(quantise(weight, scale, dtype), scale, torch.float32) - weight).abs()
    # fp8 has 3 bits behind the first, and steps of 2**-9 below 2**-6; int8 has steps of 1.
    half_a_step = torch.maximum(weight.abs() / 16, scale * 2**-10) if dtype == torch.float8_e4m3fn else scale / 2
    assert (error <= half_a_step * (1 + 1e-5)).all()
    assert (error.square().mean(1).sqrt() / weight.square().mean(1).sqrt()).max() < (0.03 if dtype == torch.float8_e4m3fn else 0.011)


@pytest.mark.parametrize("dtype", DTYPES.values())
def test_the_largest_of_a_row_is_kept_and_a_row_of_zeros_too(dtype):
    weight = torch.tensor([[0.0, 0.0], [-3.0, 1.0], [1e-30, 0.0]])
    scale = per_channel_scales(weight, dtype)
    back = dequantise(quantise(weight, scale, dtype), scale, torch.float32)
    assert back[0].tolist() == [0, 0]
    assert back[1:, 0].tolist() == pytest.approx([-3.0, 1e-30])


@pytest.mark.parametrize("dtype", DTYPES.values())
def test_small_weights_keep_their_digits_in_float16(dtype):
    weight = torch.randn(8, 64, generator=torch.Generator().manual_seed(0)) * 1e-3  # scales below float16's normal numbers
    scale = per_channel_scales(weight, dtype)
    stored = quantise(weight, scale, dtype)
    exact = dequantise(stored, scale, torch.float32)
    assert torch.allclose(dequantise(stored, scale, torch.float16).float(), exact, rtol=2**-10, atol=2**-24)


def test_a_quantised_model_says_nearly_the_same(kept, small):
    """Bounds with room, of random weights, which feel it more than trained ones."""
    name, path = kept
    feature_error, divergence = {"fp8": (0.2, 0.05), "int8": (0.05, 0.005)}[name]
    errors = compare(small.folder, path, prompts=4)
    assert 0 < errors.feature < feature_error
    assert 0 < errors.divergence < divergence


# Files.


def test_the_file_holds_8_bits_and_their_scales_for_the_blocks_linear_layers_only(kept, small):
    """As ComfyUI reads them: float8 has one scale for all of a weight, int8 one a row, and each layer says what it is."""
    name, path = kept
    tensors, before = load_file(path), load_file(small.folder / "model.safetensors")
    for key, tensor in before.items():
        if key.startswith("model.transformer.blocks.") and tensor.dim() == 2:
            assert key.split(".")[4] in LINEAR
            assert tensors[key].dtype == DTYPES[name]
            scale, description = tensors.pop(key + "_scale"), tensors.pop(key.removesuffix("weight") + "comfy_quant")
            assert scale.dtype == torch.float32 and scale.shape == ((tensor.shape[0], 1) if name == "int8" else ())
            assert json.loads(description.numpy().tobytes())["format"] == FORMATS[name]
        else:
            assert torch.equal(tensors[key], tensor)
    assert not [key for key in tensors if "scale" in key or "quant" in key.rsplit(".")[-1]]


def test_inspecting_it_says_so(kept, small):
    name, path = kept
    text = describe(path)
    assert f"quantised     14 linear layers in {FORMATS[name]}, each with its scales; the rest in float32" in text
    parameters = re.compile(r"parameters +(\S+ \S+ in \S+ tensors)")
    assert parameters.search(text)[1] == parameters.search(describe(small.folder))[1]
    assert "quantised " not in describe(small.folder)


def test_it_is_loaded_as_it_is_and_the_rest_in_the_dtype_asked_for(kept):
    name, path = kept
    base = load_checkpoint(path, dtype="bf16").base
    for key, tensor in base.state_dict().items():
        expected = torch.float32 if key.endswith("weight_scale") else torch.bfloat16
        assert tensor.dtype == (DTYPES[name] if key.split(".")[-2] in LINEAR and key.startswith("blocks") and key.endswith(".weight") else expected)
    assert not any(p.requires_grad for p in base.parameters())


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/maps")
def test_its_weights_stay_in_the_file_until_they_are_used(kept):
    base = load_checkpoint(kept[1], dtype="bf16").base
    with open("/proc/self/maps") as file:
        mapped = [line.split()[0].split("-") for line in file if str(kept[1]) in line]
    for block in base.blocks:
        address = block.up_proj.weight.data_ptr()
        assert any(int(begin, 16) <= address < int(end, 16) for begin, end in mapped)


@pytest.mark.parametrize("method", ["vanilla", "shortcut", "ml-cache"])
def test_it_samples_what_the_weights_it_stands_for_sample(kept, small, tmp_path, method):
    _, path = kept
    convert(path, tmp_path / "plain.safetensors", dtype=torch.float32)
    assert not [key for key in load_file(tmp_path / "plain.safetensors") if "scale" in key]
    assert codes(path, small.head, method=method) == codes(tmp_path / "plain.safetensors", small.head, method=method)


def test_it_computes_close_to_what_it_was_made_from(kept, small):
    name, path = kept
    tokens = torch.arange(90)[None]
    features = []
    for model in (small.folder, path):
        base = load_checkpoint(model, dtype="fp32").base
        features.append(base(tokens, base.rotary(90, torch.device("cpu"))))
    error = (features[1] - features[0]).norm() / features[0].norm()
    assert 0 < error < {"fp8": 0.15, "int8": 0.05}[name]


def test_converting_again_changes_nothing(kept, tmp_path):
    name, path = kept
    for dtype in (None, DTYPES[name]):
        convert(path, tmp_path / "again.safetensors", dtype=dtype)
        assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


def test_shards_convert_like_one_file(kept, copy, tmp_path):
    name, path = kept
    shard(copy.folder, 3)
    convert(copy.folder, tmp_path / "shards.safetensors", dtype=DTYPES[name])
    assert (tmp_path / "shards.safetensors").read_bytes() == path.read_bytes()


def test_from_one_kind_of_8_bits_to_the_other(kept, tmp_path):
    name, path = kept
    other = "int8" if name == "fp8" else "fp8"
    convert(path, tmp_path / "other.safetensors", dtype=DTYPES[other])
    assert f"in {FORMATS[other]}, each" in describe(tmp_path / "other.safetensors")
    ours, theirs = (load_checkpoint(p, dtype="fp32").base.blocks[0].q_proj for p in (path, tmp_path / "other.safetensors"))
    a, b = (dequantise(layer.weight, layer.weight_scale, torch.float32) for layer in (ours, theirs))
    assert (a - b).norm() / a.norm() < 0.05


@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (1, 4), (4, 1), (2, 8)])
def test_scales_for_all_rows_for_each_or_for_blocks_are_read(damaged, shape):
    """As others write them: the same numbers sample the same tokens, however many times they are said."""

    def scales(shape_of):
        def replace(tensors):
            for key in [key for key in tensors if key.endswith("weight_scale")]:
                tensors[key] = torch.full(shape_of(tensors[key.removesuffix("_scale")]), 0.25)

        return replace

    assert codes(damaged(scales(lambda weight: shape))) == codes(damaged(scales(lambda weight: (len(weight),))))


def test_blocks_have_each_their_scale():
    stored, scale = torch.randint(-127, 128, (6, 8), dtype=torch.int8), torch.rand(3, 2)
    expected = stored.float() * scale.repeat_interleave(2, 0).repeat_interleave(4, 1)
    assert torch.equal(dequantise(stored, scale, torch.float32), expected)


def renamed(old: str, new: str):
    def edit(tensors):
        for key in [key for key in tensors if key.endswith(old)]:
            tensors[key.removesuffix(old) + new] = tensors.pop(key)

    return edit


def without_descriptions(tensors):
    for key in [key for key in tensors if key.endswith(".comfy_quant")]:
        del tensors[key]


def spelled_as_scaled_fp8(tensors):
    """ComfyUI's older form, with a scale for the inputs too."""
    without_descriptions(tensors)
    for key in [key for key in tensors if key.endswith(".weight_scale")]:
        tensors[key.replace(".weight_scale", ".scale_input")] = torch.ones(())
    renamed(".weight_scale", ".scale_weight")(tensors)
    tensors["model.transformer.scaled_fp8"] = torch.empty(0, dtype=torch.float8_e4m3fn)


def spelled_as_blocks(tensors):
    without_descriptions(tensors)
    renamed(".weight_scale", ".weight_scale_inv")(tensors)


@pytest.mark.parametrize("edit", [without_descriptions, spelled_as_scaled_fp8, spelled_as_blocks])
def test_other_spellings_are_the_same_model(kept, damaged, small, tmp_path, edit):
    path = damaged(edit)
    assert codes(path, small.head) == codes(kept[1], small.head)
    assert f"14 linear layers in {FORMATS[kept[0]]}" in describe(path)
    convert(path, tmp_path / "whole.safetensors", dtype=torch.float32)
    assert codes(tmp_path / "whole.safetensors", small.head) == codes(kept[1], small.head)


def test_layers_may_be_described_in_the_metadata(kept, small, tmp_path):
    name, path = kept
    tensors, layers = load_file(path), {}
    for key in [key for key in tensors if key.endswith(".comfy_quant")]:
        layers[key.removesuffix(".comfy_quant")] = json.loads(tensors.pop(key).numpy().tobytes())
    with safe_open(path, "pt") as file:
        metadata = file.metadata() | {"_quantization_metadata": json.dumps({"format_version": "1.0", "layers": layers})}
    save_file(tensors, tmp_path / "described.safetensors", metadata)
    assert codes(tmp_path / "described.safetensors") == codes(path)


def test_a_quantised_output_projection_is_made_whole_as_it_is_loaded(kept, damaged):
    name, path = kept
    key = "model.transformer.ff_out.weight"
    weight = load_file(path)[key]
    scale = per_channel_scales(weight, DTYPES[name])
    stored = quantise(weight, scale, DTYPES[name])
    quantised = damaged(lambda tensors: tensors.update({key: stored, key + "_scale": scale}))
    base = load_checkpoint(quantised, dtype="fp32").base
    assert torch.equal(base.ff_out.weight, dequantise(stored, scale, torch.float32)[base.output_start : base.output_stop])


def test_fp8_without_any_scale_was_cast_as_it_is(copy):
    def cast(tensors):
        for key in tensors:
            tensors[key] = tensors[key].to(torch.float8_e4m3fn)

    edit_tensors(copy.folder / "model.safetensors", cast)
    base = load_checkpoint(copy.folder, dtype="fp32").base
    assert {p.dtype for p in base.parameters()} == {torch.float32}
    codes(copy.folder)


def test_a_group_of_heads_to_a_key(kept, tmp_path):
    model = make_small_model(tmp_path, n_heads=4, n_kv_heads=2)
    convert(model.folder, tmp_path / "grouped.safetensors", dtype=DTYPES[kept[0]])
    codes(tmp_path / "grouped.safetensors", model.head)


# Bad files.


def test_a_missing_scale_is_named(damaged):
    path = damaged(lambda tensors: tensors.pop(BLOCK + "v_proj.weight_scale"))
    refused(lambda: load(path), str(path), BLOCK + "v_proj.weight", BLOCK + "v_proj.weight_scale", "again")
    assert BLOCK + "v_proj.weight_scale" in describe(path).splitlines()[-1]
    refused(lambda: convert(path, path.with_name("out.safetensors"), dtype=torch.bfloat16), BLOCK + "v_proj.weight_scale")
    assert not path.with_name("out.safetensors").exists()


def test_8_bits_without_any_scale_are_refused(damaged):
    """The layers' descriptions say that they have some."""

    def strip(tensors):
        for key in [key for key in tensors if key.endswith("weight_scale")]:
            del tensors[key]

    path = damaged(strip)
    refused(lambda: load(path), "weight_scale", "without its scale")


def test_a_missing_weight_is_named(damaged):
    path = damaged(lambda tensors: tensors.pop(BLOCK + "v_proj.weight"))
    refused(lambda: load(path), BLOCK + "v_proj.weight", "not there")


def test_a_scale_beside_a_weight_that_is_not_in_8_bits(damaged):
    path = damaged(lambda tensors: tensors.update({BLOCK + "v_proj.weight": torch.zeros(32, 32)}))
    refused(lambda: load(path), BLOCK + "v_proj.weight", "float32", "keeps")


@pytest.mark.parametrize("description", [b"{", b"[]", b'{"format": 3}', b"\xff\xfe"])
def test_a_description_that_is_none_is_named(damaged, description):
    path = damaged(lambda tensors: tensors.update({BLOCK + "v_proj.comfy_quant": torch.frombuffer(bytearray(description), dtype=torch.uint8)}))
    refused(lambda: load(path), str(path), BLOCK + "v_proj")
    assert BLOCK + "v_proj" in describe(path).splitlines()[-1]


@pytest.mark.parametrize("description", [{"format": "nvfp4"}, {"format": "int8_tensorwise", "convrot": True}, {"format": "of tomorrow"}])
def test_a_format_that_is_not_computed_is_named(damaged, description):
    path = damaged(lambda tensors: tensors.update({BLOCK + "v_proj.comfy_quant": description_bytes(description)}))
    refused(lambda: load(path), BLOCK + "v_proj.weight", description["format"], "not computed here", "float8_e4m3fn")


@pytest.mark.parametrize("layer", [BLOCK + "attn_norm", BLOCK + "gate"])
def test_a_scale_where_no_8_bits_are_expected(damaged, kept, layer):
    def add(tensors):
        tensors[layer + ".weight_scale"] = torch.ones(1)
        tensors[layer + ".weight"] = tensors.get(layer + ".weight", torch.ones(32)).to(DTYPES[kept[0]])

    path = damaged(add)
    refused(lambda: load(path), layer + ".")


@pytest.mark.parametrize("shape", [(31, 1), (3, 5), (32, 0), (0,), (1, 1, 1)])
def test_scales_of_a_wrong_shape(damaged, shape):
    path = damaged(lambda tensors: tensors.update({BLOCK + "v_proj.weight_scale": torch.ones(shape)}))
    refused(lambda: load(path), BLOCK + "v_proj.weight_scale", str(list(shape)), "[32, 1]")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_scale_that_is_not_finite_is_named_at_the_first_step(damaged, value):
    path = damaged(lambda tensors: tensors[BLOCK + "v_proj.weight_scale"].fill_(value))
    refused(lambda: codes(path), BLOCK + "v_proj.weight_scale", "not finite")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_not_converted(kept, copy, tmp_path, value):
    edit_tensors(copy.folder / "model.safetensors", lambda tensors: tensors[BLOCK + "up_proj.weight"][3].fill_(value))
    target = tmp_path / "out.safetensors"
    refused(lambda: convert(copy.folder, target, dtype=DTYPES[kept[0]]), BLOCK + "up_proj.weight", "not finite")
    assert not target.exists() and not list(tmp_path.glob("*.partial"))


def test_a_head_is_not_kept_in_8_bits(kept, small, tmp_path, capsys):
    assert main(["convert", str(small.head), str(tmp_path / "head.safetensors"), "--dtype", kept[0]]) == 2
    assert "is a shortcut head, but only base models are quantised" in capsys.readouterr().err
    assert not (tmp_path / "head.safetensors").exists()
