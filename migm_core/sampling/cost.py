"""What the steps of a run cost in multiply-adds, from the sizes of its models: the most that a method can save."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from .backbone import BackboneConfig, HeadConfig
from .methods import Method
from .rule import Rule
from .schedules import SKIPPED, step_kinds

PROMPT = 48  # tokens of an ordinary prompt; the canvas has many more


@dataclass(frozen=True)
class PlannedRun:
    """A run of one image, before it starts.

    Attributes:
        kinds: of each step: "full", "skipped", or the method's own.
        rows, columns: of the canvas, all of it masked at the start.
        prompts: tokens of the prompt of each guidance branch; branches of one length cost so many times as much as one, at every step.
    """

    method: Method
    rule: Rule
    kinds: list[str]
    rows: int
    columns: int
    prompts: Sequence[int] = (PROMPT,)

    @property
    def masked(self) -> list[int]:
        """How many tokens are masked before each step, and after the last."""
        tokens = self.rows * self.columns
        return [tokens, *self.rule.keep(tokens, tokens, len(self.kinds))]

    def as_vanilla(self) -> "PlannedRun":
        """The same with the base model at every step that unmasks something."""
        tokens, *keep = self.masked
        return replace(self, kinds=step_kinds(["full"] * len(self.kinds), keep, tokens))

    def costs(self, config: BackboneConfig, head: HeadConfig | None) -> list[int]:
        """Multiply-adds of each step. Elementwise work, which no matrix product does, is left out, and so are the tokens of input pictures that a head
        reads, some percent of its step.

        Args:
            head: None where no step needs one.
        """
        lengths = [config.sequence_length(prompt, self.rows, self.columns) for prompt in self.prompts]
        code_logits = config.width * config.codebook_size
        of_kind = {"full": sum(config.pass_macs(length, length) for length in lengths)}
        costs = []
        for kind, masked in zip(self.kinds, self.masked):
            if kind == SKIPPED or not masked:
                costs.append(0)
                continue
            if kind not in of_kind:
                of_kind[kind] = sum(self.method.step_macs(kind, config, head, length) for length in lengths)
            costs.append(of_kind[kind] + len(lengths) * masked * code_logits)
        return costs

    def largest_speed_up(self, config: BackboneConfig, head: HeadConfig | None) -> float:
        """Against the vanilla method: N / (b + (N - b) c) with the cost of each step; arguments as for ``costs``."""
        return sum(self.as_vanilla().costs(config, head)) / sum(self.costs(config, head))
