"""How much memory a run needs beside the weights, from the sizes of its tensors."""

import torch

from ..config import LuminaConfig
from .sampler import LOGITS_AT_ONCE


def run_bytes(config: LuminaConfig, dtype: torch.dtype, lengths: list[int], cells: int, method: str) -> int:
    """Most bytes that a run keeps alive at once beside the weights, not counting what kernels need for themselves.

    Args:
        dtype: of the features.
        lengths: positions of each branch's sequence, times the images of the batch.
        cells: unknown at the start, in the whole batch.
        method: "vanilla", "shortcut" or "ml-cache".
    """
    size, d_model, codes = dtype.itemsize, config.d_model, config.tokens.codebook_size
    keys = d_model // config.n_heads * config.n_kv_heads
    wide = 0 if dtype == torch.float32 else 4  # a float32 copy
    features = sum(lengths) * d_model * size
    gathered = len(lengths) * cells * d_model * size

    # One layer, per position. While heads are rotated: the stream, its norm, queries and keys; two float32 products and the copy.
    rotating = (3 * d_model + keys) * size + (8 + wide) * max(d_model, keys)
    # Then: the stream, its norm, queries, keys, values, what attention gives and its projection.
    attending = (5 * d_model + 2 * keys) * size
    # In the MLP: the stream before and after attention, its norm, and three of the hidden size.
    mlp = 3 * (d_model + config.mlp_hidden_size) * size
    layer = max(lengths) * max(rotating, attending, mlp)

    kept = {
        "vanilla": 0,
        "shortcut": features,
        "ml-cache": features + 2 * sum(lengths) * config.n_layers * keys * size,
    }[method]
    earlier = (sum(lengths) - lengths[-1]) * d_model * size  # the branches' before the last, while that one is computed
    # The noise on all codes; of one part of the cells each branch's logits, the guided sum, its softmax and the scores.
    logits = cells * codes * 4 + min(cells * codes, LOGITS_AT_ONCE) * (len(lengths) * size + 12)
    tables = 2 * max(lengths) * len(lengths) * (d_model // config.n_heads) * 4 * 2
    return kept + tables + max(earlier + layer, gathered + logits)
