"""How the C library treats memory: it keeps what is freed, since training asks for the same sizes again at once, and takes its heap in
pages of 2 MB, which the processor finds without looking them up.

glibc gives large blocks back to the system when they are freed, so that every activation of every step costs page faults anew: a third of
the time of a small convolutional network. And of pages of 4 KB the processor remembers where 12 MB are: with large ones ResNet-18's step
is 4 % faster, that of a DCGAN 3 %.
Contract: hints, once in a process; without glibc, or where the environment already says what it wants (MALLOC_TRIM_THRESHOLD_,
MALLOC_MMAP_THRESHOLD_, GLIBC_TUNABLES), nothing happens, and without large pages where NumPy is told so (NUMPY_MADVISE_HUGEPAGE=0).
"""

from __future__ import annotations

import ctypes
import mmap
import os
from typing import Any

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # malloc.h
_PAD_BYTES = 128 << 10  # glibc's own
_KEPT_BYTES = 512 << 20  # free memory at the end of the heap that is kept
_BLOCK_BYTES = 32 << 20  # greater blocks go back when they are freed; the greatest value that glibc takes
_LARGE_BYTES = 384 << 20  # addresses in large pages; only those that are used become memory. Less than is kept


def keep_freed() -> None:
    """Keep freed blocks for the next step."""
    if any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return
    try:
        libc = ctypes.CDLL(None)
        mallopt = libc.mallopt
    except (OSError, AttributeError, TypeError):
        return
    mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)
    mallopt(_MMAP_THRESHOLD, _BLOCK_BYTES)
    if hasattr(mmap, "MADV_HUGEPAGE") and os.environ.get("NUMPY_MADVISE_HUGEPAGE") != "0":
        _grow_in_large_pages(libc)


def _grow_in_large_pages(libc: Any) -> None:
    """Make the heap longer at once, and ask for large pages there: what it grows by later has small ones."""
    for name in ("sbrk", "malloc"):
        getattr(libc, name).restype = ctypes.c_void_p
    libc.sbrk.argtypes, libc.malloc.argtypes = [ctypes.c_ssize_t], [ctypes.c_size_t]
    libc.free.argtypes, libc.madvise.argtypes = [ctypes.c_void_p], [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    libc.mallopt(_TOP_PAD, _LARGE_BYTES)
    start = -(-libc.sbrk(0) // mmap.PAGESIZE) * mmap.PAGESIZE
    libc.free(libc.malloc(_BLOCK_BYTES // 2))
    libc.mallopt(_TOP_PAD, _PAD_BYTES)
    if libc.sbrk(0) > start:
        libc.madvise(start, libc.sbrk(0) - start, mmap.MADV_HUGEPAGE)
