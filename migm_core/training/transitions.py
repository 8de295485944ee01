"""What a head learns from: pairs of consecutive steps of recorded runs, and rollouts over several steps."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..sampling.backbone import Backbone, Branch, Head, at_positions
from ..sampling.backbone import Sequence as Tokens
from ..sampling.loop import LOGITS_AT_ONCE, masked_positions, sample_tokens, unmask_most_confident
from ..sampling.noise import SeededNoise
from ..sampling.rule import Rule
from .losses import divergence
from .trajectories import Trajectory, canvas_at, features_of, unmasked_by


class Prediction(NamedTuple):
    """A predicted feature and the true one, (B, T, width); the sequence that has the true one, and the positions still masked in it, int64 (B, m)."""

    features: Tensor
    target: Tensor
    sequence: Tokens
    masked: Tensor


class Transitions:
    """Pairs of consecutive steps, batched over runs of one shape.

    Runs whose prompts have one length and whose canvases have one size unmask equally many tokens at each step, so a batch of them at
    one step needs no padding.

    Args:
        rule: that the runs were sampled by; it says what the head is told of how much is masked.
        focus: share of the samples that favour transitions in proportion to their ``feature_drift``. Most steps change little of what
            is expected; the few that settle where an object goes are what a head must learn.

    Raises:
        ValueError: ``focus`` above 0 for runs without features.
    """

    def __init__(self, trajectories: list[Trajectory], backbone: Backbone, rule: Rule, focus: float = 0.0):
        self.backbone, self.rule, self.focus = backbone, rule, focus
        groups: dict[tuple, list[Trajectory]] = {}
        for t in trajectories:
            groups.setdefault(t.shape, []).append(t)
        self.groups = list(groups.values())
        self.shares = np.array([len(group) for group in self.groups]) / len(trajectories)
        self.drifts = [feature_drift(backbone, group) for group in self.groups] if focus else []

    def sample(self, rng: np.random.Generator, batch: int, horizon: int = 1) -> tuple[list[Trajectory], int]:
        """Runs of a random group and a step that ``horizon`` others follow."""
        index = rng.choice(len(self.groups), p=self.shares)
        group = self.groups[index]
        starts, shares = group[0].steps - horizon, None
        if starts < 1:
            raise ValueError(f"A rollout of {horizon} steps is too long for runs of {group[0].steps}: choose at most {group[0].steps - 1}.")
        if rng.random() < self.focus:
            windows = np.lib.stride_tricks.sliding_window_view(self.drifts[index], horizon, axis=1).sum(-1) + 1e-9  # none is impossible
            totals = windows.sum(0)
            start = rng.choice(starts, p=totals / totals.sum())
            shares = windows[:, start] / totals[start]
        else:
            start = rng.integers(starts)
        chosen = rng.choice(len(group), min(batch, len(group)), replace=False, p=shares)
        return [group[i] for i in chosen], int(start)

    @torch.no_grad()
    def transition(self, trajectories: list[Trajectory], step: int, branch: int, head: Head) -> tuple[tuple, Tensor, Tokens, Tensor]:
        """The head's arguments at ``step``, and for the step after it the feature, the sequence and the masked positions, for one branch."""
        before, after = (self._sequence(trajectories, s, branch) for s in (step, step + 1))
        features = features_of(trajectories, step, branch, before, self.backbone)
        target = features_of(trajectories, step + 1, branch, after, self.backbone)
        canvas = canvas_at(trajectories, step + 1).to(self.backbone.device)
        new, (masked, count) = unmasked_by(trajectories, step).to(self.backbone.device), masked_positions(canvas)
        arguments = self._arguments(head, features, after, new, self._mask_ratio(trajectories, count))
        return arguments, target, after, after.positions[masked]

    def rollout(self, head: Head, trajectories: list[Trajectory], step: int, branch: int, horizon: int) -> Iterator[Prediction]:
        """Predict ``horizon`` steps in turn along the recorded tokens, the first from the true feature and each other from the prediction before it."""
        features = None
        for now in range(step, step + horizon):
            (true, *arguments), target, after, masked = self.transition(trajectories, now, branch, head)
            features = head(true if features is None else features, *arguments)
            yield Prediction(features, target, after, masked)

    def sampled_rollout(
        self, head: Head, trajectories: list[Trajectory], step: int, branch: int, horizon: int, generators: Sequence[torch.Generator]
    ) -> Prediction:
        """Predict the feature ``horizon`` steps on along tokens of the head's own, as MaskGIT's deeper rollouts were published.

        The tokens in between are sampled from the branch's predicted logits without guidance, as many a step as in the recorded runs. Gradients go
        through the last application of the head only; its target is the base's feature of those tokens.

        Args:
            generators: one a run, on the base's device.
        """
        if horizon == 1:
            return next(self.rollout(head, trajectories, step, branch, 1))
        backbone, rule, steps, noise = self.backbone, self.rule, trajectories[0].steps, SeededNoise(generators)
        with torch.no_grad():
            canvas = canvas_at(trajectories, step + 1).to(backbone.device)
            sequence, before = (self._sequence(trajectories, s, branch) for s in (step + 1, step))
            codes, (masked, count) = canvas.codes.flatten(1).clone(), masked_positions(canvas)
            new = unmasked_by(trajectories, step).to(backbone.device)
            features = features_of(trajectories, step, branch, before, backbone)
            for now in range(step + 1, step + horizon):
                features = head(*self._arguments(head, features, sequence, new, self._mask_ratio(trajectories, count)))
                positions, keep = sequence.positions[masked], int((trajectories[0].unmasked_at > now).sum())
                sampled, log_probability, confidence, _ = sample_tokens(
                    backbone,
                    [at_positions(features, positions).to(backbone.dtype)],
                    [positions],
                    [1.0],
                    rule,
                    noise.draw(now, masked, backbone.config.codebook_size if rule.code_noise else 0, rule.position_noise(now)),
                    (now, steps),
                )
                new, masked, _ = unmask_most_confident(sampled, confidence, masked, keep, codes, [sequence], log_probability)
                count = keep
            target = backbone.features(sequence)
            arguments = self._arguments(head, features, sequence, new, self._mask_ratio(trajectories, count))
        return Prediction(head(*arguments), target, sequence, sequence.positions[masked])

    def _sequence(self, trajectories: list[Trajectory], step: int, branch: int) -> Tokens:
        prompts = torch.stack([t.prompts[branch] for t in trajectories])
        return self.backbone.sequence(Branch(prompts, 1.0, prompt_visible=branch == 0), canvas_at(trajectories, step).to(self.backbone.device))

    def _mask_ratio(self, trajectories: list[Trajectory], masked: int) -> float:
        """What sampling tells the head where so many tokens are still masked."""
        at_start = trajectories[0].unmasked_at >= 0
        return self.rule.mask_ratios([int(at_start.sum()), masked], len(at_start))[1]

    def _arguments(self, head: Head, features: Tensor, sequence: Tokens, new: Tensor, mask_ratio: float) -> tuple:
        """What the head takes after the tokens ``new`` (B, n) were written into the sequence."""
        dtype, batch = next(head.parameters()).dtype, len(new)  # float32, whatever the base's
        positions = torch.cat([sequence.context.expand(batch, -1), sequence.positions[new]], dim=1)
        embeddings = self.backbone.embed(sequence, positions).to(dtype)
        ratio = torch.full((batch,), mask_ratio, device=positions.device)
        return features.to(dtype), embeddings, positions, ratio, head.tables(sequence.length, positions.device)


def code_divergence(backbone: Backbone, prediction: Prediction) -> Tensor:
    """KL divergence of the predicted feature's probabilities of the codes from the true one's: mean over the masked tokens, in nats."""
    at = (at_positions(f, prediction.masked).to(backbone.dtype) for f in (prediction.features, prediction.target))
    return divergence(*(backbone.code_logits(f, prediction.masked) for f in at))


@torch.no_grad()
def feature_drift(backbone: Backbone, trajectories: list[Trajectory]) -> np.ndarray:
    """How far the base's expectations drift from each step to the next, in the conditional branch of runs of one shape.

    Returns:
        KL divergence of the codes' probabilities, summed over the tokens that stay masked, in nats: float64 (n, steps - 1).

    Raises:
        ValueError: a run was recorded without features.
    """
    for t in trajectories:
        if t.features(0, 0) is None:
            raise ValueError(f"{t.path} holds no features. Collect the trajectories with them, or train without focus.")
    at_once = max(1, LOGITS_AT_ONCE // (trajectories[0].codes.numel() * backbone.config.codebook_size))
    return np.concatenate([_feature_drift(backbone, trajectories[first : first + at_once]) for first in range(0, len(trajectories), at_once)])


def _feature_drift(backbone: Backbone, trajectories: list[Trajectory]) -> np.ndarray:
    device, dtype = backbone.device, backbone.dtype
    prompts = torch.stack([t.prompts[0] for t in trajectories])
    positions = backbone.sequence(Branch(prompts, 1.0), canvas_at(trajectories, 0).to(device)).positions.expand(len(trajectories), -1)
    unmasked_at = torch.stack([t.unmasked_at for t in trajectories])
    nats, before = [], None  # log-probabilities at every token, while they are right
    for step in range(trajectories[0].steps):
        if before is not None and not (unmasked_at == step - 1).any():  # nothing was unmasked: nothing changes
            nats.append(torch.zeros(len(trajectories), device=device))
            continue
        features = torch.stack([t.features(0, step) for t in trajectories]).to(device, dtype)
        after = backbone.code_logits(at_positions(features, positions), positions).float().log_softmax(-1)
        if before is not None:
            distance = F.kl_div(before, after, log_target=True, reduction="none").sum(-1)
            nats.append((distance * (unmasked_at >= step).to(device)).sum(-1).clamp_min(0))  # rounding may take it below
        before = after
    return torch.stack(nats, dim=1).double().cpu().numpy()
