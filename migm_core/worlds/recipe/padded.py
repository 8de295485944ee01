"""Prompts of different lengths in one batch: filled up on the left with a token that attention never sees.

Rotary positions are relative, so a sequence computes the same wherever it begins: its features are those of the sequence without
the fill. All sequences of a batch then have one length, and their image tokens the same positions.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from ...canvas import Canvas
from ...families.lumina_dimoo.backbone import Lumina
from ...families.lumina_dimoo.head import ShortcutHead
from ...families.lumina_dimoo.prompts import PromptEncoder
from ...families.lumina_dimoo.sequence import LuminaSequence
from ...families.lumina_dimoo.tasks import text_guidance
from ...modules.transformer import Block, Rotary
from ...sampling.backbone import Branch


@dataclass(frozen=True)
class PaddedPrompts:
    """Texts to prompts of one length.

    Attributes:
        length: of every prompt, in tokens.
    """

    encoder: PromptEncoder
    length: int

    @property
    def fill(self) -> int:
        return self.encoder.layout.end_of_text

    def prompts(self, texts: list[str]) -> Tensor:
        """int64 (N, length).

        Raises:
            ValueError: a prompt has more tokens.
        """
        return torch.stack([self.filled(self.encoder.prompt(text)) for text in texts])

    def unconditional(self) -> Tensor:
        """int64 (length,)."""
        return self.filled(self.encoder.unconditional())

    def trimmed(self, prompts: Tensor) -> Tensor:
        """Prompts (N, length) without the columns that are fill in all of them and in the unconditional prompt."""
        longest = int((prompts != self.fill).sum(1).max())
        return prompts[:, self.length - max(longest, len(self.encoder.unconditional())) :]

    def filled(self, ids: Tensor) -> Tensor:
        """A prompt (P,) with fill before it: (length,).

        Raises:
            ValueError: it is longer.
        """
        if len(ids) > self.length:
            raise ValueError(f"A prompt has {len(ids)} tokens, expected at most {self.length}.")
        return torch.cat([ids.new_full((self.length - len(ids),), self.fill), ids])


class PaddedBase:
    """A base model as rounds and the evaluation see it (``batched.Batched``), for sequences whose prompts are filled up.

    Args:
        base: on any device, in any dtype; under autocast its features are in autocast's dtype.
    """

    def __init__(self, base: Lumina):
        self.base, self.config = base, base.config
        self.wte, self.code_logits = base.wte, base.code_logits
        self._tables: dict[tuple, Rotary] = {}  # all sequences have one length, and tables are some dozens of launches each

    @property
    def device(self) -> torch.device:
        return self.base.device

    @property
    def dtype(self) -> torch.dtype:
        return self.base.dtype

    def rotary(self, length: int, device: torch.device) -> Rotary:
        return self._kept(self.base.rotary, "base", length, device)

    def _kept(self, make: Callable[[int, torch.device], Rotary], of: object, length: int, device: torch.device) -> Rotary:
        """Tables that are made once."""
        key = (of, length, device)
        if key not in self._tables:
            with torch.inference_mode(False):  # training reads what sampling has made
                self._tables[key] = make(length, device)
        return self._tables[key]

    def sequence(self, branch: Branch, canvas: Canvas) -> LuminaSequence:
        return LuminaSequence(branch, canvas, self)

    def features(self, sequence: LuminaSequence) -> Tensor:
        return self.hidden(sequence.tokens, sequence.rotary)

    def visible(self, tokens: Tensor) -> Tensor:
        """The keys of tokens (B, T) that attention sees: bool (B, 1, 1, T)."""
        return (tokens != self.config.tokens.end_of_text)[:, None, None]

    def hidden(self, tokens: Tensor, rotary: Rotary) -> Tensor:
        """As ``Lumina.forward``; positions of the fill hold numbers without meaning."""
        return self.base.ln_f(self._through(self.base.blocks, tokens, rotary, self.visible(tokens)))

    def _through(self, blocks: Iterable[Block], tokens: Tensor, rotary: Rotary, visible: Tensor) -> Tensor:
        """The residual stream after some blocks."""
        x, kind = self.wte(tokens), tokens.device.type
        if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
            x = x.to(torch.get_autocast_dtype(kind))
        for block in blocks:
            x = block(x, rotary, visible=visible)
        return x

    def answer_logits(self, prompts: Tensor, answers: Tensor, masked: Tensor) -> Tensor:
        """Logits over all tokens at answers (B, G) of which some are masked, behind prompts (B, P): (B, G, V)."""
        layout, (count, length) = self.config.tokens, answers.shape
        frame = [answers.new_full((count, 1), token) for token in (layout.boa, layout.eoa)]
        tokens = torch.cat([prompts, frame[0], torch.where(masked, layout.mask, answers), frame[1]], 1)
        features = self.hidden(tokens, self.rotary(tokens.shape[1], tokens.device))
        return self.base.logits(features[:, -length - 1 : -1])

    def branches(self, prompts: Tensor, unconditional: Tensor, guidance_scale: float) -> list[Branch]:
        return text_guidance(prompts, unconditional.expand(len(prompts), -1), guidance_scale)

    def features_of(self, sequences: list[LuminaSequence]) -> Tensor:
        return self.hidden(torch.cat([s.tokens for s in sequences]), sequences[0].rotary)

    def counted(self, sequences: list[LuminaSequence]) -> Tensor:
        return self.visible(torch.cat([s.tokens for s in sequences]))[:, 0, 0, :, None]

    def predicted(self, head: ShortcutHead, features: Tensor, sequences: list[LuminaSequence], new: Tensor, mask_ratio: float) -> Tensor:
        there, positions, known = new_tokens(sequences, new, self.config.tokens.end_of_text)
        tokens = torch.cat([s.tokens for s in sequences])
        ratio = torch.full((len(tokens),), mask_ratio, device=tokens.device)
        embeddings = self.wte(there).detach().to(features.dtype)
        tables = self._kept(head.tables, head.config, tokens.shape[1], tokens.device)
        return predict(head, features, embeddings, positions, known, self.visible(tokens), ratio, tables)


class NarrowBase(PaddedBase):
    """Computes the end of the last layer for masked tokens alone, whose number changes."""

    def masked_logits(self, sequence: LuminaSequence, masked: Tensor) -> Tensor:
        """Logits of the codes at the n masked tokens of a canvas (B, H, W), one image after the other: float32 (n, K)."""
        *blocks, last = self.base.blocks
        visible = self.visible(sequence.tokens)
        x = self._through(blocks, sequence.tokens, sequence.rotary, visible)
        x = x + last._attention(x, sequence.rotary, None, None, None, 0, None, visible)
        x = x[:, sequence.positions][masked.flatten(1)]
        return self.code_logits(self.base.ln_f(x + last.mlp(x))).float()


def in_training(base: Lumina) -> PaddedBase:
    """What costs less: few tokens on a CPU, shapes that never change elsewhere."""
    return NarrowBase(base) if base.device.type == "cpu" else PaddedBase(base)


def predict(
    head: ShortcutHead, features: Tensor, embeddings: Tensor, positions: Tensor, known: Tensor, visible: Tensor, mask_ratio: Tensor, rotary: Rotary
) -> Tensor:
    """``ShortcutHead.forward`` for sequences that are filled up.

    Args:
        features, embeddings, positions, mask_ratio, rotary: as there; (B, T, d_model), (B, n, d_model), (B, n), (B,).
        known: which of the n new tokens an image has, bool (B, n); may be none of them.
        visible: as ``PaddedBase.visible`` gives it.
    """
    x, context = head.proj_in(features), head.new_token_proj_in(embeddings)
    any_known = known.any(1)
    seen = (known | ~any_known[:, None])[:, None, None]  # attention needs something to look at
    context_rotary = rotary.rows(positions)
    for block in head.blocks:
        cross = block.cross_attn
        if positions.shape[1]:
            attended = cross._attention(x, rotary, context, context_rotary, None, 0, None, seen)
            x = x + attended * any_known[:, None, None].to(attended.dtype)
        x = x + cross.mlp(x)
        x = block.self_attn(x, rotary, visible=visible)
    scale, shift = head.modulation(mask_ratio, x.dtype).chunk(2, dim=-1)
    return features + head.proj_out(head.ln_f(x) * (1 + scale) + shift)


def new_tokens(sequences: list[LuminaSequence], fixed: Tensor, fill: int) -> tuple[Tensor, Tensor, Tensor]:
    """What the head reads at a step, for branches one after the other as one batch.

    Args:
        fixed: cells that the last step fixed, (B, n).

    Returns:
        Tokens, positions and which of them count, (branches * B, prompt + n): the prompt, where the branch shows it, and the fixed cells.
    """
    tokens, positions, known = [], [], []
    for s in sequences:
        prompt = torch.arange(s.prompt_length, device=fixed.device).expand(len(fixed), -1)
        where = torch.cat([prompt, s.positions[fixed]], 1)
        there = s.tokens.gather(1, where)
        counts = there != fill
        if not len(s.context):
            counts = counts & (torch.arange(where.shape[1], device=fixed.device) >= s.prompt_length)
        tokens.append(there)
        positions.append(where)
        known.append(counts)
    return torch.cat(tokens), torch.cat(positions), torch.cat(known)
