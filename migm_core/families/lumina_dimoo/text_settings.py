"""How an answer is sampled: its room, its blocks and passes, and what decides at each pass."""

from dataclasses import dataclass

from ...arguments import shown
from ...sampling.rule import MAX_SCALE
from ...sampling.setting import check_settings, choice, setting

MAX_LENGTH = 4096  # of an answer, in tokens


@dataclass(frozen=True)
class TextSettings:
    """How an answer is sampled.

    Attributes:
        length: room for the answer, in tokens.
        block: tokens of a block; it divides the length.
        steps: passes in all, spread evenly over the blocks; 0 takes one a token.
        temperature: 0 takes the likeliest token.
        guidance_scale: towards the question, away from a sequence that is masked but for the answer; 0 turns it off and halves the work.
        remasking: which tokens stay masked at a pass: the least likely ones, or by chance.
        stop: when to end before the last block. "answer": after the block in which the answer ends, nothing masked before it. "end-of-text":
            after the first block with an end of text anywhere, as the published code means to. "never".
        cache: keep the prompt's and the pictures' keys and values from the first pass of each block, and compute only the answer at the
            others. Faster and approximate: the keys and values do not see the tokens that the block has unmasked.
        seed: of the random numbers, where there are any.
    """

    length: int = setting(128, 1, MAX_LENGTH, "room for the answer, in tokens")
    block: int = setting(32, 1, MAX_LENGTH, "tokens that are written before the next ones are begun; it divides the length")
    steps: int = setting(0, 0, MAX_LENGTH, "passes in all, spread evenly over the blocks; 0 takes one a token")
    temperature: float = setting(0.0, 0, MAX_SCALE, "0 takes the likeliest token")
    guidance_scale: float = setting(0.0, 0, MAX_SCALE, "how closely to follow the question; 0 halves the work, as published")
    remasking: str = choice("low-confidence", ("low-confidence", "random"), "which tokens stay masked at a pass")
    stop: str = choice("answer", ("answer", "end-of-text", "never"), "when to end before the last block")
    cache: bool = choice(False, (True, False), "keep the keys and values of question and pictures during a block: faster, and approximate")
    seed: int = 0

    def __post_init__(self):
        """Raise a ValueError that names the first setting out of its range."""
        check_settings(self)
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or not 0 <= self.seed < 2**64:
            raise ValueError(f"seed is {shown(self.seed)}, but must be a whole number from 0 to 2**64 - 1.")
        if self.length % self.block:
            raise ValueError(f"length is {self.length}, which does not divide into blocks of {self.block} tokens. Take {_nearest(self.length, self.block, MAX_LENGTH)}.")
        if self.passes % self.blocks:
            raise ValueError(
                f"steps is {self.passes}, which does not divide among {self.blocks} blocks ({self.length} tokens in blocks of {self.block}). "
                f"Take {_nearest(self.passes, self.blocks, MAX_LENGTH)}."
            )

    @property
    def blocks(self) -> int:
        return self.length // self.block

    @property
    def passes(self) -> int:
        return self.steps or self.length

    def model_passes(self, passes: int) -> int:
        """Of so many passes of the schedule, in whole blocks, those that run the model: each unmasks at least one token."""
        return passes * min(self.passes, self.length) // self.passes


def _nearest(value: int, unit: int, limit: int) -> str:
    """The multiples of a unit around a value, in words."""
    below, above = value // unit * unit, -(-value // unit) * unit
    return f"{below} or {above}" if 0 < below and above <= limit else str(above if not below else below)
