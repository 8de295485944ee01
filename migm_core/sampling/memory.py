"""How much memory a run needs beside the weights, from the sizes of its tensors."""

import torch

from .backbone import BackboneConfig
from .loop import LOGITS_AT_ONCE
from .methods import Method


def run_bytes(config: BackboneConfig, dtype: torch.dtype, lengths: list[int], masked: int, method: Method) -> int:
    """Most bytes that a run keeps alive at once beside the weights, not counting what kernels need for themselves.

    Args:
        dtype: of the features.
        lengths: positions of each branch's sequence, times the images of the batch.
        masked: tokens masked at the start, in the whole batch.
    """
    size, codes = dtype.itemsize, config.codebook_size
    gathered = len(lengths) * masked * config.width * size
    earlier = (sum(lengths) - lengths[-1]) * config.width * size  # the branches' before the last, while that one is computed
    # The noise on all codes; of one part of the tokens each branch's logits, the guided sum, its softmax and the scores.
    logits = masked * codes * 4 + min(masked * codes, LOGITS_AT_ONCE) * (len(lengths) * size + 12)
    tables = 2 * len(lengths) * config.table_bytes(max(lengths))  # the base's and a head's
    return method.kept_bytes(config, dtype, lengths) + tables + max(earlier + config.pass_bytes(max(lengths), dtype), gathered + logits)
