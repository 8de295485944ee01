"""How Lumina-DiMOO's logits become tokens (arXiv 2510.06308; the cosine schedule of MaskGIT, arXiv 2202.04200, section 3.2)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ...sampling.rule import MAX_SCALE, Rule
from ...sampling.setting import check_settings, choice, setting

EXACT, BELOW = "exact", "below-cut-off"


@dataclass(frozen=True)
class LuminaRule(Rule):
    """Sampling settings.

    Attributes:
        temperature: of the codes and of the noise on their confidence; 0 takes the likeliest code.
        remasking: which tokens stay masked. "exact" is MIGM-Shortcut's published rule: as many as the schedule says. "below-cut-off" is
            Lumina-DiMOO's: those less confident than the last of them. At least one token is then unmasked at each step, and all that tie.
    """

    temperature: float = setting(1.0, 0, MAX_SCALE, "how varied the images are; 0 takes the likeliest token")
    remasking: str = choice(EXACT, (EXACT, BELOW), "which tokens stay masked: as many as the schedule says, or those below the last of them, and none that tie with it")

    def __post_init__(self):
        check_settings(self)

    @property
    def code_noise(self) -> bool:
        return self.temperature > 0

    @property
    def one_by_one(self) -> bool:
        return self.remasking == BELOW

    def keep(self, masked: int, tokens: int, steps: int) -> list[int]:
        counts = keep_masked(masked, steps)
        if self.remasking == BELOW:
            for step, count in enumerate(counts):
                counts[step] = min(count, max((counts[step - 1] if step else masked) - 1, 0))
        return counts

    def ramp(self, step: int, steps: int) -> float:
        return 1

    def mask_ratios(self, before: list[int], tokens: int) -> list[float]:
        """Masked tokens before each step / masked tokens at the start."""
        return [count / max(before[0], 1) for count in before]

    def position_noise(self, step: int) -> str:
        return "gumbel"

    def sample(self, logits: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Gumbel-max over logits / temperature; the log-probability is that of the logits themselves."""
        scores = noise.add_(logits / self.temperature) if self.temperature > 0 else logits
        codes = scores.argmax(dim=-1)
        probability = logits.softmax(dim=-1).gather(-1, codes.unsqueeze(-1)).squeeze(-1)
        return codes, probability.clamp_min(1e-20).log()

    def confidence(self, log_probability: Tensor, noise: Tensor, step: int, steps: int) -> Tensor:
        return log_probability + self.temperature * noise

    def stay(self, confidence: Tensor, keep: int) -> int:
        """With "below-cut-off", none of the tokens that tie with it stays; counting them waits for the device.

        Raises:
            ValueError: the images of a batch have different ties.
        """
        if self.remasking == EXACT or not keep:
            return keep
        cut_off = confidence.sort(dim=1).values[:, min(keep, confidence.shape[1] - 1), None]
        counts = (confidence < cut_off).sum(1).tolist()
        if len(set(counts)) > 1:
            raise ValueError(f"With remasking {BELOW}, {counts} tokens of the images stay masked; in one batch all need equally many. Sample them one by one.")
        return counts[0]


def keep_masked(masked: int, steps: int) -> list[int]:
    """How many of the tokens are still masked after each step.

    Computed in float32, as published: at some sizes the last digit decides.
    """
    counts = []
    for step in range(steps - 1):
        share = torch.cos(torch.tensor((step + 1) / steps, dtype=torch.float32) * (math.pi / 2))
        counts.append(min(masked, max(1, int(torch.floor(masked * share)))))
    return [*counts, 0]
