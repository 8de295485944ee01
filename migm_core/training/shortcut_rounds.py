"""Train a shortcut head on runs of its base that are made as they are needed (MIGM-Shortcut, arXiv 2602.23996, section 4).

A round makes some runs, keeps all their features in memory, and learns from them for a while. No run is learned twice, so none can be
learned by heart. Half of the rounds sample as the base does, half as the head in training would have it, with the base's features
beside (DAgger, arXiv 1011.0686). A rollout goes on from the head's own prediction, as sampling does.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..canvas import Canvas
from ..models.shortcut import ShortcutConfig, ShortcutHead
from ..sampling.methods.base import Step
from ..sampling.sampler import sample
from ..sampling.schedule import keep_masked
from ..sampling.sequence import Branch, Sequence, text_guidance
from .distributed import World, sum_gradients
from .head import start_without_motion
from .muon import Muon
from .padded import PaddedBase, PaddedShortcut, new_tokens, predict
from .run import alone_in_folder
from .stage import Stage, rate

KL_WEIGHT = 0.5  # beside the squared error over the features' variance
DECISIVE = 0.5  # share of the draws that favour steps by how far the guided expectations move


@dataclass(frozen=True)
class RunSettings:
    """Of the runs that a head learns from.

    Attributes:
        side: tokens along each side of the canvas.
    """

    side: int
    steps: int = 64
    guidance: float = 4.0
    temperature: float = 1.0
    budgets: tuple[int, ...] = (9, 11, 14)

    @cached_property
    def masked(self) -> list[int]:
        """How many tokens are masked before each step, and after the last."""
        return [self.side**2, *keep_masked(self.side**2, self.steps)]


@dataclass(frozen=True)
class Runs:
    """Finished runs with all their features.

    Attributes:
        prompts: of the branches: (B, P) each.
        codes: int64 (B, H, W).
        fixed_at: step that fixed each cell, int64 (B, H * W).
        features: of every step, branch after branch: (steps, branches * B, T, d_model), in the base's dtype.
    """

    settings: RunSettings
    prompts: list[Tensor]
    codes: Tensor
    fixed_at: Tensor
    features: Tensor

    def sequences(self, rows: Tensor, step: int, model: PaddedBase) -> list[Sequence]:
        """What a step saw of some runs (int64 (n,)), by branch."""
        canvas = Canvas(self.codes[rows], (self.fixed_at[rows] >= step).view(len(rows), *self.codes.shape[1:]))
        weights = (1 + self.settings.guidance, -self.settings.guidance)
        return [Sequence(Branch(p[rows], w, prompt_visible=k == 0), canvas, model) for k, (p, w) in enumerate(zip(self.prompts, weights))]

    def features_of(self, rows: Tensor, step: int) -> Tensor:
        """(branches * n, T, d_model), float32."""
        count = len(self.codes)
        both = torch.cat([rows + k * count for k in range(len(self.prompts))])
        return self.features[step][both].float()

    def fixed_by(self, rows: Tensor, step: int) -> Tensor:
        """Cells that a step fixed, int64 (n, fixed)."""
        return _cells(self.fixed_at[rows] == step, self.settings.masked[step] - self.settings.masked[step + 1])

    def masked_before(self, rows: Tensor, step: int) -> Tensor:
        """Cells that are masked before a step, int64 (n, masked)."""
        return _cells(self.fixed_at[rows] >= step, self.settings.masked[step])


def _cells(chosen: Tensor, count: int) -> Tensor:
    """The ``count`` chosen of each row, ascending, int64 (n, count): without asking the device how many there are."""
    return chosen.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :count]


def make_runs(model: PaddedBase, prompts: Tensor, unconditional: Tensor, settings: RunSettings, seed: int, head=None, budget: int = 0) -> Runs:
    """Run the base for prompts (B, P); with a head, sample from its features as the shortcut method does, and record the base's all the same."""
    count, device = len(prompts), prompts.device
    branches = text_guidance(prompts, unconditional.expand(count, -1), settings.guidance)
    canvas = Canvas.empty(count, settings.side, settings.side, device)
    length = Sequence(branches[0], canvas, model).length
    dtype = model.wte.weight.dtype
    features = torch.empty(settings.steps, len(branches) * count, length, model.config.d_model, dtype=dtype, device=device)
    fixed_at = torch.full((count, settings.side**2), -1, device=device)

    def record(step: Step, true: Tensor) -> None:
        features[step.index].copy_(true)
        fixed_at.scatter_(1, step.masked, step.index)  # now or later

    generators = [torch.Generator(device).manual_seed(seed + k) for k in range(count)]
    method = PaddedShortcut(head, budget, record)
    drawn = sample(model, branches, canvas, method, steps=settings.steps, temperature=settings.temperature, generators=generators)
    return Runs(settings, [b.prompt.clone() for b in branches], drawn.codes.clone(), fixed_at, features)


def guided(model: PaddedBase, features: Tensor, sequences: list[Sequence], masked: Tensor) -> Tensor:
    """Log-probabilities of the guided codes at masked cells (n, m), from features (branches * n, T, d_model): float32 (n, m, K)."""
    total = 0
    for part, s in zip(features.chunk(len(sequences)), sequences):
        there = part.gather(1, s.cells[masked].unsqueeze(-1).expand(-1, -1, part.shape[-1]))
        total = total + s.weight * model.code_logits(there.to(model.wte.weight.dtype)).float()
    return total.log_softmax(-1)


@torch.no_grad()
def movement(model: PaddedBase, runs: Runs, count: int = 32) -> np.ndarray:
    """How far the guided expectations of some runs move in each step, KL summed over the masked cells: float64 (steps - 1,)."""
    rows = torch.arange(min(count, len(runs.codes)), device=runs.codes.device)
    moved = []
    for step in range(runs.settings.steps - 1):
        sequences, masked = runs.sequences(rows, step + 1, model), runs.masked_before(rows, step + 1)
        before, after = (guided(model, runs.features_of(rows, s), sequences, masked) for s in (step, step + 1))
        moved.append(F.kl_div(before, after, log_target=True, reduction="sum").double() / len(rows))
    return torch.stack(moved).clamp(min=0).cpu().numpy()  # rounding gives a little less than 0


def rollout_losses(model: PaddedBase, head: ShortcutHead, runs: Runs, rows: Tensor, step: int, horizon: int) -> tuple[Tensor, Tensor]:
    """Relative squared error and KL divergence of ``horizon`` steps predicted in turn from the true feature of ``step``, their means."""
    features, errors, divergences = runs.features_of(rows, step), [], []
    cells = runs.fixed_at.shape[1]
    for now in range(step + 1, step + 1 + horizon):
        sequences, masked = runs.sequences(rows, now, model), runs.masked_before(rows, now)
        tokens = torch.cat([s.tokens for s in sequences])
        visible = model.visible(tokens)
        there, positions, known = new_tokens(sequences, runs.fixed_by(rows, now - 1), model.config.tokens.end_of_text)
        ratio = torch.full((len(tokens),), masked.shape[1] / cells, device=tokens.device)
        embeddings = model.wte(there).float().detach()
        features = predict(head, features, embeddings, positions, known, visible, ratio, head.rotary(tokens.shape[1], tokens.device))
        target, counts = runs.features_of(rows, now), visible[:, 0, 0, :, None]
        errors.append(((features - target).square() * counts).sum() / (target.square() * counts).sum())
        with torch.no_grad():
            truth = guided(model, target, sequences, masked)
        divergences.append(F.kl_div(guided(model, features, sequences, masked).flatten(0, 1), truth.flatten(0, 1), log_target=True, reduction="batchmean"))
    return torch.stack(errors).mean(), torch.stack(divergences).mean()


@alone_in_folder
def train_on_rounds(
    folder: str | Path,
    config: ShortcutConfig,
    model: PaddedBase,
    prompts: Callable[[int], Iterator[Tensor]],
    unconditional: Tensor,
    settings: RunSettings,
    *,
    seconds: float,
    until: float = float("inf"),
    steps_a_round: int = 200,
    rows_a_step: int = 64,
    horizon: int = 5,
    muon_lr: float = 0.01,
    adam_lr: float = 1e-3,
    ema: float = 0.995,
    seed: int = 0,
    start: dict[str, Tensor] | None = None,
    world: World = World(),
) -> ShortcutHead:
    """Train, or resume ``folder``'s checkpoint; returns the head with averaged weights, in float32.

    Args:
        model: the base, frozen; sampling runs in its dtype.
        prompts: given a round, prompts (B, P) of that and later rounds, on the device.
        unconditional: (P,).
        horizon: most steps of a rollout.
        start: weights to go on from.
    """
    device = world.device
    stage = Stage(folder, seconds, until=until, every=30, world=world)
    torch.manual_seed(seed)
    head = ShortcutHead(config)
    if start is None:
        start_without_motion(head)
    else:
        head.load_state_dict(start)
    head = head.to(device)
    average = copy.deepcopy(head).requires_grad_(False)
    matrices = [p for p in head.blocks.parameters() if p.dim() == 2]
    others = [p for p in head.parameters() if not any(p is m for m in matrices)]
    optimizers = [Muon(matrices, lr=muon_lr, world=world), torch.optim.AdamW(others, lr=adam_lr, weight_decay=0.01)]
    rounds, trained = 0, start is not None
    if saved := stage.resume():
        head.load_state_dict(saved["model"])
        average.load_state_dict(saved["average"])
        for optimizer, state in zip(optimizers, saved["optimizers"]):
            optimizer.load_state_dict(state)
        rounds, trained = saved["rounds"], True

    def state() -> dict:
        return {"model": head.state_dict(), "average": average.state_dict(), "optimizers": [o.state_dict() for o in optimizers], "rounds": rounds}

    half = device.type == "cuda"
    unconditional, progress = unconditional.to(device), stage.progress()
    for batch in prompts(rounds):
        rng = np.random.default_rng((seed, 8, rounds, world.rank))
        own = rounds % 2 == 1 and trained
        budget = int(rng.choice(settings.budgets))
        sampling_head = copy.deepcopy(average).to(model.wte.weight.dtype) if own else None
        runs = make_runs(model, batch, unconditional, settings, int(rng.integers(2**40)), sampling_head, budget)
        moved = movement(model, runs)
        chance = (1 - DECISIVE) / len(moved) + DECISIVE * moved / max(moved.sum(), 1e-9)
        chance = chance / chance.sum()
        sums, count = torch.zeros(2, device=device), 0
        for _ in range(steps_a_round):
            progress = stage.progress()
            if progress >= 1:
                break
            first = int(rng.choice(len(moved), p=chance))
            ahead = min(int(rng.integers(1, horizon + 1)), len(moved) - first)
            rows = torch.from_numpy(rng.choice(len(batch), min(rows_a_step, len(batch)), replace=False)).to(device)
            with torch.autocast(device.type, torch.bfloat16, enabled=half):
                error, divergence = rollout_losses(model, head, runs, rows, first, ahead)
            ((error + KL_WEIGHT * divergence) * len(rows)).backward()
            sum_gradients(list(head.parameters()), len(rows), world)
            torch.nn.utils.clip_grad_norm_(head.parameters(), 1.0)
            for optimizer, peak in zip(optimizers, (muon_lr, adam_lr)):
                optimizer.param_groups[0]["lr"] = peak * rate(progress, stage.step, 0.3, 50)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            decay = min(ema, (1 + stage.step) / (10 + stage.step))
            with torch.no_grad():
                torch._foreach_lerp_(list(average.parameters()), list(head.parameters()), 1 - decay)
            stage.tick(len(rows) * ahead * world.size)
            sums += torch.stack([error.detach(), divergence.detach()])
            count += 1
        rounds, trained = rounds + 1, True
        if count:
            stage.note(round=rounds, own=own, error=(sums[0] / count).item(), kl=(sums[1] / count).item(), decisive=int(np.argmax(moved)))
        stage.save_now_and_then(state)
        if progress >= 1:
            break
    stage.save(state())
    return average.eval()
