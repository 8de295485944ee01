"""How well the base does the tasks beside text to image, by the world's judge."""

import time
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor

from ...families.lumina_dimoo.backbone import Lumina
from ...families.lumina_dimoo.head import ShortcutHead
from ...families.lumina_dimoo.rule import LuminaRule
from ...families.lumina_dimoo.sequence import image_tokens
from ...families.lumina_dimoo.tasks import IMAGE_SCALE, TEXT_SCALE, image_guidance
from ...families.lumina_dimoo.text_settings import TextSettings
from ...families.lumina_dimoo.understanding import start_sequence, write
from ...sampling.backbone import Branch
from ...tokenizers.amused_vq import ImageTokenizer
from ..lakeside import Verdict
from .evaluation import Row, Sampler, Way
from .lessons import encoded, for_encoding
from .padded import PaddedBase
from .sizes import Sizes
from .task_lessons import TaskPrompts, asked
from .tasks import TASKS


@dataclass(frozen=True)
class TaskWay(Way):
    """A way of a task, with the published guidance."""

    task: str = ""
    guidance_scale: float = TEXT_SCALE
    image_scale: float = IMAGE_SCALE

    def __str__(self) -> str:
        return f"{self.task}, {super().__str__()}, by pictures {self.image_scale:g}"


class TaskEvaluator(Sampler):
    """A task that generates, with requests for a split of the scenes."""

    def __init__(
        self, name: str, sizes: Sizes, tokenizer: ImageTokenizer, base: Lumina, head: ShortcutHead | None, count: int, split: str, seed: int = 0
    ):
        device = tokenizer.post_quant_conv.weight.device
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        super().__init__(tokenizer, PaddedBase(base.to(dtype)), None if head is None else head.to(dtype), sizes.side, seed)
        self.name, self.sizes = name, sizes
        self.asked = asked(name, sizes, 10**6 + seed, split, count, device)
        task, prompts = TASKS[name], TaskPrompts.of_sizes(sizes)
        shown = encoded(self.tokenizer, self.asked.pictures)
        self.prompts = prompts.whole(task, self.asked.texts, shown).to(device)
        self.without_text = prompts.without_text(task, shown).to(device)
        self.without_pictures = prompts.without_pictures(task, self.asked.texts).to(device)

    @property
    def ways(self) -> list[TaskWay]:
        """Vanilla, and the shortcut at the checkpoint's own budget."""
        vanilla = TaskWay(steps=self.sizes.steps, task=self.name)
        return [vanilla, replace(vanilla, budget=self.sizes.budget)]

    def rule(self, way: Way) -> LuminaRule:
        return LuminaRule(way.temperature)

    def branches(self, chosen: list[int], way: TaskWay) -> list[Branch]:
        prompts = (self.prompts[chosen], self.without_text[chosen], self.without_pictures[chosen])
        return image_guidance(*prompts, way.guidance_scale, way.image_scale)

    def verdicts(self, pictures: Tensor, count: int) -> list[Verdict]:
        return TASKS[self.name].judge(pictures, self.asked[:count])


@dataclass(frozen=True)
class AnswerWay:
    """How answers are written: the likeliest tokens, one a pass."""

    task: str
    words: int
    budget: int = 0

    def __str__(self) -> str:
        return f"{self.task}, answers of at most {self.words} tokens"


class AnswerEvaluator:
    """A task that is answered in words, as the evaluation sees a ``Sampler``."""

    head = None
    pictures = torch.empty(0)

    def __init__(self, name: str, sizes: Sizes, tokenizer: ImageTokenizer, base: Lumina, count: int, split: str, seed: int = 0):
        self.name, self.base, self.encoder = name, base, TaskPrompts.of_sizes(sizes).encoder
        self.asked = asked(name, sizes, 10**6 + seed, split, count, base.device)
        shown = encoded(for_encoding(tokenizer), self.asked.pictures)
        self.prompts = [self.encoder.prompt(text, TASKS[name].system, image_tokens(codes, self.encoder.layout)) for text, codes in zip(self.asked.texts, shown.cpu())]

    @property
    def ways(self) -> list[AnswerWay]:
        return [AnswerWay(self.name, TASKS[self.name].words)]

    @torch.inference_mode()
    def of(self, way: AnswerWay, count: int | None = None) -> Row:
        """Answer the first ``count`` requests, and judge."""
        began, settings, answers = time.monotonic(), TextSettings(length=way.words, block=way.words), []
        for prompt in self.prompts[:count]:
            tokens, start = start_sequence(prompt.to(self.base.device), way.words, self.encoder.layout)
            answers.append(write(self.base, tokens, start, settings, encoder=self.encoder).text)
        row = Row(str(way), len(answers), round(time.monotonic() - began, 2), settings=asdict(way))
        row.judge(TASKS[self.name].judge(answers, self.asked[: len(answers)]))
        return row
