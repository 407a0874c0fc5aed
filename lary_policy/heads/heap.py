"""Memory that a training on the CPU frees and takes again in each step."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator

# Numbers of malloc.h, the same on all platforms that have glibc.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_ALL = (1 << 31) - 1  # bytes: nothing is given back
# What glibc itself goes up to while a process frees ever larger blocks; older versions accept no more.
_MMAP_MOST, _TRIM_MOST = 32 << 20, 64 << 20


@contextlib.contextmanager
def kept_heap(device: str) -> Iterator[None]:
    """Keep freed memory in the process inside the block, for a training on the CPU with glibc.

    Otherwise gradients and activations go back to the system after each step, and the next one waits for
    their pages to be cleared again: a seventh of the time of attentive probes. After the block, glibc gives
    the memory back when more is freed.

    Args:
        device: Nothing happens unless it is `cpu`.
    """
    libc = _glibc() if device == "cpu" else None
    if libc is None:
        yield
        return
    if not libc.mallopt(_MMAP_THRESHOLD, _ALL):
        libc.mallopt(_MMAP_THRESHOLD, _MMAP_MOST)
    libc.mallopt(_TRIM_THRESHOLD, _ALL)
    try:
        yield
    finally:
        libc.mallopt(_MMAP_THRESHOLD, _MMAP_MOST)
        libc.mallopt(_TRIM_THRESHOLD, _TRIM_MOST)


def _glibc() -> ctypes.CDLL | None:
    """Return glibc, or None where another C library is in use."""
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "gnu_get_libc_version") else None
