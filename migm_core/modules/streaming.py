"""Run a model whose weights have no room on the device: its blocks stay in main memory and pass through the device one by one.

    with StreamedBlocks(backbone, "cuda"):
        features = backbone.features(...)

Before a block's forward its weights are copied to the device, while the block before it still computes; afterwards their room goes
to the next but one. So the device holds two blocks at a time, beside everything of the model that is not in ``blocks``. Each pass
moves every block over the bus once: 14 GB of blocks in 16 bits take about 0.6 s at 25 GB/s (PCIe 4.0 x16), however few tokens are
computed. Results are bit for bit those of the model on the device.

torch has no such utility without a process group (FSDP's CPU offload needs one), and hosts bring their own.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

ALIGNMENT = 256  # bytes between the starts of tensors in a buffer, as torch's own allocator keeps on CUDA
RESERVE = 512 * 2**20  # bytes that are left to kernels and libraries


def fits(module: nn.Module, device: torch.device | str, needed_bytes: int = 0) -> bool:
    """Whether a model fits on a device as a whole, beside what a run needs there.

    Args:
        needed_bytes: of a run beside the weights.

    Returns:
        True for any device but CUDA, whose free memory torch does not tell.
    """
    device = torch.device(device)
    if device.type != "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # what torch holds for later counts as free
    weights = sum(tensor.nbytes for _, _, tensor in _tensors(module) if tensor.device.type != "cuda")
    return weights + needed_bytes + RESERVE <= free


def streamed_bytes(module: nn.Module) -> int:
    """Bytes of weights that a streamed model keeps on the device: two of its largest blocks and all that is not in blocks."""
    blocks = [_Layout.of(block).bytes for block in module.blocks]
    inside = {id(tensor) for _, _, tensor in _tensors(module.blocks)}
    return 2 * max(blocks) + sum(tensor.nbytes for _, _, tensor in _tensors(module) if id(tensor) not in inside)


class StreamedBlocks:
    """A model that computes on a device while its blocks lie in main memory, until ``close`` or the end of a ``with``.

    Then the model is in main memory as before, with the same parameter objects. In between, its blocks' weights must not be changed.

    Args:
        module: a model on the CPU, with its blocks in ``blocks``, an nn.ModuleList, called in order. Parameters and buffers may be
            of any dtype; their values move into one buffer a block, so they take main memory once, even where a file was mapped.
        device: where it computes. On CUDA copies run beside the computation, from page-locked memory as far as the system grants it.

    Attributes:
        copies: blocks copied to the device so far.

    Raises:
        ValueError: the weights are not on the CPU, or a block is compiled: its graph holds their addresses.
    """

    def __init__(self, module: nn.Module, device: torch.device | str):
        if any(block._compiled_call_impl is not None for block in module.blocks):
            raise ValueError("Compiled blocks cannot be streamed. Load the model without torch.compile, or choose a device with room for all of it.")
        elsewhere = next((tensor.device for _, _, tensor in _tensors(module) if tensor.device.type != "cpu"), None)
        if elsewhere:
            raise ValueError(f"Only a model in main memory can be streamed, but this one has weights on {elsewhere}. Load it with device cpu.")
        self.device = torch.device(device)
        self.copies = 0
        self._blocks = [_Block(block, _Layout.of(block)) for block in module.blocks]
        inside = {id(tensor) for _, _, tensor in _tensors(module.blocks)}
        self._rest = [(table, name, tensor) for table, name, tensor in _tensors(module) if id(tensor) not in inside]
        self._hooks = []
        self._slots = []
        self._side = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        try:
            with torch.inference_mode(False):  # parameters that outlive the streaming are no inference tensors
                self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        for block in self._blocks:
            block.gather(page_locked=self._side is not None)
        size = max(block.layout.bytes for block in self._blocks)
        self._slots = [_Slot(torch.empty(size, dtype=torch.uint8, device=self.device), self._side) for _ in range(2)]
        for table, name, tensor in self._rest:
            table[name] = _like(tensor, tensor.detach().to(self.device))
        for index, block in enumerate(self._blocks):
            # First before the block and last after it: other hooks see weights where the inputs are.
            self._hooks.append(block.module.register_forward_pre_hook(lambda *_, index=index: self._enter(index), prepend=True))
            self._hooks.append(block.module.register_forward_hook(lambda *_, index=index: self._leave(index), always_call=True))

    def __enter__(self) -> "StreamedBlocks":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    @property
    def resident(self) -> list[int]:
        """Indices of the blocks whose weights are on the device, or on their way there."""
        return sorted(slot.holds for slot in self._slots if slot.holds is not None)

    def close(self) -> None:
        """Give the device's memory back. A second call does nothing."""
        for hook in self._hooks:
            hook.remove()
        if self._side is not None:
            self._side.synchronize()  # copies on their way read the memory that is let go here
        for table, name, tensor in self._rest:
            table[name] = tensor
        with torch.inference_mode(False):
            for block in self._blocks:
                block.scatter()
        if self._side is not None and hasattr(torch.accelerator, "empty_host_cache"):  # torch 2.9; earlier versions keep the memory for later
            torch.accelerator.empty_host_cache()
        self._hooks, self._rest, self._blocks, self._slots, self._side = [], [], [], [], None

    def _enter(self, index: int) -> None:
        slot = next((slot for slot in self._slots if slot.holds == index), None) or self._load(index, self._slots[0])
        slot.wait_until_filled()
        self._blocks[index].show(slot.buffer)
        following = (index + 1) % len(self._blocks)
        if following not in self.resident:
            self._load(following, next(other for other in self._slots if other is not slot))

    def _leave(self, index: int) -> None:
        self._blocks[index].show_home()
        for slot in self._slots:
            if slot.holds == index:
                slot.mark_read()

    def _load(self, index: int, slot: "_Slot") -> "_Slot":
        slot.fill(index, self._blocks[index].home)
        self.copies += 1
        return slot


class _Slot:
    """Room for one block on the device. Its copies run on a stream of their own, where there is one."""

    def __init__(self, buffer: Tensor, side: "torch.cuda.Stream | None"):
        self.buffer, self.holds, self._side = buffer, None, side
        if side is not None:
            self._filled, self._read = torch.cuda.Event(), torch.cuda.Event()
            self.mark_read()

    def fill(self, index: int, source: Tensor) -> None:
        self.holds = index
        if self._side is None:
            self.buffer[: len(source)].copy_(source)
            return
        self._side.wait_event(self._read)
        with torch.cuda.stream(self._side):
            self.buffer[: len(source)].copy_(source, non_blocking=True)
            self._filled.record()

    def wait_until_filled(self) -> None:
        if self._side is not None:
            torch.cuda.current_stream(self.buffer.device).wait_event(self._filled)

    def mark_read(self) -> None:
        """The block's kernels are all queued: a later copy waits for them."""
        if self._side is not None:
            self._read.record(torch.cuda.current_stream(self.buffer.device))


@dataclass(frozen=True)
class _Layout:
    """Where a block's tensors lie in one buffer of ``bytes`` bytes: for each its table and name in the module, itself, and its start."""

    places: list[tuple[dict, str, Tensor, int]]
    bytes: int

    @classmethod
    def of(cls, block: nn.Module) -> "_Layout":
        places, end = [], 0
        for table, name, tensor in _tensors(block):
            places.append((table, name, tensor, end))
            end += -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT
        return cls(places, end)


@dataclass
class _Block:
    """A block, and all its weights in one buffer of main memory, so that one copy moves them."""

    module: nn.Module
    layout: _Layout
    home: Tensor | None = None

    def gather(self, page_locked: bool) -> None:
        """Move the weights into one buffer."""
        home = _empty(self.layout.bytes, page_locked)
        for _, _, tensor, start in self.layout.places:
            view = _view(home, tensor, start)
            view.copy_(tensor.detach())
            tensor.data = view
        self.home = home

    def scatter(self) -> None:
        """Give each weight memory of its own again."""
        self.show_home()
        if self.home is not None:
            for _, _, tensor, _ in self.layout.places:
                tensor.data = tensor.detach().clone()
            self.home = None

    def show(self, buffer: Tensor) -> None:
        """Let the module compute with the weights that a buffer holds."""
        for table, name, tensor, start in self.layout.places:
            table[name] = _like(tensor, _view(buffer, tensor, start))

    def show_home(self) -> None:
        for table, name, tensor, _ in self.layout.places:
            table[name] = tensor


def _empty(size: int, page_locked: bool) -> Tensor:
    if page_locked:
        try:
            return torch.empty(size, dtype=torch.uint8, pin_memory=True)
        except RuntimeError:  # the system grants no more; from other memory copies are slower, and right
            pass
    return torch.empty(size, dtype=torch.uint8)


def _view(buffer: Tensor, tensor: Tensor, start: int) -> Tensor:
    """The part of a buffer that stands for a tensor."""
    return buffer[start : start + tensor.nbytes].view(tensor.dtype).view(tensor.shape)


def _like(tensor: Tensor, values: Tensor) -> Tensor:
    """Values as a parameter, where the tensor is one; with its requires_grad, by which torch chooses among products that round otherwise."""
    return nn.Parameter(values, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else values


def _tensors(module: nn.Module) -> Iterator[tuple[dict, str, Tensor]]:
    """Every parameter and buffer, with the table and the name by which its module has it."""
    for owner in module.modules():
        for table in (owner._parameters, owner._buffers):
            for name, tensor in table.items():
                if tensor is not None:
                    yield table, name, tensor
