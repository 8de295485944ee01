"""MIGM-Shortcut: the base model at a few steps, the head in between (arXiv 2602.23996)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import ClassVar

import torch
from torch import Tensor

from ..backbone import Backbone, BackboneConfig, Head, HeadConfig, Sequence, at_positions
from ..probe import compare
from ..schedules import full_steps
from ..setting import setting
from .method import Method, Step


@dataclass(frozen=True)
class Shortcut(Method):
    """Settings of the method.

    Attributes:
        head: trained for the base model it is used with.
        budget: steps that run the base model, 2 to the number of steps.
        prompt_visible: whether the head reads the prompt at every step in the branches that ask for it.
        divide_first: how the schedule of full steps rounds, see ``full_steps``; the family's.
        probe: measure at each full step how far the head is off, see ``probe.Probed``: one more head step, and the memory of as many features.
    """

    name: ClassVar[str] = "shortcut"
    about: ClassVar[str] = "the base model at some steps, the shortcut head at the others"
    needs_head: ClassVar[bool] = True
    own_steps: ClassVar[Mapping[str, str]] = MappingProxyType({"shortcut": "The shortcut head predicts what the model would compute."})

    head: Head | None = None
    budget: int = setting(11, 2, 1024, "how many steps run the base model")
    prompt_visible: bool = True
    divide_first: bool = False
    probe: bool = False

    def probed(self) -> "Shortcut":
        return replace(self, probe=True)

    def full_steps(self, steps: int) -> list[int]:
        return full_steps(steps, self.budget, self.divide_first)

    def kinds(self, steps: int) -> list[str]:
        full = self.full_steps(steps)
        return ["full" if step in full else "shortcut" for step in range(steps)]

    def start(self, backbone: Backbone, sequences: list[Sequence], mask_ratios: list[float]) -> "ShortcutRun":
        return ShortcutRun(self, backbone, sequences, mask_ratios)

    def kept_bytes(self, config: BackboneConfig, dtype: torch.dtype, lengths: list[int]) -> int:
        return sum(lengths) * config.width * dtype.itemsize * (2 if self.probe else 1)

    def step_macs(self, kind: str, config: BackboneConfig, head: HeadConfig | None, positions: int) -> int:
        return head.step_macs(positions)


class ShortcutRun:
    """Each branch's last feature, true or predicted, (B, T, width).

    Attributes:
        measured: of the last step, if it was probed: "cosine", "kl" and "still_kl", see ``probe.Probed``.
    """

    def __init__(self, settings: Shortcut, backbone: Backbone, sequences: list[Sequence], mask_ratios: list[float]):
        self.head, self.backbone, self.sequences = settings.head, backbone, sequences
        self.probe, self.measured = settings.probe, {}
        self.true: list[Tensor] = []  # of the last full step, where probed
        self.full = frozenset(settings.full_steps(len(mask_ratios)))
        self.last: list[Tensor] = []
        device = sequences[0].tokens.device
        self.tables = [self.head.tables(s.length, device) for s in sequences]
        self.mask_ratios = torch.tensor(mask_ratios, device=device)
        self.modulations: Tensor | None = None  # of all steps, in the dtype of the features
        self.contexts = [s.context[: None if settings.prompt_visible else 0].expand(len(s.tokens), -1) for s in sequences]

    def features(self, step: Step) -> list[Tensor]:
        self.measured = {}
        if step.index in self.full:
            guesses = self._guesses(step) if self.probe and self.last else None
            self.last = self.true = []  # freed before the new ones are computed
            self.last = [self.backbone.features(s) for s in self.sequences]
            if guesses:
                self._measure(step, *guesses)
            self.true = self.last if self.probe else []
        else:
            self.last = [self._predict(branch, step) for branch in range(len(self.sequences))]
        return [at_positions(last, s.positions[step.masked]) for last, s in zip(self.last, self.sequences)]

    def _guesses(self, step: Step) -> tuple[list[Tensor], list[Tensor]]:
        """Per branch at the masked tokens, (B, m, width): what the head predicts, and what the last full step had."""
        positions = [s.positions[step.masked] for s in self.sequences]
        predicted = [at_positions(self._predict(branch, step), where) for branch, where in enumerate(positions)]
        return predicted, [at_positions(true, where) for true, where in zip(self.true, positions)]

    def _measure(self, step: Step, predicted: list[Tensor], still: list[Tensor]) -> None:
        positions, weights = [s.positions[step.masked] for s in self.sequences], step.weights or [s.weight for s in self.sequences]
        true = [at_positions(last, where) for last, where in zip(self.last, positions)]
        cosine, kl = compare(self.backbone, true, predicted, positions, weights)
        self.measured = {"cosine": cosine, "kl": kl, "still_kl": compare(self.backbone, true, still, positions, weights)[1]}

    def _predict(self, branch: int, step: Step) -> Tensor:
        sequence = self.sequences[branch]
        positions = torch.cat([self.contexts[branch], sequence.positions[step.new]], dim=1)
        embeddings = self.backbone.embed(sequence, positions)
        return self.head.step(self.last[branch], embeddings, positions, self._modulation(step), self.tables[branch])

    def _modulation(self, step: Step) -> Tensor | None:
        if self.modulations is None:
            self.modulations = self.head.modulation(self.mask_ratios, self.last[0].dtype)
        return None if self.modulations is None else self.modulations[step.index]
