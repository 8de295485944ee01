"""Muon: momentum, orthogonalised (Jordan et al., 2024, https://kellerjordan.github.io/posts/muon/).

torch.optim.Muon always iterates in bfloat16, which a CPU without fast bfloat16 runs a hundred times slower than float32;
this one uses the parameters' dtype, and treats all matrices of one shape in a single batched product.
"""

import torch
import torch.distributed as dist
from torch import Tensor

from .distributed import World


class Muon(torch.optim.Optimizer):
    """For the weight matrices and convolution kernels inside a network; embeddings, outputs and norms belong in AdamW.

    Args:
        params: parameters of two or more dimensions; a kernel counts as a matrix of one row an output channel.
        lr: of an update whose singular values are about 1, scaled by sqrt(max(1, rows / columns)).
        world: processes that hold the same parameters and gradients; each does its share of the iterations.
    """

    def __init__(self, params, lr: float = 0.02, momentum: float = 0.95, weight_decay: float = 0.0, world: World = World()):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self.world = world

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            by_shape: dict[tuple, list[Tensor]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    by_shape.setdefault((p.shape[0], p[0].numel()), []).append(p)
            for (rows, columns), matrices in by_shape.items():
                updates = torch.stack([self._nesterov(p, group["momentum"]).flatten(1) for p in matrices])
                scale = group["lr"] * max(1, rows / columns) ** 0.5
                for p, update in zip(matrices, self._orthogonalised(updates)):
                    p.mul_(1 - group["lr"] * group["weight_decay"]).add_(update.view_as(p), alpha=-scale)

    def _orthogonalised(self, updates: Tensor) -> Tensor:
        if self.world.size == 1:
            return orthogonalise(updates)
        mine = torch.arange(len(updates)).tensor_split(self.world.size)[self.world.rank]
        whole = torch.zeros_like(updates)
        whole[mine] = orthogonalise(updates[mine])
        dist.all_reduce(whole)
        return whole

    def _nesterov(self, p: Tensor, momentum: float) -> Tensor:
        state = self.state[p]
        if not state:
            state["momentum"] = torch.zeros_like(p)
        buffer = state["momentum"].lerp_(p.grad, 1 - momentum)
        return p.grad.lerp(buffer, momentum)


def orthogonalise(matrices: Tensor, rounds: int = 5) -> Tensor:
    """Bring the singular values of each matrix (n, rows, columns) near 1, by Newton-Schulz iteration."""
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.transpose(1, 2) if tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp_min(1e-7)
    for _ in range(rounds):
        gram = x @ x.transpose(1, 2)
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.transpose(1, 2) if tall else x
