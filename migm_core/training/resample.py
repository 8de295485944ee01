"""Sample recorded runs on from one of their steps.

A few steps of a run settle where each object goes, and the run shows one outcome of each. A head learns from many of them
what an outcome means; from few it learns the runs by heart. To go on from such a step costs a few passes of the base, where a
run that comes upon another one costs dozens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..sampling.backbone import Backbone, Branch, at_positions
from ..sampling.loop import masked_positions, sample_tokens, unmask_most_confident
from ..sampling.noise import SeededNoise
from ..sampling.rule import Rule, branch_weights
from .trajectories import Trajectory, canvas_at, weights_of


@dataclass(frozen=True)
class Resampled:
    """A trajectory of which some steps were sampled anew; its features are those of these steps, and in memory.

    Attributes:
        first: the first step that was sampled anew.
        kept: per branch, the features of steps first, first + 1, ...: (n, T, width); None of one that the runs did not compute.
    """

    path: Path | str
    shape: tuple[int, ...]
    codes: Tensor
    unmasked_at: Tensor
    prompts: tuple[Tensor, ...]
    steps: int
    run: dict[str, Any]
    first: int
    kept: tuple[Tensor | None, ...]

    def features(self, branch: int, step: int) -> Tensor | None:
        kept = self.kept[branch]
        return None if kept is None else kept[step - self.first]


@torch.no_grad()
def resample(
    backbone: Backbone, rule: Rule, trajectories: Sequence[Trajectory], step: int, horizon: int, rng: np.random.Generator
) -> list[Resampled]:
    """Sample ``horizon`` steps anew from the states that runs of one shape were in before ``step``.

    As many tokens are unmasked at each step as in the recorded runs, with their guidance; those that would be unmasked
    later count as masked.

    Args:
        rng: gives each run its seed.

    Returns:
        One for each trajectory, with features of the steps ``step`` to ``step + horizon``, on the CPU.
    """
    device, steps = backbone.device, trajectories[0].steps
    canvas = canvas_at(trajectories, step)
    masked = masked_positions(canvas)[0].to(device)
    weights = weights_of(trajectories[0])
    prompts = [torch.stack(of_branch) for of_branch in zip(*(t.prompts for t in trajectories))]
    branches = [Branch(prompt, weight, prompt_visible=k == 0) for k, (prompt, weight) in enumerate(zip(prompts, weights))]
    sequences = [backbone.sequence(branch, canvas.to(device)) for branch in branches if branch.weight]
    noise = SeededNoise.of_seeds([int(rng.integers(2**62)) for _ in trajectories], device)

    codes = canvas.codes.flatten(1).to(device)
    unmasked_at = torch.stack([t.unmasked_at for t in trajectories]).to(device)
    counts = [int((trajectories[0].unmasked_at == now).sum()) for now in range(step, step + horizon)]
    unmasked_at[unmasked_at >= step] = steps
    # Anew, too: recorded ones may have been rounded, and a head would be blamed for what that changed.
    features = [[backbone.features(s)] for s in sequences]
    for now, count in zip(range(step, step + horizon), counts):
        if count:
            positions = [s.positions[masked] for s in sequences]
            sampled, log_probability, confidence, _ = sample_tokens(
                backbone,
                [at_positions(kept[-1], where) for kept, where in zip(features, positions)],
                positions,
                branch_weights([s.weight for s in sequences], rule.ramp(now, steps)),
                rule,
                noise.draw(now, masked, backbone.config.codebook_size if rule.code_noise else 0, rule.position_noise(now)),
                (now, steps),
            )
            new, masked, _ = unmask_most_confident(sampled, confidence, masked, masked.shape[1] - count, codes, sequences, log_probability)
            unmasked_at.scatter_(1, new, now)
        for kept, s in zip(features, sequences):
            kept.append(backbone.features(s) if count else kept[-1])
    computed = iter([torch.stack(kept, dim=1).to("cpu") for kept in features])
    whole = [next(computed) if branch.weight else None for branch in branches]
    return [
        Resampled(
            t.path, t.shape, codes[image].cpu().view_as(t.codes), unmasked_at[image].cpu(), t.prompts, steps, t.run,
            first=step, kept=tuple(None if f is None else f[image] for f in whole),
        )
        for image, t in enumerate(trajectories)
    ]  # fmt: skip
