"""Memory that a process keeps, where giving it back costs more than having it."""

from __future__ import annotations

import ctypes
import platform

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of glibc's malloc.h


def keep_memory() -> bool:
    """Let this process keep the memory that it frees, for its next tensors. The C library hands large pieces back to
    the system, which clears every page of them when they are asked for again, in each step of training as often as the
    network has layers. A step of the small DenseNet in float32, 128 images, takes 1.7 times as long as with memory kept
    (chapter A3, one thread). Chapters call this as they begin.

    Returns whether it could: glibc knows how (Linux), other C libraries do not."""
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(_MMAP_MAX, 0) and libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1))
