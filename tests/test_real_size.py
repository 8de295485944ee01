"""The memory of a run at the published sizes, on a device whose tensors have shapes but no numbers: nothing is too large to be made."""

import pytest
import torch
from live_memory import LiveMemory
from real_size import HEAD_STEP, LAYER, OUTPUT, multiply_adds, parts_of_a_step
from small_model import ShapesOfNoise, small_config

from migm_core.canvas import Canvas
from migm_core.families.lumina_dimoo.backbone import Lumina
from migm_core.families.lumina_dimoo.config import LuminaConfig
from migm_core.families.lumina_dimoo.head import ShortcutConfig, ShortcutHead
from migm_core.families.lumina_dimoo.rule import LuminaRule
from migm_core.families.lumina_dimoo.tasks import text_guidance
from migm_core.sampling import loop
from migm_core.sampling.loop import sample
from migm_core.sampling.memory import run_bytes
from migm_core.sampling.methods import MLCache, Shortcut, Vanilla
from migm_core.sampling.noise import SeededNoise

PUBLISHED = LuminaConfig(n_layers=2)
PROMPTS = 60, 15  # tokens of the prompt and of the unconditional one
METHODS = {
    "vanilla": lambda head: Vanilla(),
    "shortcut": lambda head: Shortcut(head, 2),
    "ml-cache": lambda head: MLCache(warmup=0.0, interval=2),
    "probed shortcut": lambda head: Shortcut(head, 2, probe=True),
}
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


@pytest.fixture
def measured(monkeypatch):
    """A run of three steps, counted: of the shortcut's, the first and the last are full."""

    known = loop.masked_positions

    def masked_positions(canvas):  # which needs numbers
        batch, height, width = canvas.shape
        return (torch.zeros(batch, height * width, dtype=torch.int64, device="meta"), height * width) if canvas.codes.is_meta else known(canvas)

    monkeypatch.setattr(loop, "masked_positions", masked_positions)

    def memory_of(method, *, config=PUBLISHED, dtype=torch.bfloat16, height=64, width=64, batch=1) -> LiveMemory:
        base = Lumina(config, device="meta", dtype=dtype)
        head = ShortcutHead(ShortcutConfig(config.d_model, config.n_heads, config.mlp_hidden_size), device="meta", dtype=dtype)
        return run(base, head, method, Canvas.empty(batch, height, width, device="meta"))

    return memory_of


def run(base, head, method, canvas) -> LiveMemory:
    prompt = torch.ones(PROMPTS[0], dtype=torch.int64, device=canvas.codes.device)
    branches = text_guidance(prompt, prompt[: PROMPTS[1]], 4.0)
    noise = ShapesOfNoise() if canvas.codes.is_meta else SeededNoise([torch.Generator() for _ in range(canvas.shape[0])])
    with LiveMemory() as memory:
        sample(base, branches, canvas, METHODS[method](head), steps=3, rule=LuminaRule(1.0), noise=noise)
    return memory


def sequence_lengths(height: int, width: int) -> list[int]:
    return [prompt + 4 + height * (width + 1) for prompt in PROMPTS]


@pytest.mark.parametrize("method", ["vanilla", "shortcut"])
@pytest.mark.parametrize(("dtype", "gigabytes"), [("bf16", 0.75), ("fp32", 1.5)])
def test_a_run_at_1024x1024_needs_half_of_what_it_may(measured, method, dtype, gigabytes):
    assert measured(method, dtype=DTYPES[dtype]).peak < gigabytes * 1e9


@pytest.mark.parametrize("method", METHODS)
def test_no_tensor_has_the_size_of_the_vocabulary_or_of_all_pairs_of_positions(measured, method):
    shapes = measured(method).shapes
    assert any(PUBLISHED.tokens.codebook_size in shape for shape in shapes)
    assert not [shape for shape in shapes if PUBLISHED.vocab_size in shape]
    for length in sequence_lengths(64, 64):
        assert not [shape for shape in shapes if shape.count(length) > 1]


@pytest.mark.parametrize("method", METHODS)
def test_attention_on_the_cpu_makes_no_tensor_of_all_pairs_of_positions(pipeline, method):
    memory = run(pipeline.checkpoint.base, pipeline.head, method, Canvas.empty(1, 8, 12))
    assert any("attention" in operation for operation in memory.operations)
    for length in sequence_lengths(8, 12):
        assert [shape for shape in memory.shapes if length in shape]
        assert not [shape for shape in memory.shapes if shape.count(length) > 1]


@pytest.mark.parametrize("method", ["vanilla", "shortcut"])
def test_layers_add_nothing(measured, method):
    assert measured(method, config=LuminaConfig(n_layers=4)).peak == measured(method).peak


@pytest.mark.parametrize("method", METHODS)
def test_a_run_leaves_nothing_behind(measured, method):
    memory = measured(method)
    assert memory.peak > 0 and memory.live == 0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [{}, {"height": 128, "width": 32}, {"height": 32, "width": 32, "batch": 3}])
def test_the_estimate_for_a_host_covers_the_run_and_little_more(measured, method, dtype, size):
    peak = measured(method, dtype=DTYPES[dtype], **size).peak
    height, width, batch = ({"height": 64, "width": 64, "batch": 1} | size).values()
    lengths = [batch * length for length in sequence_lengths(height, width)]
    assert peak <= run_bytes(PUBLISHED, DTYPES[dtype], lengths, batch * height * width, METHODS[method](None)) <= 1.2 * peak


@pytest.mark.parametrize("method", METHODS)
def test_the_count_without_numbers_is_the_count_on_the_cpu(pipeline, measured, method):
    base, head = pipeline.checkpoint.base, pipeline.head
    counted = measured(method, config=small_config(), dtype=torch.float32, height=16, width=16)
    assert run(base, head, method, Canvas.empty(1, 16, 16)).peak == pytest.approx(counted.peak, rel=0.05)


def test_a_shortcut_step_is_a_fortieth_of_a_full_one():
    """Counted as they run, beside the sums from the sizes."""
    base = Lumina(PUBLISHED, device="meta")
    head = ShortcutHead(ShortcutConfig(4096, 32, 12288), device="meta")
    length, prompt = sequence_lengths(64, 64)[0], PROMPTS[0]
    parts = parts_of_a_step(base, head, length, prompt, torch.device("meta"))
    counts = {name: multiply_adds(parts[name]) for name in (LAYER, OUTPUT, HEAD_STEP)}
    new, width, hidden = prompt + 64, 4096, 12288
    assert counts[LAYER] == length * (4 * width**2 + 3 * width * hidden) + 2 * length**2 * width
    assert counts[OUTPUT] == 4096 * width * 8192
    block = length * 3 * (width // 2) * hidden  # its MLP, as wide as the base's
    attention = [2 * (length + keys) * (width // 2) ** 2 + 2 * length * keys * (width // 2) for keys in (new, length)]
    assert counts[HEAD_STEP] == (2 * length + new) * width * (width // 2) + 2 * block + sum(attention)
    assert counts[HEAD_STEP] / (32 * counts[LAYER]) == pytest.approx(1 / 40, rel=0.05)


def test_the_count_knows_what_is_alive():
    weights = torch.zeros(1000)
    with LiveMemory() as memory:
        a = torch.zeros(100)
        view = a.view(10, 10)
        b = weights[10:] + 1
        assert memory.live == 400 + 990 * 4
        del a
        assert memory.live == 400 + 990 * 4
        del b, view
        assert memory.live == 0
        weights.add_(1)
    assert memory.peak == 400 + 990 * 4 and memory.largest.bytes == 990 * 4 and memory.largest.operation == "add.Tensor"
    assert sorted(made.bytes for made in memory.at_peak) == [400, 990 * 4]
