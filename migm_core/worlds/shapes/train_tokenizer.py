"""Train the image tokenizer against a codebook of patches: the encoder to find each patch's code, the decoder to show it.

Quantising an untrained encoder's latents stalls in a poor codebook. Here the codes are known beforehand (see
``patches``), so both halves learn at once and neither waits for the other.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...tokenizers.amused_vq import ImageTokenizer, ImageTokenizerConfig
from ...training.distributed import World
from ...training.learner import Learner, falling
from ...training.muon import Muon
from ...training.run import Run
from .patches import PatchCodebook, scene_images


def demo_config(codes: int) -> ImageTokenizerConfig:
    """Factor 8; wide where the grid is coarse and width is cheap."""
    return ImageTokenizerConfig(
        block_out_channels=(16, 32, 96, 192),
        latent_channels=32,
        num_vq_embeddings=codes,
        layers_per_block=1,
        norm_num_groups=8,
    )


def losses_of(model: ImageTokenizer, seen: Tensor, images: Tensor, codes: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """What is minimised, and its parts: what the encoder makes of ``seen`` and the decoder of the codes.

    Args:
        seen, images: what goes into the encoder and what should come out of the decoder, (B, 3, h, w).
        codes: int64 (B, H, W).
    """
    codebook = model.quantize.embedding
    latents = model.latents(seen).permute(0, 2, 3, 1).flatten(0, 2)
    scores = 2 * latents @ codebook.weight.T - codebook.weight.square().sum(1)  # minus squared distance, up to a constant
    decoded = model.decode_latents(codebook(codes).permute(0, 3, 1, 2))
    code, l1, mse = F.cross_entropy(scores, codes.flatten()), F.l1_loss(decoded, images), F.mse_loss(decoded, images)
    return code + l1 + 4 * mse, {"code": code, "l1": l1, "mse": mse}


def train_tokenizer(
    folder: str | Path,
    codebook: PatchCodebook,
    *,
    steps: int = 2000,
    batch: int = 16,
    muon_lr: float = 0.02,
    adam_lr: float = 2e-3,
    seed: int = 0,
    config: ImageTokenizerConfig | None = None,
    start: ImageTokenizer | None = None,
    world: World = World(),
) -> ImageTokenizer:
    """Train on rendered scenes, or resume ``folder``'s checkpoint; returns the trained tokenizer.

    Args:
        codebook: of the scenes' tokens; its side is the tokenizer's downscale factor.
        batch: images a step, over all processes.
        start: weights to begin with, trained against the same codebook, instead of random ones.
    """
    torch.manual_seed(seed)
    config = start.config if start is not None else config or demo_config(len(codebook.centres))
    model = ImageTokenizer(config)
    with torch.no_grad():
        model.quantize.embedding.weight.copy_(codebook.latents(config.code_channels))
    if start is not None:
        model.load_state_dict(start.state_dict())
    ends = (model.encoder.conv_in, model.encoder.conv_out, model.decoder.conv_in, model.decoder.conv_out)
    kernels = {id(p): p for p in model.parameters() if p.dim() == 4 and not any(p is end.weight for end in ends)}
    others = [p for p in model.parameters() if id(p) not in kernels]
    optimizers = [Muon(kernels.values(), lr=muon_lr, world=world), torch.optim.AdamW(others, lr=adam_lr, betas=(0.9, 0.98), weight_decay=0)]
    with Run(folder, steps=steps, world=world) as run:
        learner = Learner(model, losses_of, optimizers, lambda step: falling(step / max(steps, 1), step, level=0.0, warm_up=50), world=world)
        for step in run.steps(learner=learner):
            # Each step draws from its own seed, so that a resumed run sees what an uninterrupted one would have.
            rng = np.random.default_rng((seed, 2, step, world.rank))
            images = scene_images(rng, world.share(batch))
            codes = codebook.codes(images)
            # A little noise on what the encoder sees, of which the codes are known all the same: pictures that have been
            # through the decoder once are not quite the renderer's.
            noisy = images + 0.02 * torch.from_numpy(rng.standard_normal(images.shape, np.float32))
            loss, parts = learner(noisy, images, codes)
            learner.update(loss * len(images) * world.size / batch)
            run.count(**parts)
    return model.eval()
