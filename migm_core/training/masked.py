"""Train a base model to predict masked tokens, of pictures (MaskGIT, arXiv 2202.04200, section 3.1) or of answers, which are made as they are needed."""

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..canvas import Canvas
from ..devices import half_precision
from ..sampling.backbone import Backbone, Branch, Sequence, at_positions
from .distributed import World
from .learner import Learner, falling
from .muon import Muon
from .run import Run

ON_POLICY_SHARE, ON_POLICY_FROM = 0.5, 0.4  # of the masked tokens, the most that the model samples itself; from which share of the run on
BANDS = {"few": (0.0, 0.25), "half": (0.25, 0.75), "most": (0.75, 1.01)}  # of masked tokens, whose losses the log tells apart


def random_masks(shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Masks at the rates of the cosine schedule's times, spread evenly over a batch of the shape (B, ...): bool, none empty."""
    device, batch, tokens = generator.device, shape[0], math.prod(shape[1:])
    order = torch.randperm(batch, generator=generator, device=device)
    times = (order + torch.rand(batch, generator=generator, device=device)) / batch
    counts = (torch.cos(times * math.pi / 2) * tokens).ceil().clamp(1, tokens)
    ranks = torch.rand(batch, tokens, generator=generator, device=device).argsort(1).argsort(1)
    return (ranks < counts[:, None]).view(shape)


def losses(backbone: Backbone, prompts: Tensor, codes: Tensor, masked: Tensor, shown: Tensor | None = None) -> Tensor:
    """Cross-entropy of the masked tokens in nats, 0 at others: float32, in the shape of the codes.

    Args:
        prompts: of one length, filled up, (B, P).
        codes, masked: of pictures, (B, H, W); or of answers, the ids of their tokens, (B, G), where the backbone has ``answer_logits``.
            One that has ``masked_logits`` need not compute those of other tokens, which takes less time where shapes may change from step to step.
        shown: the codes that the model sees at the other tokens, where they are not the true ones.
    """
    if codes.dim() == 2:
        logits = backbone.answer_logits(prompts, codes, masked).float()
    else:
        sequence = _sequence(backbone, prompts, codes if shown is None else shown, masked)
        if hasattr(backbone, "masked_logits"):
            found = F.cross_entropy(backbone.masked_logits(sequence, masked), codes[masked], reduction="none")
            return torch.zeros(masked.shape, device=masked.device).masked_scatter(masked, found)
        logits = _code_logits(backbone, sequence)
    each = F.cross_entropy(logits.flatten(0, 1), codes.flatten(), reduction="none").view(masked.shape)
    return each.where(masked, 0)


@torch.no_grad()
def on_policy_states(backbone: Backbone, prompts: Tensor, codes: Tensor, masked: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Canvases as the model's own runs come by them (DAgger, arXiv 1011.0686): it samples some more tokens itself, those that it is most confident of.

    What is sampled with confidence follows from the tokens that are there, so the true codes of the others still fit.

    Args:
        prompts, codes, masked: as in ``losses``.

    Returns:
        Codes and what is masked of them, (B, H, W). At least one token of each image stays masked.
    """
    device, (count, tokens) = masked.device, masked.flatten(1).shape
    random = lambda *shape: torch.rand(shape, generator=generator, device=device)  # noqa: E731
    gumbel = lambda *shape: -(-random(*shape).clamp_min(1e-20).log()).clamp_min(1e-20).log()  # noqa: E731
    logits = _code_logits(backbone, _sequence(backbone, prompts, codes, masked)).log_softmax(-1)
    sampled = (logits + gumbel(*logits.shape)).argmax(-1)
    confidence = logits.gather(-1, sampled[..., None])[..., 0] + gumbel(count, tokens)
    before = masked.flatten(1)
    rank = confidence.where(before, -torch.inf).argsort(1, descending=True).argsort(1)
    new = rank < (ON_POLICY_SHARE * random(count, 1) * (before.sum(1, keepdim=True) - 1)).floor()
    return torch.where(new, sampled, codes.flatten(1)).view_as(codes), (before & ~new).view_as(masked)


def _sequence(backbone: Backbone, prompts: Tensor, codes: Tensor, masked: Tensor) -> Sequence:
    return backbone.sequence(Branch(prompts, 1.0), Canvas(codes, masked))


def _code_logits(backbone: Backbone, sequence: Sequence) -> Tensor:
    """At all tokens of the canvas, float32 (B, H * W, K)."""
    positions = sequence.positions.expand(len(sequence.tokens), -1)
    return backbone.code_logits(at_positions(backbone.features(sequence), positions), positions).float()


def train_masked(
    folder: str | Path,
    model: nn.Module,
    lessons: Callable[[int], Iterator[tuple[Tensor, ...]]],
    *,
    seconds: float,
    until: float = float("inf"),
    clock: Callable[[], float] = time.monotonic,
    muon_lr: float = 0.015,
    adam_lr: float = 3e-3,
    level: float = 0.4,
    warm_up: int = 100,
    floor: float = 0.0,
    on_policy_every: int = 0,
    ema: float = 0.998,
    seed: int = 0,
    view: Callable[[nn.Module], Backbone] = lambda model: model,
    compile: Callable[[nn.Module], None] | None = None,
    on_checkpoint: Callable[[nn.Module, float], None] | None = None,
    world: World = World(),
) -> nn.Module:
    """Train a base model, or resume ``folder``'s checkpoint; returns the model with averaged weights.

    Muon trains the matrices of the model's ``blocks``, AdamW the rest.

    Args:
        lessons: given a step, batches from there on without end, on the device: prompts (B, P), filled up, some of them without text for guidance;
            what stands behind them, (B, H, W) or (B, G) as in ``losses``; how much each token counts, likewise; and, where not ``random_masks``, what is masked.
        seconds, until, clock: as in ``Run``.
        level, warm_up, floor: as in ``falling``, of the learning rates.
        on_policy_every: steps from one that learns from ``on_policy_states`` to the next; 0 for none.
        model: in float32, with the weights to begin with.
        view: the model as sequences see it.
        compile: what is done with the model before the first step.
        on_checkpoint: called in the first process after checkpoints on the way, see ``Run.steps``, with the averaged weights and the progress.
    """
    device = world.device
    model = model.to(device)
    matrices = [p for p in model.blocks.parameters() if p.dim() == 2]
    others = [p for p in model.parameters() if not any(p is matrix for matrix in matrices)]
    optimizers = [Muon(matrices, lr=muon_lr, weight_decay=0.1, world=world), torch.optim.AdamW(others, lr=adam_lr, betas=(0.9, 0.95), weight_decay=0)]

    def loss(model: nn.Module, prompts: Tensor, codes: Tensor, masked: Tensor, shown: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        with half_precision(device):
            of_tokens = losses(view(model), prompts, codes, masked, shown)
        each, counts = ((part * weights).flatten(1).sum(1) for part in (of_tokens, masked))
        # Each image's mean, so that late steps of a run, which settle details of few tokens, count as much as early ones; half of it.
        return (each / counts.mean() + each / counts).mean(), of_tokens.detach().flatten(1).sum(1)

    with Run(folder, seconds=seconds, until=until, clock=clock, save_every=60, world=world) as run:
        learner = Learner(model, loss, optimizers, lambda step: falling(run.progress, step, level=level, warm_up=warm_up, floor=floor), ema=ema, world=world)
        if compile is not None:
            compile(model)
        batches = None
        for step in run.steps(on_checkpoint=None if on_checkpoint is None else lambda: on_checkpoint(learner.averaged, run.progress), learner=learner):
            if batches is None:
                batches = lessons(step)
                generator = torch.Generator(device).manual_seed((seed * 1009 + step) * 64 + world.rank)
            prompts, codes, weights, *given = next(batches)
            masked, shown = given[0] if given else random_masks(codes.shape, generator), codes
            if on_policy_every and step % on_policy_every == 0 and run.progress >= ON_POLICY_FROM and codes.dim() > 2:
                with half_precision(device):
                    shown, masked = on_policy_states(view(model), prompts, codes, masked, generator)
            value, each = learner(prompts, codes, masked, shown, weights)
            learner.update(value)
            counts = masked.flatten(1).sum(1).float()
            share = counts / masked[0].numel()
            bands = {name: (share >= low) & (share < high) for name, (low, high) in BANDS.items()}
            means = {name: ((each * band).sum(), (counts * band).sum()) for name, band in bands.items()}
            run.count(seen=len(codes) * world.size, loss=(each.sum(), counts.sum()), **means)
    return learner.averaged.eval()
