"""Draw recorded runs on anew from one of their steps.

A few steps of a run settle where each thing goes, and the run shows one outcome of each. A head learns from many of them
what an outcome means; from few it learns the runs by heart. To draw on from such a step costs a few passes of the base, where a
run that comes upon another one costs dozens.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..models.lumina import Lumina
from ..sampling.methods.base import at_cells
from ..sampling.sampler import draw, fix_most_confident, unknown_cells
from ..sampling.sequence import Sequence, text_guidance
from .trajectories import Trajectory, canvas_at


@dataclass(frozen=True)
class Redrawn(Trajectory):
    """A trajectory of which some steps were drawn anew; its features are those of these steps, and in memory.

    Attributes:
        first: the first step that was drawn anew.
        kept: per branch, the features of steps first, first + 1, ...: (n, T, d_model).
    """

    first: int
    kept: tuple[Tensor, ...]

    def features(self, branch: int, step: int) -> Tensor | None:
        return self.kept[branch][step - self.first] if branch < len(self.kept) else None


@torch.no_grad()
def redraw(base: Lumina, trajectories: list[Trajectory], step: int, ahead: int, rng: np.random.Generator) -> list[Redrawn]:
    """Draw ``ahead`` steps anew from the states that trajectories of one shape were in before ``step``.

    As many cells are fixed at each step as in the recorded runs, with their guidance and temperature; those that would be fixed
    later count as unknown.

    Args:
        rng: gives each trajectory its seed.

    Returns:
        One for each trajectory, with features of the steps ``step`` to ``step + ahead``, on the CPU.
    """
    device = base.ln_f.weight.device
    canvas = canvas_at(trajectories, step).to(device)
    prompts, unconditional = (torch.stack(prompts) for prompts in zip(*(t.prompts for t in trajectories)))
    branches = text_guidance(prompts, unconditional, trajectories[0].guidance)
    sequences = [Sequence(branch, canvas, base) for branch in branches]
    generators = [torch.Generator(device).manual_seed(int(rng.integers(2**62))) for _ in trajectories]

    codes, (masked, _) = canvas.codes.flatten(1).clone(), unknown_cells(canvas)
    fixed_at = torch.stack([t.fixed_at for t in trajectories]).to(device)
    counts = [(trajectories[0].fixed_at == now).sum().item() for now in range(step, step + ahead)]
    fixed_at[fixed_at >= step] = trajectories[0].steps
    # Anew, too: recorded ones may have been rounded, and a head would be blamed for what that moved.
    features = [[base.features(s.tokens, s.rotary)] for s in sequences]
    for now, count in zip(range(step, step + ahead), counts):
        if count:
            here = [at_cells(kept[-1], s, masked) for kept, s in zip(features, sequences)]
            drawn, confidence = draw(base, here, [s.weight for s in sequences], trajectories[0].temperature, generators)
            fixed, masked = fix_most_confident(drawn, confidence, masked, masked.shape[1] - count, codes, sequences)
            fixed_at.scatter_(1, fixed, now)
        for kept, s in zip(features, sequences):
            kept.append(base.features(s.tokens, s.rotary) if count else kept[-1])
    whole = [torch.stack(kept, dim=1).to("cpu") for kept in features]
    return [
        Redrawn(
            t.path, codes[place].cpu().view_as(t.codes), fixed_at[place].cpu(), t.prompts, t.steps, t.guidance, t.temperature,
            first=step, kept=tuple(f[place] for f in whole),
        )
        for place, t in enumerate(trajectories)
    ]
