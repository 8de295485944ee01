"""Train a base model to predict masked image tokens, on pictures that are made as they are needed (MaskGIT, arXiv 2202.04200, section 3.1)."""

import copy
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ..canvas import Canvas
from ..config import LuminaConfig
from ..models.lumina import Lumina
from ..sampling.sequence import Branch, Sequence
from .base import initialise
from .distributed import World, sum_gradients
from .muon import Muon
from .padded import PaddedBase, compile_blocks
from .run import alone_in_folder
from .stage import Stage, rate

WITHOUT_TEXT = 0.1  # share of the prompts that are dropped, for guidance
BANDS = {"few": (0.0, 0.25), "half": (0.25, 0.75), "most": (0.75, 1.01)}  # of masked tokens, whose losses the log tells apart


def random_unknown(batch: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """Masks at the rates of the cosine schedule's times, spread evenly over the batch: bool (batch, height, width), none empty."""
    device, cells = generator.device, height * width
    order = torch.randperm(batch, generator=generator, device=device)
    times = (order + torch.rand(batch, generator=generator, device=device)) / batch
    counts = (torch.cos(times * math.pi / 2) * cells).ceil().clamp(1, cells)
    ranks = torch.rand(batch, cells, generator=generator, device=device).argsort(1).argsort(1)
    return (ranks < counts[:, None]).view(batch, height, width)


def losses(model: PaddedBase, prompts: Tensor, codes: Tensor, unknown: Tensor) -> Tensor:
    """Cross-entropy of each image's masked tokens, summed, in nats: float32 (B,).

    Args:
        prompts: of one length, filled up, (B, P).
        codes, unknown: (B, H, W).
    """
    sequence = Sequence(Branch(prompts, 1.0), Canvas(codes, unknown), model)
    features = model.features(sequence.tokens, sequence.rotary)[:, sequence.cells]
    logits = model.code_logits(features).float()
    each = F.cross_entropy(logits.flatten(0, 1), codes.flatten(), reduction="none").view(unknown.shape)
    return each.where(unknown, 0).sum((1, 2))


@alone_in_folder
def train_masked(
    folder: str | Path,
    config: LuminaConfig,
    lessons: Callable[[int], Iterator[tuple[Tensor, Tensor]]],
    unconditional: Tensor,
    *,
    seconds: float,
    until: float = float("inf"),
    muon_lr: float = 0.015,
    adam_lr: float = 3e-3,
    ema: float = 0.998,
    seed: int = 0,
    start: dict[str, Tensor] | None = None,
    compile: bool = False,
    watch: Callable[[Lumina, float], None] | None = None,
    world: World = World(),
) -> Lumina:
    """Train, or resume ``folder``'s checkpoint; returns the model with averaged weights and all output rows, in float32.

    Args:
        lessons: given a step, batches from there on without end: prompts (B, P), filled up, and codes (B, H, W), on the device.
        unconditional: the prompt without text, filled up, (P,).
        seconds, until: as in ``Stage``.
        start: weights to go on from.
        watch: called with the averaged weights and the progress now and then.
    """
    device = world.device
    stage = Stage(folder, seconds, until=until, world=world)
    torch.manual_seed(seed)
    model = Lumina(config, output_rows="all")
    initialise(model)
    if start is not None:
        model.load_state_dict(start)
    model = model.to(device)
    average = copy.deepcopy(model).requires_grad_(False)
    matrices = [p for p in model.blocks.parameters() if p.dim() == 2]
    others = [p for p in model.parameters() if p.dim() == 1] + [model.wte.weight, model.ff_out.weight]
    optimizers = [Muon(matrices, lr=muon_lr, weight_decay=0.1, world=world), torch.optim.AdamW(others, lr=adam_lr, betas=(0.9, 0.95), weight_decay=0)]
    if saved := stage.resume():
        model.load_state_dict(saved["model"])
        average.load_state_dict(saved["average"])
        for optimizer, state in zip(optimizers, saved["optimizers"]):
            optimizer.load_state_dict(state)
    if compile:
        compile_blocks(model)

    def state() -> dict:
        return {"model": model.state_dict(), "average": average.state_dict(), "optimizers": [o.state_dict() for o in optimizers]}

    padded, half = PaddedBase(model), device.type == "cuda"
    unconditional = unconditional.to(device)
    generator = torch.Generator(device).manual_seed((seed * 1009 + stage.step) * 64 + world.rank)
    sums = {name: torch.zeros(2, device=device) for name in ("loss", *BANDS)}
    for prompts, codes in lessons(stage.step):
        progress = stage.progress()
        if progress >= 1:
            break
        batch = len(codes)
        dropped = torch.rand(batch, 1, generator=generator, device=device) < WITHOUT_TEXT
        unknown = random_unknown(*codes.shape, generator)
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            each = losses(padded, torch.where(dropped, unconditional, prompts), codes, unknown)
        masked = unknown.sum((1, 2))
        # Each image's mean, so that late steps of a run, which settle details of few tokens, count as much as early ones; half of it.
        loss = each.sum() / masked.float().mean() + (each / masked).sum()
        loss.backward()
        sum_gradients(list(model.parameters()), batch, world)
        for optimizer, peak in zip(optimizers, (muon_lr, adam_lr)):
            optimizer.param_groups[0]["lr"] = peak * rate(progress, stage.step)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        decay = min(ema, (1 + stage.step) / (10 + stage.step))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
            share, pair = masked / unknown[0].numel(), torch.stack([each.detach(), masked.float()])
            sums["loss"] += pair.sum(1)
            for name, (low, high) in BANDS.items():
                sums[name] += (pair * ((share >= low) & (share < high))).sum(1)
        if stage.tick(batch * world.size):
            stage.note(**{name: (total / count.clamp(min=1)).item() for name, (total, count) in sums.items()}, lr=rate(progress, stage.step))
            sums = {name: torch.zeros_like(total) for name, total in sums.items()}
        if stage.save_now_and_then(state) and watch is not None and world.first:
            watch(average, progress)
    stage.save(state())
    return average.eval()
