"""Which base model a head, or a recorded run, belongs to.

A fingerprint is text, ``EMBEDDING:BITS:LAYERS``; those of earlier versions end after the first part.

EMBEDDING is COUNT numbers of the token embedding, taken evenly from its rows, over their root mean square.

LAYERS is SKETCH numbers of what stands outside the blocks, then as many of each block. Of each tensor the middle row counts: over its root mean
square, and summed with alternating signs into SKETCH numbers, which are added up over the block. A change of the weights by some share of their size
moves the numbers by about that share, as any random projection does, whichever tensors it is in. What turns features into logits
is left out: a head predicts features, and a run may load only some of those rows.

It is no hash: a base has one fingerprint in any files, shards and dtypes, but for rounding. Rounding to 16 bits moves the embedding's numbers by less
than 0.3% and a block's by about 0.1%; a merged LoRA or a fine-tune moves a block's by some percent, another training by more than 50%. BITS is 8 where
weights take 8 bits, in their file or in memory, and 4 where fewer: their rounding moves a block's numbers by up to 5% and 20%, so that only larger changes
are told apart.
"""

import base64
import binascii
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ..sampling.backbone import Backbone
from .quantised import SCALE, WEIGHT

COUNT, SKETCH = 48, 8
LONGEST_ROW = 1024  # numbers of a row that count: more would be more to read, and say no more
# By the fewer bits of the two bases: the embedding's difference as a share of its size, and the root mean square of a block's differences.
TOLERANCES = {16: (0.02, 0.005), 8: (0.08, 0.15), 4: (0.35, 0.35)}
UNIT = 4095  # in 16 bits
UNSEEN = -(2**15)  # the numbers of a block whose weights a host keeps in a form of its own
KEY = "base"  # in the metadata of what belongs to a base


@torch.no_grad()
def fingerprint(backbone: Backbone) -> str:
    """The fingerprint of a base model. Its weights may lie on any device, in any dtype. Costs a read of at most 4 KB a tensor.

    Raises:
        ValueError: the model has no embedding.
    """
    table = next((module.weight for module in backbone.modules() if isinstance(module, nn.Embedding)), None)
    if table is None:
        raise ValueError(f"{type(backbone).__name__} has no token embedding to take a fingerprint of.")
    groups: dict[str, list[str]] = {"": [], **{f"blocks.{index}": [] for index in range(len(backbone.blocks))}}
    tensors = dict(sorted(backbone.named_parameters()))
    for name, tensor in tensors.items():
        if tensor is not table and name.partition(".")[0] not in backbone.output_layers and not name.endswith(SCALE):
            groups[".".join(name.split(".")[:2]) if name.startswith("blocks.") else ""].append(name)
    layers = np.stack([_sketch_of(names, tensors) for names in groups.values()])
    fewest = min(backbone.stored_bits, *(8 * tensor.itemsize for tensor in tensors.values()))  # a host may keep weights in fewer than their file
    bits = max((bits for bits in TOLERANCES if bits <= fewest), default=min(TOLERANCES))
    return f"{_text(_taken(table))}:{bits}:{_text(layers)}"


def same_base(one: str, other: str) -> bool:
    """Whether two fingerprints are of one base model, each in whatever dtype. What is no fingerprint is of none."""
    try:
        a, b = _Numbers.of(one), _Numbers.of(other)
    except (binascii.Error, ValueError):
        return False
    of_embedding, of_layers = TOLERANCES[min(a.bits, b.bits)]
    if np.linalg.norm(a.embedding - b.embedding) > of_embedding * np.linalg.norm(a.embedding):
        return False
    if a.layers is None or b.layers is None:
        return True
    if a.layers.shape != b.layers.shape:
        return False
    seen = ((a.layers != UNSEEN) & (b.layers != UNSEEN)).all(1)
    off = np.sqrt(np.mean((a.layers - b.layers)[seen] ** 2, axis=1)) / UNIT
    return bool((off <= of_layers).all())


def other_base(head: str, recorded: str | None, backbone: Backbone, path: str) -> str | None:
    """A sentence where a head was trained on another base model; None where it was not, or its file does not tell.

    Args:
        head: the head's file; recorded: what its metadata says under KEY.
        path: the base model's.
    """
    if not recorded or same_base(recorded, fingerprint(backbone)):
        return None
    return (
        f"{head} was trained on another base model of the same shape than {path}: images may come out poor. Use the head made for it, or train "
        "one with `migm train-head`."
    )


def _taken(table: Tensor) -> np.ndarray:
    """Numbers of an embedding over their root mean square, float64 (COUNT,)."""
    which = torch.arange(COUNT, device=table.device)
    rows, columns = which * (len(table) - 1) // (COUNT - 1), which * 7919 % table.shape[1]
    return _over_rms(table[rows, columns].double().cpu().numpy())


def _sketch_of(names: list[str], tensors: dict[str, Tensor]) -> np.ndarray:
    """The numbers of a group of tensors, float64 (SKETCH,); not finite where one of them cannot be read in parts."""
    total = np.zeros(SKETCH)
    for name in names:
        tensor = tensors[name].data
        if type(tensor) is not Tensor or tensor.device.type == "meta":
            return np.full(SKETCH, np.nan)
        values = _over_rms(_middle_row(tensor, tensors.get(name.removesuffix(WEIGHT) + SCALE)))
        values = np.pad(values, (0, -len(values) % SKETCH)).reshape(-1, SKETCH)
        signs = 1 - 2 * (np.arange(len(values)) % 2)
        total += signs @ values / np.sqrt(len(values))
    return total / np.sqrt(max(len(names), 1))


def _middle_row(tensor: Tensor, scale: Tensor | None) -> np.ndarray:
    """The start of a tensor's middle row, float64 (n,), but for a factor; ``scale`` is that of a quantised one."""
    table = tensor.reshape(-1, tensor.shape[-1])
    row = len(table) // 2
    values = table[row, :LONGEST_ROW].float().cpu()
    if scale is not None and scale.dim() == 2 and scale.shape[1] > 1:  # others are one factor for all of a row
        of_row = scale[row * len(scale) // len(table)].float().cpu()
        values = values * of_row.repeat_interleave(table.shape[1] // len(of_row))[:LONGEST_ROW]
    return values.double().numpy()


def _over_rms(values: np.ndarray) -> np.ndarray:
    return values / max(float(np.sqrt(np.mean(values**2))), 1e-30)


def _text(numbers: np.ndarray) -> str:
    whole = np.where(np.isfinite(numbers), (numbers.clip(-8, 8) * UNIT).round(), UNSEEN)
    return base64.b64encode(whole.astype("<i2").tobytes()).decode()


@dataclass(frozen=True)
class _Numbers:
    """A fingerprint's numbers: (COUNT,), bits, and (groups, SKETCH) or None."""

    embedding: np.ndarray
    bits: int
    layers: np.ndarray | None

    @classmethod
    def of(cls, text: str) -> "_Numbers":
        """Raise a ValueError if the text is no fingerprint."""
        embedding, *rest = text.split(":")
        numbers = _decoded(embedding)
        if len(numbers) != COUNT or len(rest) not in (0, 2) or rest and rest[0] not in map(str, TOLERANCES):
            raise ValueError("no fingerprint")
        return cls(numbers, int(rest[0]), _decoded(rest[1]).reshape(-1, SKETCH)) if rest else cls(numbers, 16, None)


def _decoded(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text, validate=True), "<i2").astype(np.float64)
