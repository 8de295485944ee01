"""What the models of the lakeside world learn from: scenes and prompts made by processes beside, rendered and tokenised where the model is."""

import os
from collections.abc import Iterator
from dataclasses import fields
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ...models.image_tokenizer import ImageTokenizer
from ...prompts import PromptEncoder
from ...training.distributed import World
from ...training.padded import PaddedPrompts
from ...training.picture_tokenizer import TrainingOperations
from .. import lakeside
from ..lakeside.scene import Scenes
from .sizes import Sizes

ON_OBJECTS = 3.0  # how much more their pixels count than others, in the tokenizer's loss
ENCODE_AT_ONCE = 256


def padded_prompts(sizes: Sizes) -> PaddedPrompts:
    """The world's text tokenizer, for prompts of one length."""
    encoder = PromptEncoder.of(lakeside.text_tokenizer().backend_tokenizer, sizes.base().tokens)
    return PaddedPrompts(encoder, sizes.prompt_length)


class Told(Dataset):
    """Fills: the k-th is scenes of the training split with some prompts each, as plain arrays; the same whoever asks for it."""

    def __init__(self, sizes: Sizes, count: int, wordings: int, seed: int):
        self.sizes, self.count, self.wordings, self.seed = sizes, count, wordings, seed
        self.padded: PaddedPrompts | None = None

    def __len__(self) -> int:
        return 2**40

    def __getitem__(self, k: int) -> dict[str, np.ndarray]:
        self.padded = self.padded or padded_prompts(self.sizes)
        seed = self.seed * 10**9 + k
        scenes = lakeside.sample_scenes(self.count, torch.Generator().manual_seed(seed), "train")
        told = {f.name: getattr(scenes, f.name).numpy() for f in fields(Scenes)}
        texts = [self.padded.prompts(lakeside.prompts(scenes, seed * 16 + w)) for w in range(self.wordings)]
        if texts:
            told["prompts"] = torch.stack(texts, 1).to(torch.int16).numpy()
        return told


class From:
    """Fill numbers from one on, each for one process only."""

    def __init__(self, first: int, world: World):
        self.first, self.world = first, world

    def __iter__(self) -> Iterator[int]:
        k = self.first
        while True:
            yield k * self.world.size + self.world.rank
            k += 1


def _as_it_is(told):
    return told


def stream(sizes: Sizes, count: int, wordings: int, seed: int, first: int, world: World, workers: int) -> Iterator[tuple[Scenes, Tensor | None]]:
    """Fills from the ``first`` on, on the device: scenes and prompts (count, wordings, P)."""
    loader = DataLoader(
        Told(sizes, count, wordings, seed), batch_size=None, sampler=From(first, world), collate_fn=_as_it_is, num_workers=workers,
        prefetch_factor=4 if workers else None, worker_init_fn=_one_thread if workers else None,
    )  # fmt: skip
    for told in loader:
        prompts = told.pop("prompts", None)
        scenes = Scenes(**{name: torch.from_numpy(array).to(world.device) for name, array in told.items()})
        yield scenes, None if prompts is None else torch.from_numpy(prompts).to(world.device).long()


def _one_thread(_: int) -> None:
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


def workers_for(device: torch.device) -> int:
    """Processes that write prompts: nearly as many as there are processors, beside a GPU; none beside a CPU, which has enough to do."""
    return max(0, min(14, (os.cpu_count() or 1) - 2)) if device.type == "cuda" else 0


def pictures(sizes: Sizes, seed: int, world: World, first_step: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches for the tokenizer from a step on, without end: images (B, 3, h, w) and pixels' weights (B, 1, h, w), which are more on objects."""
    batch = world.share(sizes.pictures_a_step)
    at_once = 4 if world.device.type == "cuda" else 1  # batches
    first = first_step // at_once
    for scenes, _ in stream(sizes, at_once * batch, 0, seed, first, world, min(4, workers_for(world.device))):
        with torch.no_grad():
            layers = lakeside.render_layers(scenes, sizes.pixels)
            on_objects = F.max_pool2d(layers.masks.any(1, keepdim=True).float(), 5, 1, 2)
            weights = 1 + (ON_OBJECTS - 1) * on_objects
            weights = weights / (1 + (ON_OBJECTS - 1) * 0.1)  # objects cover about a tenth
            # As files and the reader of pictures have it.
            images = (layers.image * 255).round() / 255
        yield from zip(images.split(batch), weights.split(batch))


def for_encoding(tokenizer: ImageTokenizer) -> ImageTokenizer:
    """The same tokenizer, fast in 16 bits."""
    fast = ImageTokenizer(tokenizer.config, operations=TrainingOperations).to(next(tokenizer.parameters()).device)
    fast.load_state_dict(tokenizer.state_dict())
    return fast.requires_grad_(False).eval()


@torch.no_grad()
def encoded(tokenizer: ImageTokenizer, images: Tensor) -> Tensor:
    """Codes of images, int64 (N, H, W), computed in 16 bits on a GPU."""
    half = partial(torch.autocast, images.device.type, torch.bfloat16, enabled=images.device.type == "cuda")
    codes = []
    for part in images.split(ENCODE_AT_ONCE):
        with half():
            latents = tokenizer.latents(part)
        codes.append(tokenizer.quantize.nearest(latents.float()))
    return torch.cat(codes)


def samples(sizes: Sizes, tokenizer: ImageTokenizer, seed: int, world: World, first_step: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches for the base from a step on, without end: prompts (B, P) and codes (B, H, W), drawn from the newest fills."""
    batch, device = world.share(sizes.samples_a_step), world.device
    every = max(1, sizes.fill * sizes.uses // batch)  # steps that a fill lasts
    fast = for_encoding(tokenizer)
    generator = torch.Generator(device).manual_seed(seed * 7919 + first_step * 64 + world.rank)
    fills: list[tuple[Tensor, Tensor]] = []
    step = first_step
    for scenes, prompts in stream(sizes, sizes.fill, sizes.wordings, seed, first_step // every, world, workers_for(device)):
        with torch.no_grad():
            fills.append((prompts, encoded(fast, lakeside.render(scenes, sizes.pixels))))
        if len(fills) < sizes.fills:
            continue
        del fills[: -sizes.fills]
        all_prompts, all_codes = (torch.cat(parts) for parts in zip(*fills))
        for _ in range(every):
            rows = torch.randint(len(all_codes), (batch,), generator=generator, device=device)
            words = torch.randint(sizes.wordings, (batch,), generator=generator, device=device)
            yield all_prompts[rows, words], all_codes[rows]
            step += 1


def head_prompts(sizes: Sizes, seed: int, world: World, first_round: int = 0) -> Iterator[Tensor]:
    """Prompts (runs, P) for the head's rounds, without end."""
    for _, prompts in stream(sizes, sizes.runs, 1, seed + 500, first_round, world, min(2, workers_for(world.device))):
        yield prompts[:, 0]
