"""Train the judge's reader: python -m migm_core.worlds.lakeside.train_reader

Pictures are rendered as needed on a GPU; on a CPU, where rendering is slow, a pool of them is rendered first and used again and again.
"""

import argparse
import time
from collections import deque
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from .reader import GRID, WEIGHTS, Reader, split_objects, split_setting
from .reader_data import SPOILT, UNCLEAR, WHOLE, Examples, Pairs, examples, joined, make_pairs

LEARNING_RATE = 2e-3
STEPS_A_FILL, NEWEST = 8, 4  # steps until other pairs are rendered, and of how many renderings a step's pictures come: a pair gives new patchwork each time
WEIGHT_DECAY = 1e-4


def loss_of(reader: Reader, taught: Examples) -> Tensor:
    """How far a reader is from what it should say: focal loss of presence, cross entropy of the rest."""
    at_positions, setting = (logits.float() for logits in reader(taught.pictures))
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
    pool: Pairs | None, batch: int, device: torch.device, *, steps: int | None = None, seconds: float = 0.0, reader: Reader | None = None, seed: int = 0
) -> Reader:
    """Train, the learning rate falling to 0 in the end. The result is an average over the last few hundred steps.

    Args:
        pool: pictures to learn from; None to render new ones all the time.
        steps, seconds: how long: so many steps, or for None so many seconds, and one step at least.
        reader: where to go on from.
    """
    generator = torch.Generator(device).manual_seed(seed)
    reader = (reader or Reader(seed=seed)).to(device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(reader.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    average = torch.optim.swa_utils.AveragedModel(reader, multi_avg_fn=_follow, use_buffers=True)
    fresh, newest = pool, deque(maxlen=NEWEST)
    began, over, step = time.monotonic(), 0.0, 0
    while over < 1 or not step:
        if pool is None and step % STEPS_A_FILL == 0:
            newest.append(make_pairs(2 * batch, generator))
            fresh = joined(list(newest))
        rows = torch.randint(len(fresh.setting), (batch,), generator=generator, device=device)
        taught = examples(fresh, rows, generator)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):  # many CPUs have no fast bfloat16
            loss = loss_of(reader, taught)
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1.0, (step + 1) / 50) * (1 - over)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(reader.parameters(), 5.0)
        optimizer.step()
        average.update_parameters(reader)
        step += 1
        over = (time.monotonic() - began) / max(seconds, 1e-9) if steps is None else step / steps
        if step % 100 == 0 or over >= 1:
            rate = step * batch / (time.monotonic() - began)
            print(f"reader: step {step}, {min(over, 1):.0%}: loss {loss.item():.3f}, {rate:.0f} pictures a second", flush=True)
    return average.module.eval()


def _follow(averages: list[Tensor], currents: list[Tensor], count: int) -> None:
    """An exponential moving average over up to a hundred steps, fewer at the start."""
    for average, current in zip(averages, currents):
        if average.is_floating_point():
            average.lerp_(current, max(0.01, 9 / (10 + int(count))))
        else:
            average.copy_(current)


def save(reader: Reader, path: Path = WEIGHTS) -> None:
    """Write the weights in 16 bits."""
    weights = {name: (value.half() if value.is_floating_point() else value).cpu().contiguous() for name, value in reader.state_dict().items()}
    save_file(weights, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--pairs", type=int, default=6000, help="pictures in the pool, two of each landscape; 0 renders new ones all the time")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    options = parser.parse_args()
    device = torch.device(options.device)
    generator = torch.Generator(device).manual_seed(options.seed + 1)
    pool = joined([make_pairs(min(64, options.pairs - k), generator) for k in range(0, options.pairs, 64)]) if options.pairs else None
    save(train(pool, options.batch, device, steps=options.steps, seed=options.seed), options.out)


if __name__ == "__main__":
    main()
