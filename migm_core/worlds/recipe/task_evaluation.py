"""How well the base does the tasks beside text to image, by the world's judge."""

import time
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor

from ...devices import fast_dtype
from ...families.lumina_dimoo.backbone import Lumina
from ...families.lumina_dimoo.head import ShortcutHead
from ...families.lumina_dimoo.rule import LuminaRule
from ...families.lumina_dimoo.tasks import IMAGE_SCALE, TEXT_SCALE, image_guidance
from ...families.lumina_dimoo.text_settings import TextSettings
from ...families.lumina_dimoo.understanding import cut, end_of
from ...sampling.backbone import Branch
from ...tokenizers.amused_vq import ImageTokenizer
from ..lakeside import Verdict
from .evaluation import Row, Sampler, Way
from .lessons import encoded, for_encoding
from .padded import PaddedBase
from .sizes import Sizes
from .task_lessons import TaskPrompts, asked
from .tasks import TASKS

ANSWERED_AT_ONCE = {True: 8, False: 64}  # on a CPU, where more are no faster, and elsewhere


@dataclass(frozen=True)
class TaskWay(Way):
    """A way of a task, with the published guidance."""

    task: str = ""
    guidance_scale: float = TEXT_SCALE
    image_scale: float = IMAGE_SCALE

    def __str__(self) -> str:
        return f"{self.task}, {super().__str__()}, by pictures {self.image_scale:g}"


@dataclass(frozen=True)
class AnswerWay:
    """How answers are written: the likeliest tokens, one a pass."""

    task: str
    length: int
    block: int
    budget: int = 0

    def __str__(self) -> str:
        return f"{self.task}, room for {self.length} tokens in blocks of {self.block}"


def task_ways(name: str, sizes: Sizes) -> list[TaskWay] | list[AnswerWay]:
    """What is tried of a task: answers in their room, and in the product's by default; or vanilla, and the shortcut at the checkpoint's own budget."""
    if words := TASKS[name].words:
        return [AnswerWay(name, words, words), AnswerWay(name, TextSettings().length, TextSettings().block)]
    vanilla = TaskWay(steps=sizes.steps, task=name)
    return [vanilla, replace(vanilla, budget=sizes.budget)]


class TaskEvaluator(Sampler):
    """A task that generates, with requests for a split of the scenes."""

    def __init__(
        self, name: str, sizes: Sizes, tokenizer: ImageTokenizer, base: Lumina, head: ShortcutHead | None, count: int, split: str, seed: int = 0
    ):
        device = tokenizer.post_quant_conv.weight.device
        dtype = fast_dtype(device)
        super().__init__(tokenizer, PaddedBase(base.to(dtype)), None if head is None else head.to(dtype), sizes.side, seed)
        self.name, self.sizes = name, sizes
        self.asked = asked(name, sizes, 10**6 + seed, split, count, device)
        task, prompts = TASKS[name], TaskPrompts.of_sizes(sizes)
        shown = encoded(self.tokenizer, self.asked.pictures)
        self.prompts = prompts.whole(task, self.asked.texts, shown).to(device)
        self.without_text = prompts.without_text(task, shown).to(device)
        self.without_pictures = prompts.without_pictures(task, self.asked.texts).to(device)

    def rule(self, way: Way) -> LuminaRule:
        return LuminaRule(way.temperature)

    def branches(self, chosen: list[int], way: TaskWay) -> list[Branch]:
        prompts = (self.prompts[chosen], self.without_text[chosen], self.without_pictures[chosen])
        return image_guidance(*prompts, way.guidance_scale, way.image_scale)

    def verdicts(self, pictures: Tensor, count: int) -> list[Verdict]:
        return TASKS[self.name].judge(pictures, self.asked[:count])


class AnswerEvaluator:
    """A task that is answered in words, as the evaluation sees a ``Sampler``.

    Attributes:
        until: time.monotonic() from which no more is begun.
        answers: that were written last.
    """

    def __init__(self, name: str, sizes: Sizes, tokenizer: ImageTokenizer, base: Lumina, count: int, split: str, seed: int = 0, until: float = float("inf")):
        self.name, self.model, self.until, self.answers = name, PaddedBase(base), until, []
        self.asked = asked(name, sizes, 10**6 + seed, split, count, base.device)
        self.padded = TaskPrompts.of_sizes(sizes).padded
        self.prompts = TaskPrompts(self.padded).whole(TASKS[name], self.asked.texts, encoded(for_encoding(tokenizer), self.asked.pictures)).to(base.device)

    def of(self, way: AnswerWay, count: int | None = None) -> Row:
        """Answer the first ``count`` requests, fewer where time is over, and judge."""
        began, longest, self.answers = time.monotonic(), 0.0, []
        prompts, on_cpu = self.prompts[:count], self.model.device.type == "cpu"
        layout, encoder = self.padded.encoder.layout, self.padded.encoder
        for batch in prompts.split(ANSWERED_AT_ONCE[on_cpu]):
            before = time.monotonic()
            if self.answers and before + longest > self.until:
                break
            tokens = write_answers(self.model, self.padded.trimmed(batch) if on_cpu else batch, TextSettings(length=way.length, block=way.block))
            self.answers += [encoder.decode(cut(row, layout)).strip() for row in tokens.tolist()]
            longest = max(longest, time.monotonic() - before)
        done = len(self.answers)
        row = Row(str(way), done, round(time.monotonic() - began, 2), settings=asdict(way), left_out=len(prompts) - done)
        row.judge(TASKS[self.name].judge(self.answers, self.asked[:done]))
        return row


@torch.inference_mode()
def write_answers(model: PaddedBase, prompts: Tensor, settings: TextSettings) -> Tensor:
    """Answers to prompts (B, P), filled up, as ``understanding.write`` writes each of them without noise, one token a pass: int64 (B, length)."""
    layout = model.config.tokens
    answers = prompts.new_full((len(prompts), settings.length), layout.mask)
    for first in range(0, settings.length, settings.block):
        block = answers[:, first : first + settings.block]
        for _ in range(settings.block):
            logits = model.answer_logits(prompts, answers, answers == layout.mask)[:, first : first + settings.block].double()
            probability, tokens = logits.softmax(-1).max(-1)
            best = probability.where(block == layout.mask, -1).argmax(1, keepdim=True)
            block.scatter_(1, best, tokens.gather(1, best))
        if all(end_of(answer, layout) is not None for answer in answers.tolist()):
            break
    return answers
