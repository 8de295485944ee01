"""When the base model runs: plain numbers, known before the first step."""

SKIPPED = "skipped"  # a step at which no model runs


def step_kinds(kinds: list[str], keep: list[int], masked: int) -> list[str]:
    """The kinds of a run's steps, "skipped" where no model is needed.

    A run with more steps than tokens has idle steps, which unmask nothing. A full step computes features from the tokens alone and
    needs nothing of earlier steps. So a step is skipped if no step from there to the next full one unmasks anything. In vanilla, where
    all steps are full, that skips every idle step. In other methods an idle step still runs if a later one, before the next full step,
    goes on from its features and unmasks tokens; the published runs do the same, and their tokens depend on it.

    Args:
        kinds: of each step, by the method: "full", or another name where the step goes on from earlier features.
        keep: how many tokens stay masked after each step, by the rule.
        masked: at the start.
    """
    planned, needed = list(kinds), False
    for step in reversed(range(len(kinds))):
        needed = needed or unmasked(keep, masked, step) > 0
        if not needed:
            planned[step] = SKIPPED
        if kinds[step] == "full":
            needed = False
    return planned


def unmasked(keep: list[int], masked: int, step: int) -> int:
    """How many tokens a step unmasks, of a rule's ``keep``."""
    return (keep[step - 1] if step else masked) - keep[step]


def full_steps(steps: int, budget: int, divide_first: bool = False) -> list[int]:
    """The steps that run the base model when it may run ``budget`` times in ``steps``: evenly spread, the first included.

    Args:
        divide_first: compute steps * (k / budget) instead of (steps * k) / budget, as MaskGIT's published code does: some halves round
            otherwise, such as those of 42 steps and budget 28.

    Raises:
        ValueError: the budget is below 2 or above the number of steps.
    """
    if not 2 <= budget <= steps:
        raise ValueError(
            f"budget is {budget}, but must be from 2 to the number of steps, {steps}: it counts the steps that run the base model. "
            "For fewer steps of the base model alone, lower the steps and choose the vanilla method."
        )
    chosen = [0]
    for k in range(1, budget):
        chosen.append(max(chosen[-1] + 1, round(steps * (k / budget) if divide_first else steps * k / budget)))
    return chosen
