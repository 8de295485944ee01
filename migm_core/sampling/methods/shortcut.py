"""MIGM-Shortcut: the base model at a few steps, the head in between (arXiv 2602.23996)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...models.lumina import Lumina
from ...models.shortcut import ShortcutHead
from ..schedule import full_steps
from ..sequence import Sequence
from .base import Step, at_cells


@dataclass(frozen=True)
class Shortcut:
    """Settings of the method.

    Attributes:
        head: trained for the base model it is used with.
        budget: steps that run the base model, 2 to the number of steps.
        prompt_visible: whether the head reads the prompt at every step in the branches that ask for it.
    """

    head: ShortcutHead
    budget: int
    prompt_visible: bool = True

    def start(self, model: Lumina, sequences: list[Sequence], steps: int) -> "ShortcutRun":
        return ShortcutRun(self, model, sequences, frozenset(full_steps(steps, self.budget)))


class ShortcutRun:
    """Each branch's last feature, true or predicted, (B, T, d_model)."""

    def __init__(self, settings: Shortcut, model: Lumina, sequences: list[Sequence], full: frozenset[int]):
        self.head, self.model, self.sequences, self.full = settings.head, model, sequences, full
        self.last: list[Tensor] = []
        device = sequences[0].tokens.device
        self.rotary = [self.head.rotary(s.length, device) for s in sequences]
        self.visible = [s.prompt_length if settings.prompt_visible and s.prompt_visible else 0 for s in sequences]

    def kind(self, index: int) -> str:
        return "full" if index in self.full else "shortcut"

    def features(self, step: Step) -> list[Tensor]:
        if step.index in self.full:
            self.last = [self.model.features(s.tokens, s.rotary) for s in self.sequences]
        else:
            self.last = [self._predict(branch, step) for branch in range(len(self.sequences))]
        return [at_cells(last, s, step.masked) for last, s in zip(self.last, self.sequences)]

    def _predict(self, branch: int, step: Step) -> Tensor:
        sequence = self.sequences[branch]
        batch = sequence.tokens.shape[0]
        prompt = torch.arange(self.visible[branch], device=sequence.tokens.device).expand(batch, -1)
        positions = torch.cat([prompt, sequence.cells[step.fixed]], dim=1)
        embeddings = self.model.wte(sequence.tokens.gather(1, positions))
        ratio = torch.full((batch,), step.mask_ratio, device=sequence.tokens.device)
        return self.head(self.last[branch], embeddings, positions, ratio, self.rotary[branch])
