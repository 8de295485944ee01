"""A model whose blocks lie in main memory: the same results, two blocks on the device at a time, and nothing left behind."""

import pytest
import torch
import torch.nn.functional as F
from small_model import PROMPT
from torch import nn

from migm_core.modules.streaming import StreamedBlocks, fits, streamed_bytes
from migm_core.pipeline import Pipeline

WIDTH = 32


class Mixed(nn.Module):
    """A block with weights of several dtypes, a buffer, a parameter that is not there, and one without elements."""

    def __init__(self, width: int):
        super().__init__()
        self.linear = nn.Linear(width, width, dtype=torch.bfloat16)
        self.quantised = nn.Parameter(torch.randint(-127, 128, (width, width), dtype=torch.int8), requires_grad=False)
        self.narrow = nn.Parameter(torch.randn(width, 3).to(torch.float8_e4m3fn), requires_grad=False)
        self.register_buffer("scale", torch.rand(()))
        self.register_buffer("empty", torch.empty(0))
        self.register_parameter("absent", None)

    def forward(self, x):
        mixed = x @ (self.quantised.float() * self.scale) + self.linear(x.bfloat16()).float()
        return torch.tanh(mixed + self.narrow.float().sum(1))


class Toy(nn.Module):
    def __init__(self, blocks: int):
        super().__init__()
        self.embedding = nn.Embedding(39, WIDTH)
        self.position = nn.Parameter(torch.randn(WIDTH))
        self.blocks = nn.ModuleList(Mixed(WIDTH) for _ in range(blocks))

    def forward(self, tokens):
        x = self.embedding(tokens) + self.position
        for block in self.blocks:
            x = block(x)
        # With this sliced table torch multiplies otherwise, to other last digits, where the table requires a gradient.
        return F.linear(x[:, :3], self.embedding.weight[:WIDTH])


def toy(blocks: int = 5, device="cpu") -> tuple[Toy, torch.Tensor]:
    torch.manual_seed(0)
    return Toy(blocks), torch.arange(34, device=device).view(2, 17)


def state(module):
    """Everything that could tell that a module was streamed."""
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    hooks = [len(part._forward_hooks) + len(part._forward_pre_hooks) for part in module.modules()]
    return {name: (id(tensor), tensor.dtype, tensor.device, tensor.requires_grad, tensor.is_inference()) for name, tensor in tensors.items()}, hooks


@pytest.mark.parametrize("grad", [torch.enable_grad, torch.no_grad, torch.inference_mode], ids=lambda mode: mode.__name__)
@pytest.mark.parametrize("blocks", [1, 2, 3, 5])
def test_results_are_the_same_bit_for_bit(blocks, grad):
    module, tokens = toy(blocks)
    before, values = state(module), {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with grad():
        expected = module(tokens)
    with grad(), StreamedBlocks(module, "cpu") as streamed:
        for _ in range(3):
            assert torch.equal(module(tokens), expected)
        assert streamed.copies == (blocks if blocks <= 2 else 3 * blocks + 1)  # the last one is for a pass that may follow
    assert state(module) == before
    assert all(torch.equal(tensor.float(), values[name].float()) for name, tensor in module.state_dict().items())
    with grad():
        assert torch.equal(module(tokens), expected)


@torch.no_grad()
def test_two_blocks_at_a_time_are_on_the_device():
    module, tokens = toy(5)
    seen = []

    def look(block, _):
        index = list(module.blocks).index(block)
        device = [range(slot.buffer.data_ptr(), slot.buffer.data_ptr() + slot.buffer.nbytes) for slot in streamed._slots]
        there = [i for i, other in enumerate(module.blocks) if any(other.linear.weight.data_ptr() in room for room in device)]
        seen.append((index, there, streamed.resident))

    for block in module.blocks:
        block.register_forward_pre_hook(look)
    with StreamedBlocks(module, "cpu") as streamed:
        assert len(streamed._slots) == 2 and not streamed.resident
        module(tokens)
    assert seen == [(i, [i], sorted([i, (i + 1) % 5])) for i in range(5)]
    assert not streamed.resident


@torch.no_grad()
def test_a_pass_that_fails_leaves_the_next_one_right():
    module, tokens = toy(5)
    expected, before = module(tokens), state(module)
    with StreamedBlocks(module, "cpu"):
        bad = module.blocks[3].register_forward_pre_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            module(tokens)
        bad.remove()
        assert all(block.linear.weight.data_ptr() != 0 for block in module.blocks)
        assert torch.equal(module(tokens), expected)
        assert torch.equal(module.blocks[3](module.blocks[0](expected)), module.blocks[3](module.blocks[0](expected)))
    assert state(module) == before


@torch.no_grad()
def test_blocks_may_be_called_in_any_order():
    module, tokens = toy(5)
    x = module(tokens)
    expected = module.blocks[4](module.blocks[1](module.blocks[1](x)))
    with StreamedBlocks(module, "cpu"):
        assert torch.equal(module.blocks[4](module.blocks[1](module.blocks[1](x))), expected)


def test_close_may_be_called_twice_and_gives_the_buffers_back():
    module, tokens = toy(5)
    streamed = StreamedBlocks(module, "cpu")
    module(tokens)
    assert module.blocks[0].linear.weight.untyped_storage().nbytes() > module.blocks[0].linear.weight.nbytes
    streamed.close()
    streamed.close()
    assert all(tensor.untyped_storage().nbytes() == tensor.nbytes for tensor in module.state_dict().values())
    assert module(tokens).requires_grad


def test_what_cannot_be_streamed_is_refused():
    module, _ = toy(2)
    before = state(module)
    module.blocks[1].compile()
    with pytest.raises(ValueError, match="Compiled blocks cannot be streamed"):
        StreamedBlocks(module, "cpu")
    assert state(module) == before
    with pytest.raises(ValueError, match="this one has weights on meta"):
        StreamedBlocks(toy(2)[0].to("meta"), "cpu")


def test_a_device_that_fails_leaves_the_model_as_it_was(monkeypatch):
    module, tokens = toy(3)
    expected, before = module(tokens), state(module)
    monkeypatch.setattr("migm_core.modules.streaming._Slot", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        StreamedBlocks(module, "cpu")
    assert state(module) == before and torch.equal(module(tokens), expected)


def test_bytes_on_the_device():
    module, _ = toy(5)
    tensors = (*module.blocks[0].parameters(), *module.blocks[0].buffers())
    block = sum(-(-tensor.nbytes // 256) * 256 for tensor in tensors)  # each begins at a multiple of 256 bytes
    assert streamed_bytes(module) == 2 * block + module.embedding.weight.nbytes + module.position.nbytes
    with StreamedBlocks(module, "cpu") as streamed:
        assert sum(slot.buffer.nbytes for slot in streamed._slots) == 2 * block


def test_a_model_fits_where_its_weights_and_the_run_have_room(monkeypatch):
    module, _ = toy(5)
    weights = sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (weights + 2**29 + 1000, 2**40))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 500)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 100)
    assert fits(module, "cuda", 1400) and not fits(module, "cuda", 1401)
    assert fits(module, "cpu", 2**60)


@pytest.mark.parametrize("method", ["vanilla", "shortcut", "ml-cache"])
def test_every_method_gives_the_same_codes(small, method):
    pipeline = Pipeline.load(small.folder, small.head, dtype="fp32", device="cpu")
    expected = pipeline.generate(PROMPT, method=method, seed=3).canvas.codes
    with StreamedBlocks(pipeline.checkpoint.base, "cpu") as streamed:
        assert torch.equal(pipeline.generate(PROMPT, method=method, seed=3).canvas.codes, expected)
        assert streamed.copies


cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")


@cuda
@pytest.mark.parametrize("blocks", [1, 2, 3, 7])
@torch.no_grad()
def test_on_a_gpu_results_are_those_of_the_whole_model_there(blocks):
    module, tokens = toy(blocks, "cuda")
    before = state(module)
    expected = toy(blocks)[0].cuda()(tokens)
    with StreamedBlocks(module, "cuda") as streamed:
        torch.cuda.set_sync_debug_mode("error")
        try:
            results = [module(tokens) for _ in range(5)]  # queued at once: copies must wait for the blocks that are still read
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert all(torch.equal(result, expected) for result in results)
        assert all(block.home.is_pinned() for block in streamed._blocks)
        assert module.position.is_cuda and not module.blocks[0].linear.weight.is_cuda
    assert state(module) == before


@cuda
@torch.no_grad()
def test_on_a_gpu_a_slow_block_is_not_overwritten_while_it_is_read():
    torch.manual_seed(0)
    module = nn.Module()
    module.blocks = nn.ModuleList(nn.Linear(2048, 2048, bias=False) for _ in range(6))
    x = torch.randn(4096, 2048, device="cuda")

    def run():
        y = x
        for block in module.blocks:
            y = torch.tanh(block(y))
        return y

    with StreamedBlocks(module, "cuda"):
        streamed = [run() for _ in range(4)]
    module.cuda()
    assert all(torch.equal(result, run()) for result in streamed)


@cuda
@pytest.mark.parametrize("method", ["vanilla", "shortcut", "ml-cache"])
def test_on_a_gpu_every_method_gives_the_same_codes_and_the_memory_comes_back(small, method):
    settings = {"method": method, "seed": 3}
    expected = Pipeline.load(small.folder, small.head, dtype="fp32", device="cuda").generate(PROMPT, **settings).canvas.codes
    pipeline = Pipeline.load(small.folder, small.head, dtype="fp32", device="cuda")
    base = pipeline.checkpoint.base.cpu()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    with StreamedBlocks(base, "cuda") as streamed:
        assert torch.equal(pipeline.generate(PROMPT, **settings).canvas.codes, expected)
        assert len(streamed.resident) <= 2
        assert torch.cuda.memory_allocated() - before <= streamed_bytes(base) + 2**20
    del expected
    assert torch.cuda.memory_allocated() <= before
