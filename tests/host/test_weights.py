"""Weights under the host's memory manager: offloaded in part or wholly, cast, shared and freed."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from hosts import MASKGIT, MASKGIT_HEAD
from small_model import make_small_model

from migm_core.canvas import Canvas
from migm_core.pipeline import Pipeline

HERE = Path(__file__).parent
LARGE = {"d_model": 512, "n_heads": 8, "n_kv_heads": 8, "n_layers": 24, "mlp_hidden_size": 1536}  # 330 MB: the host loads 128 MiB at least


@pytest.fixture(scope="module")
def seen(setting, base, python, environment) -> dict:
    """What partial_load.py prints."""
    made = make_small_model(base / "made", **LARGE)
    shutil.move(made.folder, base / "models/migm/large")
    shutil.move(made.head, base / "models/migm/large.safetensors")
    command = [python, str(HERE / "partial_load.py"), str(base), *(["--dynamic"] if setting.dynamic else [])]
    done = subprocess.run(command, cwd=setting.path, env=environment, capture_output=True, text=True, timeout=600)
    shutil.rmtree(base / "models/migm/large")
    (base / "models/migm/large.safetensors").unlink()
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def engine(base) -> Pipeline:
    """The engine alone, on the same files."""
    return Pipeline.load(base / "models/migm/small", base / "models/migm/small.safetensors", dtype="fp32", device="cpu")


def tokens(engine: Pipeline, **settings) -> list[int]:
    return engine.generate("a large red house on a snowy shore", seed=4, **settings).canvas.codes.flatten().tolist()


def test_every_method_gives_the_engines_tokens(seen, engine):
    assert seen["whole"] == tokens(engine)
    for method, codes in seen["methods"].items():
        assert codes == tokens(engine, method=method), method


def test_offloaded_weights_give_the_same_tokens(seen):
    assert seen["half"] == seen["whole"]
    assert seen["none"] == seen["whole"]


def test_unloaded_weights_come_back_and_give_the_same_tokens(seen):
    assert seen["reloaded"] == seen["whole"]


def test_the_image_tokenizer_gives_the_engines_tokens_wherever_it_lies(seen, engine):
    canvas = Canvas(torch.arange(16).view(1, 4, 4), torch.zeros(1, 4, 4, dtype=torch.bool))
    expected = engine.encode(engine.decode(canvas)).codes.flatten().tolist()
    assert seen["round_trips"] == [expected, expected]


def test_a_model_larger_than_the_memory_is_loaded_in_part_and_gives_the_same_tokens(seen):
    limits = seen["limits"]
    assert 0 < limits["loaded"] < 0.7 * limits["size"]
    assert limits["same"]


def test_an_answer_is_the_engines_wherever_the_weights_lie(seen, engine):
    """Also after other work, on unloaded weights that come back, and on ones that are kept in 8 bits."""
    first, offloaded, generates, *others = seen["answers"]
    reply = engine.understand("a large red house on a snowy shore", length=8, block=8, stop="never")
    assert first == reply.answer.tokens.tolist() and generates
    assert offloaded == first and others == [first, first]
    assert all(len(each["answer"]) == 8 for each in seen["eight_bit"].values())


@pytest.mark.parametrize("state", ["LOW_VRAM", "NO_VRAM"])
def test_lowvram_and_novram_give_the_same_tokens(seen, state):
    assert seen["states"][state]["same"]
    if state == "NO_VRAM":
        assert seen["states"][state]["loaded"] < 0.1 * seen["limits"]["size"]


def test_images_with_different_numbers_of_masked_tokens_are_sampled_as_if_alone(seen):
    assert seen["uneven"]


def test_auto_is_the_hosts_choice_and_shares_what_is_loaded(seen):
    assert seen["kept"]["auto"]["shared"]


@pytest.mark.parametrize("name, linear", [("bf16", "torch.bfloat16"), ("fp16", "torch.float16"), ("float8_e4m3fn", "torch.float8_e4m3fn")])
def test_weights_are_kept_in_the_dtype_asked_for_and_norms_in_the_one_computed_in(seen, name, linear):
    kept = seen["kept"][name]
    assert kept["linear"] == linear
    assert kept["norm"] == kept["computed"] == "torch.float32"  # what the host computes in on a CPU
    assert len(kept["codes"]) == len(seen["whole"])


def test_smaller_dtypes_take_less_memory(seen):
    kept = seen["kept"]
    assert kept["float8_e4m3fn"]["bytes"] < kept["bf16"]["bytes"] < seen["bytes"]["base"]


@pytest.mark.parametrize("kind", ["fp8", "int8"])
def test_weights_in_8_bits_with_scales_give_the_same_tokens_wherever_they_lie(seen, kind):
    assert seen["eight_bit"][kind]["same"]
    assert seen["eight_bit"][kind]["bytes"] < seen["bytes"]["base"]


@pytest.fixture(scope="module")
def maskgit(base) -> Pipeline:
    """The engine alone, on the files of the tiny MaskGIT."""
    return Pipeline.load(base / "models/migm" / MASKGIT, base / "models/migm" / MASKGIT_HEAD, dtype="fp32", device="cpu")


def test_maskgit_gives_the_engines_tokens_wherever_its_weights_lie(seen, maskgit):
    of_maskgit, expected = seen["maskgit"], maskgit.generate(3, seed=4).canvas.codes.flatten().tolist()
    for way in ("whole", "offloaded 0.5", "offloaded 0", "no memory"):
        assert of_maskgit[way] == expected, way
    for method, codes in of_maskgit["methods"].items():
        assert codes == maskgit.generate(3, seed=4, method=method).canvas.codes.flatten().tolist(), method


def test_maskgits_image_tokenizer_gives_the_engines_tokens_wherever_it_lies(seen, maskgit):
    grid = (torch.arange(36) % maskgit.checkpoint.base.config.codebook_size).view(1, 6, 6)
    expected = maskgit.encode(maskgit.decode(Canvas(grid, torch.zeros_like(grid, dtype=torch.bool)))).codes.flatten().tolist()
    assert seen["maskgit"]["round_trips"] == [expected, expected]


def test_maskgits_weights_are_kept_in_the_dtype_asked_for(seen):
    assert seen["maskgit"]["bf16"]["linear"] == "torch.bfloat16"
    assert len(seen["maskgit"]["bf16"]["codes"]) == len(seen["maskgit"]["whole"])


def test_with_disable_mmap_no_file_of_a_loaded_model_stays_mapped(seen):
    usually, without = seen["mapped"]
    if usually < 0:
        pytest.skip("this system does not tell a process's files in /proc")
    assert usually > 0 and without == 0


def test_weights_die_with_their_last_user(seen):
    before, after = seen["alive"]
    assert before > 0 and after == 0
