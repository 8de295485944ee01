"""Inside the sampling loop nothing waits for the device: no question to a tensor's values, no copy from or to the host.

There are two watches, since neither sees everything. On the CPU every operation is looked at as it is dispatched. On the meta
device, whose tensors hold no values, whatever needs one fails by itself: also what reads memory past the dispatcher.
"""

from contextlib import contextmanager

import pytest
import torch
from small_model import CODES, PROMPT, ShapesOfNoise, small_config
from torch.utils._python_dispatch import TorchDispatchMode

from migm_core.canvas import Canvas
from migm_core.families.lumina_dimoo.backbone import Lumina
from migm_core.families.lumina_dimoo.head import ShortcutConfig, ShortcutHead
from migm_core.families.lumina_dimoo.rule import LuminaRule
from migm_core.families.lumina_dimoo.tasks import text_guidance
from migm_core.sampling import loop
from migm_core.sampling.loop import sample
from migm_core.sampling.methods import MLCache, Shortcut, Vanilla
from migm_core.sampling.noise import SeededNoise

STEPS = 8
METHODS = {
    "vanilla": lambda head: Vanilla(),
    "shortcut": lambda head: Shortcut(head, 3),
    "ml-cache": lambda head: MLCache(),
    "probed shortcut": lambda head: Shortcut(head, 3, probe=True),
}

# Operations whose result, or its shape, is a question to the values of a tensor. torch.tensor lifts what it has copied to the device.
WAITS = {"_local_scalar_dense", "item", "is_nonzero", "nonzero", "nonzero_numpy", "argwhere", "masked_select", "equal", "allclose"}
WAITS |= {"unique_dim", "unique_consecutive", "_unique", "_unique2", "bincount", "histc", "lift_fresh", "lift_fresh_copy"}
OVERLOADS = {"aten.where.default", "aten.repeat_interleave.Tensor", "aten.repeat_interleave.self_Tensor"}
INDEXES = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}


class Waited(Exception):
    pass


class Watch(TorchDispatchMode):
    """Raises at what would make a GPU's stream wait, from ``begin`` on."""

    on = False

    def begin(self) -> None:
        self.on = True

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if self.on:
            name = func.overloadpacket.__name__
            if name in WAITS or str(func) in OVERLOADS:
                raise Waited(f"{func} needs values on the host")
            if name in INDEXES and any(isinstance(t, torch.Tensor) and t.dtype in (torch.bool, torch.uint8) for t in args[1]):
                raise Waited(f"{func} with a mask: the size of its result is known to the device alone")
        result = func(*args, **(kwargs or {}))
        if self.on and name in ("_to_copy", "copy_", "to"):
            tensors = [t for t in (*args, result) if isinstance(t, torch.Tensor)]
            if len({t.device.type for t in tensors}) > 1:
                raise Waited(f"{func} copies between {' and '.join(t.device.type for t in tensors)}")
        return result


class FromTheLoop:
    """A method that turns the watch on when the loop asks it for the first features."""

    def __init__(self, method, watch):
        self.method, self.watch, self.kinds = method, watch, method.kinds

    def start(self, *args):
        run, watch = self.method.start(*args), self.watch

        class Run:
            def features(self, step):
                watch.begin()
                return run.features(step)

        return Run()


@contextmanager
def watched(device: str = "cpu"):
    """The watch; on the meta device, a value that is asked for counts as waiting, too."""
    try:
        with Watch() as watch:
            yield watch
    except (RuntimeError, NotImplementedError, TypeError) as error:
        if device != "meta":
            raise
        raise Waited(str(error)) from error


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("guidance_scale", [0.0, 2.0])
@pytest.mark.parametrize("method", METHODS)
def test_the_loop_asks_no_tensor_for_its_values(pipeline, method, guidance_scale, temperature, batch):
    prompts = pipeline.checkpoint.prompts
    branches = text_guidance(prompts.prompt(PROMPT), prompts.unconditional(), guidance_scale)
    generators = [torch.Generator().manual_seed(seed) for seed in range(batch)]
    reports = []
    with watched() as watch:
        finished = sample(
            pipeline.checkpoint.base,
            branches,
            Canvas.empty(batch, 4, 4),
            FromTheLoop(METHODS[method](pipeline.head), watch),
            steps=STEPS,
            rule=LuminaRule(temperature),
            noise=SeededNoise(generators),
            callback=reports.append,
        )
    assert watch.on and len(reports) == STEPS and not finished.masked.any()


def test_skipped_steps_ask_for_nothing_either(pipeline):
    reports = []
    prompt = pipeline.checkpoint.prompts.prompt(PROMPT)
    with watched() as watch:
        sample(
            pipeline.checkpoint.base,
            text_guidance(prompt, prompt, 0.0),
            Canvas.empty(1, 2, 2),
            FromTheLoop(Vanilla(), watch),
            steps=STEPS,
            rule=LuminaRule(1.0),
            noise=SeededNoise([torch.Generator().manual_seed(0)]),
            callback=reports.append,
        )
    assert watch.on and [report.kind for report in reports].count("skipped") == 4


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("guidance_scale", [0.0, 2.0])
@pytest.mark.parametrize("method", METHODS)
def test_the_loop_runs_where_tensors_have_no_values(monkeypatch, method, guidance_scale, temperature):
    config = small_config()
    head = ShortcutHead(ShortcutConfig(config.d_model, config.n_heads, config.mlp_hidden_size), device="meta")
    prompt = torch.arange(6, device="meta")
    canvas = Canvas.empty(2, 4, 4, device="meta")
    # What the loop asks before it starts.
    monkeypatch.setattr(loop, "masked_positions", lambda canvas: (torch.zeros(2, 16, dtype=torch.int64, device="meta"), 16))
    reports = []
    with watched("meta") as watch:
        finished = sample(
            Lumina(config, device="meta"),
            text_guidance(prompt, prompt[:4], guidance_scale),
            canvas,
            FromTheLoop(METHODS[method](head), watch),
            steps=STEPS,
            rule=LuminaRule(temperature),
            noise=ShapesOfNoise(),
            callback=reports.append,
        )
    assert watch.on and len(reports) == STEPS
    assert finished.codes.device.type == "meta" and finished.shape == (2, 4, 4)


VALUES = {
    "item": lambda t: t.sum().item(),
    "int": lambda t: int(t.sum()),
    "if": lambda t: bool((t > 0).any()),
    "nonzero": lambda t: t.nonzero(),
    "where": lambda t: torch.where(t > 0),
    "mask": lambda t: t[t > 0],
    "masked_select": lambda t: t.masked_select(t > 0),
    "equal": lambda t: torch.equal(t, t),
    "unique": lambda t: t.unique(),
    "repeats": lambda t: torch.repeat_interleave(t, (t > 0).long()),
}
FROM_THE_HOST = {"from the host": lambda t: torch.tensor([1.0, 2.0], device=t.device)}
MEMORY = {"list": lambda t: t.tolist(), "numpy": lambda t: t.numpy(), "to the host": lambda t: t.cpu()}


@pytest.mark.parametrize("question", VALUES | FROM_THE_HOST)
def test_the_watch_on_the_cpu_sees_questions(question):
    values = torch.ones(2)
    with torch.inference_mode(), pytest.raises(Waited), watched() as watch:
        watch.begin()
        (VALUES | FROM_THE_HOST)[question](values)


@pytest.mark.parametrize("question", VALUES | MEMORY)
def test_the_watch_on_the_meta_device_sees_questions_and_copies(question):
    values = torch.empty(2, device="meta")
    with torch.inference_mode(), pytest.raises(Waited), watched("meta") as watch:
        watch.begin()
        (VALUES | MEMORY)[question](values)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_the_watch_lets_the_harmless_pass(device):
    values = torch.zeros(4, CODES, device=device)
    with torch.inference_mode(), watched(device) as watch:
        watch.begin()
        values.argmax(1), values.sort(1), values.topk(2), values[:, 1:3], values[values.argmax(1)], values.gather(1, values.argmax(1, True))
        torch.zeros_like(values), torch.arange(3, device=device), values.to(torch.float64), values.repeat_interleave(2, dim=0)
