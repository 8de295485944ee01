"""Train the image tokenizer: an autoencoder first, then a codebook from its latents, then all of it quantised.

Quantising from the start stalls in a poor codebook; latents of a trained autoencoder give k-means a good one.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models.image_tokenizer import Encoder, ImageTokenizer, ImageTokenizerConfig
from .run import TrainingRun
from .scenes import place, random_scene, render

DEMO_CONFIG = ImageTokenizerConfig(
    block_out_channels=(16, 32, 64, 128),
    latent_channels=16,
    num_vq_embeddings=1024,
    layers_per_block=1,
    norm_num_groups=8,
)


def scene_batch(rng: np.random.Generator, count: int) -> Tensor:
    """Rendered training scenes, float32 (count, 3, 64, 64)."""
    counts = rng.choice([1, 2, 3], count, p=[0.1, 0.2, 0.7])  # full scenes teach more an image
    scenes = [random_scene(rng, int(n), "train") for n in counts]
    images = np.stack([render(scene, place(rng, scene)) for scene in scenes])
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


def confine_to_cell(encoder: Encoder) -> None:
    """Zero the convolution taps that reach into neighbouring cells.

    A cell's code then depends on its own pixels (and, weakly, on the image's statistics through the group norms), so the
    same part of an object gets the same code wherever it stands: fewer codes, and codes that a small base model can
    predict. The decoder sees the neighbours as usual.
    """
    for module in encoder.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
            mask = torch.zeros(3, 3)
            # Padded on the right and bottom, a stride-2 convolution reads its own 2x2 pixels with the first two taps.
            mask[:2, :2] = 1 if module.stride == (2, 2) else 0
            mask[1, 1] = 1
            with torch.no_grad():
                module.weight.mul_(mask)


def k_means(points: Tensor, count: int, generator: torch.Generator, rounds: int = 12) -> Tensor:
    """Centres (count, C) of points (n, C): k-means++ seeding, then Lloyd's rounds."""
    centres = [points[torch.randint(len(points), (1,), generator=generator)]]
    nearest = (points - centres[0]).square().sum(1)
    for _ in range(count - 1):
        chosen = torch.multinomial(nearest.clamp_min(1e-12), 1, generator=generator)
        centres.append(points[chosen])
        nearest = torch.minimum(nearest, (points - centres[-1]).square().sum(1))
    centres = torch.cat(centres)
    for _ in range(rounds):
        owner = (centres.square().sum(1) - 2 * points @ centres.T).argmin(1)
        sums = torch.zeros_like(centres).index_add_(0, owner, points)
        sizes = torch.bincount(owner, minlength=count).unsqueeze(1)
        centres = torch.where(sizes > 0, sums / sizes.clamp_min(1), centres)
    return centres


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Linear warm-up over 100 steps, constant, then a cosine fall over the last two thirds to 1% of the peak."""
    if step < steps / 3:
        return peak * min(1, (step + 1) / 100)
    fall = (step - steps / 3) / (steps * 2 / 3)
    return peak * (0.01 + 0.99 * 0.5 * (1 + np.cos(np.pi * fall)))


def train_tokenizer(
    folder: str | Path,
    *,
    steps: int = 6000,
    batch: int = 16,
    peak_lr: float = 2e-3,
    seed: int = 0,
    config: ImageTokenizerConfig = DEMO_CONFIG,
) -> ImageTokenizer:
    """Train on rendered scenes, or resume ``folder``'s checkpoint; returns the trained tokenizer."""
    run = TrainingRun(folder, steps)
    torch.manual_seed(seed)
    model = ImageTokenizer(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak_lr, betas=(0.9, 0.98), weight_decay=1e-4)
    if saved := run.resume():
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
    model.to(memory_format=torch.channels_last)
    confine_to_cell(model.encoder)

    quantise_from = steps // 3
    for step in run.steps_left():
        # Each step draws from its own seed, so that a resumed run sees what an uninterrupted one would have.
        rng = np.random.default_rng((seed, step))
        if step == quantise_from:
            _start_codebook(model, rng)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, peak_lr)
        images = scene_batch(rng, batch).to(memory_format=torch.channels_last)
        latents = model.latents(images)
        losses = {}
        if step < quantise_from:
            decoded = model.decode_latents(latents)
            loss = 0
        else:
            codes = model.quantize.nearest(latents.detach())
            quantised = model.quantize.embedding(codes).permute(0, 3, 1, 2)
            losses["codebook"] = F.mse_loss(quantised, latents.detach())
            losses["commitment"] = F.mse_loss(latents, quantised.detach())
            loss = losses["codebook"] + 0.25 * losses["commitment"]
            decoded = model.decode_latents(latents + (quantised - latents).detach())
        losses["mse"] = F.mse_loss(decoded, images)
        losses["l1"] = F.l1_loss(decoded, images)
        loss = loss + 4 * losses["mse"] + losses["l1"]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        confine_to_cell(model.encoder)
        run.tick(
            {name: value.item() for name, value in losses.items()},
            lambda: {"model": model.state_dict(), "optimizer": optimizer.state_dict()},
        )
    return model.to(memory_format=torch.contiguous_format).eval()


@torch.no_grad()
def _start_codebook(model: ImageTokenizer, rng: np.random.Generator) -> None:
    """Set the codebook to centres of what the encoder now says of the scenes' cells."""
    latents = torch.cat([model.latents(scene_batch(rng, 32)).permute(0, 2, 3, 1).flatten(0, 2) for _ in range(16)])
    # Most cells are plain background: keep one of each, or they would outvote every object.
    distinct = latents[np.unique((latents * 64).round().numpy(), axis=0, return_index=True)[1]]
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    model.quantize.embedding.weight.copy_(k_means(distinct, model.config.num_vq_embeddings, generator))
