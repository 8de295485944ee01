"""What the models of the lakeside world learn from: scenes and prompts made by processes beside, rendered and tokenised where the model is."""

import os
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import count
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from ...devices import half_precision
from ...families.lumina_dimoo.prompts import PromptEncoder
from ...tokenizers.amused_vq import ImageTokenizer
from ...training.distributed import World
from ...training.inner_levels import adds_nothing
from ...training.picture_tokenizer import TrainingOperations, compile_tokenizer
from .. import lakeside
from ..lakeside.reader_data import Examples, examples, joined, make_pairs
from ..lakeside.scene import Scenes
from .maskgit import class_prompts
from .padded import PaddedPrompts
from .sizes import Sizes

ON_OBJECTS = 6.0  # how much more their pixels count than others, in the tokenizer's loss, for an object of usual area; small ones' count more
WITHOUT_TEXT = 0.1  # share of the prompts that say nothing, for guidance
TOKENS_ON_OBJECTS = 4.0  # how much more their tokens count than others, in the base's loss
USUAL_AREA = 2600.0  # of an object, in pixels of 256
COVERED = 0.1  # share of a picture that objects cover, about
ENCODE_AT_ONCE = 256
FIRST_FILLS = 4  # that are made before the base begins
PICTURES_KEPT = 256  # of those that are shown to the tokenizer several times
READER_STEPS_A_FILL = 8  # until other pairs are rendered; a pair gives new patchwork each time


def padded_prompts(sizes: Sizes) -> PaddedPrompts:
    """The world's text tokenizer, for prompts of one length."""
    encoder = PromptEncoder.of(lakeside.text_tokenizer(), sizes.base().tokens)
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
        scenes = lakeside.sample_scenes(self.count, torch.Generator().manual_seed(seed), "train", self.sizes.variety)
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
    at_once = 8 if world.device.type == "cuda" else 1  # batches
    first = first_step // (at_once * sizes.picture_uses)
    generator = torch.Generator(world.device).manual_seed(seed * 7901 + first_step * 64 + world.rank)
    newest: deque[tuple[Tensor, Tensor]] = deque(maxlen=PICTURES_KEPT // batch)
    for scenes, _ in stream(sizes, at_once * batch, 0, seed, first, world, min(4, workers_for(world.device))):
        with torch.no_grad():
            layers = lakeside.render_layers(scenes, sizes.pixels)
            weights = object_weights(layers.masks)
            if sizes.maps_every:
                _put_maps(layers, scenes, weights, sizes)
            images = (layers.image * 255).round() / 255  # as files and the reader of pictures have it
        if sizes.picture_uses == 1:
            yield from zip(images.split(batch), weights.split(batch))
            continue
        newest.append((images, weights))
        for _ in range(at_once * sizes.picture_uses):
            chosen = torch.randint(len(newest) * len(images), (batch,), generator=generator, device=world.device).tolist()
            yield tuple(torch.stack([newest[row // len(images)][part][row % len(images)] for row in chosen]) for part in (0, 1))


def _put_maps(layers: lakeside.Layers, scenes: Scenes, weights: Tensor, sizes: Sizes) -> None:
    """In the place of each so-many-th picture its edges, its depth, or its first object alone, in turn, of which all pixels count alike."""
    rows = torch.arange(0, len(scenes), sizes.maps_every, device=scenes.device)
    edges, depth, alone = rows[::3], rows[1::3], rows[2::3]
    weights[rows] = 1.0
    layers.image[edges] = lakeside.edge_maps(layers.image[edges])
    layers.image[depth] = layers.depth[depth].expand(-1, 3, -1, -1)
    layers.image[alone] = lakeside.render_subjects(scenes[alone], torch.zeros_like(alone), sizes.pixels)


def spoilt_pictures(sizes: Sizes, seed: int, world: World, first_step: int = 0) -> Iterator[Examples]:
    """Batches for the judge's reader from a step on, without end, from the newest fills."""
    generator = torch.Generator(world.device).manual_seed(seed * 7927 + first_step * 64 + world.rank)
    newest: deque = deque(maxlen=sizes.reader_fills)
    while True:
        newest.append(make_pairs(sizes.reader_pairs, generator))
        if len(newest) < sizes.reader_fills:
            continue
        pairs = joined(list(newest))
        for _ in range(READER_STEPS_A_FILL):
            rows = torch.randint(len(pairs.setting), (world.share(sizes.reader_batch),), generator=generator, device=world.device)
            yield examples(pairs, rows, generator)


def object_weights(masks: Tensor) -> Tensor:
    """How much each pixel counts: 1 in the landscape, more on objects, so that small ones are kept as well as large ones; about 1 on average.

    Args:
        masks: of each object, bool (N, 4, size, size).

    Returns:
        float32 (N, 1, size, size).
    """
    grown = F.max_pool2d(masks.float(), 5, 1, 2)
    area = masks.float().mean((2, 3), keepdim=True) * 256**2
    each = (ON_OBJECTS * (USUAL_AREA / area.clamp(min=1)).sqrt()).clamp(0.5 * ON_OBJECTS, 2 * ON_OBJECTS)
    weights = torch.maximum((grown * each).amax(1, keepdim=True), torch.ones_like(grown[:, :1]))
    return weights / (1 + (ON_OBJECTS - 1) * COVERED)


def token_weights(masks: Tensor, downscale_factor: int) -> Tensor:
    """How much each token counts for the base: more where there are objects, whose faults are seen, less in clouds and grass, which are never twice the same.

    Args:
        masks: of each object, bool (N, 4, size, size).

    Returns:
        float32 (N, H, W), about 1 on average.
    """
    on_objects = F.max_pool2d(masks.any(1, keepdim=True).float(), 5, 1, 2)
    covered = F.avg_pool2d(on_objects, downscale_factor)[:, 0]
    return (1 + (TOKENS_ON_OBJECTS - 1) * covered) / (1 + (TOKENS_ON_OBJECTS - 1) * COVERED)


def for_encoding(tokenizer: ImageTokenizer, compile: bool = False) -> ImageTokenizer:
    """The same tokenizer, fast in 16 bits; compiled, its encoder wants batches of one size."""
    fast = ImageTokenizer(tokenizer.config, operations=TrainingOperations)
    fast.load_state_dict(tokenizer.state_dict())
    for block in fast.encoder.down_blocks:
        block.resnets = nn.ModuleList(each for each in block.resnets if not adds_nothing(each))
    fast = fast.to(tokenizer.post_quant_conv.weight.device, memory_format=torch.channels_last).requires_grad_(False).eval()
    if compile:
        compile_tokenizer(fast)
    return fast


@torch.no_grad()
def encoded(tokenizer: ImageTokenizer, images: Tensor) -> Tensor:
    """Codes of images, int64 (N, H, W), computed in 16 bits where that is fast."""
    codes = []
    for part in images.split(ENCODE_AT_ONCE):
        with half_precision(images.device):
            latents = tokenizer.latents(part.contiguous(memory_format=torch.channels_last))
        codes.append(tokenizer.quantize.nearest(latents.float()))
    return torch.cat(codes)


@dataclass(frozen=True)
class Codes:
    """Pictures' codes and classes in files, so that who comes later renders nothing anew.

    Attributes:
        folder: where they lie, a file for each process that writes.
        name: of the tokenizer that made them.
        side: tokens along each side of a picture.
    """

    folder: Path
    name: str
    side: int

    def add(self, codes: Tensor, classes: Tensor, rank: int) -> None:
        """Append codes (N, H, W) and classes (N,)."""
        self.folder.mkdir(parents=True, exist_ok=True)
        rows = torch.cat([classes[:, None], codes.flatten(1)], 1).cpu().numpy().astype(np.uint16)
        with open(self.folder / f"{self.name}-{rank}.u16", "ab") as file:
            file.write(rows.tobytes())

    def all(self) -> tuple[Tensor, Tensor]:
        """All that was added: codes int16 (N, H * W), classes int64 (N,). A row that is not whole ends its file."""
        width = 1 + self.side**2
        parts = [np.fromfile(path, np.uint16) for path in sorted(self.folder.glob(f"{self.name}-*.u16"))]
        rows = [part[: len(part) // width * width].reshape(-1, width).astype(np.int16) for part in parts]
        found = torch.from_numpy(np.concatenate([np.empty((0, width), np.int16), *rows]))
        return found[:, 1:].contiguous(), found[:, 0].long()


@dataclass(frozen=True)
class Fill:
    """Pictures made together: prompts (n, wordings, P), codes and how much each token counts (n, H, W), classes (n,)."""

    prompts: Tensor
    codes: Tensor
    weights: Tensor
    classes: Tensor


def fills(sizes: Sizes, tokenizer: ImageTokenizer, seed: int, world: World, first: int, wordings: int, kept: Codes | None, compile: bool) -> Iterator[Fill]:
    """Rendered and tokenised, from the ``first`` on, without end; they are added to ``kept``."""
    fast = for_encoding(tokenizer, compile)
    for scenes, prompts in stream(sizes, sizes.fill, wordings, seed, first, world, workers_for(world.device)):
        with torch.no_grad():
            layers = lakeside.render_layers(scenes, sizes.pixels)
            weights = token_weights(layers.masks, sizes.tokenizer.downscale_factor)
            fill = Fill(prompts, encoded(fast, layers.image), weights, lakeside.classes_of(scenes))
        if kept is not None:
            kept.add(fill.codes, fill.classes, world.rank)
        yield fill


def samples(
    sizes: Sizes, tokenizer: ImageTokenizer, seed: int, world: World, first_step: int = 0, kept: Codes | None = None, compile: bool = False
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Batches for the base from a step on, without end: prompts (B, P), shorter on a CPU if they can be, codes and how much each token counts (B, H, W), from the newest fills."""
    unconditional = padded_prompts(sizes).unconditional().to(world.device)
    batch, device = world.share(sizes.samples_a_step), world.device
    every = max(1, sizes.fill * sizes.uses // batch)  # steps that a fill lasts
    generator = torch.Generator(device).manual_seed(seed * 7919 + first_step * 64 + world.rank)
    newest: deque[Fill] = deque(maxlen=sizes.fills)
    # On a GPU, shapes that never change are worth more than what the fill costs.
    trimmed = padded_prompts(sizes).trimmed if device.type == "cpu" else lambda prompts: prompts
    for fill in fills(sizes, tokenizer, seed, world, first_step // every, sizes.wordings, kept, compile):
        newest.append(fill)
        if len(newest) < min(sizes.fills, FIRST_FILLS):
            continue
        prompts, codes, weights = (torch.cat([getattr(f, name) for f in newest]) for name in ("prompts", "codes", "weights"))
        for _ in range(every):
            rows = torch.randint(len(codes), (batch,), generator=generator, device=device)
            words = torch.randint(sizes.wordings, (batch,), generator=generator, device=device)
            yield trimmed(_some_without_text(prompts[rows, words], unconditional, generator)), codes[rows], weights[rows]


def _some_without_text(prompts: Tensor, unconditional: Tensor, generator: torch.Generator) -> Tensor:
    """Prompts (B, P), some of them replaced by the one that says nothing, (P,)."""
    dropped = torch.rand(len(prompts), 1, generator=generator, device=prompts.device) < WITHOUT_TEXT
    return torch.where(dropped, unconditional, prompts)


def class_samples(
    sizes: Sizes, tokenizer: ImageTokenizer, seed: int, world: World, first_step: int, kept: Codes, compile: bool = False
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Batches for the model of classes, without end: class tokens (B, 1), some of them the one of no class, codes (B, H, W), and that all tokens count alike.

    They come from the codes that were kept; more are made where these are few.
    """
    batch, device = world.share(sizes.classes.samples_a_step), world.device
    codes, classes = kept.all()
    if len(codes) < sizes.classes.pictures:
        made = fills(sizes, tokenizer, seed + 900, world, len(codes) // sizes.fill, 1, kept, compile)
        while len(codes) < sizes.classes.pictures:
            next(made)
            codes, classes = kept.all()
        made.close()
    codes, tokens = codes.to(device), class_prompts(classes.to(device), sizes.tokenizer.num_vq_embeddings)
    generator = torch.Generator(device).manual_seed(seed * 7907 + first_step * 64 + world.rank)
    alike, no_class = torch.ones(batch, sizes.side, sizes.side, device=device), torch.tensor([sizes.class_base().dropped_class], device=device)
    while True:
        rows = torch.randint(len(codes), (batch,), generator=generator, device=device)
        yield _some_without_text(tokens[rows], no_class, generator), codes[rows].long().unflatten(1, (sizes.side, sizes.side)), alike


def head_prompts(sizes: Sizes, seed: int, world: World, first_round: int = 0) -> Iterator[Tensor]:
    """Prompts (runs, P) for the head's rounds, without end."""
    for _, prompts in stream(sizes, sizes.runs, 1, seed + 500, first_round, world, min(2, workers_for(world.device))):
        yield prompts[:, 0]


def head_classes(sizes: Sizes, seed: int, world: World, first_round: int = 0) -> Iterator[Tensor]:
    """Class tokens (runs, 1) for the head's rounds, without end."""
    generator = torch.Generator(world.device)
    for k in count(first_round):
        generator.manual_seed((seed + 500) * 10**6 + k * world.size + world.rank)
        yield class_prompts(lakeside.random_classes(sizes.classes.runs, generator), sizes.tokenizer.num_vq_embeddings)
