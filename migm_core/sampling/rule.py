"""How logits become tokens: what a family's sampler does at each step between the guided logits and the canvas."""

from typing import Protocol

from torch import Tensor

MAX_SCALE = 1000  # of guidance and temperatures; far past it float32 overflows


class Rule(Protocol):
    """A frozen dataclass of a family; its fields are sampling settings.

    Attributes:
        code_noise: whether codes are sampled with noise; without it the likeliest are taken.
        least_steps: that a run needs.
        one_by_one: whether each image of a batch is to be sampled by itself, as how many tokens it unmasks depends on its confidences.
    """

    code_noise: bool
    least_steps: int = 1
    one_by_one: bool = False

    def keep(self, masked: int, tokens: int, steps: int) -> list[int]:
        """How many tokens stay masked after each step.

        Args:
            masked: at the start.
            tokens: of the whole canvas.

        Returns:
            ``steps`` counts, falling to 0; the run ends at the first 0.
        """

    def ramp(self, step: int, steps: int) -> float:
        """Share of the guidance that a step applies, 0 to 1."""

    def mask_ratios(self, before: list[int], tokens: int) -> list[float]:
        """What the head is told at each step, from the tokens masked before it and those of the canvas."""

    def position_noise(self, step: int) -> str | None:
        """The noise on positions that a step's confidence uses: "gumbel", "uniform" or None."""

    def sample(self, logits: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """A code for each position.

        Args:
            logits: guided, float32 (B, n, K); may be changed in place.
            noise: Gumbel, (B, n, K), or (B, n, 0) without ``code_noise``; may be changed in place.

        Returns:
            Codes, int64 (B, n), and their log-probabilities, float32 (B, n).
        """

    def confidence(self, log_probability: Tensor, noise: Tensor, step: int, steps: int) -> Tensor:
        """By which the tokens that stay masked are chosen, the least confident: (B, n) from (B, n)."""

    def stay(self, confidence: Tensor, keep: int) -> int:
        """How many tokens stay masked after a step: ``keep`` of the schedule, or fewer, by their confidences (B, n)."""
        return keep


def branch_weights(weights: list[float], ramp: float) -> list[float]:
    """The branches' weights at a share of the guidance: at 0 the first branch alone counts, with weight 1."""
    if ramp == 1:
        return weights
    return [1 + ramp * (weights[0] - 1), *(ramp * weight for weight in weights[1:])]
