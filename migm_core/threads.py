"""On how many CPU threads a model runs.

A pass of a small model is thousands of products of a fraction of a millisecond, and at the end of each the threads wait for each
other, spinning. On an idle machine a second thread hardly pays there; on a busy one it waits until the system runs the other.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from .config import LuminaConfig

# Weights of a base's blocks. The bundled model has 5.3 million. On two idle cores it draws a picture in 0.56 s on one thread and in
# 0.60 s on two; on cores that 14 others want, in 5 s and in 85 to 116. Its products take a tenth of a millisecond. At three times
# its width an MLP of 1.6 ms takes 1.0 ms on two idle cores: there a second thread pays, and the process's number stays.
SMALL = 10 * 10**6


def is_small(base: LuminaConfig) -> bool:
    """Whether one thread serves a base model best."""
    d_model, keys = base.d_model, base.d_model // base.n_heads * base.n_kv_heads
    return base.n_layers * (2 * d_model * (d_model + keys) + 3 * d_model * base.mlp_hidden_size) < SMALL


@contextmanager
def suited_threads(base: LuminaConfig, device: torch.device) -> Iterator[None]:
    """While the block runs, and in the thread that runs it, a small model computes on one CPU thread; others as the process does.

    PyTorch's number of threads holds for the calling thread, and for threads that use PyTorch for the first time meanwhile: those
    keep it. On other devices than CPUs nothing changes.
    """
    if device.type != "cpu" or not is_small(base):
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
