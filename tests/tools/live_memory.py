"""What is alive, tensor by tensor, while a model runs: counted as operations make tensors and as the last view of each dies."""

import sys
import weakref
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

PACKAGE = str(Path(__file__).resolve().parents[2] / "migm_core")


@dataclass(frozen=True)
class Made:
    """One piece of memory.

    Attributes:
        shape, dtype: of the tensor that it was made for.
        bytes: of the whole piece.
        operation: that made it.
        place: innermost line of migm_core that asked for it.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    bytes: int
    operation: str
    place: str


class LiveMemory(TorchDispatchMode):
    """Counts what is made inside the context; what was there before, such as weights, does not count.

    Works on the CPU and, with true shapes and no numbers, on the meta device, where attention counts as the fused kernel that
    every real device runs. What a kernel needs for itself is not seen.

    Attributes:
        live, peak: bytes now, and at most.
        at_peak: what was alive then, largest first.
        largest: the largest single piece that was ever made.
        shapes, operations: all that were seen.
    """

    def __init__(self):
        super().__init__()
        self.live = self.peak = 0
        self.at_peak: list[Made] = []
        self.largest: Made | None = None
        self.shapes: set[tuple[int, ...]] = set()
        self.operations: set[str] = set()
        self._alive: dict[int, Made] = {}
        self._pieces: dict[int, weakref.ref] = {}  # of all storages met, ours or older

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.ops.aten.scaled_dot_product_attention.default and args[0].is_meta:
            return self._fused_attention(*args)
        if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"):
            with self:  # an operation made of others: see those
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        for tensor in tree_leaves((args, kwargs)):
            if isinstance(tensor, Tensor):
                self._meet(tensor, None)
        result = func(*args, **kwargs)
        self.operations.add(str(func))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self.shapes.add(tuple(tensor.shape))
                self._meet(tensor, str(func).removeprefix("aten."))
        return result

    def _fused_attention(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        batch, heads, length, size = q.shape
        with self:
            sums = q.new_empty(batch, heads, length, dtype=torch.float32)  # noqa: F841  of the softmax, alive until the end
            return q.new_empty(batch, length, heads, size).transpose(1, 2)

    def _meet(self, tensor: Tensor, operation: str | None) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._pieces:
            return
        self._pieces[key] = weakref.ref(storage, lambda _: self._forget(key))
        if operation is None:
            return
        made = Made(tuple(tensor.shape), tensor.dtype, storage.nbytes(), operation, _place())
        self._alive[key] = made
        self.live += made.bytes
        if self.largest is None or made.bytes > self.largest.bytes:
            self.largest = made
        if self.live > self.peak:
            self.peak = self.live
            self.at_peak = list(self._alive.values())

    def _forget(self, key: int) -> None:
        del self._pieces[key]
        made = self._alive.pop(key, None)
        self.live -= made.bytes if made else 0

    def account(self, least: float = 1e6) -> list[tuple[Made, int]]:
        """What was alive at the peak and how many of each, largest first; what is below ``least`` bytes left out."""
        counts = Counter(self.at_peak)
        return sorted(((m, n) for m, n in counts.items() if m.bytes >= least), key=lambda item: -item[0].bytes * item[1])


def _place() -> str:
    frame = sys._getframe(2)
    while frame is not None:
        code = frame.f_code
        if code.co_filename.startswith(PACKAGE):
            return f"{code.co_filename[len(PACKAGE) + 1 :]}:{frame.f_lineno} {code.co_name}"
        frame = frame.f_back
    return ""
