"""Train a shortcut head on runs of its base, a round at a time (MIGM-Shortcut, arXiv 2602.23996, section 4).

A round takes some runs, keeps all their features in memory, and learns from them for a while. No run is learned twice, so none can be
learned by heart. Half of the rounds sample as the base does, from recorded tokens where there are any, half as the head in training would have it, with the base's features
beside (DAgger, arXiv 1011.0686). A rollout goes on from the head's own prediction, as sampling does, for as many steps as lie between full ones.

Both losses are shares of what a head that changes nothing would lose. Otherwise the first steps, where single tokens decide much, have gradients twenty times as large as the last.
The features' error counts little: the mean of two features that may come is nearest to both, and says neither of the codes that they stand for.
"""

import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...canvas import Canvas
from ...devices import half_precision
from ...families.lumina_dimoo.rule import LuminaRule
from ...sampling.backbone import Branch, Sequence, at_positions
from ...sampling.loop import StepReport, sample
from ...sampling.methods.method import Step
from ...sampling.noise import SeededNoise
from ...sampling.rule import Rule, branch_weights
from ...sampling.schedules import full_steps
from ...training.distributed import World
from ...training.learner import Learner, falling
from ...training.losses import divergence
from ...training.muon import Muon
from ...training.run import Run
from .batched import Batched, BatchedShortcut

# Added to what changing nothing would lose, since steps that unmask nothing change nothing: of the features' square, and in nats.
ERROR_FLOOR = 0.005
KL_FLOOR = 0.1
ERROR_WEIGHT = 0.02  # beside the divergence's, 1
LOOKED_AT = 64  # masked tokens of a picture whose codes the divergence is of: any, others at each step
DECISIVE = 0.5  # share of the samples that favour steps by how far the guided expectations drift


@dataclass(frozen=True)
class RunSettings:
    """Of the runs that a head learns from.

    Attributes:
        side: tokens along each side of the canvas.
        budgets: full steps of the runs that are made with the head.
        divide_first: how full steps are rounded, see ``full_steps``.
    """

    side: int
    steps: int = 64
    guidance_scale: float = 4.0
    rule: Rule = field(default_factory=LuminaRule)
    budgets: tuple[int, ...] = (9, 11, 14)
    divide_first: bool = False

    @cached_property
    def masked(self) -> list[int]:
        """How many tokens are masked before each step, and after the last."""
        tokens = self.side**2
        return [tokens, *self.rule.keep(tokens, tokens, self.steps)]

    @cached_property
    def longest_rollout(self) -> int:
        """Head steps in a row, in runs of the smallest budget."""
        full = [*full_steps(self.steps, min(self.budgets), self.divide_first), self.steps]
        return max(1, *(after - before - 1 for before, after in zip(full, full[1:])))

    @cached_property
    def mask_ratios(self) -> list[float]:
        """What a head is told before each step."""
        return self.rule.mask_ratios(self.masked[:-1], self.side**2)

    def weights(self, step: int) -> list[float]:
        """Of both branches' logits at a step."""
        return branch_weights([1 + self.guidance_scale, -self.guidance_scale], self.rule.ramp(step, self.steps))


@dataclass(frozen=True)
class Runs:
    """Finished runs with all their features.

    Attributes:
        prompts: of the branches: (B, P) each.
        codes: int64 (B, H, W).
        unmasked_at: step that unmasked each token, int64 (B, H * W).
        features: of every step, branch after branch: (steps, branches * B, T, d_model), in the base's dtype.
    """

    settings: RunSettings
    prompts: list[Tensor]
    codes: Tensor
    unmasked_at: Tensor
    features: Tensor

    def sequences(self, rows: Tensor, step: int, model: Batched) -> list[Sequence]:
        """What a step saw of some runs (int64 (n,)), by branch."""
        canvas = Canvas(self.codes[rows], (self.unmasked_at[rows] >= step).view(len(rows), *self.codes.shape[1:]))
        weights = self.settings.weights(step)
        return [model.sequence(Branch(p[rows], w, prompt_visible=k == 0), canvas) for k, (p, w) in enumerate(zip(self.prompts, weights))]

    def features_of(self, rows: Tensor, step: int) -> Tensor:
        """(branches * n, T, d_model), float32."""
        count = len(self.codes)
        both = torch.cat([rows + k * count for k in range(len(self.prompts))])
        return self.features[step][both].float()

    def unmasked_by(self, rows: Tensor, step: int) -> Tensor:
        """Tokens that a step unmasked, int64 (n, new)."""
        return _tokens(self.unmasked_at[rows] == step, self.settings.masked[step] - self.settings.masked[step + 1])

    def masked_before(self, rows: Tensor, step: int) -> Tensor:
        """Tokens that are masked before a step, int64 (n, masked)."""
        return _tokens(self.unmasked_at[rows] >= step, self.settings.masked[step])


def _tokens(chosen: Tensor, count: int) -> Tensor:
    """The ``count`` chosen of each row, ascending, int64 (n, count): without asking the device how many there are."""
    return chosen.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :count]


@dataclass(frozen=True)
class Recorded:
    """Finished runs without features: what a file keeps of them.

    Attributes:
        prompts: (B, P).
        codes: (B, H * W).
        unmasked_at: step that unmasked each token, (B, H * W).
    """

    prompts: Tensor
    codes: Tensor
    unmasked_at: Tensor


def make_runs(
    model: Batched, prompts: Tensor, unconditional: Tensor, settings: RunSettings, seed: int, head: nn.Module | None = None, budget: int = 0
) -> Runs:
    """Run the base for prompts (B, P); with a head, sample from its features as the shortcut method does, and record the base's all the same."""
    features = None

    def keep(step: Step, true: Tensor) -> None:
        nonlocal features
        if features is None:
            with torch.inference_mode(False):  # training reads them
                features = true.new_empty(settings.steps, *true.shape)
        features[step.index].copy_(true)

    recorded, branches = _sampled(model, prompts, unconditional, settings, seed, BatchedShortcut(head, budget, keep, settings.divide_first))
    codes = recorded.codes.view(-1, settings.side, settings.side)
    return Runs(settings, [b.prompt.clone() for b in branches], codes, recorded.unmasked_at, features)


def record_runs(model: Batched, prompts: Tensor, unconditional: Tensor, settings: RunSettings, seed: int) -> Recorded:
    """Run the base for prompts (B, P), and keep the tokens alone."""
    return _sampled(model, prompts, unconditional, settings, seed, BatchedShortcut(None, 0))[0]


def replayed(model: Batched, recorded: Recorded, unconditional: Tensor, settings: RunSettings) -> Runs:
    """Recorded runs with the features that the base computes at each of their steps."""
    device = model.device
    codes = recorded.codes.to(device).long().view(-1, settings.side, settings.side)
    prompts = [branch.prompt for branch in model.branches(recorded.prompts.to(device).long(), unconditional, settings.guidance_scale)]
    runs = Runs(settings, prompts, codes, recorded.unmasked_at.to(device).long(), torch.empty(0))
    rows, features = torch.arange(len(codes), device=device), None
    for step in range(settings.steps):
        with torch.inference_mode():  # as sampling does, so that what is compiled serves both
            true = model.features_of(runs.sequences(rows, step, model))
        if features is None:
            features = true.new_empty(settings.steps, *true.shape)
        features[step].copy_(true)
    return replace(runs, features=features)


def _sampled(model: Batched, prompts: Tensor, unconditional: Tensor, settings: RunSettings, seed: int, method: BatchedShortcut) -> tuple[Recorded, list[Branch]]:
    count, device = len(prompts), prompts.device
    branches = model.branches(prompts, unconditional, settings.guidance_scale)
    unmasked_at = torch.full((count, settings.side**2), -1, device=device)
    masked = None

    def note(report: StepReport) -> None:
        nonlocal masked
        now = report.canvas.masked.flatten(1)
        new = ~now if masked is None else masked & ~now
        unmasked_at.masked_fill_(new, report.step)
        masked = now

    canvas = Canvas.empty(count, settings.side, settings.side, device)
    noise = SeededNoise([torch.Generator(device).manual_seed(seed + k) for k in range(count)])
    sampled = sample(model, branches, canvas, method, settings.rule, steps=settings.steps, noise=noise, callback=note)
    return Recorded(prompts, sampled.codes.flatten(1).clone(), unmasked_at), branches


def guided(model: Batched, features: Tensor, sequences: list[Sequence], masked: Tensor) -> Tensor:
    """Log-probabilities of the guided codes at masked tokens (n, m), from features (branches * n, T, d_model): float32 (n, m, K)."""
    total = 0
    for part, s in zip(features.chunk(len(sequences)), sequences):
        positions = s.positions[masked]
        total = total + s.weight * model.code_logits(at_positions(part, positions).to(model.dtype), positions).float()
    return total.log_softmax(-1)


@torch.no_grad()
def feature_drift(model: Batched, runs: Runs, count: int = 32) -> np.ndarray:
    """How far the guided expectations of some runs drift in each step, KL summed over the masked tokens: float64 (steps - 1,)."""
    rows = torch.arange(min(count, len(runs.codes)), device=runs.codes.device)
    moved = []
    for step in range(runs.settings.steps - 1):
        sequences, masked = runs.sequences(rows, step + 1, model), runs.masked_before(rows, step + 1)
        before, after = (guided(model, runs.features_of(rows, s), sequences, masked) for s in (step, step + 1))  # both by the later step's weights
        moved.append(F.kl_div(before, after, log_target=True, reduction="sum").double() / len(rows))
    return torch.stack(moved).clamp(min=0).cpu().numpy()  # rounding gives a little less than 0


@dataclass(frozen=True)
class Predicted:
    """A head step of a rollout beside what the base says.

    Attributes:
        step: its index.
        features, kept, true: predicted ones, those of the full step before them, and the base's: (branches * n, T, d_model).
        sequences: of the branches.
    """

    step: int
    features: Tensor
    kept: Tensor
    true: Tensor
    sequences: list[Sequence]

    def divergences(self, model: Batched, masked: Tensor) -> tuple[Tensor, Tensor]:
        """KL divergence of the guided codes at masked tokens (n, m) from the base's: of the predicted features, and of the kept ones, which has no gradient."""
        with torch.no_grad():
            true = guided(model, self.true, self.sequences, masked)
            kept = divergence(guided(model, self.kept, self.sequences, masked), true)
        return divergence(guided(model, self.features, self.sequences, masked), true), kept


def rollout(model: Batched, head: nn.Module, runs: Runs, rows: Tensor, step: int, horizon: int) -> Iterator[Predicted]:
    """``horizon`` steps of a head, each from the one before it, the first from the true features of ``step``."""
    kept = features = runs.features_of(rows, step)
    for now in range(step + 1, step + 1 + horizon):
        sequences = runs.sequences(rows, now, model)
        features = model.predicted(head, features, sequences, runs.unmasked_by(rows, now - 1), runs.settings.mask_ratios[now])
        yield Predicted(now, features, kept, runs.features_of(rows, now), sequences)


def rollout_losses(model: Batched, head: nn.Module, runs: Runs, rows: Tensor, step: int, horizon: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Squared error and KL divergence of a rollout, means of the shares that are left: 1 for a head that changes nothing, but for the floors."""
    errors, divergences = [], []
    for at in rollout(model, head, runs, rows, step, horizon):
        counts, masked = model.counted(at.sequences), runs.masked_before(rows, at.step)
        moved = ((at.kept - at.true).square() * counts).sum() + ERROR_FLOOR * (at.true.square() * counts).sum()
        errors.append(((at.features - at.true).square() * counts).sum() / moved)
        some = torch.randperm(masked.shape[1], generator=generator, device=masked.device)[:LOOKED_AT]
        found, of_kept = at.divergences(model, masked[:, some])
        divergences.append(found / (of_kept + KL_FLOOR))
    return torch.stack(errors).mean(), torch.stack(divergences).mean()


@torch.no_grad()
def divergence_left(model: Batched, head: nn.Module, runs: Runs, budget: int, count: int = 16) -> float:
    """How much of what keeping full steps' features would lose some runs of a budget lose with the head: KL divergence, over all their head steps."""
    settings, rows = runs.settings, torch.arange(min(count, len(runs.codes)), device=runs.codes.device)
    full = [*full_steps(settings.steps, budget, settings.divide_first), settings.steps]
    lost = [
        torch.stack(at.divergences(model, runs.masked_before(rows, at.step)))
        for step, after in zip(full, full[1:])
        for at in rollout(model, head, runs, rows, step, after - step - 1)
    ]
    found, of_kept = torch.stack(lost).double().sum(0).tolist()
    return found / max(of_kept, 1e-9)


def train_on_rounds(
    folder: str | Path,
    head: nn.Module,
    model: Batched,
    prompts: Callable[[int], Iterator[Tensor]],
    unconditional: Tensor,
    settings: RunSettings | list[RunSettings],
    *,
    seconds: float,
    until: float = float("inf"),
    clock: Callable[[], float] = time.monotonic,
    steps_a_round: int = 200,
    rows_a_step: int = 64,
    muon_lr: float = 0.01,
    adam_lr: float = 1e-3,
    ema: float = 0.995,
    seed: int = 0,
    recorded: Callable[[int], Recorded | None] = lambda index: None,
    on_checkpoint: Callable[[nn.Module], None] | None = None,
    on_policy_first: bool = False,
    world: World = World(),
) -> nn.Module:
    """Train, or resume ``folder``'s checkpoint; returns the head with averaged weights, in float32.

    Args:
        head: in float32, with the weights to begin with.
        model: the base, frozen; sampling runs in its dtype.
        prompts: given a round, prompts (B, P) of that and later rounds, on the device.
        unconditional: (P,).
        settings: of the runs; of several, pairs of rounds take turns.
        recorded: given a round, runs of the base that were recorded for it; None where there are none, so that they are made.
        on_checkpoint: called with the averaged weights after each checkpoint on the way.
        on_policy_first: whether the head has learned before, so that its own runs are worth learning from at once.
    """
    device = world.device
    kinds = settings if isinstance(settings, list) else [settings]
    head, unconditional = head.to(device), unconditional.to(device)
    matrices = [p for p in head.blocks.parameters() if p.dim() == 2]
    others = [p for p in head.parameters() if not any(p is m for m in matrices)]
    optimizers = [Muon(matrices, lr=muon_lr, world=world), torch.optim.AdamW(others, lr=adam_lr, weight_decay=0.01)]

    def loss(head: nn.Module, runs: Runs, rows: Tensor, first: int, steps: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        with half_precision(device):
            return rollout_losses(model, head, runs, rows, first, steps, generator)

    with Run(folder, seconds=seconds, until=until, clock=clock, save_every=30, world=world) as run:
        learner = Learner(head, loss, optimizers, lambda step: falling(run.progress, step, level=0.3, warm_up=50), ema=ema, clip=1.0, world=world)
        batches = None
        for step in run.steps(on_checkpoint=None if on_checkpoint is None else lambda: on_checkpoint(learner.averaged), learner=learner):
            if batches is None or step % steps_a_round == 0:
                index = step // steps_a_round
                batches = prompts(index) if batches is None else batches
                batch, rng = next(batches), np.random.default_rng((seed, 8, index, step))  # one for all processes: none waits for another's longer rollout
                on_policy = index % 2 == 1 or on_policy_first and step == 0
                chosen = kinds[index // 2 % len(kinds)]
                budget, seed_of_runs = int(rng.choice(chosen.budgets)), int(rng.integers(2**40)) + world.rank * len(batch)  # a run's seed counts on from there
                runs = None  # as large as what comes
                if on_policy:
                    runs = make_runs(model, batch, unconditional, chosen, seed_of_runs, copy.deepcopy(learner.averaged).to(model.dtype), budget)
                elif (kept := recorded(index)) is not None:
                    runs = replayed(model, kept, unconditional, chosen)
                else:
                    runs = make_runs(model, batch, unconditional, chosen, seed_of_runs)
                drift = feature_drift(model, runs)
                shuffle = torch.Generator(device).manual_seed(seed_of_runs)
                chance = (1 - DECISIVE) / len(drift) + DECISIVE * drift / max(drift.sum(), 1e-9)
                with half_precision(device):  # no step has learned from these runs yet
                    left = divergence_left(model, learner.averaged, runs, budget)
                run.note(round=index, on_policy=on_policy, decisive=int(np.argmax(drift)), divergence_left=round(left, 3))
            first, horizon = int(rng.choice(len(drift), p=chance / chance.sum())), runs.settings.longest_rollout
            steps = min(int(rng.integers(1, horizon + 1)), len(drift) - first)
            rows = torch.randperm(len(runs.codes), generator=shuffle, device=device)[:rows_a_step]
            error, kl = learner(runs, rows, first, steps, shuffle)
            learner.update((ERROR_WEIGHT * error + kl) * (steps / horizon))  # each step of a rollout counts alike
            run.count(seen=len(rows) * steps * world.size, error=error, kl=kl)
    return learner.averaged.eval()
