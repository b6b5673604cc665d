"""Keeping freed memory, because getting it anew at every step costs more than a tenth of a training step on a CPU."""

import ctypes
import platform

__all__ = ["keep_memory"]

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h
LARGEST = 2**30  # bytes; mallopt takes a C int


def keep_memory() -> None:
    """Ask glibc not to give blocks of up to 1 GB back to the system when they are freed; nothing elsewhere.

    The pages of a block that came from the system fault one by one when they are first written.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, LARGEST)
        libc.mallopt(M_TRIM_THRESHOLD, LARGEST)
