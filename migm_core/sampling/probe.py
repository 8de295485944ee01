"""How far a shortcut head's predictions are off, measured while it works.

A head is trained on the features of some tasks. Whether it serves another, a run can tell: at each full step the true features are there
anyway, and one more head step says what the head would have given in their place.
"""

from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass

import torch
from torch import Tensor

from .backbone import Backbone
from .guidance import LOGITS_AT_ONCE, guide

# By Pinsker's inequality, two distributions whose divergence is d nats give different tokens with a probability of at most sqrt(d / 2).
GOOD = 0.02  # at most 1 token in 10 then differs
FAIR = 0.18  # at most 3 in 10


@dataclass(frozen=True)
class Probed:
    """One full step: what the head predicted from the steps before it, against the truth, at the masked tokens.

    Attributes:
        step: its index.
        cosine: mean similarity of the predicted and the true features, over all branches.
        kl: mean divergence of the predicted from the true distribution of codes, under guidance, in nats.
        still_kl: the same of the features of the full step before, as if nothing had moved since: what a head should beat.
    """

    step: int
    cosine: float
    kl: float
    still_kl: float


def judge(probed: SequenceOf[Probed]) -> str | None:
    """"good", "fair" or "poor", by the mean divergence; None where nothing was measured.

    A head that is no better than standing still may be good all the same: where features hardly move, either serves.
    """
    if not probed:
        return None
    kl = sum(each.kl for each in probed) / len(probed)
    return "good" if kl <= GOOD else "fair" if kl <= FAIR else "poor"


def summary(probed: SequenceOf[Probed]) -> str | None:
    """In words and numbers, such as "good: off by 0.012 nats (0.21 if it predicted no motion), cosine 0.981"."""
    if not probed:
        return None
    kl, still, cosine = (sum(getattr(each, name) for each in probed) / len(probed) for name in ("kl", "still_kl", "cosine"))
    return f"{judge(probed)}: off by {kl:.2g} nats ({still:.2g} if it predicted no motion), cosine {cosine:.3f}"


def compare(
    backbone: Backbone, true: SequenceOf[Tensor], guesses: SequenceOf[Tensor], positions: SequenceOf[Tensor], weights: SequenceOf[float]
) -> tuple[Tensor, Tensor]:
    """Mean cosine of features, and mean divergence of the guided logits, in nats: 0-dimensional.

    Args:
        true, guesses: per branch, (B, n, width).
        positions: where they stand in the branch's sequence, (B, n).
        weights: of the branches' logits.
    """
    cosine = torch.stack([torch.cosine_similarity(t.float(), g.float(), dim=-1).mean() for t, g in zip(true, guesses)]).mean()
    batch, count = positions[0].shape
    at_once = max(1, LOGITS_AT_ONCE // (batch * backbone.config.codebook_size))
    divergence = torch.zeros((), device=cosine.device)
    for first in range(0, count, at_once):
        part = slice(first, first + at_once)
        p, q = (
            guide([backbone.code_logits(f[:, part], where[:, part]) for f, where in zip(features, positions)], list(weights)).log_softmax(-1)
            for features in (true, guesses)
        )
        divergence += (p.exp() * (p - q)).sum()
    return cosine, divergence / (batch * count)
