"""Memory of the C library, which training on a CPU frees and asks for again in every step."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h


def keep_freed_memory() -> bool:
    """Lets the process keep the memory that it frees. Returns whether the C library took the wish.

    By default glibc hands large blocks back to the system at once. The activations of every step are such blocks, and
    fetching them again costs a page fault for each 4 KiB. To be called before training starts; Linux with glibc only.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # musl
        return False
    return all([mallopt(M_MMAP_THRESHOLD, 2**30), mallopt(M_TRIM_THRESHOLD, 2**31 - 1)])
