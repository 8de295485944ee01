"""Which base a head belongs to: one fingerprint in any files and dtype, another for another base, however little was trained of it."""

from copy import deepcopy

import pytest
import torch
from maskgit_folder import BASE, published
from safetensors import safe_open
from safetensors.torch import save_file
from small_model import PROMPT, edit_tensors, make_small_model, shard

from migm_core.checkpoints import convert
from migm_core.checkpoints.fingerprint import COUNT, KEY, fingerprint, other_base, same_base
from migm_core.cli import main
from migm_core.families.maskgit.backbone import MaskGit
from migm_core.families.maskgit.config import MaskGitConfig
from migm_core.pipeline import Pipeline

EMBEDDING = COUNT * 2 * 4 // 3  # letters: all that earlier versions wrote


def load(path, dtype="fp32"):
    return Pipeline.load(path, None, dtype=dtype, device="cpu").checkpoint.base


@pytest.fixture(scope="module")
def bases(small, tmp_path_factory):
    other = make_small_model(tmp_path_factory.mktemp("other"), seed=7)
    return {dtype: load(small.folder, dtype) for dtype in ("fp32", "bf16", "fp16")}, load(other.folder)


@pytest.fixture(scope="module")
def deep_folder(tmp_path_factory):
    return make_small_model(tmp_path_factory.mktemp("deep"), n_layers=12).folder


@pytest.fixture(scope="module")
def deep(deep_folder):
    return load(deep_folder)


def trained(base, name: str, share: float):
    """The base with one tensor moved by a share of its numbers' size."""
    moved = deepcopy(base)
    tensor = dict(moved.named_parameters())[name].data
    generator = torch.Generator().manual_seed(0)
    tensor += share * tensor.square().mean().sqrt() * torch.randn(tensor.shape, generator=generator)
    return moved


def test_a_fingerprint_is_that_of_the_base_in_any_dtype(bases):
    ours, other = bases
    texts = {dtype: fingerprint(base) for dtype, base in ours.items()}
    assert all(same_base(one, another) for one in texts.values() for another in texts.values())
    assert not any(same_base(text, fingerprint(other)) for text in texts.values())
    assert texts["fp32"] != texts["bf16"]


def test_a_fingerprint_is_that_of_the_base_in_any_files(bases, copy, tmp_path):
    text = fingerprint(bases[0]["fp32"])
    shard(copy.folder, 3)
    convert(copy.folder, tmp_path / "one.safetensors")
    assert fingerprint(load(copy.folder)) == fingerprint(load(tmp_path / "one.safetensors")) == text


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8], ids=str)
def test_a_quantised_base_is_the_same_base_and_another_one_is_not(deep, deep_folder, dtype, tmp_path):
    convert(deep_folder, tmp_path / "quantised.safetensors", dtype=dtype)
    quantised = fingerprint(load(tmp_path / "quantised.safetensors"))
    assert same_base(quantised, fingerprint(deep)) and same_base(fingerprint(deep), quantised)
    assert not same_base(quantised, fingerprint(trained(deep, "blocks.3.q_proj.weight", 1.0)))


def test_a_base_that_was_cast_to_8_bits_is_the_same_base_and_another_one_is_not(bases, copy):
    edit_tensors(copy.folder / "model.safetensors", lambda tensors: tensors.update({name: tensor.to(torch.float8_e4m3fn) for name, tensor in tensors.items()}))
    cast, ours, other = fingerprint(load(copy.folder)), fingerprint(bases[0]["fp32"]), fingerprint(bases[1])
    assert same_base(cast, ours) and same_base(ours, cast) and not same_base(cast, other)


def test_a_base_whose_weights_a_host_keeps_in_8_bits_is_the_same_base_and_another_one_is_not(deep):
    def kept(base):
        held = deepcopy(base)
        for module in held.blocks.modules():
            if isinstance(module, torch.nn.Linear):
                module.weight = torch.nn.Parameter(module.weight.to(torch.float8_e4m3fn), requires_grad=False)
        return fingerprint(held)

    assert same_base(kept(deep), fingerprint(deep)) and same_base(fingerprint(deep), kept(deep))
    assert not same_base(kept(trained(deep, "blocks.3.q_proj.weight", 1.0)), fingerprint(deep))


def test_what_text_needs_beside_leaves_the_fingerprint(bases, small):
    whole = Pipeline.load(small.folder, None, dtype="fp32", device="cpu")
    whole.choose("Which?", ["red", "blue"])
    assert whole.checkpoint.base.has_text and not bases[0]["fp32"].has_text
    assert fingerprint(whole.checkpoint.base) == fingerprint(bases[0]["fp32"])


def test_a_base_whose_embedding_was_trained_on_is_another(bases):
    base = bases[0]["fp32"]
    assert not same_base(fingerprint(base), fingerprint(trained(base, "wte.weight", 0.05)))


@pytest.mark.parametrize("name", ["blocks.0.q_proj.weight", "blocks.7.attn_norm.weight", "blocks.11.ff_out.weight", "ln_f.weight"])
def test_a_base_of_which_one_tensor_was_trained_on_is_another(deep, name):
    """A merged LoRA leaves the embedding, and all but some matrices, as they were."""
    assert not same_base(fingerprint(deep), fingerprint(trained(deep, name, 0.05)))
    assert same_base(fingerprint(deep), fingerprint(trained(deep, name, 0.001))), "by less than bfloat16 rounds"


def test_a_maskgit_has_one_too():
    torch.manual_seed(0)
    base = MaskGit(MaskGitConfig(d_model=32, n_heads=2, n_layers=2, mlp_hidden_size=64, codebook_size=16, n_classes=4, grid=4))
    for name in ("pos_emb", "first_layer.proj_in.weight", "blocks.1.attention.norm.weight"):
        with torch.no_grad():
            dict(base.named_parameters())[name].normal_()
        assert not same_base(fingerprint(base), fingerprint(trained(base, name, 0.05)))
    assert same_base(fingerprint(base), fingerprint(deepcopy(base).bfloat16()))


def test_a_maskgit_whose_file_has_8_bits_is_the_same_base(tmp_path):
    path = published(tmp_path) / BASE.name
    whole = fingerprint(load(path))
    tensors = torch.load(path)["model_state_dict"]
    torch.save({name: tensor.to(torch.float8_e4m3fn) for name, tensor in tensors.items()}, path)
    assert same_base(fingerprint(load(path)), whole)


def test_fingerprints_of_earlier_versions_count_for_the_embedding(bases, deep):
    base, other = bases[0]["bf16"], bases[1]
    earlier = fingerprint(bases[0]["fp32"])[:EMBEDDING]
    assert same_base(earlier, fingerprint(base)) and same_base(fingerprint(base), earlier) and same_base(earlier, earlier)
    assert not same_base(earlier, fingerprint(other)) and not same_base(fingerprint(other), earlier)
    assert same_base(fingerprint(deep)[:EMBEDDING], fingerprint(trained(deep, "blocks.0.q_proj.weight", 0.5)))


def test_weights_that_a_host_keeps_in_its_own_form_are_left_out(deep):
    """Its tensors are of a class of their own, and reading a part of one makes it whole."""

    class Packed(torch.Tensor):
        pass

    packed = deepcopy(deep)
    packed.blocks[3].q_proj.weight = torch.nn.Parameter(torch.full_like(packed.blocks[3].q_proj.weight, 7.0).as_subclass(Packed), requires_grad=False)
    assert same_base(fingerprint(packed), fingerprint(deep))
    assert not same_base(fingerprint(packed), fingerprint(trained(deep, "blocks.4.q_proj.weight", 0.05)))


def test_what_is_no_fingerprint_is_of_no_base(bases):
    text = fingerprint(bases[1])
    wrong = ("", "x", "é", text[: EMBEDDING - 4], text[:-4], 2 * text, text + ":", text.replace(":16:", ":5:"), text.replace(":", ""))
    assert same_base(text, text) and not any(same_base(text, other) or same_base(other, text) for other in wrong)


def test_generate_warns_of_a_head_of_another_base(small, tmp_path, monkeypatch, capsys, bases):
    monkeypatch.chdir(tmp_path)
    with safe_open(small.head, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}
        metadata = dict(file.metadata() or {})
    save_file(tensors, "other.safetensors", metadata | {KEY: fingerprint(bases[1])})
    for head, method, warned in ((small.head, "shortcut", False), ("other.safetensors", "shortcut", True), ("other.safetensors", "vanilla", False)):
        assert main(["generate", PROMPT, "--model", str(small.folder), "--head", str(head), "--method", method, "--device", "cpu"]) == 0
        assert ("was trained on another base model" in capsys.readouterr().err) == warned


def test_a_head_of_another_base_is_named(bases):
    base, other = bases[0]["bf16"], bases[1]
    assert other_base("head.safetensors", fingerprint(bases[0]["fp32"]), base, "model") is None
    assert other_base("head.safetensors", None, base, "model") is None
    said = other_base("head.safetensors", fingerprint(other), base, "model")
    assert said.startswith("head.safetensors was trained on another base model of the same shape than model")
