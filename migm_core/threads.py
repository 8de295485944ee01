"""How many CPU threads a model runs on.

A pass of a small model is thousands of matrix products, each a fraction of a millisecond. The threads wait for each other, spinning,
after every one. On an idle machine a second thread hardly helps; on a busy one each wait lasts until the system runs the other thread.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from .sampling.backbone import BackboneConfig

# Weights of a base's blocks. With 5.3 million, of width 160, products take a tenth of a millisecond. Such a model generated an image in 0.56 s on one
# thread and in 0.60 s on two, on two idle cores; with 14 other processes on these cores, in 5 s and in 85 to 116 s. At three times the width a second
# thread helps: an MLP takes 1.0 ms instead of 1.6 ms on two idle cores.
SMALL = 10 * 10**6


_ran_in: int | None = None  # the process of the last run


def is_small(config: BackboneConfig) -> bool:
    """Whether a base model is so small that one thread is best."""
    return config.block_weights < SMALL


@contextmanager
def suited_threads(config: BackboneConfig, device: torch.device) -> Iterator[None]:
    """Within the block, set PyTorch to one CPU thread for a small model. Larger models and other devices keep the process's number.

    PyTorch's number of threads is that of the calling thread. A thread that uses PyTorch for the first time meanwhile takes it over
    and keeps it.

    In a process that was forked from one in which a model has run, one thread is left for good: the others are not in the copy, and PyTorch
    would wait for them for ever.
    """
    global _ran_in
    if _ran_in not in (None, os.getpid()):
        torch.set_num_threads(1)
    _ran_in = os.getpid()
    if device.type != "cpu" or not is_small(config):
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
