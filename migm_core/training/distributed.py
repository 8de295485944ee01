"""One process or many: the same training code under ``torchrun`` and without it."""

import os
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist


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


@contextmanager
def joined_world(device: str | None = None):
    """The world that ``torchrun`` describes in the environment, joined and left again; alone without it.

    Args:
        device: "cpu", "cuda", ...; None takes CUDA where there is one.
    """
    kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
    size = int(os.environ.get("WORLD_SIZE", "1"))
    local = torch.device(kind, int(os.environ.get("LOCAL_RANK", "0"))) if kind == "cuda" else torch.device(kind)
    if size == 1:
        yield World(device=local)
        return
    if kind == "cuda":
        torch.cuda.set_device(local)
    dist.init_process_group("nccl" if kind == "cuda" else "gloo")
    try:
        yield World(dist.get_rank(), size, local)
    finally:
        dist.destroy_process_group()


def sum_gradients(parameters, count: int, world: World) -> int:
    """Add up the gradients of all processes and the numbers they are sums over; divide by the total, which is returned."""
    grads = [p.grad for p in parameters]
    if world.size > 1:
        flat = torch.cat([*(g.flatten() for g in grads), grads[0].new_tensor([count])])
        dist.all_reduce(flat)
        count = int(flat[-1].item())
        for grad, part in zip(grads, flat[:-1].split([g.numel() for g in grads])):
            grad.copy_(part.view_as(grad))
    for grad in grads:
        grad.div_(count)
    return count
