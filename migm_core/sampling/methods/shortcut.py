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

    def kinds(self, steps: int) -> list[str]:
        full = full_steps(steps, self.budget)
        return ["full" if step in full else "shortcut" for step in range(steps)]

    def start(self, model: Lumina, sequences: list[Sequence], mask_ratios: list[float]) -> "ShortcutRun":
        return ShortcutRun(self, model, sequences, mask_ratios)


class ShortcutRun:
    """Each branch's last feature, true or predicted, (B, T, d_model)."""

    def __init__(self, settings: Shortcut, model: Lumina, sequences: list[Sequence], mask_ratios: list[float]):
        self.head, self.model, self.sequences = settings.head, model, sequences
        self.full = frozenset(full_steps(len(mask_ratios), settings.budget))
        self.last: list[Tensor] = []
        device = sequences[0].tokens.device
        self.rotary = [self.head.rotary(s.length, device) for s in sequences]
        self.mask_ratios = torch.tensor(mask_ratios, device=device)
        self.modulations: Tensor | None = None  # of all steps, in the features' dtype, which the first of them tells
        visible = [s.prompt_length if settings.prompt_visible and s.prompt_visible else 0 for s in sequences]
        self.prompts = [torch.arange(n, device=device).expand(len(s.tokens), -1) for n, s in zip(visible, sequences)]  # positions

    def features(self, step: Step) -> list[Tensor]:
        if step.index in self.full:
            self.last = []  # no longer needed, and as large as what comes
            self.last = [self.model.features(s.tokens, s.rotary) for s in self.sequences]
        else:
            self.last = [self._predict(branch, step) for branch in range(len(self.sequences))]
        return [at_cells(last, s, step.masked) for last, s in zip(self.last, self.sequences)]

    def _predict(self, branch: int, step: Step) -> Tensor:
        sequence = self.sequences[branch]
        positions = torch.cat([self.prompts[branch], sequence.cells[step.fixed]], dim=1)
        embeddings = self.model.wte(sequence.tokens.gather(1, positions))
        return self.head.step(self.last[branch], embeddings, positions, self._modulation(step), self.rotary[branch])

    def _modulation(self, step: Step) -> Tensor | None:
        if self.modulations is None:
            self.modulations = self.head.modulation(self.mask_ratios, self.last[0].dtype)
        return None if self.modulations is None else self.modulations[step.index]
