"""The masked sampling loop (MaskGIT, arXiv 2202.04200; MIGM-Shortcut, arXiv 2602.23996, section 3).

    features -> logits -> guidance -> sample -> keep the confident -> next

Where the features come from is the method's business. All sizes are known on the host beforehand, so the loop never waits
for the device: what a callback reads of the report is the only thing that does.
"""

from collections.abc import Callable
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass

import torch
from torch import Tensor

from ..canvas import Canvas
from ..models.lumina import Lumina
from .guidance import guide
from .methods import Method, Step
from .schedule import SKIPPED, keep_masked, step_kinds
from .sequence import Branch, Sequence


LOGITS_AT_ONCE = 2**22  # values, 16 MiB in float32


@dataclass(frozen=True)
class StepReport:
    """What a callback sees after each step.

    Attributes:
        step, steps: index of the step that has just ended, and how many there are at most.
        kind: "full", "shortcut" or "partial" (ML-Cache); "skipped" where no model ran, since nothing was to be unmasked.
        unmasked: how many tokens of each image the step unmasked; 0 at a skipped one, and at others that went on for later ones' sake.
        canvas: the codes fixed so far and the cells still unknown.
        finite: 0-dimensional bool tensor, whether all confidences of this step are finite; reading it waits for the device.
    """

    step: int
    steps: int
    kind: str
    unmasked: int
    canvas: Canvas
    finite: Tensor


@torch.inference_mode()
def sample(
    model: Lumina,
    branches: SequenceOf[Branch],
    canvas: Canvas,
    method: Method,
    *,
    steps: int,
    temperature: float,
    generators: SequenceOf[torch.Generator],
    callback: Callable[[StepReport], None] | None = None,
) -> Canvas:
    """Draw the unknown cells of a canvas.

    Skipped steps take their random numbers all the same, so that a seed gives the tokens that it gave before steps were skipped.

    Args:
        branches: guidance branches, at least one.
        canvas: on the model's device; every image of a batch has equally many unknown cells.
        method: where the features of each step come from.
        steps: passes over the canvas, at least 1.
        temperature: of the sampled codes and of the noise on their confidence; 0 takes the likeliest.
        generators: one an image, on the canvas's device. They make image i equal to the single run of its own seed.
        callback: called after each step, skipped ones among them; what it raises ends the run.

    Returns:
        The finished canvas.
    """
    batch, height, width = canvas.shape
    sequences = [Sequence(branch, canvas, model) for branch in branches]
    codes = canvas.codes.flatten(1).clone()
    masked, total = unknown_cells(canvas)
    fixed = masked[:, :0]
    keep = keep_masked(total, steps)
    weights = [sequence.weight for sequence in sequences]
    kinds = step_kinds(method.kinds(steps), total)
    run = method.start(model, sequences, [count / max(total, 1) for count in (total, *keep[:-1])])

    for index in range(steps):
        if not masked.shape[1]:
            break
        if kinds[index] == SKIPPED:
            uniform_noise(batch, masked.shape[1], model.config.tokens.codebook_size if temperature > 0 else 0, generators)
            fixed, confidence = masked[:, :0], torch.zeros(0, device=codes.device)
        else:
            # Features have no name here, so that they are gone before the next step makes its own.
            drawn, confidence = draw(model, run.features(Step(index, masked, fixed)), weights, temperature, generators)
            fixed, masked = fix_most_confident(drawn, confidence, masked, keep[index], codes, sequences)
        if callback is not None:
            unknown = torch.zeros_like(codes, dtype=torch.bool).scatter_(1, masked, True)
            so_far = Canvas(codes.clone().view(canvas.shape), unknown.view(canvas.shape))
            callback(StepReport(index, steps, kinds[index], fixed.shape[1], so_far, confidence.isfinite().all()))
    return Canvas(codes.view(canvas.shape), torch.zeros_like(canvas.unknown))


def unknown_cells(canvas: Canvas) -> tuple[Tensor, int]:
    """Indices of the unknown cells in reading order, int64 (B, n), and n.

    Raises:
        ValueError: the images of the batch have different numbers of unknown cells.
    """
    unknown = canvas.unknown.flatten(1)
    counts = unknown.sum(1).tolist()  # before the loop starts: its only question to the device
    if len(set(counts)) > 1:
        raise ValueError(
            f"The images of the canvas have {counts} unknown cells; in one batch all need equally many. Sample them one by one."
        )
    return unknown.nonzero()[:, 1].view(len(counts), counts[0]), counts[0]


def fix_most_confident(
    drawn: Tensor, confidence: Tensor, masked: Tensor, keep: int, codes: Tensor, sequences: SequenceOf[Sequence]
) -> tuple[Tensor, Tensor]:
    """Write the most confident of the drawn codes into ``codes`` (B, H * W) and the sequences, in place.

    Args:
        drawn, confidence, masked: of the masked cells, each (B, n): their codes, log-confidences and indices in reading order.
        keep: how many stay masked.

    Returns:
        The cells that are fixed now, and those that stay masked: int64 (B, n - keep) and (B, keep).
    """
    stay, go = least_confident(confidence, keep)
    fixed, drawn = masked.gather(1, go), drawn.gather(1, go)
    codes.scatter_(1, fixed, drawn)
    for sequence in sequences:
        sequence.fix(fixed, drawn)
    return fixed, masked.gather(1, stay)


def least_confident(confidence: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Places of the ``count`` least confident of (B, n) and those of the rest, each ascending: (B, count), (B, n - count).

    Certain tokens tie at probability 1; torch.topk breaks ties as the published sampler does.
    """
    stay = confidence.topk(count, dim=1, largest=False).indices
    stays = torch.zeros_like(confidence, dtype=torch.uint8).scatter_(1, stay, 1)
    places = stays.argsort(dim=1, stable=True)
    return places[:, confidence.shape[1] - count :], places[:, : confidence.shape[1] - count]


def draw(
    model: Lumina, features: SequenceOf[Tensor], weights: SequenceOf[float], temperature: float, generators: SequenceOf[torch.Generator]
) -> tuple[Tensor, Tensor]:
    """Sample a code a cell and say how confident that is (Gumbel-max; MaskGIT's confidence with noise).

    Logits are made for a part of the cells at a time, so that a large canvas needs no room for all of them.

    Args:
        features: per branch, (B, n, d_model).
        weights: per branch, of its logits.

    Returns:
        Codes int64 (B, n) and log-confidences float32 (B, n).
    """
    batch, cells = features[0].shape[:2]
    size = model.config.tokens.codebook_size
    code_noise, noise = gumbel_noise(batch, cells, size if temperature > 0 else 0, generators)
    drawn, confidences = [], []
    at_once = max(1, LOGITS_AT_ONCE // (batch * size))
    for first in range(0, cells, at_once):
        part = slice(first, first + at_once)
        logits = guide([model.code_logits(f[:, part]) for f in features], weights)
        scores = code_noise[:, part].add_(logits / temperature) if temperature > 0 else logits
        codes = scores.argmax(dim=-1)
        probability = logits.softmax(dim=-1).gather(-1, codes.unsqueeze(-1)).squeeze(-1)
        drawn.append(codes)
        confidences.append(probability.clamp_min(1e-20).log())
    return torch.cat(drawn, dim=1), torch.cat(confidences, dim=1) + temperature * noise


def gumbel_noise(batch: int, cells: int, size: int, generators: SequenceOf[torch.Generator]) -> tuple[Tensor, Tensor]:
    """Standard Gumbel noise on the codes' scores and on the confidences, float32 (B, n, size) and (B, n)."""
    of_codes, of_cells = uniform_noise(batch, cells, size, generators)
    for noise in (of_codes, of_cells):
        noise.add_(1e-20).log_().neg_().add_(1e-20).log_().neg_()
    return of_codes, of_cells


def uniform_noise(batch: int, cells: int, size: int, generators: SequenceOf[torch.Generator]) -> tuple[Tensor, Tensor]:
    """The random numbers of a step, float32 (B, n, size) and (B, n) in 0..1.

    Drawn image by image in the published order and shapes, so that a seed gives the published tokens.
    """
    device = generators[0].device
    of_codes = torch.empty(batch, cells, size, device=device)
    of_cells = torch.empty(batch, cells, device=device)
    for image, generator in enumerate(generators):
        for noise in (of_codes[image : image + 1], of_cells[image : image + 1]):
            torch.rand(noise.shape, generator=generator, out=noise)
    return of_codes, of_cells
