"""Train an image tokenizer on pictures that are made as they are needed, with a codebook of its own.

Quantising an untrained encoder's latents stalls in a poor codebook. So the autoencoder learns first, with noise on its latents of
about the error that quantising will bring; then a codebook is fitted to the latents; then both learn together; at last the
codes stand still and the decoder alone goes on. Where time is short, pictures are half as large until then (``inner_levels``).
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..devices import half_precision
from ..tokenizers.amused_vq import ImageTokenizer, ImageTokenizerConfig, ResnetBlock
from . import codebook as codebooks
from .distributed import World
from .group_norm import Float32Norm
from .inner_levels import InnerLevels, adds_nothing, begin_outer
from .learner import Learner, falling
from .muon import Muon
from .run import CHECKPOINT, Run, read_checkpoint

NOISE = 0.35  # on standardised latents, while nothing is quantised
COMMITMENT = 0.25
AUTOENCODER, QUANTISED, DECODER = range(3)
UNTIL = (0.30, 0.80)  # shares of the time at which the first two phases end
FLOOR, AGAIN = 0.1, 0.5  # shares of the peak learning rate: when the codes stand still; when the decoder begins to learn alone
GOING_ON = 0.1  # the same, where a decoder begins with weights that have learned
FIT_ON = 32  # latents for each entry, to fit the codebook to
REVIVE_EVERY = 50
DECODER_WARM_UP = 20  # steps until then


class TrainingOperations:
    """The layers of a tokenizer in training."""

    Conv2d, Embedding, GroupNorm = nn.Conv2d, nn.Embedding, Float32Norm


def compile_tokenizer(model: nn.Module) -> None:
    """Fuse each residual block with torch.compile: norms and activations into few passes, whatever the memory format. Blocks of one size share the result."""
    for block in model.modules():
        if isinstance(block, ResnetBlock):
            block.compile(dynamic=False)


def uncompiled(model: ImageTokenizer | InnerLevels) -> ImageTokenizer:
    """A frozen copy for now and then, when other batch sizes would be compiled anew. Of inner levels alone, it enlarges what they show."""
    inner = model if isinstance(model, InnerLevels) else None
    model = inner.tokenizer if inner else model
    copy = ImageTokenizer(model.config, operations=TrainingOperations).requires_grad_(False).eval()
    copy.load_state_dict(model.state_dict())
    if inner and not inner.outer:
        begin_outer(copy, inner.norm, inner.to_pixels)
    return copy.to(model.post_quant_conv.weight.device, memory_format=torch.channels_last)


def picture_loss(shown: Tensor, images: Tensor, weights: Tensor) -> Tensor:
    """Absolute and squared error and error of the gradients, at three scales, mean over the pictures.

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
    return total


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


def rate_at(progress: float, step: int, decoder_alone: bool = False) -> float:
    """Share of the peak learning rate: falling before the codes stand still, so that they settle, and once more, to zero, while the decoder learns alone."""
    if decoder_alone:
        return GOING_ON * min(1 - progress, (step + 1) / DECODER_WARM_UP)
    if progress < UNTIL[1]:
        # The floor rises with the progress: the first steps stay small.
        return max(min(FLOOR, progress), falling(progress / UNTIL[1], step, level=0.55))
    return AGAIN * (1 - progress) / (1 - UNTIL[1])


class Quantising:
    """Where the training of a codebook stands: the phase, the latents' moments before there is one, and its moving means.

    Args:
        entries: the codebook, (K, C), kept up to date.
    """

    def __init__(self, entries: Tensor, phase: int):
        self.phase, self.entries, self.moving = phase, entries, codebooks.MovingCodebook(entries)
        self.moments = torch.stack([torch.zeros_like(entries[0]), torch.ones_like(entries[0])])

    def state_dict(self) -> dict:
        return {"phase": self.phase, "moments": self.moments, "moving": self.moving.state()}

    def load_state_dict(self, state: dict) -> None:
        self.phase = state["phase"]
        self.moments.copy_(state["moments"])
        self.moving.load(state["moving"])


class TokenizerLoss:
    """What a tokenizer minimises in each phase, of a batch of pictures.

    Args:
        generator: of the noise, on the pictures' device.
        error_of: as ``picture_loss``.

    Attributes:
        encoder: a frozen one, once the decoder learns alone.
    """

    def __init__(self, config: ImageTokenizerConfig, quantising: Quantising, generator: torch.Generator, error_of: Callable[..., Tensor]):
        self.config, self.quantising, self.generator, self.error_of = config, quantising, generator, error_of
        self.encoder: nn.Module | None = None

    def __call__(self, model: nn.Module, images: Tensor, weights: Tensor) -> tuple[Tensor, ...]:
        """What is minimised; of it the pictures' part, and their squared error; the latents (n, C), their codes and how much each counts."""
        device = images.device
        with half_precision(device):
            with torch.no_grad() if self.encoder else nullcontext():
                latents = (self.encoder or model).latents(images).float()
            of_tokens = F.avg_pool2d(weights, self.config.downscale_factor).flatten()
            if self.quantising.phase == AUTOENCODER:
                latents = standardised(latents, self.quantising.moments)
                seen, extra = latents + NOISE * torch.randn(latents.shape, generator=self.generator, device=device), latents.new_zeros(())
                flat, index = latents.detach(), None
            else:
                flat = latents.permute(0, 2, 3, 1).flatten(0, 2)
                with torch.no_grad(), torch.autocast(device.type, enabled=False):
                    index = codebooks.nearest(flat, self.quantising.entries)
                    found = self.quantising.entries[index]
                extra = COMMITMENT * (of_tokens[:, None] * (flat - found).square()).mean()
                seen = (flat + (found - flat).detach()).view(len(images), *latents.shape[2:], -1).permute(0, 3, 1, 2)
            shown = model.decode_latents(seen).float()
        if shown.shape != images.shape:
            images, weights = F.avg_pool2d(images, 2), F.avg_pool2d(weights, 2)
        of_pictures = self.error_of(shown, images, weights)
        return of_pictures + extra, of_pictures.detach(), (shown.detach() - images).square().mean(), flat.detach(), index, of_tokens


def train_picture_tokenizer(
    folder: str | Path,
    config: ImageTokenizerConfig,
    pictures: Callable[[int], Iterator[tuple[Tensor, Tensor]]],
    *,
    seconds: float,
    until: float = float("inf"),
    clock: Callable[[], float] = time.monotonic,
    muon_lr: float = 0.02,
    adam_lr: float = 2e-3,
    seed: int = 0,
    start: dict[str, Tensor] | None = None,
    compile: bool = False,
    outer_last: bool = False,
    decoder_alone: bool = False,
    on_checkpoint: Callable[[ImageTokenizer, int], None] | None = None,
    world: World = World(),
) -> ImageTokenizer:
    """Train, or resume ``folder``'s checkpoint; returns the tokenizer in float32.

    Args:
        pictures: given a step, batches from there on without end: images (B, 3, h, w) in 0..1 and pixels' weights (B, 1, h, w), on the device.
        seconds, until, clock: as in ``Run``.
        start: weights to go on from; the codebook then is not fitted anew.
        decoder_alone: whether the codes of ``start`` stay as they are, because a model has learned them.
        compile: fuse blocks and loss; batches then have one size.
        outer_last: decode pictures of half the size until the codes stand still. Weights to ``start`` with must have learned so, and their codes stay.
        on_checkpoint: called in the first process after checkpoints on the way, and at the end, with a frozen copy of the model and the phase.
    """
    device = world.device
    torch.manual_seed(seed)
    generator = torch.Generator(device).manual_seed(seed + world.rank)
    tokenizer = ImageTokenizer(config, operations=TrainingOperations)
    nn.init.constant_(tokenizer.decoder.conv_out.bias, 0.5)  # grey
    if start is not None:
        tokenizer.load_state_dict(start)
    outer_last = outer_last and (start is None or decoder_alone and all(map(adds_nothing, tokenizer.encoder.down_blocks[0].resnets)))
    inner = InnerLevels(tokenizer, Float32Norm) if _outer_waits(Path(folder) / CHECKPOINT, outer_last) else None
    model = (inner or tokenizer).to(device, memory_format=torch.channels_last)
    entries = tokenizer.quantize.embedding.weight.requires_grad_(False)
    ends = [tokenizer.encoder.conv_in, tokenizer.encoder.conv_out, tokenizer.decoder.conv_in, tokenizer.decoder.conv_out, *([inner.to_pixels] if inner else [])]
    kernels, others = _by_optimizer(model, ends, entries)
    optimizers = [Muon(kernels, lr=muon_lr, world=world), torch.optim.AdamW(others, lr=adam_lr, betas=(0.9, 0.98), weight_decay=0)]
    quantising = Quantising(entries, AUTOENCODER if start is None else DECODER if decoder_alone else QUANTISED)
    loss = TokenizerLoss(config, quantising, generator, torch.compile(picture_loss, dynamic=False) if compile else picture_loss)

    def look() -> None:
        if on_checkpoint is not None and world.first:
            if inner and quantising.phase == DECODER:
                inner.use_outer()  # a run that is over already has done no step
            shown = uncompiled(model)
            if quantising.phase == AUTOENCODER:
                fold(shown, quantising.moments)
            on_checkpoint(shown, quantising.phase)

    with Run(folder, seconds=seconds, until=until, clock=clock, save_every=60, world=world) as run:
        learner = Learner(model, loss, optimizers, lambda step: rate_at(run.progress, step, decoder_alone), world=world)
        if compile:
            compile_tokenizer(model)
        batches, learned = None, AUTOENCODER
        for step in run.steps(on_checkpoint=look, learner=learner, quantising=quantising):
            batches = pictures(step) if batches is None else batches
            if quantising.phase == AUTOENCODER and run.progress >= UNTIL[0]:
                quantising.phase = QUANTISED
                fold(tokenizer, world.of_first(quantising.moments))
                entries.copy_(_fitted(model, pictures(step), config, generator, world))
                quantising.moving = codebooks.MovingCodebook(entries)
            if quantising.phase == QUANTISED and run.progress >= UNTIL[1]:
                quantising.phase = DECODER
                if inner:
                    inner.begin_outer()
            if quantising.phase == DECODER and learned != DECODER:
                if inner:
                    inner.use_outer()
                freeze_encoder(tokenizer)
                loss.encoder = InnerLevels(uncompiled(model), Float32Norm) if inner else uncompiled(model)
                if compile:
                    compile_tokenizer(loss.encoder)
                learner.wrap()
            learned = quantising.phase
            images, weights = next(batches)
            images = images.contiguous(memory_format=torch.channels_last)
            value, of_pictures, error, flat, index, of_tokens = learner(images, weights)
            if quantising.phase == QUANTISED:
                quantising.moving.update(flat, index, of_tokens, world.total)
                if step % REVIVE_EVERY == 0 and run.progress < 0.9 * UNTIL[1]:
                    quantising.moving.revive(flat, generator, of_first=world.of_first)
            learner.update(value)
            run.count(seen=len(images) * world.size, phase=quantising.phase, loss=of_pictures, mse=error)
    look()
    return tokenizer.eval()


def _outer_waits(checkpoint: Path, wanted: bool) -> bool:
    """Whether the outermost level learns last: as in the checkpoint, if there is one, else as wanted."""
    if not checkpoint.exists():
        return wanted
    learner = read_checkpoint(checkpoint).get("learner")
    return isinstance(learner, dict) and any(name.startswith("tokenizer.") for name in learner.get("model", ()))


def _by_optimizer(model: nn.Module, ends: Sequence[nn.Module], entries: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """The kernels inside the networks, which Muon trains, and all else but the codebook, which AdamW does."""
    outer = {id(end.weight) for end in ends}
    kernels = [p for p in model.parameters() if p.dim() == 4 and id(p) not in outer]
    return kernels, [p for p in model.parameters() if p is not entries and (p.dim() != 4 or id(p) in outer)]


@torch.no_grad()
def _fitted(model: ImageTokenizer, batches, config: ImageTokenizerConfig, generator: torch.Generator, world: World) -> Tensor:
    """A codebook for the latents of some batches, those where much counts more often among them; the first process's, for all."""
    latents, chances, model = [], [], uncompiled(model)
    wanted = FIT_ON * config.num_vq_embeddings
    while sum(map(len, latents)) < 2 * wanted:
        images, weights = next(batches)
        latents.append(model.latents(images).permute(0, 2, 3, 1).flatten(0, 2))
        chances.append(F.avg_pool2d(weights, config.downscale_factor).flatten())
    flat, chance = torch.cat(latents), torch.cat(chances)
    chosen = torch.multinomial(chance, wanted, generator=generator)
    fitted = codebooks.fit(flat[chosen].float(), config.num_vq_embeddings, generator)
    return world.of_first(fitted)
