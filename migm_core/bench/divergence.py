"""How far a method's distributions of codes are off the base's, along a run of its own."""

import torch
from torch import Tensor

from ..canvas import Canvas
from ..pipeline import Pipeline
from ..sampling.backbone import Backbone, Branch, at_positions
from ..sampling.loop import Recorded, StepReport, sample
from ..sampling.noise import SeededNoise
from ..sampling.probe import compare
from ..sampling.rule import branch_weights
from ..sampling.schedules import SKIPPED
from ..settings import Settings
from ..threads import suited_threads


@torch.inference_mode()
def divergence(pipeline: Pipeline, branches: list[Branch], canvas: Canvas, settings: Settings, seed: int) -> float:
    """Mean KL divergence of the method's guided distributions from the base's at the same tokens, in nats, over masked tokens and steps.

    Each step that is not full is answered by a pass of the base over what the method saw; a full step is off by nothing. Fewer steps are no
    divergence: what they lose by sampling more tokens at once is not in this number.

    Args:
        branches, canvas: of one image, on any device.
    """
    base, rule = pipeline.checkpoint.base, settings.rule
    before, off, steps = canvas.to(pipeline.device), torch.zeros((), device=pipeline.device), 0

    def after_step(report: StepReport) -> None:
        nonlocal before, off, steps
        if report.kind != SKIPPED:
            steps += 1
            if report.kind != "full":
                off = off + _of_step(base, branches, before, report.recorded, rule.ramp(report.step, report.steps))
        before = report.canvas

    method, noise = pipeline.method(settings), SeededNoise.of_seeds([seed], pipeline.device)
    if set(method.kinds(settings.steps)) == {"full"}:
        return 0.0
    with suited_threads(base.config, pipeline.device), pipeline.switches.during_run():
        sample(base, branches, before, method, rule, steps=settings.steps, noise=noise, callback=after_step, record=True)
    return float(off) / steps


def _of_step(base: Backbone, branches: list[Branch], canvas: Canvas, recorded: Recorded, ramp: float) -> Tensor:
    """Mean over the masked tokens.

    Args:
        canvas: before the step.
        ramp: share of guidance at it.
    """
    sequences = [base.sequence(branch, canvas) for branch in branches[: len(recorded.features)]]
    positions = [sequence.positions[recorded.masked] for sequence in sequences]
    features = [at_positions(base.features(sequence), where) for sequence, where in zip(sequences, positions)]
    _, divergence = compare(base, features, recorded.features, positions, branch_weights([branch.weight for branch in branches], ramp))
    return divergence
