"""The sizes of a MaskGIT model, and where its tokens lie in the vocabulary."""

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch

from ...arguments import shown
from ...tokenizers.vector_quantised import LARGEST, is_size

PUBLISHED_HEADS = 16  # of every published size; no tensor's shape tells it
PUBLISHED_WIDTHS = (768, 1024)  # of the models whose number of heads is known


@dataclass(frozen=True)
class MaskGitConfig:
    """Sizes of the base model. The defaults are those of MaskGIT_ImageNet_512.

    The vocabulary has the image codes 0..K-1, the mask K, the classes K + 1 + y, and last the dropped class of the unconditional branch.

    Attributes:
        grid: image tokens along each side, P. A model samples this one size.
        codebook_size: image codes, K.
        n_classes: C.
        d_model, n_layers, n_heads, mlp_hidden_size: of the transformer.
    """

    grid: int = 32
    codebook_size: int = 1024
    n_classes: int = 1000
    d_model: int = 768
    n_layers: int = 24
    n_heads: int = PUBLISHED_HEADS
    mlp_hidden_size: int = 3072

    def __post_init__(self):
        for field in fields(self):
            value = getattr(self, field.name)
            if not is_size(value):
                raise ValueError(f"{field.name} is {shown(value)}, expected a whole number from 1 to {LARGEST}")
        if self.d_model % self.n_heads:
            raise ValueError(f"d_model {self.d_model} is not a multiple of n_heads {self.n_heads}")

    @property
    def width(self) -> int:
        """Of a feature."""
        return self.d_model

    @property
    def block_weights(self) -> int:
        """Of all blocks together, without norms and biases."""
        return self.n_layers * (4 * self.d_model**2 + 2 * self.d_model * self.mlp_hidden_size)

    @property
    def tokens(self) -> int:
        """Image tokens, L = P * P."""
        return self.grid**2

    @property
    def length(self) -> int:
        """Positions of a sequence: the image tokens, then the class token."""
        return self.tokens + 1

    @property
    def vocab_size(self) -> int:
        return self.codebook_size + self.n_classes + 2

    @property
    def mask(self) -> int:
        """Id of the mask token."""
        return self.codebook_size

    @property
    def dropped_class(self) -> int:
        """Id of the token that stands for no class."""
        return self.vocab_size - 1

    def class_token(self, number: int) -> int:
        """Id of a class's token.

        Raises:
            ValueError: no class of the model has this number.
        """
        if not 0 <= number < self.n_classes:
            raise ValueError(f"class {number} does not exist: this model has the classes 0 to {self.n_classes - 1}.")
        return self.codebook_size + 1 + number

    def sequence_length(self, prompt: int, rows: int, columns: int) -> int:
        """Positions of a sequence: the canvas, and one for the class whatever the length of the prompt."""
        return rows * columns + 1

    def pass_macs(self, computed: int, positions: int) -> int:
        """Multiply-adds of the features of ``computed`` of all positions of one sequence; elementwise work is left out."""
        outer = 3 * self.d_model**2  # the layers before and after the blocks
        return computed * (outer + self.n_layers * layer_macs(self.d_model, self.mlp_hidden_size, positions))

    def pass_bytes(self, positions: int, dtype: torch.dtype) -> int:
        """Most bytes alive during a pass over so many positions (of all images of a batch), without weights and cache."""
        attending = 7 * self.d_model  # the stream, its norm, queries, keys, values, what attention gives and its projection
        feeding = 3 * self.d_model + 2 * self.mlp_hidden_size  # the stream before and after attention, a norm; twice the hidden size
        integers = 12 * 8  # token ids and indices of a run, beside a width as small as this
        return positions * (max(attending, feeding) * dtype.itemsize + integers)

    def cache_bytes(self, positions: int, dtype: torch.dtype) -> int:
        """Bytes of the keys and values of so many positions."""
        return 2 * positions * self.n_layers * self.d_model * dtype.itemsize

    def table_bytes(self, positions: int) -> int:
        """None: positions are learned."""
        return 0

    @classmethod
    def from_shapes(cls, shapes: dict[str, tuple[int, ...]], codebook_size: int, n_heads: int = PUBLISHED_HEADS) -> "MaskGitConfig":
        """Read the sizes off the tensors of the published state dict.

        Args:
            shapes: published name to shape; ``pos_emb``, ``tok_emb.weight`` and the first layer's MLP are read.
            codebook_size: of the image tokenizer. The vocabulary's rows alone do not tell codes from classes.
            n_heads: which no shape tells.

        Raises:
            ValueError: the shapes are not of one MaskGIT model.
        """
        positions, vocabulary, mlp = (shapes.get(name, ()) for name in ("pos_emb", "tok_emb.weight", "transformer.layers.0.1.fn.net.0.weight"))
        if len(positions) != 3 or len(vocabulary) != 2 or len(mlp) != 2:
            raise ValueError(f"pos_emb, tok_emb.weight and transformer.layers.0.1.fn.net.0.weight have the shapes {positions}, {vocabulary} and {mlp}, expected 3, 2 and 2 axes")
        grid = math.isqrt(max(positions[1] - 1, 0))
        if grid**2 + 1 != positions[1]:
            raise ValueError(f"pos_emb has {positions[1]} positions, expected a square number of image tokens and one class token")
        classes = vocabulary[0] - codebook_size - 2
        if classes < 1:
            raise ValueError(f"tok_emb.weight has {vocabulary[0]} rows, too few for {codebook_size} image codes, a mask, at least one class and the dropped class")
        layers = {name.split(".")[2] for name in shapes if name.startswith("transformer.layers.")}
        return cls(grid, codebook_size, classes, vocabulary[1], len(layers), n_heads, mlp[0])

    @classmethod
    def from_json(cls, values: dict[str, Any], source: str = "config.json") -> "MaskGitConfig":
        """Read what ``to_json`` writes.

        Raises:
            ValueError: naming the source, the key and what was expected.
        """
        if not isinstance(values, dict):
            raise ValueError(f"{source}: expected a JSON object with the model's sizes, found {type(values).__name__}.")
        names = [field.name for field in fields(cls)]
        missing = [name for name in names if name not in values]
        if missing:
            raise ValueError(f"{source}: {', '.join(missing)} is missing. Expected the config of a MaskGIT model.")
        try:
            return cls(**{name: values[name] for name in names})
        except ValueError as error:
            raise ValueError(f"{source}: {error}.") from None

    def to_json(self) -> dict[str, Any]:
        return {"model_type": "maskgit", **asdict(self)}


def layer_macs(width: int, hidden: int, positions: int) -> int:
    """Multiply-adds of one block at one position that attends to so many: queries, keys, values, attention, its projection, the MLP."""
    return 4 * width**2 + 2 * positions * width + 2 * width * hidden
