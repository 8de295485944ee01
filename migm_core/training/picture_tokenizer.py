"""Train an image tokenizer on pictures that are made as they are needed, with a codebook of its own.

Quantising an untrained encoder's latents stalls in a poor codebook. So the autoencoder learns first, with noise on its latents of
about the error that quantising will bring; then a codebook is fitted to the latents; then both learn together; at last the
codes stand still and the decoder alone goes on.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from ..models.image_tokenizer import ImageTokenizer, ImageTokenizerConfig
from . import codebook as codebooks
from .distributed import World, sum_gradients
from .muon import Muon
from .run import alone_in_folder
from .stage import Stage, rate

NOISE = 0.35  # on standardised latents, while nothing is quantised
COMMITMENT = 0.25
AUTOENCODER, QUANTISED, DECODER = range(3)
UNTIL = (0.30, 0.72)  # shares of the time at which the first two phases end
FIT_ON = 32  # latents for each entry, to fit the codebook to
REVIVE_EVERY = 50


class Float32Norm(nn.GroupNorm):
    """Group norm that takes and gives 16 bits under autocast, and computes in 32 as the kernel does: half of the traffic."""

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype == self.weight.dtype:
            return super().forward(x)
        with torch.autocast(x.device.type, enabled=False):
            return F.group_norm(x, self.num_groups, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)


class TrainingOperations:
    """The layers of a tokenizer in training."""

    Conv2d, Embedding, GroupNorm = nn.Conv2d, nn.Embedding, Float32Norm


def picture_loss(shown: Tensor, images: Tensor, weights: Tensor) -> Tensor:
    """Absolute and squared error and error of the gradients, at three scales, summed over the pictures.

    Args:
        shown, images: (B, 3, h, w).
        weights: how much each pixel counts, (B, 1, h, w), about 1 on average.
    """
    total = (2 * weights * (shown - images).square()).mean()
    for scale in (1, 2, 4):
        a, b, w = ((shown, images, weights) if scale == 1 else (F.avg_pool2d(t, scale) for t in (shown, images, weights)))
        difference = a - b
        total = total + (w * difference.abs()).mean() / 2
        if scale < 4:
            across, down = difference.diff(dim=3), difference.diff(dim=2)
            total = total + (w[..., 1:] * across.abs()).mean() + (w[:, :, 1:] * down.abs()).mean()
    return total * len(images)


def standardised(latents: Tensor, moments: Tensor) -> Tensor:
    """Latents (B, C, H, W) with mean 0 and deviation 1 in each channel; ``moments`` (2, C) follow the batches' mean and deviation."""
    deviation, mean = torch.std_mean(latents, dim=(0, 2, 3))
    moments.lerp_(torch.stack([mean, deviation]).detach(), 0.05)
    return (latents - mean[:, None, None]) / (deviation[:, None, None] + 1e-6)


@torch.no_grad()
def fold(model: ImageTokenizer, moments: Tensor) -> None:
    """Make the encoder give what ``standardised`` gave."""
    mean, deviation = moments
    model.quant_conv.weight.div_(deviation[:, None, None, None] + 1e-6)
    model.quant_conv.bias.sub_(mean).div_(deviation + 1e-6)


def freeze_encoder(model: ImageTokenizer) -> None:
    """Leave the decoder alone to learn."""
    for part in (model.encoder, model.quant_conv):
        part.requires_grad_(False)


@alone_in_folder
def train_picture_tokenizer(
    folder: str | Path,
    config: ImageTokenizerConfig,
    pictures: Callable[[int], Iterator[tuple[Tensor, Tensor]]],
    *,
    seconds: float,
    until: float = float("inf"),
    muon_lr: float = 0.02,
    adam_lr: float = 2e-3,
    seed: int = 0,
    start: dict[str, Tensor] | None = None,
    watch: Callable[[ImageTokenizer, int], None] | None = None,
    world: World = World(),
) -> ImageTokenizer:
    """Train, or resume ``folder``'s checkpoint; returns the tokenizer in float32.

    Args:
        pictures: given a step, batches from there on without end: images (B, 3, h, w) in 0..1 and pixels' weights (B, 1, h, w), on the device.
        seconds, until: as in ``Stage``.
        start: weights to go on from; the codebook then is not fitted anew.
        watch: called with the model now and then.
    """
    device = world.device
    stage = Stage(folder, seconds, until=until, world=world)
    torch.manual_seed(seed)
    generator = torch.Generator(device).manual_seed(seed + world.rank)
    model = ImageTokenizer(config, operations=TrainingOperations).to(device)
    moments = torch.stack([torch.zeros(config.code_channels), torch.ones(config.code_channels)]).to(device)
    nn.init.constant_(model.decoder.conv_out.bias, 0.5)  # grey
    if start is not None:
        model.load_state_dict(start)
    phase = AUTOENCODER if start is None else QUANTISED
    ends = {id(e.weight) for e in (model.encoder.conv_in, model.encoder.conv_out, model.decoder.conv_in, model.decoder.conv_out)}
    entries = model.quantize.embedding.weight.requires_grad_(False)
    kernels = [p for p in model.parameters() if p.dim() == 4 and id(p) not in ends]
    others = [p for p in model.parameters() if p is not entries and (p.dim() != 4 or id(p) in ends)]
    optimizers = [Muon(kernels, lr=muon_lr, world=world), torch.optim.AdamW(others, lr=adam_lr, betas=(0.9, 0.98), weight_decay=0)]
    moving = codebooks.MovingCodebook(entries)
    if saved := stage.resume():
        model.load_state_dict(saved["model"])
        for optimizer, state in zip(optimizers, saved["optimizers"]):
            optimizer.load_state_dict(state)
        moments.copy_(saved["moments"].to(device))
        moving.load(saved["moving"])
        phase = saved["phase"]
    if phase == DECODER:
        freeze_encoder(model)

    def state() -> dict:
        return {
            "model": model.state_dict(),
            "optimizers": [o.state_dict() for o in optimizers],
            "moments": moments,
            "moving": moving.state(),
            "phase": phase,
        }

    def add_up(tensor: Tensor) -> Tensor:
        if world.size > 1:
            dist.all_reduce(tensor)
        return tensor

    half = device.type == "cuda"
    recent: list[Tensor] = []
    for images, weights in pictures(stage.step):
        progress = stage.progress()
        if progress >= 1:
            break
        if phase == AUTOENCODER and progress >= UNTIL[0]:
            phase = QUANTISED
            fold(model, moments)
            entries.copy_(_fitted(model, pictures(stage.step), config, generator, world))
            moving = codebooks.MovingCodebook(entries)
        if phase == QUANTISED and progress >= UNTIL[1]:
            phase = DECODER
            freeze_encoder(model)
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            latents = model.latents(images).float()
            if phase == AUTOENCODER:
                latents = standardised(latents, moments)
                seen, extra = latents + NOISE * torch.randn(latents.shape, generator=generator, device=device), latents.new_zeros(())
            else:
                flat = latents.permute(0, 2, 3, 1).flatten(0, 2)
                with torch.no_grad(), torch.autocast(device.type, enabled=False):
                    index = codebooks.nearest(flat, entries)
                    found = entries[index]
                    of_cells = F.avg_pool2d(weights, config.factor).flatten()
                extra = COMMITMENT * (of_cells[:, None] * (flat - found).square()).mean() * len(images)
                seen = (flat + (found - flat).detach()).view(len(images), *latents.shape[2:], -1).permute(0, 3, 1, 2)
            shown = model.decode_latents(seen).float()
        loss = picture_loss(shown, images, weights)
        (loss + extra).backward()
        if phase == QUANTISED:
            detached = flat.detach()
            moving.update(detached, index, of_cells, add_up)
            if stage.step % REVIVE_EVERY == 0 and progress < 0.9 * UNTIL[1] and world.size == 1:
                moving.revive(detached, generator)
        learning = [p for p in model.parameters() if p.grad is not None]
        sum_gradients(learning, len(images), world)
        for optimizer, peak in zip(optimizers, (muon_lr, adam_lr)):
            optimizer.param_groups[0]["lr"] = peak * rate(progress, stage.step, 0.5)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        recent.append(torch.stack([loss.detach(), (shown.detach() - images).square().mean() * len(images)]) / len(images))
        if stage.tick(len(images) * world.size):
            means = torch.stack(recent).mean(0).tolist()
            recent.clear()
            stage.note(phase=phase, loss=means[0], psnr=-10 * torch.tensor(means[1]).log10().item())
        if stage.save_now_and_then(state) and watch is not None and world.first:
            watch(model, phase)
    stage.save(state())
    if watch is not None and world.first:
        watch(model, phase)
    return model.eval()


@torch.no_grad()
def _fitted(model: ImageTokenizer, batches, config: ImageTokenizerConfig, generator: torch.Generator, world: World) -> Tensor:
    """A codebook for the latents of some batches, those where much counts more often among them; the first process's, for all."""
    latents, chances = [], []
    wanted = FIT_ON * config.num_vq_embeddings
    while sum(map(len, latents)) < 2 * wanted:
        images, weights = next(batches)
        latents.append(model.latents(images).permute(0, 2, 3, 1).flatten(0, 2))
        chances.append(F.avg_pool2d(weights, config.factor).flatten())
    flat, chance = torch.cat(latents), torch.cat(chances)
    chosen = torch.multinomial(chance, wanted, generator=generator)
    fitted = codebooks.fit(flat[chosen].float(), config.num_vq_embeddings, generator)
    if world.size > 1:
        dist.broadcast(fitted, 0)
    return fitted
