"""What is written comes back, in every form a checkpoint may have; and loading takes no more memory than it must."""

import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from refusal import refused
from safetensors import safe_open
from safetensors.torch import load_file
from small_model import CODES, FACTOR, OWN, PROMPT, edit_json, edit_tensors, make_small_head, make_small_model, shard, small_config, write_json

from migm_core import devices as loading
from migm_core.checkpoints import CheckpointError, convert, describe, load_checkpoint, load_head
from migm_core.checkpoints.fill import converted
from migm_core.devices import resolve_dtype
from migm_core.families.lumina_dimoo.config import LuminaConfig
from migm_core.families.lumina_dimoo.write import save_checkpoint
from migm_core.pipeline import Pipeline

REPOSITORY = Path(__file__).resolve().parents[1]


def codes(model, head=None, **asked) -> list:
    return Pipeline.load(model, head, dtype="fp32", device="cpu").generate(PROMPT, **asked).canvas.codes.tolist()


def assert_same_weights(a, b):
    a, b = a.state_dict(), b.state_dict()
    assert list(a) == list(b)
    for name in a:
        assert torch.equal(a[name], b[name]), name


@pytest.mark.parametrize(("dtype", "most"), [(torch.float8_e4m3fn, 448.0), (torch.float8_e5m2, 57344.0), (torch.float16, 65504.0)], ids=str)
def test_a_number_past_the_end_of_a_dtype_is_refused_and_not_cut_to_it(dtype, most):
    for kind in (torch.float32, torch.float64):
        assert converted(torch.tensor([1.0, -most]).to(kind), dtype, "file: name").float().tolist() == [1.0, -most]
        with pytest.raises(CheckpointError, match="file: name holds .* ends at"):
            converted(torch.tensor([1.0, -2 * most]).to(kind), dtype, "file: name")


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_8_bits_take_nothing_that_is_not_finite(value):
    with pytest.raises(CheckpointError, match="file: name holds values that are not finite"):
        converted(torch.tensor([1.0, value]), torch.float8_e4m3fn, "file: name")
    assert not converted(torch.tensor([1.0, value]), torch.float16, "file: name").isfinite().all()  # a run then names the tensor


def test_a_folder_written_again_is_the_same(small, tmp_path):
    loaded = load_checkpoint(small.folder, dtype="fp32", output_rows=(0, small_config().vocab_size))
    text = (small.folder / "tokenizer.json").read_text()
    save_checkpoint(tmp_path / "again", loaded.base, loaded.image_tokenizer, text, loaded.settings)
    again = load_checkpoint(tmp_path / "again", dtype="fp32", output_rows=(0, small_config().vocab_size))
    assert again.base.config == loaded.base.config == small_config()
    assert again.image_tokenizer.config == loaded.image_tokenizer.config
    assert again.settings == loaded.settings == OWN
    assert_same_weights(again.base, loaded.base)
    assert_same_weights(again.image_tokenizer, loaded.image_tokenizer)
    assert codes(tmp_path / "again") == codes(small.folder)


def test_a_base_without_all_its_output_rows_is_not_saved(small, tmp_path):
    loaded = load_checkpoint(small.folder)
    codes = small_config().tokens.image_codes
    with pytest.raises(ValueError, match=f"rows {codes} to {codes + CODES}"):
        save_checkpoint(tmp_path / "out", loaded.base, loaded.image_tokenizer, "{}", {})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("parts", [1, 3, 21])
def test_shards_equal_one_file(small, copy, parts):
    shard(copy.folder, parts)
    assert not (copy.folder / "model.safetensors").exists()
    assert_same_weights(load_checkpoint(copy.folder).base, load_checkpoint(small.folder).base)
    assert codes(copy.folder) == codes(small.folder)


def test_a_table_padded_past_the_config_is_read_as_it_is(small, copy):
    def pad(tensors):
        for name in ("model.transformer.wte.weight", "model.transformer.ff_out.weight"):
            tensors[name] = torch.cat([tensors[name], torch.full((32, 32), 9.0)])

    edit_tensors(copy.folder / "model.safetensors", pad)
    assert load_checkpoint(copy.folder).base.config.vocab_size == small_config().vocab_size + 32
    assert codes(copy.folder) == codes(small.folder)


def test_embedding_size_may_be_null_or_absent(small, copy):
    edit_json(copy.folder / "config.json", embedding_size=None, n_kv_heads=None)
    assert codes(copy.folder) == codes(small.folder)


def test_older_names_of_a_size_are_obeyed():
    sizes = {"d_model": 32, "n_heads": 2, "n_layers": 2, "mlp_hidden_size": 64}
    assert LuminaConfig.from_json({**sizes, "multi_query_attention": True}).n_kv_heads == 1
    assert LuminaConfig.from_json({**sizes, "multi_query_attention": False}).n_kv_heads == 2
    assert LuminaConfig.from_json({**sizes, "layer_norm_eps": 1e-6}).rms_norm_eps == 1e-6
    assert LuminaConfig.from_json({**sizes, "layer_norm_eps": 1e-6, "rms_norm_eps": 1e-5}).rms_norm_eps == 1e-5


def test_a_budget_that_is_not_given_follows_the_steps_that_are(copy):
    for steps, budget in [(64, 11), (32, 6), (8, 2), (2, 2)]:
        write_json(copy.folder / "generation_config.json", {"steps": steps})
        assert load_checkpoint(copy.folder).settings["budget"] == budget
        assert Pipeline.load(copy.folder, copy.head).settings(width=32, height=32).budget == budget


def test_a_checkpoint_without_settings_gets_the_published_ones(copy):
    (copy.folder / "generation_config.json").unlink()
    settings = load_checkpoint(copy.folder).settings
    assert settings == {"width": 1024, "height": 1024, "steps": 64, "budget": 11, "guidance_scale": 4.0, "temperature": 1.0, "remasking": "exact"}


def test_every_setting_of_the_rule_may_be_a_checkpoints_own(copy):
    own = {"temperature": 0.5, "remasking": "below-cut-off"}
    edit_json(copy.folder / "generation_config.json", **own)
    pipeline = Pipeline.load(copy.folder, copy.head)
    assert asdict(pipeline.settings().rule) == own
    assert pipeline.settings(remasking="exact").rule.remasking == "exact"
    family = pipeline.checkpoint.family
    assert set(family.rule_settings()) == set(own) and family.own_settings(copy.folder)[0] == pipeline.checkpoint.settings
    edit_json(copy.folder / "generation_config.json", remasking="never")
    said = refused(lambda: load_checkpoint(copy.folder), "generation_config.json", "remasking is 'never'", "exact, below-cut-off")
    assert said == refused(lambda: family.own_settings(copy.folder), "generation_config.json")


@pytest.mark.parametrize("parts", [0, 3])
def test_a_folder_converted_to_one_file_samples_the_same(small, copy, tmp_path, parts):
    if parts:
        shard(copy.folder, parts)
    target = tmp_path / "single.safetensors"
    convert(copy.folder, target)
    assert codes(target, small.head) == codes(small.folder, small.head)
    assert load_checkpoint(target).settings == OWN
    assert list(tmp_path.glob("*.partial")) == []


def test_a_single_file_converted_again_samples_the_same(small, tmp_path):
    convert(small.folder, tmp_path / "one.safetensors")
    convert(tmp_path / "one.safetensors", tmp_path / "two.safetensors")
    assert codes(tmp_path / "two.safetensors") == codes(small.folder)


@pytest.mark.parametrize("name", ["bf16", "fp16"])
def test_conversion_to_16_bit_spares_the_image_tokenizer(small, tmp_path, name):
    dtype, target = resolve_dtype(name, "cpu"), tmp_path / "half.safetensors"
    convert(small.folder, target, dtype=dtype)
    convert(target, tmp_path / "again.safetensors", dtype=dtype)
    for path in (target, tmp_path / "again.safetensors"):
        dtypes = {key: tensor.dtype for key, tensor in load_file(path).items()}
        assert {d for key, d in dtypes.items() if key.startswith("model.")} == {dtype}
        assert {d for key, d in dtypes.items() if key.startswith("vqvae.")} == {torch.float32}
    assert Pipeline.load(target, dtype=dtype).generate(PROMPT).images[0].size == (32, 32)


def test_a_head_pth_converted_keeps_its_tensors(small, tmp_path):
    state = load_file(small.head)
    torch.save(state, tmp_path / "head.pth")
    convert(tmp_path / "head.pth", tmp_path / "head.safetensors")
    converted = load_file(tmp_path / "head.safetensors")
    assert converted.keys() == state.keys()
    assert all(torch.equal(converted[name], state[name]) for name in state)
    with safe_open(tmp_path / "head.safetensors", "pt") as file:
        assert file.metadata()["base_d_model"] == "32"
    assert codes(small.folder, tmp_path / "head.safetensors") == codes(small.folder, tmp_path / "head.pth") == codes(small.folder, small.head)


def test_a_conversion_that_fails_leaves_the_old_file(copy, tmp_path):
    target = tmp_path / "target.safetensors"
    target.write_text("precious")
    edit_tensors(copy.head, lambda tensors: tensors.pop("proj_out.bias"))
    with pytest.raises(ValueError, match="proj_out.bias"):
        convert(copy.head, target)
    assert target.read_text() == "precious"


VARIANTS = [
    ({}, ["1 block,", "bottleneck ratio 2", ", time embedding", "cross attention to new tokens"]),
    ({"n_blocks": 2}, ["2 blocks"]),
    ({"bottleneck_ratio": 1}, ["bottleneck ratio 1"]),
    ({"time_embedding": False}, ["no time embedding"]),
    ({"cross_attention": False}, ["no cross attention"]),
    ({"cross_attention": False, "bottleneck_ratio": 1}, ["bottleneck ratio 1", "no cross attention"]),
]


@pytest.mark.parametrize(("variant", "said"), VARIANTS)
def test_a_head_of_any_variant_comes_back_runs_and_says_what_it_is(small, tmp_path, variant, said):
    path = make_small_head(tmp_path / "head.safetensors", small_config(), **variant)
    config = load_head(path, small_config()).config
    assert {name: getattr(config, name) for name in variant} == variant
    codes(small.folder, path)
    text = describe(path)
    for part in ["shortcut head", "base model of width 32", "MLP 64", "float32", *said]:
        assert part in text


def test_inspecting_a_checkpoint_says_what_it_is(small, tmp_path):
    convert(small.folder, tmp_path / "single.safetensors", dtype=torch.bfloat16)
    count = sum(t.numel() for t in load_file(small.folder / "model.safetensors").values())
    for path, dtype in [(small.folder, "float32"), (tmp_path / "single.safetensors", "bfloat16")]:
        text = describe(path)
        for part in ["Lumina-DiMOO base model", "2 layers, width 32, 2 heads", f"{count / 1000:.2f} k in 21 tensors", dtype, "32 image codes", f"{small_config().vocab_size} rows"]:
            assert part in text
        assert f"downscale     {FACTOR} pixels" in text
    assert "complete" in describe(small.folder)


def test_inspecting_an_incomplete_checkpoint_says_what_is_missing(copy):
    (copy.folder / "tokenizer.json").unlink()
    line = next(line for line in describe(copy.folder).splitlines() if "missing" in line)
    assert "tokenizer.json" in line and "config.json," not in line


def test_inspecting_an_image_tokenizer(small):
    for path in (small.folder / "vqvae", small.folder / "vqvae" / "diffusion_pytorch_model.safetensors"):
        text = describe(path)
        assert "image tokenizer" in text and "32 codes of 4 channels" in text and "8 pixels" in text


def test_a_key_value_group_per_head_pair(tmp_path):
    model = make_small_model(tmp_path, n_heads=4, n_kv_heads=2)
    assert "4 heads (2 key-value)" in describe(model.folder)
    codes(model.folder, model.head)


@pytest.mark.parametrize("fast", [True, False])
def test_auto_is_float32_on_a_cpu_without_fast_bfloat16(monkeypatch, fast):
    # The one thing here that no machine has both ways.
    for probe in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        monkeypatch.setattr(torch.cpu, probe, lambda: fast, raising=False)
    assert resolve_dtype("auto", "cpu") == (torch.bfloat16 if fast else torch.float32)
    assert resolve_dtype("auto", "cpu", weights=10**7) == torch.float32, "a small model gains nothing from bfloat16"
    assert loading.has_fast_bfloat16("cpu") is fast and loading.fast_dtype("cuda") == torch.bfloat16


def test_auto_asks_the_card_that_computes(monkeypatch):
    # As if there were two cards, of which the second alone has fast bfloat16.
    current = [0]

    @contextmanager
    def device(which):
        current.append(torch.device(which).index)
        yield
        current.pop()

    monkeypatch.setattr(torch.cuda, "device", device)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: current[-1] == 1)
    assert [resolve_dtype("auto", f"cuda:{index}") for index in (0, 1)] == [torch.float16, torch.bfloat16] and current == [0]


def test_weights_are_converted_to_the_dtype_that_is_asked_for(small):
    for name, dtype in [("fp32", torch.float32), ("fp16", torch.float16), ("bf16", torch.bfloat16)]:
        loaded = load_checkpoint(small.folder, dtype=name)
        assert {p.dtype for p in loaded.base.parameters()} == {dtype}
        assert {p.dtype for p in loaded.image_tokenizer.parameters()} == {torch.float32}


MEASURE = """
import resource, sys
from migm_core.checkpoints import load_checkpoint

def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) * 1024

load_checkpoint(sys.argv[1], dtype="fp32")  # whatever the libraries need for themselves
before = peak()
loaded = load_checkpoint(sys.argv[2], dtype="fp32")
opened = peak()
total = sum(p.double().sum().item() if p.numel() < 2**20 else p.sum().item() for p in loaded.base.parameters())
print(opened - before, peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
def test_loading_maps_the_file_and_holds_no_second_copy(small, tmp_path):
    model = make_small_model(tmp_path, d_model=512, n_heads=8, n_kv_heads=8, n_layers=12, mlp_hidden_size=2048)
    size = (model.folder / "model.safetensors").stat().st_size
    assert size > 190 * 2**20
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", MEASURE, small.folder, model.folder], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    opened, read = map(int, done.stdout.split())
    assert opened < 0.1 * size  # nothing read before it is needed
    assert read < 1.1 * size  # and then once


@pytest.mark.skipif(os.name != "posix", reason="a file that is open cannot be cut short")
def test_without_mmap_files_may_be_cut_short_while_they_are_used(small, tmp_path):
    folder, head = shutil.copytree(small.folder, tmp_path / "model"), Path(shutil.copy(small.head, tmp_path / "head.safetensors"))
    pipeline = Pipeline.load(folder, head, dtype="fp32", device="cpu", mmap=False)
    for path in tmp_path.rglob("*.safetensors"):
        os.truncate(path, 0)  # with its weights mapped the process would end here, or at the run
    assert pipeline.generate(PROMPT).canvas.codes.tolist() == codes(small.folder, small.head)
