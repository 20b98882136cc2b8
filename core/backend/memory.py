"""How the C library treats freed memory: it keeps it, since training asks for the same sizes again at once.

glibc gives large blocks back to the system when they are freed, so that every activation of every step costs page faults anew: a third of
the time of a small convolutional network. Contract: a hint, once in a process; without glibc, or where the environment already says
what it wants (MALLOC_TRIM_THRESHOLD_, MALLOC_MMAP_THRESHOLD_, GLIBC_TUNABLES), nothing happens.
"""

from __future__ import annotations

import ctypes
import os

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # malloc.h
_KEPT_BYTES = 256 << 20  # free memory at the end of the heap that is kept
_BLOCK_BYTES = 32 << 20  # greater blocks go back when they are freed; the greatest value that glibc takes


def keep_freed() -> None:
    """Keep freed blocks for the next step."""
    if any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)
    mallopt(_MMAP_THRESHOLD, _BLOCK_BYTES)
