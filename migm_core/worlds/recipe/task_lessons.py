"""What the base learns its tasks from: requests with their truth, rendered and tokenised where the model is."""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...families.lumina_dimoo.prompts import PromptEncoder
from ...families.lumina_dimoo.sequence import image_length, image_tokens
from ...tokenizers.amused_vq import ImageTokenizer
from ...training.distributed import World
from .. import lakeside
from .lessons import WITHOUT_TEXT, encoded, for_encoding, padded_prompts, samples, token_weights
from .padded import PaddedPrompts
from .sizes import Sizes
from .tasks import TASKS, Asked, WorldTask

WITHOUT_PICTURES = 0.1  # share of the requests that show none, for guidance; those that are answered in words have no guidance
AFTER_THE_END = 0.1  # how much a token after an answer's end counts
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

    def answers(self, texts: Sequence[str], length: int) -> tuple[Tensor, Tensor]:
        """Token ids of answers, the end of the answer after each, and how much each token counts: int64 and float32 (N, length).

        Raises:
            ValueError: an answer has more tokens.
        """
        end = self.encoder.layout.eoa
        ids, weights = torch.full((len(texts), length), end), torch.full((len(texts), length), AFTER_THE_END)
        for row, text in enumerate(texts):
            found = self.encoder.text(text)
            if len(found) > length:
                raise ValueError(f"An answer has {len(found)} tokens, expected at most {length}.")
            ids[row, : len(found)] = torch.tensor(found)
            weights[row, : len(found) + 1] = 1.0
        return ids, weights

    def _picture(self, codes: Tensor) -> Tensor:
        return image_tokens(codes, self.encoder.layout)

    def _filled(self, prompts) -> Tensor:
        return torch.stack([self.padded.filled(each) for each in prompts])


def asked(name: str, sizes: Sizes, seed: int, split: str, count: int, device: torch.device) -> Asked:
    """Requests of a task for random scenes of a split; the same for the same arguments."""
    scenes = lakeside.sample_scenes(count, torch.Generator().manual_seed(seed), split, sizes.variety).to(device)
    with torch.no_grad():
        return TASKS[name].ask(scenes, seed, sizes.pixels, sizes.variety)


def task_samples(
    sizes: Sizes, tokenizer: ImageTokenizer, seed: int, world: World, first_step: int = 0, compile: bool = False
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
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


def _of_task(name: str, sizes: Sizes, tokenizer: ImageTokenizer, seed: int, world: World, first_step: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Batches of one task from the newest fills: prompts (B, P), what stands behind them, and how much each token counts."""
    batch, device = world.share(sizes.samples_a_step), world.device
    prompts, fast = TaskPrompts.of_sizes(sizes), for_encoding(tokenizer)
    every = max(1, sizes.fill * sizes.uses // batch)
    generator = torch.Generator(device).manual_seed((seed * 7933 + first_step) * 64 + world.rank)
    newest: deque[tuple[Tensor, ...]] = deque(maxlen=FILLS)
    fill = first_step // every
    while True:
        number = (fill * world.size + world.rank) * len(TASKS) + list(TASKS).index(name)
        newest.append(_fill(TASKS[name], asked(name, sizes, seed * 10**9 + number, "train", sizes.fill, device), prompts, fast, generator))
        fill += 1
        parts = [torch.cat(each) for each in zip(*newest)]
        for _ in range(every):
            rows = torch.randint(len(parts[0]), (batch,), generator=generator, device=device)
            yield tuple(part[rows] for part in parts)


def _fill(task: WorldTask, asked: Asked, prompts: TaskPrompts, tokenizer: ImageTokenizer, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Requests as tokens: prompts, some of them without text or pictures, what is asked for, and how much each token of it counts."""
    device = generator.device
    shown = encoded(tokenizer, asked.pictures)
    whole = prompts.whole(task, asked.texts, shown).to(device)
    if asked.answers:
        return whole, *(part.to(device) for part in prompts.answers(asked.answers, task.words))
    chance = torch.rand(len(whole), 1, generator=generator, device=device)
    whole = torch.where(chance < WITHOUT_TEXT, prompts.without_text(task, shown).to(device), whole)
    whole = torch.where(chance > 1 - WITHOUT_PICTURES, prompts.without_pictures(task, asked.texts).to(device), whole)
    codes = encoded(tokenizer, asked.truth)
    weights = torch.ones(codes.shape, device=device) if asked.masks is None else token_weights(asked.masks, tokenizer.config.downscale_factor)
    return whole, codes, weights
