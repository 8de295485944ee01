"""One process or many: the same training code under ``torchrun`` and without it."""

import os
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..devices import resolve_device

LONGEST_WAIT = timedelta(days=2)  # of a process for another one, which may be alone in evaluating for hours


@dataclass(frozen=True)
class World:
    """This process among the others of a run."""

    rank: int = 0
    size: int = 1
    device: torch.device = torch.device("cpu")

    @property
    def first(self) -> bool:
        return self.rank == 0

    def share(self, count: int) -> int:
        """How many of ``count`` items are this process's; the shares add up."""
        return count // self.size + (self.rank < count % self.size)

    def wait(self) -> None:
        """Return when every process has come here."""
        if self.size > 1:
            dist.barrier()

    def total(self, tensor: Tensor) -> Tensor:
        """The sum of all processes' tensors, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def largest(self, value: float) -> float:
        """The largest of all processes' numbers."""
        if self.size == 1:
            return value
        shared = torch.tensor([value], device=self.device, dtype=torch.float32)
        dist.all_reduce(shared, dist.ReduceOp.MAX)
        return shared.item()

    def of_first(self, tensor: Tensor) -> Tensor:
        """The first process's tensor, in place."""
        if self.size > 1:
            dist.broadcast(tensor, 0)
        return tensor


@contextmanager
def joined_world(device: str | None = None):
    """The world that ``torchrun`` describes in the environment, joined and left again; alone without it.

    Args:
        device: "cpu", "cuda", ...; None takes CUDA where there is one.

    Raises:
        ValueError: there is no such device.
    """
    wanted = resolve_device(device)
    kind = wanted.type
    size = int(os.environ.get("WORLD_SIZE", "1"))
    local = torch.device(kind, int(os.environ.get("LOCAL_RANK", "0"))) if kind == "cuda" and wanted.index is None else wanted
    if size == 1:
        yield World(device=local)
        return
    if kind == "cuda":
        torch.cuda.set_device(local)
    dist.init_process_group("nccl" if kind == "cuda" else "gloo", timeout=LONGEST_WAIT)
    try:
        yield World(dist.get_rank(), size, local)
    finally:
        dist.destroy_process_group()


class Loss(nn.Module):
    """What is minimised, as a module: DistributedDataParallel averages the gradients of what went through its ``forward``.

    Args:
        function: called with the model and what ``forward`` is called with.
    """

    def __init__(self, model: nn.Module, function: Callable):
        super().__init__()
        self.model, self.function = model, function

    def forward(self, *args, **kw):
        return self.function(self.model, *args, **kw)


def parallel(model: nn.Module, loss: Callable, world: World) -> nn.Module:
    """A loss of a model, whose gradients are the mean of all processes'. Wrap again when other parameters begin to learn."""
    module = Loss(model, loss)
    return DistributedDataParallel(module) if world.size > 1 else module
