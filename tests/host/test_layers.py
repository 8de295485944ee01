"""Our models in the host's layers: its handles, its attention, its lazy weights and its quantised tensors."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from migm_core.pipeline import Pipeline

HERE = Path(__file__).parent
PROMPT = "a large red house on a snowy shore"


@pytest.fixture(scope="module")
def seen(setting, base, python, environment):
    """What layers.py prints. The models that it makes are gone when these tests are over."""
    models = base / "models/migm"
    before = set(models.iterdir())
    command = [python, str(HERE / "layers.py"), str(base), *(["--dynamic"] if setting.dynamic else [])]
    done = subprocess.run(command, cwd=setting.path, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    yield json.loads(done.stdout.splitlines()[-1])
    for made in set(models.iterdir()) - before:
        shutil.rmtree(made)


def test_handles_are_of_the_kind_that_the_host_uses_for_its_own(seen):
    """A plain one among dynamic ones makes it free memory in the old way."""
    assert len(seen["patchers"]) >= 3 and all(seen["patchers"])


def test_a_head_has_a_handle_for_each_dtype_of_the_models_that_are_there(seen):
    one = ["torch.float32"]
    assert seen["heads"] == {"one": one, "alike": one, "different": ["torch.bfloat16", *one], "gone": one}


def test_attention_off_the_cpu_is_the_hosts_function(seen):
    """So that --use-sage-attention and its like act."""
    assert seen["attention"] == [["meta", 2, ["skip_output_reshape", "skip_reshape"]]]


def test_weights_that_lie_otherwise_in_their_file_are_computed_in_the_dtype_asked_for(seen, base):
    assert seen["half"] == ["torch.float32"]
    engine = Pipeline.load(base / "models/migm/half", base / "models/migm/small.safetensors", dtype="fp32", device="cpu")
    assert seen["bf16"] == engine.generate(PROMPT, seed=4).canvas.codes.flatten().tolist()


def test_files_in_the_hosts_formats_give_the_tokens_of_the_numbers_that_they_stand_for(seen):
    """Where the card lacks a format's products, as a CPU does, the products are whole."""
    for format, tokens in seen["formats"].items():
        assert tokens["kept"] == tokens["whole"], format


def test_hosts_with_quantised_tensors_read_all_formats_that_they_name(seen, setting):
    newest = {"float8_e4m3fn", "nvfp4", "mxfp8", "int8_tensorwise"}
    if str(setting).startswith("0.33"):
        assert set(seen["formats"]) == newest
