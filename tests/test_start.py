"""What a process that loads and generates does not pay for."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from migm_core.checkpoints import QUANTISED, convert

ROOT = Path(__file__).resolve().parents[1]

GENERATES = """
import os, sys
environment = dict(os.environ)
import torch
from migm_core.checkpoints import convert, describe
from migm_core import Pipeline
from migm_core.sampling.methods import METHODS
pipeline = Pipeline.load(sys.argv[1], sys.argv[2], device="cpu")
for method in METHODS:
    result = pipeline.generate("red house", method=method)
pipeline.encode(pipeline.decode(result.canvas))
describe(Pipeline.load(device="cpu").checkpoint.path)
convert(sys.argv[1], sys.argv[3])
print([name for name in ("torch._dynamo", "torch._inductor", "transformers", "sympy", "huggingface_hub") if name in sys.modules])
print({name: value for name, value in os.environ.items() if environment.get(name) != value})
"""


@pytest.mark.parametrize("dtype", [None, "fp8", "int8"])
def test_nothing_that_generates_imports_a_compiler(small, tmp_path, dtype):
    model = small.folder
    if dtype:
        model = tmp_path / "model.safetensors"
        convert(small.folder, model, dtype=QUANTISED[dtype])
    script = tmp_path / "generates.py"
    script.write_text(GENERATES)
    command = [sys.executable, script, model, small.head, tmp_path / "again.safetensors"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert (done.returncode, done.stdout.splitlines()[-2:]) == (0, ["[]", "{}"]), done.stderr
