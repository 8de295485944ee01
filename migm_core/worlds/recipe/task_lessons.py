"""What the base learns its tasks from: requests with their truth, rendered and tokenised where the model is."""

import random
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...devices import half_precision
from ...families.lumina_dimoo.prompts import PromptEncoder
from ...families.lumina_dimoo.sequence import image_length, image_tokens
from ...tokenizers.amused_vq import ImageTokenizer
from ...training.distributed import World
from ...training.masked import random_masks
from .. import lakeside
from .lessons import WITHOUT_TEXT, encoded, for_encoding, padded_prompts, samples, token_weights
from .padded import PaddedPrompts
from .sizes import Sizes
from .tasks import TASKS, Asked, WorldTask

WITHOUT_PICTURES = 0.1  # share of the requests that show none, for guidance; those that are answered in words have no guidance
AFTER_THE_END = 0.5  # how much all tokens after an answer's end count together
ROOMS = {8: 8, 48: 16, 72: 24, 128: 32}  # for an answer, in tokens, each with the blocks that it may be written in; the last are the product's defaults
SHORT_ROOM = 0.5  # share of the batches of answers that have the shortest room that holds them; the others have the others alike
IN_BLOCKS = 0.5  # share of these batches that is masked as a run that writes block by block has it
DECODED_AT_ONCE = 64
FILLS = 4  # that a step's samples come from


@dataclass(frozen=True)
class TaskPrompts:
    """Requests to prompts of one length, with room for a picture."""

    padded: PaddedPrompts

    @classmethod
    def of_sizes(cls, sizes: Sizes) -> "TaskPrompts":
        text = padded_prompts(sizes)
        return cls(PaddedPrompts(text.encoder, text.length + image_length(sizes.side, sizes.side)))

    @property
    def encoder(self) -> PromptEncoder:
        return self.padded.encoder

    def whole(self, task: WorldTask, texts: Sequence[str], codes: Tensor) -> Tensor:
        """Prompts with the codes (N, H, W) of their pictures: int64 (N, P), on the CPU."""
        return self._filled(self.encoder.prompt(text, task.system, self._picture(each)) for text, each in zip(texts, codes.cpu(), strict=True))

    def without_text(self, task: WorldTask, codes: Tensor) -> Tensor:
        return self._filled(self.encoder.unconditional("", task.system, self._picture(each)) for each in codes.cpu())

    def without_pictures(self, task: WorldTask, texts: Sequence[str]) -> Tensor:
        return self._filled(self.encoder.prompt(text, task.system) for text in texts)

    def answers(self, texts: Sequence[str], length: int) -> Tensor:
        """Token ids of answers with the end of the answer after each: int64 (N, length).

        Raises:
            ValueError: an answer has more tokens.
        """
        ids = torch.full((len(texts), length), self.encoder.layout.eoa)
        for row, text in enumerate(texts):
            found = self.encoder.text(text)
            if len(found) > length:
                raise ValueError(f"An answer has {len(found)} tokens, expected at most {length}.")
            ids[row, : len(found)] = torch.tensor(found)
        return ids

    def _picture(self, codes: Tensor) -> Tensor:
        return image_tokens(codes, self.encoder.layout)

    def _filled(self, prompts) -> Tensor:
        return torch.stack([self.padded.filled(each) for each in prompts])


def asked(name: str, sizes: Sizes, seed: int, split: str, count: int, device: torch.device) -> Asked:
    """Requests of a task for random scenes of a split; the same for the same arguments. Fewer where an edit leads out of the variety or the split."""
    scenes = lakeside.sample_scenes(count, torch.Generator().manual_seed(seed), split, sizes.variety).to(device)
    with torch.no_grad():
        return TASKS[name].ask(scenes, seed, sizes.pixels, sizes.variety)


def task_samples(
    sizes: Sizes, tokenizer: ImageTokenizer, seed: int, world: World, first_step: int = 0, compile: bool = False
) -> Iterator[tuple[Tensor, ...]]:
    """Batches for the base from a step on, without end, as ``train_masked`` takes them: of text to image and of the tasks in turn."""
    turns = [each for name in sizes.tasks for each in (None, name)]
    running: dict[str | None, Iterator] = {}
    step = first_step
    while True:
        name = turns[step % len(turns)]
        if name not in running:
            of_before = sum(turns[k % len(turns)] == name for k in range(first_step))
            text_to_image = name is None
            running[name] = samples(sizes, tokenizer, seed + 300, world, of_before, None, compile) if text_to_image else _of_task(name, sizes, tokenizer, seed, world, of_before)
        yield next(running[name])
        step += 1


def _of_task(name: str, sizes: Sizes, tokenizer: ImageTokenizer, seed: int, world: World, first_step: int) -> Iterator[tuple[Tensor, ...]]:
    """Batches of one task from the newest fills: prompts (B, P), what stands behind them, how much each token counts, and what is masked of answers.

    Prompts are shorter on a CPU if they can be.
    """
    batch, device = world.share(sizes.samples_a_step), world.device
    prompts, fast = TaskPrompts.of_sizes(sizes), for_encoding(tokenizer)
    every = max(1, sizes.fill * sizes.uses // batch)
    generator = torch.Generator(device).manual_seed((seed * 7933 + first_step) * 64 + world.rank)
    alike, end = random.Random(seed * 7933 + first_step), prompts.encoder.layout.eoa  # processes wait for each other: all of them have long answers at one time
    newest: deque[tuple[Tensor, ...]] = deque(maxlen=FILLS)
    fill = first_step // every
    trimmed = prompts.padded.trimmed if device.type == "cpu" else lambda prompts: prompts  # as ``samples`` does
    while True:
        number = (fill * world.size + world.rank) * len(TASKS) + list(TASKS).index(name)
        newest.append(_fill(TASKS[name], asked(name, sizes, seed * 10**9 + number, "train", sizes.fill, device), prompts, fast, generator))
        fill += 1
        parts = [torch.cat(each) for each in zip(*newest)]
        longest = int((parts[1] != end).sum(1).max()) if TASKS[name].words else 0
        for _ in range(every):
            rows = torch.randint(len(parts[0]), (batch,), generator=generator, device=device)
            shown, *behind = (part[rows] for part in parts)
            yield trimmed(shown), *(behind if not longest else in_room(*behind, longest, end, alike, generator))


def _fill(task: WorldTask, asked: Asked, prompts: TaskPrompts, tokenizer: ImageTokenizer, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Requests as tokens: prompts, some of them without text or pictures, what is asked for, and how much each token of a picture counts.

    Half of the pictures that are shown are as the tokenizer decodes them.
    """
    device = generator.device
    shown = encoded(tokenizer, asked.pictures)
    generated = (len(shown) + 1) // 2
    shown[:generated] = encoded_again(tokenizer, shown[:generated])
    whole = prompts.whole(task, asked.texts, shown).to(device)
    if asked.answers:
        return whole, prompts.answers(asked.answers, max(ROOMS)).to(device)
    chance = torch.rand(len(whole), 1, generator=generator, device=device)
    whole = torch.where(chance < WITHOUT_TEXT, prompts.without_text(task, shown).to(device), whole)
    whole = torch.where(chance > 1 - WITHOUT_PICTURES, prompts.without_pictures(task, asked.texts).to(device), whole)
    codes = encoded(tokenizer, asked.truth)
    weights = torch.ones(codes.shape, device=device) if asked.masks is None else token_weights(asked.masks, tokenizer.config.downscale_factor)
    return whole, codes, weights


@torch.no_grad()
def encoded_again(tokenizer: ImageTokenizer, codes: Tensor) -> Tensor:
    """Codes of the pictures that codes (N, H, W) decode to: of what was generated, which is what users mostly show."""
    with half_precision(codes.device):
        pictures = torch.cat([tokenizer.decode(part).float() for part in codes.split(DECODED_AT_ONCE)])
    return encoded(tokenizer, pictures)


def in_room(ids: Tensor, longest: int, end: int, rng: random.Random, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Answers as a batch learns them, in one of the rooms that hold them: ids, how much each token counts, and what is masked, (B, room).

    Args:
        ids: with the most room, (B, G).
        longest: most tokens of an answer.
        end: the id after it.
    """
    shortest, *others = (room for room in ROOMS if room >= longest)
    room = rng.choice(others) if others and rng.random() >= SHORT_ROOM else shortest
    ids = ids[:, :room]
    masked = block_masks(ids, end, ROOMS[room], generator) if rng.random() < IN_BLOCKS else random_masks(ids.shape, generator)
    return ids, answer_weights(ids, end), masked


def answer_weights(ids: Tensor, end: int) -> Tensor:
    """How much each token of answers (B, G) counts: float32, 1 up to the end, and little after it, however much room there is."""
    after = (ids == end).cumsum(1) > 1
    return torch.where(after, AFTER_THE_END / after.sum(1, keepdim=True).clamp(min=1), 1.0)


def block_masks(ids: Tensor, end: int, block: int, generator: torch.Generator) -> Tensor:
    """What is masked of answers (B, G) while they are written block by block: some of one block, and all behind it. Bool, none empty.

    The block is one of those up to the answer's end: others are never written.
    """
    count, room = ids.shape
    written = ((ids != end).sum(1) // block + 1).clamp(max=room // block)
    first = (torch.rand(count, generator=generator, device=ids.device) * written).long() * block
    place = torch.arange(room, device=ids.device) - first[:, None]  # in the block
    some = random_masks((count, block), generator).gather(1, place.clamp(0, block - 1))
    return (place >= block) | (place >= 0) & some
