"""Prompts of different lengths in one batch: filled up on the left with a token that attention never sees.

Rotary positions are relative, so a sequence computes the same wherever it begins: its features are those of the sequence without
the fill. All sequences of a batch then have one length, and their image tokens the same positions.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..models.lumina import Lumina
from ..models.shortcut import ShortcutHead
from ..models.transformer import Rotary
from ..prompts import PromptEncoder
from ..sampling.methods.base import Step, at_cells
from ..sampling.schedule import full_steps
from ..sampling.sequence import Sequence


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
        return torch.stack([self._filled(self.encoder.prompt(text)) for text in texts])

    def unconditional(self) -> Tensor:
        """int64 (length,)."""
        return self._filled(self.encoder.unconditional())

    def _filled(self, ids: Tensor) -> Tensor:
        if len(ids) > self.length:
            raise ValueError(f"A prompt has {len(ids)} tokens, expected at most {self.length}.")
        return torch.cat([ids.new_full((self.length - len(ids),), self.fill), ids])


class PaddedBase:
    """A base model as the sampler knows it, for sequences whose prompts are filled up.

    Args:
        base: on any device, in any dtype; under autocast its features are in autocast's dtype.
    """

    def __init__(self, base: Lumina):
        self.base, self.config = base, base.config
        self.wte, self.code_logits, self.rotary = base.wte, base.code_logits, base.rotary

    def visible(self, tokens: Tensor) -> Tensor:
        """The keys of tokens (B, T) that attention sees: bool (B, 1, 1, T)."""
        return (tokens != self.config.tokens.end_of_text)[:, None, None]

    def features(self, tokens: Tensor, rotary: Rotary) -> Tensor:
        """As ``Lumina.features``; positions of the fill hold numbers without meaning."""
        kind = tokens.device.type
        x, visible = self.wte(tokens), self.visible(tokens)
        if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
            x = x.to(torch.get_autocast_dtype(kind))
        for block in self.base.blocks:
            x = block(x, rotary, visible=visible)
        return self.base.ln_f(x)


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


def new_tokens(sequences: list[Sequence], fixed: Tensor, fill: int) -> tuple[Tensor, Tensor, Tensor]:
    """What the head reads at a step, for branches one after the other as one batch.

    Args:
        fixed: cells that the last step fixed, (B, n).

    Returns:
        Tokens, positions and which of them count, (branches * B, prompt + n): the prompt, where the branch shows it, and the fixed cells.
    """
    tokens, positions, known = [], [], []
    for s in sequences:
        prompt = torch.arange(s.prompt_length, device=fixed.device).expand(len(fixed), -1)
        where = torch.cat([prompt, s.cells[fixed]], 1)
        there = s.tokens.gather(1, where)
        counts = there != fill
        if not s.prompt_visible:
            counts = counts & (torch.arange(where.shape[1], device=fixed.device) >= s.prompt_length)
        tokens.append(there)
        positions.append(where)
        known.append(counts)
    return torch.cat(tokens), torch.cat(positions), torch.cat(known)


@dataclass(frozen=True)
class PaddedShortcut:
    """The shortcut method (``sampling.methods.Shortcut``) for sequences that are filled up; branches run as one batch.

    Attributes:
        recorder: called with (step, true features of both branches (2 * B, T, d_model), masked, fixed) where every step also runs the base.
    """

    head: ShortcutHead | None
    budget: int
    recorder: object = None

    def kinds(self, steps: int) -> list[str]:
        full = full_steps(steps, self.budget) if self.head is not None else range(steps)
        if self.recorder is not None:
            return ["recorded"] * steps
        return ["full" if step in full else "shortcut" for step in range(steps)]

    def start(self, model: PaddedBase, sequences: list[Sequence], mask_ratios: list[float]) -> "PaddedShortcutRun":
        return PaddedShortcutRun(self, model, sequences, mask_ratios)


class PaddedShortcutRun:
    """The branches' last feature, true or predicted, (branches * B, T, d_model)."""

    def __init__(self, settings: PaddedShortcut, model: PaddedBase, sequences: list[Sequence], mask_ratios: list[float]):
        self.settings, self.model, self.sequences, self.mask_ratios = settings, model, sequences, mask_ratios
        steps = len(mask_ratios)
        self.full = frozenset(range(steps) if settings.head is None else full_steps(steps, settings.budget))
        self.last: Tensor | None = None
        if settings.head is not None:
            self.rotary = settings.head.rotary(sequences[0].length, sequences[0].tokens.device)

    def features(self, step: Step) -> list[Tensor]:
        tokens = torch.cat([s.tokens for s in self.sequences])
        true = None
        if step.index in self.full or self.settings.recorder is not None:
            true = self.model.features(tokens, self.sequences[0].rotary)
            if self.settings.recorder is not None:
                self.settings.recorder(step, true)
        self.last = true if step.index in self.full else self._predicted(step, tokens)
        parts = self.last.chunk(len(self.sequences))
        return [at_cells(part, s, step.masked) for part, s in zip(parts, self.sequences)]

    def _predicted(self, step: Step, tokens: Tensor) -> Tensor:
        there, positions, known = new_tokens(self.sequences, step.fixed, self.model.config.tokens.end_of_text)
        ratio = torch.full((len(tokens),), self.mask_ratios[step.index], device=tokens.device)
        embeddings = self.model.wte(there).to(self.last.dtype)
        return predict(self.settings.head, self.last, embeddings, positions, known, self.model.visible(tokens), ratio, self.rotary)


def compile_blocks(model: nn.Module) -> None:
    """Fuse each block with torch.compile. One compilation serves all of them, since their shapes are the same and never change."""
    for block in model.blocks:
        block.compile(dynamic=False)
