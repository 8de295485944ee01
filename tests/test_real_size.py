"""The memory of a run at the published sizes, on a device whose tensors have shapes but no numbers: nothing is too large to be made."""

import pytest
import torch
from live_memory import LiveMemory
from real_size import HEAD_STEP, LAYER, OUTPUT, multiply_adds, parts_of_a_step
from small_model import small_config

from migm_core.canvas import Canvas
from migm_core.config import LuminaConfig
from migm_core.models.lumina import Lumina
from migm_core.models.shortcut import ShortcutConfig, ShortcutHead
from migm_core.sampling import sampler
from migm_core.sampling.memory import run_bytes
from migm_core.sampling.methods import MLCache, Shortcut, Vanilla
from migm_core.sampling.sampler import sample
from migm_core.sampling.sequence import text_guidance

PUBLISHED = LuminaConfig(n_layers=2)
PROMPTS = 60, 15  # tokens of the prompt and of the unconditional one
METHODS = {"vanilla": lambda head: Vanilla(), "shortcut": lambda head: Shortcut(head, 2), "ml-cache": lambda head: MLCache(warmup=0.0, interval=2)}
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


@pytest.fixture
def drawn(monkeypatch):
    """A run of three steps, counted: of the shortcut's, the first and the last are full."""

    # What needs numbers: the canvas's unknown cells, and generators, which this device does not have.
    cells, noise = sampler.unknown_cells, sampler.gumbel_noise

    def unknown_cells(canvas):
        batch, height, width = canvas.shape
        return (torch.zeros(batch, height * width, dtype=torch.int64, device="meta"), height * width) if canvas.codes.is_meta else cells(canvas)

    def gumbel_noise(batch, count, size, generators):
        if generators:
            return noise(batch, count, size, generators)
        return torch.empty(batch, count, size, device="meta"), torch.empty(batch, count, device="meta")

    monkeypatch.setattr(sampler, "unknown_cells", unknown_cells)
    monkeypatch.setattr(sampler, "gumbel_noise", gumbel_noise)

    def draw(method, *, config=PUBLISHED, dtype=torch.bfloat16, height=64, width=64, batch=1) -> LiveMemory:
        base = Lumina(config, device="meta", dtype=dtype)
        head = ShortcutHead(ShortcutConfig(config.d_model, config.n_heads, config.mlp_hidden_size), device="meta", dtype=dtype)
        return run(base, head, method, Canvas.empty(batch, height, width, device="meta"))

    return draw


def run(base, head, method, canvas) -> LiveMemory:
    prompt = torch.ones(PROMPTS[0], dtype=torch.int64, device=canvas.codes.device)
    branches = text_guidance(prompt, prompt[: PROMPTS[1]], 4.0)
    generators = [] if canvas.codes.is_meta else [torch.Generator() for _ in range(canvas.shape[0])]
    with LiveMemory() as memory:
        sample(base, branches, canvas, METHODS[method](head), steps=3, temperature=1.0, generators=generators)
    return memory


def sequence_lengths(height: int, width: int) -> list[int]:
    return [prompt + 4 + height * (width + 1) for prompt in PROMPTS]


@pytest.mark.parametrize("method", ["vanilla", "shortcut"])
@pytest.mark.parametrize(("dtype", "gigabytes"), [("bf16", 0.75), ("fp32", 1.5)])
def test_a_run_at_1024x1024_needs_half_of_what_it_may(drawn, method, dtype, gigabytes):
    assert drawn(method, dtype=DTYPES[dtype]).peak < gigabytes * 1e9


@pytest.mark.parametrize("method", METHODS)
def test_no_tensor_has_the_size_of_the_vocabulary_or_of_all_pairs_of_positions(drawn, method):
    shapes = drawn(method).shapes
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
def test_layers_add_nothing(drawn, method):
    assert drawn(method, config=LuminaConfig(n_layers=4)).peak == drawn(method).peak


@pytest.mark.parametrize("method", METHODS)
def test_a_run_leaves_nothing_behind(drawn, method):
    memory = drawn(method)
    assert memory.peak > 0 and memory.live == 0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [{}, {"height": 128, "width": 32}, {"height": 32, "width": 32, "batch": 3}])
def test_the_estimate_for_a_host_covers_the_run_and_little_more(drawn, method, dtype, size):
    peak = drawn(method, dtype=DTYPES[dtype], **size).peak
    height, width, batch = ({"height": 64, "width": 64, "batch": 1} | size).values()
    lengths = [batch * length for length in sequence_lengths(height, width)]
    assert peak <= run_bytes(PUBLISHED, DTYPES[dtype], lengths, batch * height * width, method) <= 1.2 * peak


@pytest.mark.parametrize("method", METHODS)
def test_the_count_without_numbers_is_the_count_on_the_cpu(pipeline, drawn, method):
    base, head = pipeline.checkpoint.base, pipeline.head
    counted = drawn(method, config=small_config(), dtype=torch.float32, height=16, width=16)
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
