"""The masked sampling loop (MaskGIT, arXiv 2202.04200; MIGM-Shortcut, arXiv 2602.23996, section 3).

    features -> logits -> guidance -> sample -> keep the confident -> next

Where the features come from is the method's business, and how logits become tokens the rule's. All sizes are known on the host
beforehand, so the loop never waits for the device: only a callback that reads the report's tensors does.
"""

from collections.abc import Callable, Mapping
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..canvas import Canvas
from .backbone import Backbone, Branch, Sequence
from .guidance import LOGITS_AT_ONCE, guide
from .methods.method import Method, Step, features_of, kinds_of
from .noise import Noise
from .rule import Rule, branch_weights
from .schedules import SKIPPED, step_kinds


@dataclass(frozen=True)
class StepReport:
    """What a callback sees after each step.

    Attributes:
        step, steps: index of the step that has just ended, and how many there are at most.
        kind: "full", or the method's own, such as "shortcut"; "skipped" where no model ran, since nothing was to be unmasked.
        unmasked: how many tokens of each image the step unmasked; 0 at a skipped one, and at others that went on for later ones' sake.
        canvas: the codes so far and what is still masked.
        finite: 0-dimensional bool tensor, whether all confidences of this step are finite; reading it waits for the device.
        log_probability: of the tokens that were unmasked, float32 (B, unmasked).
        recorded: what was asked to be recorded, else None.
        measured: what the method measured of itself at this step, 0-dimensional tensors by name; see ``probe``.
    """

    step: int
    steps: int
    kind: str
    unmasked: int
    canvas: Canvas
    finite: Tensor
    log_probability: Tensor
    recorded: "Recorded | None" = None
    measured: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Recorded:
    """A step from within.

    Attributes:
        masked: tokens that were masked before the step, indices in reading order, int64 (B, n).
        features: at these, (B, n, width) for each branch that counts at the step.
        logits: guided, float32 (B, n, K).
        codes, confidence: that were sampled there, (B, n).
    """

    masked: Tensor
    features: list[Tensor]
    logits: Tensor
    codes: Tensor
    confidence: Tensor


@torch.inference_mode()
def sample(
    backbone: Backbone,
    branches: SequenceOf[Branch],
    canvas: Canvas,
    method: Method,
    rule: Rule,
    *,
    steps: int,
    noise: Noise,
    callback: Callable[[StepReport], None] | None = None,
    record: bool = False,
) -> Canvas:
    """Sample the masked tokens of a canvas.

    Skipped steps consume their random numbers too, so a seed gives the same tokens whether steps are skipped or not.

    Args:
        branches: guidance branches, at least one.
        canvas: on the model's device; every image of a batch has equally many masked tokens.
        method: where the features of each step come from.
        rule: how logits become tokens.
        steps: passes over the canvas, at least 1.
        noise: the run's random numbers.
        callback: called after each step, skipped ones among them; what it raises ends the run.
        record: have reports hold each step's features and logits, which takes their memory.

    Returns:
        The finished canvas.

    Raises:
        ValueError: the images have different numbers of masked tokens, or a method of somebody's own gives what it should not.
    """
    batch, height, width = canvas.shape
    sequences = [backbone.sequence(branch, canvas) for branch in branches]
    codes = canvas.codes.flatten(1).clone()
    masked, total = masked_positions(canvas)
    new = masked[:, :0]
    keep = rule.keep(total, height * width, steps)
    weights = [sequence.weight for sequence in sequences]
    kinds = step_kinds(kinds_of(method, steps), keep, total)
    run = method.start(backbone, sequences, rule.mask_ratios([total, *keep[:-1]], height * width))
    noisy_codes = backbone.config.codebook_size if rule.code_noise else 0

    for index in range(steps):
        if not masked.shape[1]:
            break
        recorded = None
        if kinds[index] == SKIPPED:
            noise.skip(index, masked, noisy_codes)
            # What is new stays so: no step has read it yet.
            confidence, of_new = torch.zeros(0, device=codes.device), torch.zeros(batch, 0, device=codes.device)
        else:
            ramp = rule.ramp(index, steps)
            counting, of_step = sequences if ramp else sequences[:1], branch_weights(weights, ramp)
            # Features get no name here, so that they are freed before the next step computes its own.
            sampled, log_probability, confidence, recorded = sample_tokens(
                backbone,
                features_of(method, run, Step(index, masked, new, len(counting), of_step), len(counting), backbone.config.width),
                [sequence.positions[masked] for sequence in counting],
                of_step,
                rule,
                noise.draw(index, masked, noisy_codes, rule.position_noise(index)),
                (index, steps),
                masked if record else None,
            )
            stay = rule.stay(confidence, min(keep[index], masked.shape[1]))
            new, masked, of_new = unmask_most_confident(sampled, confidence, masked, stay, codes, sequences, log_probability)
        if callback is not None:
            still = torch.zeros_like(codes, dtype=torch.bool).scatter_(1, masked, True)
            so_far = Canvas(codes.clone().view(canvas.shape), still.view(canvas.shape))
            measured = {} if kinds[index] == SKIPPED else getattr(run, "measured", {})
            callback(StepReport(index, steps, kinds[index], of_new.shape[1], so_far, confidence.isfinite().all(), of_new, recorded, measured))
    return Canvas(codes.view(canvas.shape), torch.zeros_like(canvas.masked))


def masked_positions(canvas: Canvas) -> tuple[Tensor, int]:
    """Indices of the masked tokens in reading order, int64 (B, n), and n.

    Raises:
        ValueError: the images of the batch have different numbers of masked tokens.
    """
    masked = canvas.masked.flatten(1)
    counts = masked.sum(1).tolist()  # before the loop starts: its only question to the device
    if len(set(counts)) > 1:
        raise ValueError(
            f"The images of the canvas have {counts} masked tokens; in one batch all need equally many. Sample them one by one."
        )
    return masked.nonzero()[:, 1].view(len(counts), counts[0]), counts[0]


def unmask_most_confident(
    sampled: Tensor,
    confidence: Tensor,
    masked: Tensor,
    keep: int,
    codes: Tensor,
    sequences: SequenceOf[Sequence],
    log_probability: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Write the most confident of the sampled codes into ``codes`` (B, H * W) and the sequences, in place.

    Args:
        sampled, confidence, masked, log_probability: of the masked tokens, each (B, n): their codes, confidences, indices in reading order
            and the codes' log-probabilities.
        keep: how many stay masked.

    Returns:
        The tokens that are new, those that stay masked, and the log-probabilities of the new: (B, n - keep), (B, keep), (B, n - keep).
    """
    stay, go = least_confident(confidence, keep)
    new, sampled = masked.gather(1, go), sampled.gather(1, go)
    codes.scatter_(1, new, sampled)
    for sequence in sequences:
        sequence.unmask(new, sampled)
    return new, masked.gather(1, stay), log_probability.gather(1, go)


def least_confident(confidence: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Indices of the ``count`` least confident of (B, n) and those of the rest, each ascending: (B, count), (B, n - count).

    Certain tokens tie at probability 1; torch.topk breaks ties as Lumina-DiMOO's published sampler does.
    """
    stay = confidence.topk(count, dim=1, largest=False).indices
    stays = torch.zeros_like(confidence, dtype=torch.uint8).scatter_(1, stay, 1)
    order = stays.argsort(dim=1, stable=True)
    return order[:, confidence.shape[1] - count :], order[:, : confidence.shape[1] - count]


def sample_tokens(
    backbone: Backbone,
    features: SequenceOf[Tensor],
    positions: SequenceOf[Tensor],
    weights: SequenceOf[float],
    rule: Rule,
    noise: tuple[Tensor, Tensor],
    step: tuple[int, int],
    record: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Recorded | None]:
    """Sample a code at each position, with its confidence.

    Logits are computed for some positions at a time: those of a large canvas need not fit in memory at once.

    Args:
        features, positions: (B, n, width) for each branch, and where they stand in its sequence, (B, n) for each branch that counts.
        weights: of each branch's logits.
        noise: on codes and on positions, see ``Noise.draw``; the first is changed in place.
        step: its index, and the number of steps.
        record: the masked tokens (B, n), where the features and logits are to be recorded.

    Returns:
        Codes int64 (B, n), their log-probabilities (B, n), the confidences (B, n), and what was recorded.
    """
    batch, count = features[0].shape[:2]
    of_codes, of_positions = noise
    codes, log_probabilities, kept = [], [], []
    at_once = max(1, LOGITS_AT_ONCE // (batch * backbone.config.codebook_size))
    for first in range(0, count, at_once):
        part = slice(first, first + at_once)
        logits = guide([backbone.code_logits(f[:, part], p[:, part]) for f, p in zip(features, positions)], weights)
        if record is not None:
            kept.append(logits.clone())
        some, log_probability = rule.sample(logits, of_codes[:, part])
        codes.append(some)
        log_probabilities.append(log_probability)
    sampled, log_probability = torch.cat(codes, dim=1), torch.cat(log_probabilities, dim=1)
    confidence = rule.confidence(log_probability, of_positions, *step)
    recorded = None if record is None else Recorded(record, list(features[: len(positions)]), torch.cat(kept, dim=1), sampled, confidence)
    return sampled, log_probability, confidence, recorded
