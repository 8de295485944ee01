"""Classifier-free guidance: a weighted sum of the branches' logits."""

from torch import Tensor

LOGITS_AT_ONCE = 2**22  # values, 16 MiB in float32


def guide(logits: list[Tensor], weights: list[float]) -> Tensor:
    """Sum of weight * logits over the branches, in float32; each of shape (B, n, K)."""
    total = logits[0].float() * weights[0]
    for branch, weight in zip(logits[1:], weights[1:]):
        total = total.add_(branch.float(), alpha=weight)
    return total
