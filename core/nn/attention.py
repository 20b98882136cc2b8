"""torch.nn.attention: which kernels may compute `scaled_dot_product_attention`.

Contract: whichever are allowed, the result is the same. On a GPU MATH alone means that cuDNN's kernel is not used; on a
CPU there is one kernel, so a request changes nothing.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from core.backends import cuda
from core.errors import ArgumentError

__all__ = ["SDPBackend", "sdpa_kernel"]


class SDPBackend(enum.IntEnum):
    """torch's kernels of attention."""

    ERROR = -1
    MATH = 0
    FLASH_ATTENTION = 1
    EFFICIENT_ATTENTION = 2
    CUDNN_ATTENTION = 3
    OVERRIDEABLE = 4


@contextmanager
def sdpa_kernel(backends: SDPBackend | Iterable[SDPBackend], set_priority: bool = False) -> Iterator[None]:
    """In the block only these kernels may be used. Those that torch has for GPUs stand for any that is not MATH."""
    allowed = {backends} if isinstance(backends, SDPBackend) else set(backends)
    if not allowed or not all(isinstance(each, SDPBackend) for each in allowed):
        raise ArgumentError(f"sdpa_kernel: expected one SDPBackend or more, got {backends!r}")
    before = cuda.cudnn_sdp_enabled()
    cuda.enable_cudnn_sdp(allowed != {SDPBackend.MATH})
    try:
        yield
    finally:
        cuda.enable_cudnn_sdp(before)
