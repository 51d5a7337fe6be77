"""Memory that a process keeps for its next image."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST = 32 << 20
"""Bytes of one block: the most that glibc takes, more than an image of 3840x2160 in rgb8."""
_FREE = 512 << 20
"""Bytes at the heap's end that are not handed back: some images of several cameras, between their parts."""


def keep_freed_memory() -> bool:
    """Let this process keep the memory of images that are gone; whether it does.

    Left to itself glibc hands back what images of some MB lay in, and the next ones get fresh pages, which the kernel
    clears one by one: of an image of 1920x1080 on its way through a node that can take longer than all the rest. Blocks
    of more than 32 MiB, as weights are, still go back. Nothing happens where the C library is another one, or under an
    allocator that has no such settings.

    Source: mallopt(3), M_MMAP_THRESHOLD and M_TRIM_THRESHOLD.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST)) and bool(mallopt(_TRIM_THRESHOLD, _FREE))
