"""A small model runs on one CPU thread, for the run only; a large one as its process does."""

import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_model import PROMPT, small_config

from migm_core.families.lumina_dimoo.config import LuminaConfig
from migm_core.pipeline import Pipeline
from migm_core.threads import is_small, suited_threads

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def three_threads():
    """A number that no machine of ours begins with."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


class Stop(BaseException):
    pass


def test_whatever_a_small_model_does_runs_on_one_thread(pipeline, monkeypatch):
    seen = {}
    tokenizer = pipeline.checkpoint.image_tokenizer
    for name in ("encode", "decode"):
        original = getattr(tokenizer, name)
        monkeypatch.setattr(tokenizer, name, lambda *args, original=original, name=name: seen.setdefault(name, torch.get_num_threads()) and original(*args))
    result = pipeline.generate(PROMPT, callback=lambda report: seen.setdefault("sample", torch.get_num_threads()))
    assert torch.get_num_threads() == 3
    pipeline.encode(pipeline.decode(result.canvas))
    assert seen == {"encode": 1, "decode": 1, "sample": 1}
    assert torch.get_num_threads() == 3


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, Stop])
def test_the_number_comes_back_after_an_error_too(pipeline, error):
    def stop(report):
        raise error

    with pytest.raises(error):
        pipeline.generate(PROMPT, callback=stop)
    assert torch.get_num_threads() == 3


def test_a_run_in_a_worker_thread_leaves_that_and_others_as_they_were(pipeline):
    numbers = []

    def work():
        numbers.append(torch.get_num_threads())
        pipeline.generate(PROMPT, callback=lambda report: numbers.append(torch.get_num_threads()))
        numbers.append(torch.get_num_threads())

    worker = threading.Thread(target=work)
    worker.start()
    worker.join()
    assert numbers == [3, *[1] * 8, 3]
    assert torch.get_num_threads() == 3


def test_only_a_small_model_on_a_cpu_is_served_by_one_thread():
    small = small_config()
    assert is_small(small) and is_small(Pipeline.load("demo-classes", device="cpu").checkpoint.base.config)
    assert not is_small(LuminaConfig())
    assert not is_small(replace(small, n_layers=2000))
    for config, device, expected in ((small, "cpu", 1), (small, "cuda", 3), (LuminaConfig(), "cpu", 3)):
        with suited_threads(config, torch.device(device)):
            assert torch.get_num_threads() == expected
        assert torch.get_num_threads() == 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="cannot fork")
def test_a_process_forked_after_a_run_runs_too(small):
    """Threads are not in the copy: PyTorch would wait for them for ever."""
    script = """
import os, sys, torch
from migm_core.pipeline import Pipeline
torch.set_num_threads(2)
torch.ones(1000, 1000) @ torch.ones(1000, 1000)  # starts them
pipeline = Pipeline.load(sys.argv[1], device="cpu")
ours = pipeline.generate("cat", steps=2).tokens
child = os.fork()
if not child:
    os._exit(0 if torch.equal(pipeline.generate("cat", steps=2).tokens, ours) else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    done = subprocess.run([sys.executable, "-c", script, small.folder], cwd=ROOT, timeout=100, env={**os.environ, "OMP_NUM_THREADS": "2"})
    assert done.returncode == 0
