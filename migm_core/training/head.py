"""Train a shortcut head on recorded runs of its base (MIGM-Shortcut, arXiv 2602.23996, section 4).

The head regresses the feature of the next step: mean squared error, AdamW, a moving average of the weights. Published for Lumina-DiMOO: the
whole sequence of both guidance branches; for MaskGIT: the masked positions of one branch. Each step is predicted from the true feature before
it; a rollout goes on from the head's own prediction instead, as sampling does.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..devices import has_fast_bfloat16
from ..sampling.backbone import Backbone
from ..sampling.rule import Rule
from .distributed import World
from .learner import Learner, falling, stepped
from .losses import squared_error
from .muon import Muon
from .resample import Resampled, resample
from .run import Run
from .trajectories import Trajectory, task_of
from .transitions import Prediction, Transitions, code_divergence

RESAMPLED_BATCHES = 100  # the latest, to learn from
VALIDATE_EVERY = 500  # steps


@dataclass(frozen=True)
class Objective:
    """What a head minimises.

    Attributes:
        masked_only: the squared error counts at the positions still masked, not at the whole sequence.
        one_branch: each step learns one branch, chosen at random, not all.
        kl: weight of the KL divergence of the codes' probabilities at the masked tokens, beside the squared error; 0 as published.
        horizon: steps predicted in turn, each but the first from the head's own prediction; 1 as published.
        sampled: the rollout goes along tokens of the head's own, and only its last step is learned; else along the recorded ones.
        unconditional_every: steps from one that learns the other branches too to the next; 1 as published, more for a base that samples
            without guidance.
    """

    masked_only: bool = False
    one_branch: bool = False
    kl: float = 0.0
    horizon: int = 1
    sampled: bool = False
    unconditional_every: int = 1

    def branches(self, step: int, rng: np.random.Generator, count: int = 2) -> list[int]:
        """The branches that a step learns, of so many."""
        if self.one_branch:
            return [int(rng.integers(count))]
        return list(range(count)) if step % self.unconditional_every == 0 else [0]

    def of(self, backbone: Backbone, prediction: Prediction) -> Tensor:
        error = squared_error(prediction.features, prediction.target, prediction.masked if self.masked_only else None)
        return error + self.kl * code_divergence(backbone, prediction) if self.kl else error


@torch.no_grad()
def zero_init(head: nn.Module) -> None:
    """Make a head predict that the feature does not change, where its variant has a last layer that can say so."""
    if hasattr(head, "proj_out") and not isinstance(head.proj_out, nn.Identity):
        nn.init.zeros_(head.proj_out.weight)
        nn.init.zeros_(head.proj_out.bias)
    elif hasattr(head, "adaLN_modulation"):
        half = len(head.adaLN_modulation.bias) // 2
        nn.init.zeros_(head.adaLN_modulation.weight)
        head.adaLN_modulation.bias[:half] = -1  # times 1 + scale
        head.adaLN_modulation.bias[half:] = 0


def train_head(
    folder: str | Path,
    trajectories: Sequence[Trajectory],
    backbone: Backbone,
    head: nn.Module,
    rule: Rule,
    *,
    objective: Objective = Objective(),
    steps: int = 20000,
    batch: int = 1,
    lr: float = 1e-3,
    min_lr: float = 1e-4,
    decay_steps: int = 1000,
    muon_lr: float = 0.0,
    weight_decay: float = 0.01,
    ema: float = 0.9999,
    focus: float = 0.0,
    resample_every: int = 0,
    clip: float = 0.0,
    seed: int = 0,
    world: World = World(),
) -> nn.Module:
    """Train a head, or resume ``folder``'s checkpoint; returns the head with averaged weights.

    Args:
        trajectories: of one task or of several, learned in proportion to their number; one in ten of each task, by order, is kept for
            validation.
        head: in float32, with the weights to begin with; see ``zero_init``.
        rule: that the runs were sampled by; for what is sampled anew, and for the mask ratio that the head is told.
        batch: transitions a step and process.
        lr, min_lr, decay_steps: the learning rate is ``lr`` for ``decay_steps`` steps, then ``min_lr``, as published.
        muon_lr: peak learning rate of Muon, which then trains the blocks' matrices while AdamW trains the rest, both with rates that fall
            to zero as the base's do; 0 for AdamW alone, as published.
        ema: decay of the weights' moving average; smaller in the first steps, where there is little to average.
        focus: share of the steps that favour transitions in proportion to their ``feature_drift``; 0 as published.
        resample_every: steps from one that samples recorded runs on from where they are undecided to the next; in between, the latest of
            these are learned again. 0 to learn the recorded runs themselves, as published. A resumed run begins to resample anew.
        clip: largest norm of the gradients, which few transitions make large; 0 for any, as published.
    """
    device = world.device
    torch.manual_seed(seed)
    head = head.to(device).requires_grad_(True)
    learned, held_out = split(trajectories)
    training = Transitions(learned, backbone, rule, focus)
    validation = {task: Transitions(some, backbone, rule) for task, some in held_out.items()}
    half = torch.bfloat16 if has_fast_bfloat16(device) and backbone.dtype == torch.bfloat16 else None

    def loss(model: nn.Module, chosen: list[Trajectory], start: int, branches: list[int], generators: list[torch.Generator]) -> Tensor:
        losses = []
        with torch.autocast(device.type, half, enabled=half is not None):
            for branch in branches:
                if objective.sampled:
                    predictions = [training.sampled_rollout(model, chosen, start, branch, objective.horizon, generators)]
                else:
                    predictions = training.rollout(model, chosen, start, branch, objective.horizon)
                losses += [objective.of(backbone, prediction) for prediction in predictions]
        return sum(losses) / len(losses)

    matrices = [p for p in head.blocks.parameters() if p.dim() == 2] if muon_lr else []
    others = [p for p in head.parameters() if not any(p is matrix for matrix in matrices)]
    optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(others, lr=lr, weight_decay=weight_decay)]
    if muon_lr:
        optimizers.append(Muon(matrices, lr=muon_lr, world=world))

    def rate(step: int) -> float:
        if muon_lr:
            return falling(step / max(steps, 1), step, level=0.2)
        return stepped(step, lr=lr, min_lr=min_lr, decay_steps=decay_steps)

    resampled: deque[tuple[list[Resampled], int]] = deque(maxlen=RESAMPLED_BATCHES)
    with Run(folder, steps=steps, log_every=100, world=world) as run:
        learner = Learner(head, loss, optimizers, rate, ema=ema, clip=clip, world=world)
        for step in run.steps(learner=learner):
            # Each step samples from its own seed, so that a resumed run sees what an uninterrupted one would have.
            rng = np.random.default_rng((seed, 3, step, world.rank))
            if resample_every and (step % resample_every == 0 or not resampled):
                chosen, start = training.sample(rng, batch, objective.horizon)
                resampled.append((resample(backbone, rule, chosen, start, objective.horizon, rng), start))
            chosen, start = resampled[rng.integers(len(resampled))] if resample_every else training.sample(rng, batch, objective.horizon)
            generators = [torch.Generator(device).manual_seed(int(rng.integers(2**62))) for _ in chosen] if objective.sampled else []
            value = learner(chosen, start, objective.branches(step, rng, len(chosen[0].prompts)), generators)
            learner.update(value)
            run.count(loss=value)
            if (step + 1) % VALIDATE_EVERY == 0 and world.first:
                for task, transitions in validation.items():
                    # Where the other branches are learned now and then only, they would hide what the first one learns.
                    every = objective.unconditional_every == 1
                    values = validate(learner.averaged, transitions, batch, horizon=objective.horizon, branches=None if every else [0], masked_only=objective.masked_only)
                    run.note(**({} if len(validation) == 1 else {"task": task}), **values)
    return learner.averaged.eval()


def split(trajectories: Sequence[Trajectory]) -> tuple[list[Trajectory], dict[str | None, list[Trajectory]]]:
    """What to learn from, and by task what to validate on: one in ten of each; of few runs all of them for both."""
    of_tasks: dict[str | None, list[Trajectory]] = {}
    for t in trajectories:
        of_tasks.setdefault(task_of(t), []).append(t)
    held_out = {task: runs[::10] if len(runs) >= 10 else runs for task, runs in of_tasks.items()}
    kept = {id(t) for task, runs in held_out.items() if len(of_tasks[task]) >= 10 for t in runs}
    return [t for t in trajectories if id(t) not in kept], held_out


@torch.no_grad()
def validate(
    head: nn.Module,
    transitions: Transitions,
    batch: int,
    samples: int = 16,
    horizon: int = 1,
    branches: Sequence[int] | None = None,
    masked_only: bool = False,
) -> dict[str, float]:
    """On held-out transitions: mean squared error beside that of a feature that does not change, cosine similarity, and KL of the codes.

    ``val_kl_rolled`` is the last KL of a rollout over ``horizon`` steps, ``val_kl_still`` that of the feature before it.

    Args:
        branches: None for all that the runs have.
    """
    rng, count = np.random.default_rng(0), 0
    sums = dict.fromkeys(("val_mse", "val_mse_still", "val_cosine", "val_kl", "val_kl_rolled", "val_kl_still"), 0.0)
    for _ in range(samples):
        chosen, start = transitions.sample(rng, batch, horizon)
        for branch in range(len(chosen[0].prompts)) if branches is None else branches:
            count += 1
            still = transitions.transition(chosen, start, branch, head)[0][0].float()
            rolled = list(transitions.rollout(head, chosen, start, branch, horizon))
            first, last = rolled[0], rolled[-1]
            where = first.masked if masked_only else None
            sums["val_mse"] += squared_error(first.features, first.target, where).item()
            sums["val_mse_still"] += squared_error(still, first.target, where).item()
            sums["val_cosine"] += F.cosine_similarity(first.features.float(), first.target.float(), dim=-1).mean().item()
            sums["val_kl"] += code_divergence(transitions.backbone, first).item()
            sums["val_kl_rolled"] += code_divergence(transitions.backbone, last).item()
            sums["val_kl_still"] += code_divergence(transitions.backbone, last._replace(features=still)).item()
    return {name: round(total / count, 6) for name, total in sums.items()}
