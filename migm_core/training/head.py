"""Train a shortcut head on trajectories of its base (MIGM-Shortcut, arXiv 2602.23996, section 4).

The head regresses the feature of the next step: mean squared error over the whole sequence of both guidance branches,
AdamW, a moving average of the weights. Published: batch 1 a GPU, learning rate 1e-3 for 1,000 steps, then 1e-4, and each step
predicted from the true feature before it. A rollout goes on from the head's own prediction instead, as sampling does.
"""

import copy
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..config import LuminaConfig
from ..models.lumina import Lumina
from ..models.shortcut import ShortcutConfig, ShortcutHead
from ..sampling.sampler import LOGITS_AT_ONCE
from ..sampling.sequence import Branch, Sequence
from .base import learning_rate as falling_rate
from .distributed import World
from .muon import Muon
from .redraw import Redrawn, redraw
from .run import TrainingRun, alone_in_folder
from .trajectories import Trajectory, canvas_at, features_of, fixed_by

REDRAWN_BATCHES = 100  # the latest, to learn from


def head_for(base: LuminaConfig, bottleneck_ratio: float = 2, n_blocks: int = 1) -> ShortcutConfig:
    """The published architecture at a base's size.

    Raises:
        ValueError: a width that the base's heads, or their rotary pairs, do not divide, or one larger than the base's.
    """
    width, pairs = round(base.d_model / bottleneck_ratio) if bottleneck_ratio > 0 else 0, 2 * base.n_heads
    if not 0 < width <= base.d_model or width % pairs:
        nearest = min(max(round(width / pairs) * pairs, pairs), base.d_model)
        raise ValueError(
            f"The ratio {bottleneck_ratio:g} gives a head of width {width}, but a width must be a multiple of {pairs}, twice the base's heads, and at most "
            f"{base.d_model}. Choose for example {base.d_model / nearest:.4g}."
        )
    return ShortcutConfig(
        d_model=base.d_model,
        n_heads=base.n_heads,
        mlp_hidden_size=base.mlp_hidden_size,
        rms_norm_eps=base.rms_norm_eps,
        rope_theta=base.rope_theta,
        n_blocks=n_blocks,
        bottleneck_ratio=bottleneck_ratio,
    )


@torch.no_grad()
def start_without_motion(head: ShortcutHead) -> None:
    """Make the head predict that the feature does not move, where its variant has a last layer that can say so."""
    if head.config.projects:
        nn.init.zeros_(head.proj_out.weight)
        nn.init.zeros_(head.proj_out.bias)
    elif head.config.time_embedding:
        nn.init.zeros_(head.adaLN_modulation.weight)
        head.adaLN_modulation.bias[: head.config.width] = -1  # times 1 + scale
        head.adaLN_modulation.bias[head.config.width :] = 0


def learning_rate(step: int, lr: float, low_lr: float, low_from: int) -> float:
    """``lr`` up to step ``low_from``, then ``low_lr``; the first 50 steps warm up."""
    return (lr if step < low_from else low_lr) * min(1, (step + 1) / 50)


class Prediction(NamedTuple):
    """A predicted feature and the true one, (B, T, d_model), and the sequence that has the true one."""

    features: Tensor
    target: Tensor
    sequence: Sequence


class TransitionSet:
    """Pairs of consecutive steps, batched over trajectories of one shape.

    Trajectories whose prompts have one length and whose canvases have one size fix equally many cells at each step, so a
    batch of them at one step needs no padding.

    Args:
        focus: share of the draws that favour transitions in proportion to their ``movement``. Most steps change little of what
            is expected; the few that settle where an object goes are what a head must learn.

    Raises:
        ValueError: ``focus`` above 0 for trajectories without features.
    """

    def __init__(self, trajectories: list[Trajectory], base: Lumina, device: torch.device, focus: float = 0.0):
        self.base, self.device, self.focus = base, device, focus
        groups: dict[tuple, list[Trajectory]] = {}
        for t in trajectories:
            groups.setdefault((len(t.prompts[0]), tuple(t.codes.shape), t.steps), []).append(t)
        self.groups = list(groups.values())
        self.shares = np.array([len(group) for group in self.groups]) / len(trajectories)
        self.movements = [movement(base, group) for group in self.groups] if focus else []

    def draw(self, rng: np.random.Generator, batch: int, ahead: int = 1) -> tuple[list[Trajectory], int]:
        """Trajectories of a random group and a step that ``ahead`` others follow."""
        place = rng.choice(len(self.groups), p=self.shares)
        group = self.groups[place]
        starts, shares = group[0].steps - ahead, None
        if rng.random() < self.focus:
            windows = np.lib.stride_tricks.sliding_window_view(self.movements[place], ahead, axis=1).sum(-1) + 1e-9  # none is impossible
            totals = windows.sum(0)
            start = rng.choice(starts, p=totals / totals.sum())
            shares = windows[:, start] / totals[start]
        else:
            start = rng.integers(starts)
        chosen = rng.choice(len(group), min(batch, len(group)), replace=False, p=shares)
        return [group[i] for i in chosen], int(start)

    @torch.no_grad()
    def transition(self, trajectories: list[Trajectory], step: int, branch: int, head: ShortcutHead) -> tuple[tuple, Tensor, Sequence]:
        """The head's arguments at ``step`` and the feature of the step after, for one branch."""
        prompts = Branch(torch.stack([t.prompts[branch] for t in trajectories]), 1.0)
        canvases = [canvas_at(trajectories, s).to(self.device) for s in (step, step + 1)]
        before, after = (Sequence(prompts, canvas, self.base) for canvas in canvases)
        dtype = head.ln_f.weight.dtype  # float32, whatever the base's
        features = features_of(trajectories, step, branch, before, self.base).to(dtype)
        target = features_of(trajectories, step + 1, branch, after, self.base)
        fixed = fixed_by(trajectories, step).to(self.device)
        visible = after.prompt_length if branch == 0 else 0
        prompt = torch.arange(visible, device=self.device).expand(len(trajectories), -1)
        positions = torch.cat([prompt, after.cells[fixed]], dim=1)
        embeddings = self.base.wte(after.tokens.gather(1, positions)).to(dtype)
        ratio = canvases[1].unknown.flatten(1).float().mean(1)
        return (features, embeddings, positions, ratio, head.rotary(after.length, self.device)), target, after

    def rollout(self, head: ShortcutHead, predict, trajectories: list[Trajectory], step: int, branch: int, ahead: int) -> Iterator[Prediction]:
        """Predict ``ahead`` steps in turn, the first from the true feature and each other from the prediction before it.

        Args:
            predict: the head, or what wraps it to share gradients.
        """
        features = None
        for now in range(step, step + ahead):
            (true, *arguments), target, after = self.transition(trajectories, now, branch, head)
            features = predict(true if features is None else features, *arguments)
            yield Prediction(features, target, after)


@alone_in_folder
def train_head(
    folder: str | Path,
    trajectories: list[Trajectory],
    base: Lumina,
    *,
    steps: int = 20000,
    batch: int = 1,
    lr: float = 1e-3,
    low_lr: float = 1e-4,
    low_from: int = 1000,
    muon: float = 0.0,
    weight_decay: float = 0.01,
    ema: float = 0.9999,
    rollout: int = 1,
    kl: float = 0.0,
    unconditional_every: int = 1,
    focus: float = 0.0,
    redraw_every: int = 0,
    clip: float = 0.0,
    seed: int = 0,
    config: ShortcutConfig | None = None,
    start: ShortcutHead | None = None,
    world: World = World(),
) -> ShortcutHead:
    """Train on trajectories, or resume ``folder``'s checkpoint; returns the head with averaged weights.

    Args:
        trajectories: one in ten, by order, is kept for validation.
        batch: transitions a step and process.
        low_from: the step from which the learning rate is ``low_lr``.
        muon: peak learning rate of Muon, which then trains the blocks' matrices while AdamW trains the rest, both with rates that fall
            to zero as the base's do; 0 for AdamW alone, as published.
        ema: decay of the weights' moving average; smaller in the first steps, where there is little to average.
        rollout: steps predicted in turn, each but the first from the head's own prediction; 1 as published.
        kl: weight of the KL divergence of the codes' probabilities at the masked cells, beside the squared error; 0 as published.
        unconditional_every: steps from one that learns the unconditional branch too to the next; 1 as published, more for a base
            that draws without guidance.
        focus: share of the steps that favour transitions in proportion to their ``movement``; 0 as published.
        redraw_every: steps from one that draws recorded runs on anew to the next; in between, the latest of these are learned
            again. 0 to learn the recorded runs themselves, as published. A resumed run begins to redraw anew.
        clip: largest norm of the gradients, which few transitions make large; 0 for any, as published.
        config: architecture, if ``start`` does not give it.
        start: weights to begin with, instead of a head that predicts no motion.
    """
    device = world.device
    run = TrainingRun(folder, steps, quiet=not world.first)
    torch.manual_seed(seed)
    head = ShortcutHead(start.config if start is not None else config or head_for(base.config)).to(device)
    if start is not None:
        head.load_state_dict(start.state_dict())
    else:
        start_without_motion(head)
    average = copy.deepcopy(head).requires_grad_(False)
    matrices = [p for p in head.blocks.parameters() if p.dim() == 2] if muon else []
    others = [p for p in head.parameters() if not any(p is matrix for matrix in matrices)]
    optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(others, lr=lr, weight_decay=weight_decay)]
    if muon:
        optimizers.append(Muon(matrices, lr=muon, world=world))
    if saved := run.resume():
        head.load_state_dict(saved["head"])
        average.load_state_dict(saved["average"])
        for optimizer, state in zip(optimizers, saved["optimizers"]):
            optimizer.load_state_dict(state)
    held_out = trajectories[::10] if len(trajectories) >= 10 else trajectories
    training = TransitionSet([t for i, t in enumerate(trajectories) if i % 10] or trajectories, base, device, focus)
    validation = TransitionSet(held_out, base, device)
    parallel = DistributedDataParallel(head) if world.size > 1 else head
    half = torch.bfloat16 if device.type == "cuda" and base.ln_f.weight.dtype == torch.bfloat16 else None

    redrawn: deque[tuple[list[Redrawn], int]] = deque(maxlen=REDRAWN_BATCHES)
    for step in run.steps_left():
        # Each step draws from its own seed, so that a resumed run sees what an uninterrupted one would have.
        rng = np.random.default_rng((seed, 3, step, world.rank))
        if redraw_every and (step % redraw_every == 0 or not redrawn):
            chosen, at = training.draw(rng, batch, rollout)
            redrawn.append((redraw(base, chosen, at, rollout, rng), at))
        chosen, at = redrawn[rng.integers(len(redrawn))] if redraw_every else training.draw(rng, batch, rollout)
        losses = []
        for branch in range(2 if step % unconditional_every == 0 else 1):
            with torch.autocast(device.type, half, enabled=half is not None):
                for prediction in training.rollout(head, parallel, chosen, at, branch, rollout):
                    losses.append(F.mse_loss(prediction.features.float(), prediction.target.float()))
                    if kl:
                        losses[-1] = losses[-1] + kl * prediction_error(base, prediction)
        loss = sum(losses) / len(losses)
        loss.backward()
        if clip:
            nn.utils.clip_grad_norm_(head.parameters(), clip)
        falling = falling_rate(step, steps)
        rates = (falling * lr, falling * muon) if muon else (learning_rate(step, lr, low_lr, low_from),)
        for optimizer, rate in zip(optimizers, rates):
            optimizer.param_groups[0]["lr"] = rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        decay = min(ema, (1 + step) / (10 + step))
        with torch.no_grad():
            for mean, parameter in zip(average.parameters(), head.parameters()):
                mean.lerp_(parameter, 1 - decay)
        if (step + 1) % 500 == 0 and world.first:
            # Where the unconditional branch is learned now and then only, it would hide what the other one learns.
            branches = 2 if unconditional_every == 1 else 1
            run.note({"step": step + 1, **validate(average, validation, batch, ahead=rollout, branches=branches)})
        run.tick(
            {"loss": loss.item()},
            lambda: {"head": head.state_dict(), "average": average.state_dict(), "optimizers": [o.state_dict() for o in optimizers]},
            log_every=100,
        )
    return average.eval()


def prediction_error(base: Lumina, prediction: Prediction) -> Tensor:
    """KL divergence of the predicted feature's probabilities of the codes from the true one's: mean over the masked cells, in nats."""
    masked = prediction.sequence.tokens == prediction.sequence.layout.mask
    both = (f[masked].to(base.ln_f.weight.dtype) for f in (prediction.target, prediction.features))
    truth, guess = (base.code_logits(f).float().log_softmax(-1) for f in both)
    return F.kl_div(guess, truth, log_target=True, reduction="batchmean")


@torch.no_grad()
def movement(base: Lumina, trajectories: list[Trajectory]) -> np.ndarray:
    """How far the base's expectations move from each step to the next, in the conditional branch of trajectories of one shape.

    Returns:
        KL divergence of the codes' probabilities, summed over the cells that stay masked, in nats: float64 (n, steps - 1).

    Raises:
        ValueError: a trajectory was written without features.
    """
    for t in trajectories:
        if t.features(0, 0) is None:
            raise ValueError(f"{t.path} holds no features. Collect the trajectories with them, or train without focus.")
    at_once = max(1, LOGITS_AT_ONCE // (trajectories[0].codes.numel() * base.config.tokens.codebook_size))
    return np.concatenate([_movement(base, trajectories[first : first + at_once]) for first in range(0, len(trajectories), at_once)])


def _movement(base: Lumina, trajectories: list[Trajectory]) -> np.ndarray:
    device, dtype = base.ln_f.weight.device, base.ln_f.weight.dtype
    canvas = canvas_at(trajectories, 0).to(device)
    cells = Sequence(Branch(torch.stack([t.prompts[0] for t in trajectories]), 1.0), canvas, base).cells
    fixed_at = torch.stack([t.fixed_at for t in trajectories])
    nats, before = [], None  # log-probabilities of every cell, while they are right
    for step in range(trajectories[0].steps):
        if before is not None and not (fixed_at == step - 1).any():  # no cell was fixed: nothing changes
            nats.append(torch.zeros(len(trajectories), device=device))
            continue
        features = torch.stack([t.features(0, step) for t in trajectories]).to(device, dtype)
        after = base.code_logits(features[:, cells]).float().log_softmax(-1)
        if before is not None:
            distance = F.kl_div(before, after, log_target=True, reduction="none").sum(-1)
            nats.append((distance * (fixed_at >= step).to(device)).sum(-1).clamp_min(0))  # rounding may take it below
        before = after
    return torch.stack(nats, dim=1).double().cpu().numpy()


@torch.no_grad()
def validate(
    head: ShortcutHead, transitions: TransitionSet, batch: int, draws: int = 16, ahead: int = 1, branches: int = 2
) -> dict[str, float]:
    """On held-out transitions: mean squared error beside that of a feature that does not move, cosine similarity, and KL of logits.

    ``val_kl_rolled`` is the last KL of a rollout over ``ahead`` steps, ``val_kl_still`` that of the feature before it.
    """
    rng = np.random.default_rng(0)
    sums = {"val_mse": 0.0, "val_mse_still": 0.0, "val_cosine": 0.0, "val_kl": 0.0, "val_kl_rolled": 0.0, "val_kl_still": 0.0}
    for _ in range(draws):
        chosen, at = transitions.draw(rng, batch, ahead)
        for branch in range(branches):
            still = transitions.transition(chosen, at, branch, head)[0][0].float()
            rolled = list(transitions.rollout(head, head, chosen, at, branch, ahead))
            predicted, target = rolled[0].features.float(), rolled[0].target.float()
            sums["val_mse"] += F.mse_loss(predicted, target).item()
            sums["val_mse_still"] += F.mse_loss(still, target).item()
            sums["val_cosine"] += F.cosine_similarity(predicted, target, dim=-1).mean().item()
            sums["val_kl"] += prediction_error(transitions.base, rolled[0]).item()
            sums["val_kl_rolled"] += prediction_error(transitions.base, rolled[-1]).item()
            sums["val_kl_still"] += prediction_error(transitions.base, rolled[-1]._replace(features=still)).item()
    return {name: round(total / (branches * draws), 6) for name, total in sums.items()}
