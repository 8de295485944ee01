"""Which base model a head, or a recorded run, belongs to.

A fingerprint is COUNT numbers of the token embedding, taken evenly from its rows, over their root mean square, in 16 bits each, as text. It costs
as many reads. It is no hash: a base in another dtype is the same base, and its fingerprint differs by rounding only. Rounding to 16 bits moves it by less
than 0.3 %, another training by more than 50 %, so TOLERANCE tells them apart. A fine-tune that leaves the embedding as it was is not told apart.
"""

import base64
import binascii

import numpy as np
import torch
from torch import nn

COUNT = 48
TOLERANCE = 0.02
KEY = "base"  # in the metadata of what belongs to a base


@torch.no_grad()
def fingerprint(backbone: nn.Module) -> str:
    """The fingerprint of a base model: 128 characters. Its embedding may lie on any device, in any floating-point dtype.

    Raises:
        ValueError: the model has no embedding.
    """
    table = next((module.weight for module in backbone.modules() if isinstance(module, nn.Embedding)), None)
    if table is None:
        raise ValueError(f"{type(backbone).__name__} has no token embedding to take a fingerprint of.")
    which = torch.arange(COUNT, device=table.device)
    rows, columns = which * (len(table) - 1) // (COUNT - 1), which * 7919 % table.shape[1]
    taken = table[rows, columns].double().cpu().numpy()
    relative = taken / max(float(np.sqrt(np.mean(taken**2))), 1e-30)
    return base64.b64encode((relative.clip(-8, 8) * 4095).round().astype("<i2").tobytes()).decode()


def same_base(one: str, other: str) -> bool:
    """Whether two fingerprints are of one base model, each in whatever dtype. What is no fingerprint is of none."""
    try:
        a, b = (np.frombuffer(base64.b64decode(text, validate=True), "<i2").astype(np.float64) for text in (one, other))
    except (binascii.Error, ValueError):
        return False
    return a.shape == b.shape == (COUNT,) and bool(np.linalg.norm(a - b) <= TOLERANCE * np.linalg.norm(a))


def other_base(head: str, recorded: str | None, backbone: nn.Module, path: str) -> str | None:
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
