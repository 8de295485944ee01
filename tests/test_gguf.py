"""GGUF files of a base model: written with the gguf package's own writer, they sample what the checkpoint samples."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_model import PROMPT, make_small_model

from migm_core.checkpoints import CheckpointError, TensorSource
from migm_core.checkpoints.fingerprint import fingerprint, same_base
from migm_core.cli import main
from migm_core.families.lumina_dimoo.names import BASE_PREFIX, GGUF_NAMES
from migm_core.pipeline import Pipeline

gguf = pytest.importorskip("gguf")
KINDS = gguf.GGMLQuantizationType
NAMES = {f"{BASE_PREFIX}{ours}.weight": f"{theirs}.weight" for theirs, ours in GGUF_NAMES.outer.items()}
NAMES |= {f"{BASE_PREFIX}blocks.{k}.{ours}.weight": f"blk.{k}.{theirs}.weight" for k in range(2) for theirs, ours in GGUF_NAMES.in_block.items()}
N_HEADS = 2


def as_llama_cpp_orders(name: str, weight: torch.Tensor) -> torch.Tensor:
    """What its converter does to queries and keys: the two halves of each head's rows in turn."""
    if name.split(".")[-2] not in GGUF_NAMES.heads:
        return weight
    size = weight.shape[0] // N_HEADS // 2
    return weight.reshape(N_HEADS, 2, size, -1).swapaxes(1, 2).reshape(weight.shape)


def write(folder, kind=KINDS.F32, *, architecture="llada", llama_cpp=True, edit=lambda tensors: None):
    """Put ``model.gguf`` in the place of ``model.safetensors``; matrices in the kind asked for, norms in float32."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    if llama_cpp:
        tensors = {NAMES[name]: as_llama_cpp_orders(NAMES[name], tensor) for name, tensor in tensors.items()}
    edit(tensors)
    path = folder / "model.gguf"
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_head_count(N_HEADS)
    for name, tensor in tensors.items():
        values = tensor.float().numpy()
        of_tensor = kind if tensor.dim() == 2 else KINDS.F32
        writer.add_tensor(name, gguf.quants.quantize(values, of_tensor), raw_dtype=of_tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def load(path):
    return Pipeline.load(path, dtype="fp32", device="cpu")


@pytest.mark.parametrize("llama_cpp", [True, False], ids=["llama.cpp's names", "published names"])
def test_a_file_in_float32_samples_the_same(copy, pipeline, llama_cpp):
    ours = load(write(copy.folder, llama_cpp=llama_cpp)).generate(PROMPT, method="vanilla")
    expected = pipeline.generate(PROMPT, method="vanilla")
    assert ours.settings == expected.settings
    assert torch.equal(ours.canvas.codes, expected.canvas.codes)
    assert ours.images[0].tobytes() == expected.images[0].tobytes()


@pytest.mark.parametrize(("kind", "error"), [(KINDS.F16, 2**-11), (KINDS.BF16, 2**-8), (KINDS.Q8_0, 2**-6)], ids=lambda value: getattr(value, "name", ""))
def test_smaller_kinds_come_back_as_near_as_they_can(copy, kind, error):
    plain = load_file(copy.folder / "model.safetensors")
    source = TensorSource.open(write(copy.folder, kind))
    assert source.shapes == {name: tuple(tensor.shape) for name, tensor in plain.items()}
    for name, tensor in plain.items():
        whole = source.get(name)
        # Q8_0 has one scale for 32 values: the error is a share of the largest of them.
        assert (whole.float() - tensor).abs().max() <= error * tensor.abs().max()
        assert torch.equal(source.get(name, (1, 3)), whole[1:3])
    assert source.dtypes[f"{BASE_PREFIX}wte.weight"] == (torch.float16 if kind == KINDS.F16 else torch.bfloat16)
    load(source.path).generate(PROMPT, steps=2, method="vanilla")


@pytest.mark.parametrize("kind", [KINDS.Q8_0, KINDS.Q4_0], ids=lambda kind: kind.name)
def test_a_quantised_file_is_of_the_same_base_and_of_no_other(copy, small, kind, tmp_path):
    plain = fingerprint(load(small.folder).checkpoint.base)
    quantised = fingerprint(load(write(copy.folder, kind)).checkpoint.base)
    assert same_base(quantised, plain) and same_base(plain, quantised)
    assert not same_base(quantised, fingerprint(load(make_small_model(tmp_path / "other", seed=7).folder).checkpoint.base))


def fails(path, *parts):
    with pytest.raises(CheckpointError) as error:
        load(path)
    for part in parts:
        assert part in str(error.value)


def test_without_the_package_the_error_names_the_extra(copy, monkeypatch):
    path = write(copy.folder)
    monkeypatch.setitem(sys.modules, "gguf", None)
    fails(path, str(path), "pip install migm-shortcut[gguf]")


def test_nothing_else_imports_the_package(copy):
    code = f"import sys; from migm_core.pipeline import Pipeline; Pipeline.load({str(copy.folder)!r}, device='cpu'); sys.exit('gguf' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1]).returncode == 0


def test_files_that_are_damaged(copy):
    path = write(copy.folder)
    whole = path.read_bytes()
    for damaged in (b"", b"no file of this kind", whole[:40], whole[:3000], whole[: len(whole) // 2]):
        path.write_bytes(damaged)
        fails(path, str(path), f"{len(damaged):,} bytes", "download it again")


def test_files_of_another_model(copy):
    fails(write(copy.folder, architecture="llama"), "'llama'", "expected 'llada'")


def test_a_file_that_lacks_a_tensor_and_one_with_another(copy, small):
    fails(write(copy.folder, edit=lambda tensors: tensors.pop("blk.1.ffn_up.weight")), "lacks model.transformer.blocks.1.up_proj.weight")
    (copy.folder / "model.safetensors").write_bytes((small.folder / "model.safetensors").read_bytes())
    fails(write(copy.folder, edit=lambda tensors: tensors.update({"blk.0.attn_q_norm.weight": torch.ones(8)})), "holds model.transformer.blk.0.attn_q_norm.weight")


def test_a_file_without_what_belongs_beside_it(copy):
    path = write(copy.folder)
    (copy.folder / "config.json").unlink()
    fails(path, str(copy.folder / "config.json"), "download the whole folder")


# Converting


@pytest.mark.parametrize("kind", [KINDS.F32, KINDS.F16, KINDS.BF16, KINDS.Q8_0], ids=lambda kind: kind.name)
@pytest.mark.parametrize("dtype", [None, "fp16", "fp8", "int8"])
def test_a_file_becomes_one_with_all_of_its_checkpoint(copy, tmp_path, kind, dtype):
    path, target = write(copy.folder, kind), tmp_path / "whole.safetensors"
    assert main(["convert", str(path), str(target), *(["--dtype", dtype] if dtype else [])]) == 0
    before, after = load(path), load(target)
    assert after.checkpoint.settings == before.checkpoint.settings
    assert same_base(fingerprint(after.checkpoint.base), fingerprint(before.checkpoint.base))
    assert len(after.generate(PROMPT, steps=2, method="vanilla").images) == 1
    if dtype is None:
        assert TensorSource.open(target).dtypes.items() >= TensorSource.open(path).dtypes.items()
        if kind != KINDS.Q8_0:
            same = zip(before.checkpoint.base.parameters(), after.checkpoint.base.parameters(), strict=True)
            assert all(torch.equal(a, b) for a, b in same)


def test_a_file_without_its_folder_and_one_of_its_folders_files_are_refused(copy, tmp_path, capsys):
    path = write(copy.folder)
    weights = copy.folder / "vqvae" / "diffusion_pytorch_model.safetensors"
    before = weights.read_bytes()
    assert main(["convert", str(path), str(weights)]) == 2 and "Choose another path" in capsys.readouterr().err
    assert weights.read_bytes() == before
    alone = path.rename(tmp_path / "alone.gguf")
    assert main(["convert", str(alone), str(tmp_path / "whole.safetensors")]) == 2
    assert "config.json" in capsys.readouterr().err and not (tmp_path / "whole.safetensors").exists()
