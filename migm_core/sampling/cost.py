"""What the steps of a run cost in multiply-adds, from the sizes of its models: the most that a method can save."""

from collections.abc import Sequence

from .backbone import BackboneConfig, HeadConfig
from .methods import Method
from .rule import Rule
from .schedules import SKIPPED, step_kinds

PROMPT = 48  # tokens of an ordinary prompt; the canvas has many more


def step_costs(
    config: BackboneConfig, head: HeadConfig | None, method: Method, rule: Rule, kinds: list[str], rows: int, columns: int, prompts: Sequence[int] = (PROMPT,)
) -> list[int]:
    """Multiply-adds of each step of one image. Elementwise work, which no matrix product does, is left out, and so are the tokens of input pictures that
    a head reads, some percent of its step.

    Args:
        head: None where no step needs one.
        kinds: of each step: "full", "skipped", or the method's own.
        rows, columns: of the canvas, all of it masked at the start.
        prompts: tokens of the prompt of each guidance branch; branches of one length cost so many times as much as one, at every step.
    """
    tokens = rows * columns
    lengths = [config.sequence_length(prompt, rows, columns) for prompt in prompts]
    masked = [tokens, *rule.keep(tokens, tokens, len(kinds))]
    code_logits = config.width * config.codebook_size
    of_kind = {"full": sum(config.pass_macs(length, length) for length in lengths)}
    costs = []
    for step, kind in enumerate(kinds):
        if kind == SKIPPED or not masked[step]:
            costs.append(0)
            continue
        if kind not in of_kind:
            of_kind[kind] = sum(method.step_macs(kind, config, head, length) for length in lengths)
        costs.append(of_kind[kind] + len(lengths) * masked[step] * code_logits)
    return costs


def largest_speed_up(
    config: BackboneConfig, head: HeadConfig | None, method: Method, rule: Rule, kinds: list[str], rows: int, columns: int, prompts: Sequence[int] = (PROMPT,)
) -> float:
    """Against the vanilla method: N / (b + (N - b) c) with the cost of each step; arguments as for ``step_costs``."""
    tokens = rows * columns
    vanilla = step_kinds(["full"] * len(kinds), rule.keep(tokens, tokens, len(kinds)), tokens)
    ours, theirs = (sum(step_costs(config, head, method, rule, each, rows, columns, prompts)) for each in (kinds, vanilla))
    return theirs / ours
