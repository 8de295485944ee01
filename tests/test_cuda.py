"""On a CUDA device: the same results as on the CPU, no waiting inside the loop, and memory given back."""

import pytest
import torch
from small_model import PROMPT

from migm_core.canvas import Canvas
from migm_core.checkpoints import QUANTISED, convert
from migm_core.families.lumina_dimoo.rule import LuminaRule
from migm_core.families.lumina_dimoo.tasks import text_guidance
from migm_core.pipeline import Pipeline
from migm_core.sampling.loop import sample
from migm_core.sampling.methods import MLCache, Shortcut, Vanilla
from migm_core.sampling.noise import SeededNoise
from migm_core.switches import Switches

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")

METHODS = {"vanilla": lambda head: Vanilla(), "shortcut": lambda head: Shortcut(head, 3), "ml-cache": lambda head: MLCache()}


@pytest.fixture(scope="module")
def on_gpu(small):
    return Pipeline.load(small.folder, small.head, dtype="fp32", device="cuda")


def codes(pipeline, **settings):
    return pipeline.generate(PROMPT, **settings).canvas.codes.cpu()


class WithoutWaiting:
    """A method that makes PyTorch raise at whatever waits for the device, from the first features on."""

    def __init__(self, method):
        self.method, self.kinds = method, method.kinds

    def start(self, *args):
        run = self.method.start(*args)

        class Run:
            def features(self, step):
                torch.cuda.set_sync_debug_mode("error")
                return run.features(step)

        return Run()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("method", METHODS)
def test_the_loop_never_waits(on_gpu, method, batch, temperature):
    prompts = on_gpu.checkpoint.prompts
    branches = text_guidance(prompts.prompt(PROMPT), prompts.unconditional(), 2.0)
    generators = [torch.Generator("cuda").manual_seed(seed) for seed in range(batch)]
    reports = []
    try:
        finished = sample(
            on_gpu.checkpoint.base,
            branches,
            Canvas.empty(batch, 4, 4, "cuda"),
            WithoutWaiting(METHODS[method](on_gpu.head)),
            steps=8,
            rule=LuminaRule(temperature),
            noise=SeededNoise(generators),
            callback=reports.append,
        )
        assert torch.cuda.get_sync_debug_mode() == 2
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(reports) == 8 and not finished.masked.any()


@pytest.mark.parametrize("method", METHODS)
def test_the_likeliest_codes_are_those_of_the_cpu(on_gpu, pipeline, method):
    assert torch.equal(codes(on_gpu, method=method, temperature=0.0), codes(pipeline, method=method, temperature=0.0))


def test_pixels_are_those_of_the_cpu(on_gpu, pipeline):
    canvas = pipeline.generate(PROMPT, seed=3).canvas
    torch.testing.assert_close(on_gpu.decode(canvas.to("cuda")).cpu(), pipeline.decode(canvas), rtol=0, atol=5e-3)  # TF32 in convolutions, as PyTorch has it


def test_a_seed_repeats_itself(on_gpu):
    assert torch.equal(codes(on_gpu, seed=5), codes(on_gpu, seed=5))


@pytest.mark.parametrize("kind", QUANTISED)
def test_quantised_weights_are_those_of_the_cpu(small, tmp_path, kind):
    file = tmp_path / f"{kind}.safetensors"
    convert(small.folder, file, dtype=QUANTISED[kind])
    on_both = [Pipeline.load(file, small.head, dtype="fp32", device=device) for device in ("cuda", "cpu")]
    assert torch.equal(*(codes(pipeline, temperature=0.0) for pipeline in on_both))


@pytest.mark.parametrize("switches", [Switches(channels_last=True), Switches(tile=64), Switches(tf32=True)], ids=["channels-last", "tile", "tf32"])
def test_switches_sample_nearly_the_same(small, on_gpu, switches):
    switched = Pipeline.load(small.folder, small.head, dtype="fp32", device="cuda", switches=switches)
    canvas = on_gpu.generate(PROMPT, seed=3, width=128, height=128).canvas
    torch.testing.assert_close(switched.decode(canvas), on_gpu.decode(canvas), rtol=0, atol=5e-3)  # PyTorch lets convolutions use TF32 itself
    assert not switched.generate(PROMPT).canvas.masked.any()
    assert torch.get_float32_matmul_precision() == "highest"


def test_steps_are_timed_by_the_device(on_gpu):
    result = on_gpu.generate(PROMPT, steps=8, budget=3)
    assert [kind for kind, _ in result.step_seconds].count("full") == 3
    assert 0 < sum(seconds for _, seconds in result.step_seconds) <= result.seconds


def test_runs_give_their_memory_back(on_gpu):
    def stop(report):
        if report.step == 4:
            raise KeyboardInterrupt

    codes(on_gpu)
    before = torch.cuda.memory_allocated()
    codes(on_gpu)
    with pytest.raises(KeyboardInterrupt):
        on_gpu.generate(PROMPT, callback=stop)
    assert torch.cuda.memory_allocated() == before
