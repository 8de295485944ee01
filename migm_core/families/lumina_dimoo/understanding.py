"""Text out: an answer is a row of masks behind the question and its pictures, unmasked block by block (LLaDA, arXiv 2502.09992).

    prompt with pictures -> passes over the whole sequence -> the most confident tokens of a block -> the next block -> text
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from ...modules.transformer import KeyValueCache, Rotary
from ...sampling.backbone import at_positions
from ...sampling.loop import LOGITS_AT_ONCE
from ...sampling.not_finite import NotFinite
from .backbone import Lumina
from .config import TokenLayout
from .prompts import PromptEncoder
from .text_settings import TextSettings

KNOWN, STILL_MASKED = -2, -1


class TextNoise(Protocol):
    """The random numbers of a run."""

    def draw(self, positions: Tensor, length: int, columns: int, of_positions: bool) -> tuple[Tensor, Tensor]:
        """Uniform numbers in [0, 1) of a pass.

        Args:
            positions: that compete, int64 (n,).
            length: of the sequence.
            columns: of the logits; 0 where tokens are taken without noise.
            of_positions: whether the confidences have noise, too.

        Returns:
            (n, columns), and float32 (n,).
        """

    def skip(self, length: int, columns: int, of_positions: bool) -> None:
        """Take the random numbers of a pass that unmasks nothing, where that matters."""


@dataclass(frozen=True)
class SeededTextNoise:
    """Random numbers at the positions that need them, for logits in float64: in float32 the largest of many would tie.

    Args:
        generator: on the model's device.
    """

    generator: torch.Generator

    @classmethod
    def of_seed(cls, seed: int, device: torch.device) -> "SeededTextNoise":
        return cls(torch.Generator(device).manual_seed(seed))

    def draw(self, positions: Tensor, length: int, columns: int, of_positions: bool) -> tuple[Tensor, Tensor]:
        device = positions.device
        of_tokens = torch.rand(len(positions), columns, generator=self.generator, device=device, dtype=_double(device))
        return of_tokens, torch.rand(len(positions) if of_positions else 0, generator=self.generator, device=device)

    def skip(self, length: int, columns: int, of_positions: bool) -> None:
        pass


@dataclass(frozen=True)
class CacheError:
    """How far the cached keys and values were off, measured where they were oldest, at the masked tokens of the answer.

    Attributes:
        kl: mean divergence of the cached logits' distribution from the true one's, in nats.
        cosine: mean similarity of the cached and the true features.
        changed: share of the tokens whose likeliest value differed.
    """

    kl: float
    cosine: float
    changed: float


@dataclass(frozen=True)
class Answer:
    """What a run wrote.

    Attributes:
        tokens: all of the answer's positions, int64 (G,); masks where nothing was written.
        unmasked_at: the pass that unmasked each, counted from 0 over all blocks; ``KNOWN`` for what stood there before, ``STILL_MASKED``.
        log_probability: of each token when it was unmasked, float32 (G,); 0 at the others.
        passes: of the schedule that came to pass; those that had nothing to unmask ran no model.
        text: up to its end, see ``cut``.
        end: where that is, the position of its first eoa, padding or end of text with no mask before it; None where it has none.
        cache_errors: one for each time that the cache was compared with a full pass.
    """

    tokens: Tensor
    unmasked_at: Tensor
    log_probability: Tensor
    passes: int
    text: str = ""
    end: int | None = None
    cache_errors: tuple[CacheError, ...] = ()


@dataclass(frozen=True)
class TextReport:
    """What a callback sees after each pass.

    Attributes:
        index, passes: of the pass that has just ended, and how many there are at most.
        block, blocks: likewise.
        tokens: the answer so far, int64 (G,), masks where nothing is written yet.
        text: what is certain to stand at the start of the answer: the tokens before the first mask, up to its end.
        question: of several, which one.
    """

    index: int
    passes: int
    block: int
    blocks: int
    tokens: Tensor
    text: str
    question: int = 0


@dataclass
class TextSequence:
    """What the model reads: int64 (R, T), one row, or two with guidance, the second without question and pictures.

    Attributes:
        rotary: the model's tables for positions 0..T-1.
    """

    tokens: Tensor
    rotary: Rotary = field(repr=False)

    @property
    def length(self) -> int:
        return self.tokens.shape[1]


def start_sequence(prompt: Tensor, length: int, layout: TokenLayout) -> tuple[Tensor, int]:
    """A prompt (P,) with room for an answer: prompt, boa, masks, eoa, int64 (1, T); and where the answer starts."""
    answer = prompt.new_full((length + 2,), layout.mask)
    answer[0], answer[-1] = layout.boa, layout.eoa
    return torch.cat([prompt, answer])[None], len(prompt) + 1


def transfer_counts(masked: int, passes: int) -> list[int]:
    """How many tokens each pass of a block unmasks: evenly, the first ones one more."""
    return [masked // passes + (index < masked % passes) for index in range(passes)]


@torch.inference_mode()
def write(
    base: Lumina,
    tokens: Tensor,
    start: int,
    settings: TextSettings,
    *,
    noise: TextNoise | None = None,
    encoder: PromptEncoder | None = None,
    callback: Callable[[TextReport], None] | None = None,
) -> Answer:
    """Fill the masks of an answer.

    Args:
        base: with every row of its output projection.
        tokens: the whole start, int64 (1, T).
        start: of the answer, which has ``settings.length`` positions.
        noise: by default from the settings' seed.
        encoder: to write texts with; without it they are empty.
        callback: called after each pass; what it raises ends the run.

    Raises:
        ValueError: the model has its image codes' rows only.
        NotFinite: its numbers are not finite.
    """
    if not base.has_text:
        raise ValueError("The model holds the image codes' rows of its output projection only. Load the others with load_text_output.")
    device, layout = base.device, base.config.tokens
    tokens = tokens.to(device)
    noise = noise or SeededTextNoise.of_seed(settings.seed, device)
    masked = tokens == layout.mask
    rows = torch.cat([tokens, torch.where(masked, tokens, layout.mask)]) if settings.guidance_scale > 0 else tokens.clone()
    run = _Run(base, TextSequence(rows, base.rotary(rows.shape[1], device)), start, settings)
    answer = slice(start, start + settings.length)
    unmasked_at = torch.where(masked[0, answer], STILL_MASKED, KNOWN)
    log_probability = torch.zeros(settings.length, device=device)
    of_block, index = settings.passes // settings.blocks, 0
    columns = base.config.vocab_size if settings.temperature > 0 else 0
    by_chance = settings.remasking == "random"

    for block in range(settings.blocks):
        stop = start + (block + 1) * settings.block
        counts = transfer_counts(int((rows[0, stop - settings.block : stop] == layout.mask).sum()), of_block)
        last = sum(count > 0 for count in counts) - 1  # that has something to unmask
        for nth, count in enumerate(counts):
            if count:
                compete = start + (rows[0, start:stop] == layout.mask).nonzero()[:, 0]
                logits_at = run.logits_at(compete, first=nth == 0, last=nth == last)
                of_tokens, of_positions = noise.draw(compete, rows.shape[1], columns, by_chance)
                sampled, probability = _sample(logits_at, base.config.vocab_size, compete, of_tokens, settings.temperature)
                if not probability.isfinite().all():
                    raise NotFinite()
                chosen = _most_confident(of_positions if by_chance else probability, compete, rows.shape[1], count)
                rows[:, compete[chosen]] = sampled[chosen]
                written = chosen[sampled[chosen] != layout.mask]  # a mask may be sampled: the position stays masked, its turn is spent
                unmasked_at[compete[written] - start] = index
                log_probability[compete[written] - start] = probability[written].log().float()
            else:
                noise.skip(rows.shape[1], columns, by_chance)
            index += 1
            if callback is not None:
                so_far = rows[0, answer].clone()
                callback(TextReport(index - 1, settings.passes, block, settings.blocks, so_far, _text(_before_masks(so_far, layout), layout, encoder)))
        if _stops(settings.stop, rows[0], answer, layout):
            break
    written = rows[0, answer].clone()
    end = end_of(written.tolist(), layout)
    return Answer(written, unmasked_at, log_probability, index, _text(written, layout, encoder), end, tuple(run.errors))


class _Run:
    """Where a run's logits come from: full passes, or the answer's positions against cached keys and values."""

    def __init__(self, base: Lumina, sequence: TextSequence, start: int, settings: TextSettings):
        self.base, self.sequence, self.settings = base, sequence, settings
        self.cache: KeyValueCache | None = None
        self.errors: list[CacheError] = []
        # The answer with the eoa behind it: what a cached pass computes.
        self.start, self.answer = start, torch.arange(start, min(start + settings.length + 1, sequence.length), device=sequence.tokens.device)

    def logits_at(self, positions: Tensor, *, first: bool, last: bool) -> Callable[[slice], Tensor]:
        """Run the model; then guided logits of a part of the positions (n,), float32 (part, columns).

        Args:
            first, last: whether this is the first or the last pass of a block.
        """
        if not self.settings.cache:
            return self._logits(self.base.features(self.sequence), positions)
        refresh = self.cache is None or first
        compare = self.cache is not None and (first or last and self.settings.blocks == 1)
        if not refresh and not compare:
            return self._logits(self._cached(), positions, self.start)
        stale = self._cached() if compare else None
        self.cache = KeyValueCache()
        features = self.base.features(self.sequence, self.cache)
        if compare:
            self.errors.append(self._error(features, stale, positions))
        return self._logits(features, positions)

    def _cached(self) -> Tensor:
        """Features of the answer, (R, G + 1, width)."""
        return self.base.features_at(self.sequence, self.answer.expand(len(self.sequence.tokens), -1), self.cache)

    def _logits(self, features: Tensor, positions: Tensor, offset: int = 0) -> Callable[[slice], Tensor]:
        features = at_positions(features, (positions - offset).expand(len(features), -1))

        def part(piece: slice) -> Tensor:
            logits = self.base.logits(features[:, piece]).float()
            if len(logits) == 1:
                return logits[0]
            conditional, unconditional = logits
            return unconditional + (self.settings.guidance_scale + 1) * (conditional - unconditional)

        return part

    def _error(self, true: Tensor, cached: Tensor, positions: Tensor) -> CacheError:
        """The first row's, the one with the question."""
        ours, theirs = true[:1, positions], cached[:1, positions - self.start]
        kl = changed = 0.0
        for piece in _pieces(len(positions), self.base.config.vocab_size):
            p, q = (self.base.logits(features[0, piece]).float().log_softmax(-1) for features in (ours, theirs))
            kl += float((p.exp() * (p - q)).sum())
            changed += float((p.argmax(-1) != q.argmax(-1)).sum())
        cosine = torch.cosine_similarity(ours.float(), theirs.float(), dim=-1).mean()
        return CacheError(kl / len(positions), float(cosine), changed / len(positions))


def _pieces(count: int, columns: int) -> list[slice]:
    """Parts of the positions whose logits are made at once."""
    at_once = max(1, LOGITS_AT_ONCE // columns)
    return [slice(first, first + at_once) for first in range(0, count, at_once)]


def _sample(logits_at: Callable[[slice], Tensor], columns: int, positions: Tensor, uniform: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """A token for each position, int64 (n,), and its probability without noise and temperature, (n,) in float64.

    The noise is that of argmax exp(logits) / (-log u)^T, in logarithms.
    """
    tokens, probabilities, double = [], [], _double(positions.device)
    for index in _pieces(len(positions), columns):
        logits = logits_at(index).to(double)
        scores = logits if not temperature else logits - temperature * uniform[index].log().neg().log()
        token = scores.argmax(-1)
        tokens.append(token)
        probabilities.append(logits.softmax(-1).gather(-1, token[:, None])[:, 0])
    return torch.cat(tokens), torch.cat(probabilities)


def _most_confident(confidence: Tensor, positions: Tensor, length: int, count: int) -> Tensor:
    """Indices into the positions of the ``count`` most confident. All of the sequence competes, as published: so torch.topk breaks ties alike."""
    everywhere = confidence.new_full((length,), -torch.inf)
    everywhere[positions] = confidence
    return torch.searchsorted(positions, everywhere.topk(count).indices)


def _double(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64  # which has no float64


def _stops(rule: str, tokens: Tensor, answer: slice, layout: TokenLayout) -> bool:
    if rule == "end-of-text":
        return bool((tokens == layout.end_of_text).any())
    return rule == "answer" and end_of(tokens[answer].tolist(), layout) is not None


def end_of(answer: list[int], layout: TokenLayout) -> int | None:
    """Where an answer ends: its first eoa, padding or end of text, with no mask before it; None where there is none."""
    for position, token in enumerate(answer):
        if token == layout.mask:
            return None
        if token in layout.ends:
            return position
    return None


def cut(answer: Sequence[int], layout: TokenLayout) -> list[int]:
    """The text of a finished answer: up to its first end, without masks, image codes and ids past the table."""
    text = []
    for token in answer:
        if token in layout.ends:
            break
        if token != layout.mask and token < layout.image_codes:
            text.append(token)
    return text


def _before_masks(answer: Tensor, layout: TokenLayout) -> Tensor:
    return answer[: int((answer != layout.mask).long().cumprod(0).sum())]


def _text(answer: Tensor, layout: TokenLayout, encoder: PromptEncoder | None) -> str:
    return "" if encoder is None else encoder.decode(cut(answer.tolist(), layout)).strip()
