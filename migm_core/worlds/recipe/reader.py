"""Train the judge's reader on the renderer's own pictures, whole and spoilt."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from ...training.distributed import World
from ...training.learner import Learner, falling
from ...training.run import Run
from ..lakeside.reader import GRID, Reader, split_objects, split_setting
from ..lakeside.reader_data import SPOILT, UNCLEAR, WHOLE, Examples

LEARNING_RATE = 2e-3
WEIGHT_DECAY = 1e-4


def loss_of(reader: Reader, taught: Examples) -> Tensor:
    """How far a reader is from what it should say: focal loss of presence, cross entropy of the rest."""
    pictures = taught.pictures
    with torch.autocast(pictures.device.type, torch.bfloat16, enabled=pictures.is_cuda):  # many CPUs have no fast bfloat16
        at_positions, setting = (logits.float() for logits in reader(pictures))
    said, said_setting = split_objects(at_positions), split_setting(setting)
    scene, slot = ((taught.state == WHOLE) | (taught.state == SPOILT)).nonzero(as_tuple=True)
    centre = taught.centres * GRID
    x, y = centre[..., 0].long().clamp(0, GRID - 1), centre[..., 1].long().clamp(0, GRID - 1)

    # Presence: 1 where the centre is, little said around it and around unclear objects.
    presence = said["presence"][:, 0]
    target, counts = torch.zeros_like(presence), torch.ones_like(presence)
    middles = torch.arange(GRID, device=presence.device) + 0.5
    across = (middles - centre[..., 0, None]).abs()[:, :, None, :]
    down = (middles - centre[..., 1, None]).abs()[:, :, :, None]
    near = (across < 1.5) & (down < 1.5)
    counts = counts * torch.where((near & (taught.state == WHOLE)[:, :, None, None]).any(1), 0.3, 1.0)
    counts = counts * torch.where((near & (taught.state == SPOILT)[:, :, None, None]).any(1), 0.1, 1.0)
    counts = counts * torch.where((near & (taught.state == UNCLEAR)[:, :, None, None]).any(1), 0.0, 1.0)
    target[scene, y[scene, slot], x[scene, slot]] = 1.0
    counts[scene, y[scene, slot], x[scene, slot]] = 1.0
    raw = F.binary_cross_entropy_with_logits(presence, target, reduction="none")
    focus = (presence.sigmoid() - target).abs().detach() ** 1.5
    total = (raw * focus * counts * torch.where(target > 0, 4.0, 1.0)).sum() / max(1, len(scene))

    at = {name: value[scene, :, y[scene, slot], x[scene, slot]] for name, value in said.items()}
    is_spoilt = (taught.state[scene, slot] == SPOILT).float()
    total = total + 0.5 * F.binary_cross_entropy_with_logits(at["spoilt"][:, 0], is_spoilt)
    whole = is_spoilt == 0
    truth = taught.objects[scene[whole], slot[whole]]
    for k, name in enumerate(("kind", "colour", "size", "second_finish")):
        total = total + F.cross_entropy(at[name][whole], truth[:, k])
    offset = centre[scene, slot] - torch.stack([x[scene, slot], y[scene, slot]], 1)
    total = total + 2 * F.mse_loss(at["offset"][whole].sigmoid(), offset[whole].clamp(0, 1))

    for k, name in enumerate(("time", "weather", "ground")):
        total = total + F.cross_entropy(said_setting[name], taught.setting[:, k], ignore_index=-1)
    known = taught.patchwork >= 0
    return total + F.binary_cross_entropy_with_logits(said_setting["patchwork"][known, 0], taught.patchwork[known])


def train(
    folder: Path,
    reader: Reader,
    lessons: Callable[[int], Iterator[Examples]],
    *,
    seconds: float,
    until: float = float("inf"),
    clock: Callable[[], float] = time.monotonic,
    on_checkpoint: Callable[[Reader], None] | None = None,
    world: World = World(),
) -> Reader:
    """Train, or resume ``folder``'s checkpoint, the learning rate falling to 0 in the end; returns the average over the last hundred steps or so.

    Args:
        reader: with the weights to begin with.
        lessons: given a step, batches from there on without end, on the device.
        seconds, until, clock: as in ``Run``.
        on_checkpoint: called with the average now and then.
    """
    reader = reader.to(world.device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(reader.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    with Run(folder, seconds=seconds, until=until, clock=clock, save_every=60, world=world) as run:
        learner = Learner(reader, loss_of, [optimizer], lambda step: falling(run.progress, step, level=0.0, warm_up=50), ema=0.99, clip=5.0, world=world)
        batches = None
        for step in run.steps(on_checkpoint=None if on_checkpoint is None else lambda: on_checkpoint(learner.averaged), learner=learner):
            batches = lessons(step) if batches is None else batches
            taught = next(batches)
            loss = learner(taught)
            learner.update(loss)
            run.count(seen=len(taught.pictures) * world.size, loss=loss)
    return learner.averaged.eval()


def save(reader: Reader, path: Path) -> None:
    """Write the weights in 16 bits."""
    weights = {name: (value.half() if value.is_floating_point() else value).cpu().contiguous() for name, value in reader.state_dict().items()}
    save_file(weights, path)
