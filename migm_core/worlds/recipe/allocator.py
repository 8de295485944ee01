"""The C library's allocator, set for training on a CPU."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's mallopt, malloc.h


def keep_freed_memory() -> bool:
    """Have this process keep the memory that tensors free, for those that come next. Returns whether the C library can: glibc alone is asked.

    Otherwise each large tensor is memory that the system has to give anew and to clear: a third of a training step of the image tokenizer in bfloat16.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, 2**31 - 1))
