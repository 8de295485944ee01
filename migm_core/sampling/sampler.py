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
from .schedule import keep_masked
from .sequence import Branch, Sequence


@dataclass(frozen=True)
class StepReport:
    """What a callback sees after each step.

    Attributes:
        step, steps: index of the step that has just ended, and how many there are at most.
        kind: "full", "shortcut" or "partial" (ML-Cache).
        canvas: the codes fixed so far and the cells still unknown.
        finite: 0-dimensional bool tensor, whether all confidences of this step are finite; reading it waits for the device.
    """

    step: int
    steps: int
    kind: str
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

    Args:
        branches: guidance branches, at least one.
        canvas: on the model's device; every image of a batch has equally many unknown cells.
        method: where the features of each step come from.
        steps: passes over the canvas, at least 1.
        temperature: of the sampled codes and of the noise on their confidence; 0 takes the likeliest.
        generators: one an image, on the canvas's device. They make image i equal to the single run of its own seed.
        callback: called after each step; what it raises ends the run.

    Returns:
        The finished canvas.
    """
    batch, height, width = canvas.shape
    sequences = [Sequence(branch, canvas, model) for branch in branches]
    run = method.start(model, sequences, steps)
    codes = canvas.codes.flatten(1).clone()
    masked, total = unknown_cells(canvas)
    fixed = masked[:, :0]
    keep = keep_masked(total, steps)

    for index in range(steps):
        if not masked.shape[1]:
            break
        step = Step(index, masked, fixed, mask_ratio=masked.shape[1] / total)
        features = run.features(step)
        logits = guide([model.code_logits(f) for f in features], [s.weight for s in sequences])
        drawn, confidence = draw(logits, temperature, generators)
        stay, go = least_confident(confidence, min(keep[index], masked.shape[1]))
        fixed, drawn = masked.gather(1, go), drawn.gather(1, go)
        masked = masked.gather(1, stay)
        codes.scatter_(1, fixed, drawn)
        for sequence in sequences:
            sequence.fix(fixed, drawn)
        if callback is not None:
            unknown = torch.zeros_like(codes, dtype=torch.bool).scatter_(1, masked, True)
            so_far = Canvas(codes.clone().view(canvas.shape), unknown.view(canvas.shape))
            callback(StepReport(index, steps, run.kind(index), so_far, confidence.isfinite().all()))
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


def least_confident(confidence: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Places of the ``count`` least confident of (B, n) and those of the rest, each ascending: (B, count), (B, n - count).

    Certain tokens tie at probability 1; torch.topk breaks ties as the published sampler does.
    """
    stay = confidence.topk(count, dim=1, largest=False).indices
    stays = torch.zeros_like(confidence, dtype=torch.uint8).scatter_(1, stay, 1)
    places = stays.argsort(dim=1, stable=True)
    return places[:, confidence.shape[1] - count :], places[:, : confidence.shape[1] - count]


def draw(logits: Tensor, temperature: float, generators: SequenceOf[torch.Generator]) -> tuple[Tensor, Tensor]:
    """Sample a code a cell and say how confident that is (Gumbel-max; MaskGIT's confidence with noise).

    The noise is drawn image by image in the published order and shapes, so that a seed gives the published tokens.

    Args:
        logits: guided, float32 (B, n, K).

    Returns:
        Codes int64 (B, n) and log-confidences float32 (B, n).
    """
    scores = logits
    noise = []
    if temperature > 0:
        scores = logits / temperature
    for image, generator in enumerate(generators):
        if temperature > 0:
            scores[image] += gumbel((1, *logits.shape[1:]), generator)[0]
        noise.append(gumbel((1, logits.shape[1]), generator))
    codes = scores.argmax(dim=-1)
    probability = logits.softmax(dim=-1).gather(-1, codes.unsqueeze(-1)).squeeze(-1)
    confidence = probability.clamp_min(1e-20).log() + temperature * torch.cat(noise)
    return codes, confidence


def gumbel(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Standard Gumbel noise, float32, on the generator's device."""
    uniform = torch.rand(shape, generator=generator, device=generator.device)
    return uniform.add_(1e-20).log_().neg_().add_(1e-20).log_().neg_()
