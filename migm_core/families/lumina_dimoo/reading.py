"""Questions on pictures: answers in words, and the likeliest of given ones.

Several questions on the same pictures share what is exact to share, the pictures' codes. Keys and values are not: attention is
bidirectional, so what the model makes of a picture depends on the question, and where the picture stands on the question's length.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ... import arguments
from ...checkpoints.checkpoint import Checkpoint
from ...sampling.methods.method import unknown_setting
from ...sampling.not_finite import NotFinite
from .config import TokenLayout
from .inputs import Inputs
from .sequence import image_tokens
from .text_output import load_text_output
from .text_settings import TextSettings
from .understanding import Answer, TextReport, TextSequence, start_sequence, write

MAX_OPTIONS = 64


@dataclass(frozen=True)
class Reply:
    """An answer and what belongs to it.

    Attributes:
        text: the answer.
        answer: its tokens, and when each was written.
        settings: as run.
        pictures: as the model saw them.
        notes: sentences for who should know what became of the pictures, and of the answer.
        seconds: of the run.
    """

    text: str
    answer: Answer
    settings: TextSettings
    pictures: tuple[Image.Image, ...] = field(repr=False)
    notes: tuple[str, ...]
    seconds: float


@dataclass(frozen=True)
class Choice:
    """The likeliest of some answers.

    Attributes:
        option: that one; index: its place among the options.
        log_likelihoods: of each option, the mean over its tokens, in nats.
        probabilities: of the options, by these.
        pictures, notes: as in ``Reply``.
    """

    option: str
    index: int
    log_likelihoods: tuple[float, ...]
    probabilities: tuple[float, ...]
    pictures: tuple[Image.Image, ...] = field(repr=False)
    notes: tuple[str, ...]


def answer_questions(
    checkpoint: Checkpoint, questions: Sequence[str], inputs: Inputs, values: Mapping[str, Any], callback: Callable[[TextReport], None] | None = None
) -> list[Reply]:
    """An answer for each question.

    Args:
        values: of ``TextSettings``, by name.
        callback: called after each pass, of one question after the other; what it raises ends the run.

    Raises:
        ValueError: a setting or a question that cannot be.
    """
    known = [each.name for each in fields(TextSettings)]
    for name in values:
        if name not in known:
            raise unknown_setting(name, known)
    settings = TextSettings(**{name: value for name, value in values.items() if value is not None})
    prompts = [_prompt(checkpoint, question, inputs) for question in questions]
    load_text_output(checkpoint)
    replies = []
    for index, prompt in enumerate(prompts):
        began = time.perf_counter()
        tokens, start = start_sequence(prompt, settings.length, checkpoint.base.config.tokens)
        tell = None if callback is None else lambda report, index=index: callback(replace(report, question=index))
        answer = write(checkpoint.base, tokens, start, settings, encoder=checkpoint.prompts, callback=tell)
        notes = inputs.notes + _untrained(checkpoint) + _cautions(answer, settings)
        replies.append(Reply(answer.text, answer, settings, inputs.pictures, notes, time.perf_counter() - began))
    return replies


def _untrained(checkpoint: Checkpoint) -> tuple[str, ...]:
    return (caution,) if (caution := checkpoint.trained.caution("understanding")) else ()


def _cautions(answer: Answer, settings: TextSettings) -> tuple[str, ...]:
    said = []
    if answer.end is None and settings.stop != "never":
        said.append(f"The answer was not finished in {settings.length} tokens: it may end in the middle. Give it a larger length.")
    if errors := answer.cache_errors:
        kl, changed = (sum(getattr(error, name) for error in errors) / len(errors) for name in ("kl", "changed"))
        said.append(f"Kept keys and values were off by {kl:.2g} nats where they were oldest, and {changed:.0%} of the likeliest tokens differed there.")
    return tuple(said)


@torch.inference_mode()
def choose(checkpoint: Checkpoint, question: str, options: Sequence[str], inputs: Inputs) -> Choice:
    """The likeliest of some answers, in one pass.

    Each option is as many masks as it has tokens, with the end of the answer fixed behind them, and padding up to the longest: the form of the
    published benchmark code, which has one mask. Its tokens are taken as independent of one another, given the question and their number.

    Raises:
        ValueError: a question or options that cannot be.
    """
    if not isinstance(options, (list, tuple)) or not all(isinstance(option, str) for option in options):
        raise ValueError(f"options is {arguments.shown(options)}, but must be a list of texts.")
    if not 2 <= len(options) <= MAX_OPTIONS:
        raise ValueError(f"There are {len(options)} options, expected 2 to {MAX_OPTIONS}.")
    prompt = _prompt(checkpoint, question, inputs)
    base, layout = checkpoint.base, checkpoint.base.config.tokens
    ids = [checkpoint.prompts.text(option, "option") for option in options]
    if empty := [option for option, of_option in zip(options, ids) if not of_option]:
        raise ValueError(f"The option {empty[0]!r} has no tokens. Give it words.")
    load_text_output(checkpoint)
    lengths = sorted({len(of_option) for of_option in ids})
    rows = option_rows(prompt, lengths, lengths[-1], layout).to(base.device)
    start = len(prompt) + 1
    features = base.features(TextSequence(rows, base.rotary(rows.shape[1], base.device)))[:, start : start + lengths[-1]]
    means = []
    for of_option in ids:
        logits = base.logits(features[lengths.index(len(of_option)), : len(of_option)]).float()
        means.append(logits.log_softmax(-1).gather(-1, torch.tensor(of_option, device=base.device)[:, None]).mean())
    likelihoods = torch.stack(means).cpu()
    if not likelihoods.isfinite().all():
        raise NotFinite()
    index = int(likelihoods.argmax())
    return Choice(options[index], index, tuple(likelihoods.tolist()), tuple(likelihoods.softmax(0).tolist()), inputs.pictures, inputs.notes + _untrained(checkpoint))


def option_rows(prompt: Tensor, lengths: Sequence[int], room: int, layout: TokenLayout) -> Tensor:
    """A row for each length of an answer, int64 (rows, T): prompt (P,), boa, so many masks, eoa, padding up to ``room`` + 1 after boa."""
    rows = prompt.new_full((len(lengths), room + 2), layout.eoa if layout.padding is None else layout.padding)
    rows[:, 0] = layout.boa
    for row, length in zip(rows, lengths):
        row[1 : length + 1] = layout.mask
        row[length + 1] = layout.eoa
    return torch.cat([prompt.expand(len(lengths), -1), rows], dim=1)


def _prompt(checkpoint: Checkpoint, question: str, inputs: Inputs) -> Tensor:
    if not isinstance(question, str):
        raise ValueError(f"The question is {type(question).__name__}, expected text.")
    if not question.strip():
        raise ValueError("The question is empty: ask something.")
    layout = checkpoint.base.config.tokens
    pictures = [image_tokens(codes.cpu(), layout) for codes in inputs.codes]
    return checkpoint.prompts.prompt(question, "understanding", torch.cat(pictures) if pictures else None)
