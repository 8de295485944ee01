"""What a head's prediction is held against: the feature of the next step, and the codes' probabilities that come of it."""

import torch.nn.functional as F
from torch import Tensor

from ..sampling.backbone import at_positions


def squared_error(predicted: Tensor, target: Tensor, positions: Tensor | None = None) -> Tensor:
    """Mean squared error of features (B, T, d), over positions and channels, in float32.

    Args:
        positions: those that count, int64 (B, m); None for all of them.
    """
    if positions is not None:
        predicted, target = at_positions(predicted, positions), at_positions(target, positions)
    return F.mse_loss(predicted.float(), target.float())


def divergence(predicted: Tensor, target: Tensor) -> Tensor:
    """KL divergence of predicted logits (..., K) from the true ones: sum over K of p_true (log p_true - log p_predicted), mean over the rest, in nats."""
    predicted, target = (logits.float().flatten(0, -2).log_softmax(-1) for logits in (predicted, target))
    return F.kl_div(predicted, target, log_target=True, reduction="batchmean")
