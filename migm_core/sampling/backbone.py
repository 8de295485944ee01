"""What sampling, methods and heads know of a model: the interface that each family's modules implement."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from ..canvas import Canvas
from ..modules.transformer import KeyValueCache


@dataclass(frozen=True)
class Branch:
    """One guidance branch of a run.

    Attributes:
        prompt: token ids of the condition, int64 (P,), or (B, P) for one an image: the text before the answer, or a class token.
        weight: of its logits in the guided sum.
        prompt_visible: whether the shortcut head reads the prompt at every step beside the new tokens.
    """

    prompt: Tensor
    weight: float
    prompt_visible: bool = True


class Sequence(Protocol):
    """A branch's tokens during a run.

    Attributes:
        tokens: int64 (B, T), kept up to date by ``unmask``.
        positions: where each token of the canvas stands in the sequence, in reading order, int64 (H * W,).
        weight: as the branch's.
        context: positions that the head reads at every step beside the new tokens, int64 (P,); may be none.
    """

    tokens: Tensor
    positions: Tensor
    weight: float
    context: Tensor

    @property
    def length(self) -> int: ...

    def unmask(self, where: Tensor, codes: Tensor) -> None:
        """Write codes (B, n) at tokens of the canvas (B, n), indices in reading order."""


class BackboneConfig(Protocol):
    """A model's sizes, known without its weights.

    Attributes:
        width: of a feature.
        codebook_size: K, how many image codes there are.
        vocab_size: how many tokens there are.
        block_weights: of all blocks together.
    """

    width: int
    codebook_size: int
    vocab_size: int
    block_weights: int

    def sequence_length(self, prompt: int, rows: int, columns: int) -> int:
        """Positions of a sequence: a prompt of so many tokens, a canvas, and what frames them."""

    def pass_macs(self, computed: int, positions: int) -> int:
        """Multiply-adds of the features of ``computed`` of all positions of one sequence, without logits."""

    def pass_bytes(self, positions: int, dtype: torch.dtype) -> int:
        """Most bytes alive during a pass over so many positions (of all images of a batch), without weights and cache."""

    def cache_bytes(self, positions: int, dtype: torch.dtype) -> int:
        """Bytes of the keys and values of so many positions."""

    def table_bytes(self, positions: int) -> int:
        """Bytes of what depends on positions alone, such as rotary tables."""


class HeadConfig(Protocol):
    """A head's sizes, known without its weights."""

    def step_macs(self, positions: int, read: int = 0) -> int:
        """Multiply-adds of one step of one sequence.

        Args:
            read: tokens beside the features that the head reads at the step. Those that are new at a step, and an ordinary prompt, are few enough
                to be left out; the tokens of input pictures in the prompt are not.
        """


class Backbone(Protocol):
    """A model that turns sequences into features and features into logits.

    Attributes:
        config: its sizes.
        device, dtype: that features are computed on and in.
        blocks: its layers, in order.
        output_layers: names of the modules and parameters that turn features into logits.
        stored_bits: the fewest that a weight takes in the files that it was loaded from; 16 where nothing is quantised.
    """

    config: BackboneConfig
    device: torch.device
    dtype: torch.dtype
    blocks: nn.ModuleList
    output_layers: tuple[str, ...]
    stored_bits: int

    def sequence(self, branch: Branch, canvas: Canvas) -> Sequence:
        """A branch of a run on a canvas (B, H, W)."""

    def features(self, sequence: Sequence, cache: KeyValueCache | None = None) -> Tensor:
        """Last hidden states, (B, T, width). Fills ``cache`` if one is given."""

    def features_at(self, sequence: Sequence, positions: Tensor, cache: KeyValueCache) -> Tensor:
        """Features of some positions (B, n), the others' keys and values from ``cache``, whose rows are replaced: (B, n, width)."""

    def code_logits(self, features: Tensor, positions: Tensor) -> Tensor:
        """Logits of the image codes, of features (B, n, width) at positions (B, n) of the sequence: (B, n, K)."""

    def embed(self, sequence: Sequence, positions: Tensor) -> Tensor:
        """What the head reads of the tokens at positions (B, n): (B, n, width)."""


class Head(Protocol):
    """A network that predicts how a feature changes in one step (MIGM-Shortcut, arXiv 2602.23996, section 4)."""

    config: HeadConfig

    def tables(self, length: int, device: torch.device):
        """What depends on positions alone, such as rotary tables, computed once a run and passed to every step; None for nothing."""

    def modulation(self, mask_ratio: Tensor, dtype: torch.dtype) -> Tensor | None:
        """What the head makes of mask ratios (N,), a row for each; None where it ignores them. A run computes it once for all its steps."""

    def step(self, features: Tensor, new_tokens: Tensor, new_positions: Tensor, modulation: Tensor | None, tables) -> Tensor:
        """The next feature, (B, T, width).

        Args:
            features: the last step's, (B, T, width).
            new_tokens: ``Backbone.embed`` of the tokens unmasked at the last step and of the context, (B, n, width).
            new_positions: where they stand, int64 (B, n). n may be 0.
            modulation: of this step.
            tables: from ``tables(T, device)``.
        """


def at_positions(features: Tensor, positions: Tensor) -> Tensor:
    """Features (B, T, d) at positions (B, n): (B, n, d)."""
    return features.gather(1, positions.unsqueeze(-1).expand(-1, -1, features.shape[-1]))
