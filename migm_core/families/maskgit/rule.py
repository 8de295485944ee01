"""How MaskGIT's logits become tokens (arXiv 2202.04200, section 3.2; Halton-MaskGIT v1.0, arXiv 2310.14400)."""

from dataclasses import dataclass

from torch import Tensor

from ...arguments import shown
from ...sampling.rule import MAX_SCALE, Rule
from ...sampling.setting import check_settings, choice, setting
from .schedules import LEAST_STEPS, SCHEDULES, check_steps, keep_masked, unmask_counts

RANDOMIZE = ("linear", "random", "warm_up", "no")
WARM_UP = 2  # steps


@dataclass(frozen=True)
class MaskGitRule(Rule):
    """Settings of MaskGIT's sampler. The defaults are the published ones.

    Attributes:
        schedule: how many tokens each step unmasks: a mode of ``schedules.SCHEDULES``, or the counts of all steps.
        guidance_ramp: whether guidance grows from nothing at the first step to all of it at the last, as published.
        softmax_temperature: multiplies the logits. Above 1 it sharpens, at 0 all codes are alike; codes are sampled at every value.
        choice_temperature: of the Gumbel noise on confidences, which falls to nothing at the last step; for "linear" alone.
        randomize: what confidence is. "linear": log-probability and noise. "random": chance alone. "warm_up": chance at the first two
            steps, then probability. "no": probability.

    Raises:
        ValueError: naming a setting that makes no sense.
    """

    schedule: str | tuple[int, ...] = choice("arccos", tuple(SCHEDULES), "how many tokens each step unmasks")
    guidance_ramp: bool = choice(True, (True, False), "let guidance grow from nothing at the first step to all of it at the last")
    softmax_temperature: float = setting(1.0, 0, MAX_SCALE, "multiplies the logits; above 1 it sharpens")
    choice_temperature: float = setting(7.0, 0, MAX_SCALE, "how much chance there is in the order of the tokens")
    randomize: str = choice("linear", RANDOMIZE, "what makes a token confident: its probability and noise, chance, or its probability alone")

    code_noise = True  # codes are sampled, never the likeliest taken

    def __post_init__(self):
        if isinstance(self.schedule, list):
            object.__setattr__(self, "schedule", tuple(self.schedule))
        if isinstance(self.schedule, tuple):
            if not self.schedule or not all(isinstance(count, int) and not isinstance(count, bool) and count > 0 for count in self.schedule):
                raise ValueError(f"schedule is {shown(list(self.schedule))}, expected the tokens that each step unmasks: whole numbers above 0.")
        elif not isinstance(self.schedule, str) or self.schedule not in SCHEDULES:
            raise ValueError(f"schedule is {shown(self.schedule)}, expected {', '.join(SCHEDULES)}, or the tokens that each step unmasks.")
        check_settings(self, besides=("schedule",))

    @property
    def least_steps(self) -> int:
        return LEAST_STEPS if isinstance(self.schedule, str) else len(self.schedule)

    def counts(self, tokens: int, steps: int) -> list[int]:
        """How many tokens each step would unmask of a canvas of which all ``tokens`` are masked.

        Raises:
            ValueError: fewer than 2 steps, or a schedule of counts for another number of them.
        """
        check_steps(steps)
        if isinstance(self.schedule, str):
            return unmask_counts(self.schedule, steps, tokens)
        if len(self.schedule) != steps:
            raise ValueError(f"The schedule has {len(self.schedule)} counts for {steps} steps. Expected one for each step.")
        return list(self.schedule)

    def keep(self, masked: int, tokens: int, steps: int) -> list[int]:
        """How many tokens stay masked after each step.

        Counts are those of the whole canvas. With some of it given the run ends early, and the ramps do not reach their ends, as published.
        """
        return keep_masked(self.counts(tokens, steps), masked)

    def ramp(self, step: int, steps: int) -> float:
        """Share of the guidance that a step applies: w_i = w * i / (N - 1)."""
        return step / (steps - 1) if self.guidance_ramp else 1.0

    def mask_ratios(self, before: list[int], tokens: int) -> list[float]:
        """What the head is told at each step: tokens masked before it over all of the canvas, given ones too."""
        return [masked / tokens for masked in before]

    def position_noise(self, step: int) -> str | None:
        """The noise on positions that a step's confidence uses. For "linear" it is sampled where its weight is 0, too, as published."""
        if self.randomize == "warm_up":
            return "uniform" if step < WARM_UP else None
        return {"linear": "gumbel", "random": "uniform", "no": None}[self.randomize]

    def sample(self, logits: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Sample a code for each position, in proportion to softmax(logits * softmax_temperature).

        Args:
            logits: guided, float32 (B, n, K).
            noise: Gumbel, float32 (B, n, K).

        Returns:
            Codes, int64 (B, n), and their log-probabilities, float32 (B, n).
        """
        log_probability = logits.mul_(self.softmax_temperature).log_softmax(dim=-1)
        codes = noise.add_(log_probability).argmax(dim=-1)
        return codes, log_probability.gather(-1, codes.unsqueeze(-1)).squeeze(-1)

    def confidence(self, log_probability: Tensor, noise: Tensor, step: int, steps: int) -> Tensor:
        """By which the tokens that stay masked are chosen, the least confident: (B, n).

        Args:
            log_probability: of the sampled codes, float32 (B, n).
            noise: Gumbel or uniform as ``position_noise`` says, (B, n). Where it is float64, so is the result.
        """
        kind = self.position_noise(step)
        if kind == "gumbel":
            return log_probability + (self.choice_temperature * noise) * (1 - step / (steps - 1))
        return noise if kind == "uniform" else log_probability.exp()
