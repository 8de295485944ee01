"""What one call takes."""

import time
from collections.abc import Callable

import torch


def clocked(do: Callable[[], object], device: torch.device) -> float:
    """Seconds that a call takes, on the device too; of one thread its own, which other programs hardly move."""
    clock = time.thread_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    began = clock()
    do()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock() - began
