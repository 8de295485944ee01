"""What a process that loads and draws does not pay for."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from migm_core.checkpoints import EIGHT_BIT, convert

ROOT = Path(__file__).resolve().parents[1]

DRAWS = """
import os, sys
environment = dict(os.environ)
import torch
from migm_core.checkpoints import convert, describe
from migm_core.pipeline import Pipeline
pipeline = Pipeline.load(sys.argv[1], sys.argv[2], device="cpu")
for method in ("shortcut", "vanilla", "ml-cache"):
    result = pipeline.generate("red heart", method=method)
pipeline.encode(pipeline.decode(result.canvas))
describe(Pipeline.load(device="cpu").checkpoint.path)
convert(sys.argv[1], sys.argv[3])
print([name for name in ("torch._dynamo", "torch._inductor", "transformers", "sympy") if name in sys.modules])
print({name: value for name, value in os.environ.items() if environment.get(name) != value})
"""


@pytest.mark.parametrize("dtype", [None, "fp8", "int8"])
def test_nothing_that_draws_imports_a_compiler(small, tmp_path, dtype):
    model = small.folder
    if dtype:
        model = tmp_path / "model.safetensors"
        convert(small.folder, model, dtype=EIGHT_BIT[dtype])
    script = tmp_path / "draws.py"
    script.write_text(DRAWS)
    command = [sys.executable, script, model, small.head, tmp_path / "again.safetensors"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert (done.returncode, done.stdout.splitlines()[-2:]) == (0, ["[]", "{}"]), done.stderr
