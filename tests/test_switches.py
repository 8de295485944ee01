"""Speed switches: off by default, and each changes no more than it says."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from small_model import PROMPT

from migm_core import switches
from migm_core.cli import main
from migm_core.pipeline import Pipeline
from migm_core.switches import Switches

OTHER_PROMPTS = ["a large red house", "a small tree", PROMPT + " and more"]


def load(small, **on):
    return Pipeline.load(small.folder, small.head, dtype="fp32", device="cpu", switches=Switches(**on))


def test_all_are_off_by_default(pipeline):
    assert pipeline.switches == Switches(compile=False, channels_last=False, tile=0, tf32=False)
    assert all(block._compiled_call_impl is None for block in pipeline.checkpoint.base.blocks)
    assert torch.get_float32_matmul_precision() == "highest"


# compile.


@pytest.fixture
def compiled(small, monkeypatch):
    """A pipeline, and a list of (graph, shape of its input) that grows as the compiler is asked for one.

    What the compiler captures runs as it is: generating code takes minutes, and is PyTorch's own business.
    """
    captured = []

    def backend(graph, inputs):
        captured.append([tuple(i.shape) for i in inputs if isinstance(i, torch.Tensor) and i.dim() == 3])
        return graph.forward

    monkeypatch.setattr(switches, "BACKEND", backend)
    torch._dynamo.reset()
    yield load(small, compile=True), captured
    torch._dynamo.reset()


def test_steps_and_layers_share_what_was_compiled(compiled, pipeline):
    own, captured = compiled
    settings = {"steps": 16, "budget": 6}
    ours, expected = own.generate(PROMPT, **settings), pipeline.generate(PROMPT, **settings)
    assert {kind for kind, _ in ours.step_seconds} >= {"full", "shortcut"}
    # Two branches, whose sequences differ in length, and two layers: one compilation for a length, one with symbols for all others.
    assert len(captured) == 2
    assert torch.equal(ours.canvas.codes, expected.canvas.codes)
    for prompt in OTHER_PROMPTS:
        own.generate(prompt, **settings)
        own.generate(prompt, width=48, steps=3, budget=2)
    assert len(captured) == 2
    assert not torch._dynamo.utils.counters["graph_break"]


def test_ml_cache_is_refused_where_blocks_are_compiled(compiled):
    own, captured = compiled
    with pytest.raises(ValueError, match="ml-cache method does not run compiled.*Leave compile out"):
        own.generate(PROMPT, method="ml-cache")
    assert not captured


def test_a_compiler_that_does_not_work_is_named(small, monkeypatch):
    def backend(graph, inputs):
        raise RuntimeError("no compiler is installed")

    monkeypatch.setattr(switches, "BACKEND", backend)
    torch._dynamo.reset()
    with pytest.raises(ValueError, match="torch.compile does not work here: .*no compiler is installed.* Leave compile out"):
        load(small, compile=True).generate(PROMPT)
    torch._dynamo.reset()


# channels-last.


def test_channels_last_changes_the_last_digits_only(small, pipeline):
    own = load(small, channels_last=True)
    convolutions = [m for m in own.checkpoint.image_tokenizer.modules() if isinstance(m, torch.nn.Conv2d)]
    assert all(m.weight.is_contiguous(memory_format=torch.channels_last) for m in convolutions)
    ours, expected = own.generate(PROMPT), pipeline.generate(PROMPT)
    assert torch.equal(ours.canvas.codes, expected.canvas.codes)
    assert (own.decode(ours.canvas) - pipeline.decode(ours.canvas)).abs().max() < 1e-5
    pixels = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(own.encode(pixels).codes, pipeline.encode(pixels).codes)
    assert (load(small, channels_last=True, tile=64).decode(ours.canvas) - pipeline.decode(ours.canvas)).abs().max() < 1e-5


# TF32.


def test_tf32_is_for_cuda(small):
    with pytest.raises(ValueError, match="tf32 is a number format of CUDA devices, but the device is cpu"):
        load(small, tf32=True)


def test_tf32_holds_for_the_whole_process_and_so_while_a_run_lasts_only():
    with Switches(tf32=True).during_run():
        assert torch.get_float32_matmul_precision() == "high"
    assert torch.get_float32_matmul_precision() == "highest"
    with pytest.raises(KeyboardInterrupt), Switches(tf32=True).during_run():
        raise KeyboardInterrupt
    assert torch.get_float32_matmul_precision() == "highest"
    with Switches().during_run():
        assert torch.get_float32_matmul_precision() == "highest"


# The command line.


def test_options_of_the_command_line(small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    base = ["generate", PROMPT, "--model", str(small.folder), "--dtype", "fp32", "--device", "cpu", "--steps", "2", "--size", "128x96"]
    assert main(base) == 0
    assert main([*base, "--tile", "64", "--channels-last", "--out", "tiled.png"]) == 0
    whole, tiled = (torch.frombuffer(bytearray(Image.open(name).tobytes()), dtype=torch.uint8).int() for name in ("migm.png", "tiled.png"))
    assert (whole - tiled).abs().max() <= 1


@pytest.mark.parametrize(("options", "said"), [(["--tile", "63"], "tile is 63"), (["--tf32"], "tf32"), (["--compile", "--method", "ml-cache"], "ml-cache")])
def test_options_that_cannot_be_are_one_line(small, tmp_path, monkeypatch, capsys, options, said):
    monkeypatch.chdir(tmp_path)
    assert main(["generate", PROMPT, "--model", str(small.folder), "--device", "cpu", *options]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert not list(Path().iterdir())
