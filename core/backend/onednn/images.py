"""oneDNN on images, (N, C, *): the order in memory, and what looks at each element by itself.

Contract: that of `kernels`, except that results lie in C order or channels-last, (N, *, C) in memory, whichever is the faster; what
comes in may lie in either. Channels-last is what oneDNN computes batch normalisation in many times as fast as in C order, and
convolutions as fast as in layouts of its own that NumPy could not hold.
Not here: `convolution`, `pooling` and `normalisation`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from core.backend.onednn import library as c
from core.backend.onednn.kernels import _DTYPES, Ints, _as_it_lies, _finite, _fits, channels_last, flat
from core.backend.onednn.primitives import Builder, Call, cached, strides_of

# -- order in memory ---------------------------------------------------------------------------------------------------


def lies_channels_last(x: np.ndarray) -> bool:
    """Whether (N, C, *size) lies as (N, *size, C), and not in C order, too."""
    return x.ndim > 2 and x.shape[1] > 1 and not x.flags.c_contiguous and channels_last(x).flags.c_contiguous


def empty(shape: Ints, dtype: Any, last: bool) -> np.ndarray:
    """(N, C, *size), channels-last or in C order"""
    if not last:
        return np.empty(shape, dtype)
    n, channels, *size = shape
    return np.empty((n, *size, channels), dtype).transpose(0, -1, *range(1, len(shape) - 1))


def in_order(x: np.ndarray, last: bool) -> np.ndarray:
    """x, or a copy that lies as is said"""
    if lies_channels_last(x) if last else x.flags.c_contiguous:
        return x
    y = empty(x.shape, x.dtype, last)
    if not _fits(x) or strides_of(x) is None or not reorder(x, y):
        y[...] = x
    return y


def in_c_order(x: np.ndarray) -> np.ndarray | None:
    """A copy of x, which lies channels-last, in C order"""
    if not _fits(x) or not lies_channels_last(x):
        return None
    y = np.empty(x.shape, x.dtype)
    return y if reorder(x, y) else None


def cast(x: np.ndarray, dtype: Any) -> np.ndarray | None:
    """float32 to bfloat16 or back, rounded to nearest even; the order in memory stays"""
    if not x.size or x.dtype not in _DTYPES or dtype not in _DTYPES:
        return None
    y = np.empty_like(x, dtype=dtype)
    if x.flags.c_contiguous or lies_channels_last(x):
        return y if reorder(flat(x), flat(y)) else None
    return y if x.ndim <= 5 and strides_of(x) is not None and reorder(x, y) else None


def reorder(x: np.ndarray, y: np.ndarray) -> bool:
    """y ← x, whose strides and dtypes may differ; whether oneDNN can."""

    def build(b: Builder) -> Call:
        xd, yd = _as_it_lies(b, x), _as_it_lies(b, y)
        return b.call(b.reorder(xd.value, yd.value), {c.SRC: xd}, {c.DST: yd})

    call = cached(("reorder", x.shape, x.strides, x.dtype, y.strides, y.dtype), build)
    if call is not None:
        call(x, y)
    return call is not None


# -- sums --------------------------------------------------------------------------------------------------------------


def add(x: np.ndarray, y: np.ndarray, out: np.ndarray | None) -> np.ndarray | None:
    """x + y of one shape and one order in memory, into `out` if given"""
    last = lies_channels_last(x)
    if (
        x.shape != y.shape or x.strides != y.strides or x.dtype not in _DTYPES or y.dtype != x.dtype
        or not (last or x.flags.c_contiguous)
    ):  # fmt: skip
        return None
    if out is None:
        out = empty(x.shape, x.dtype, last)
    elif out.dtype != x.dtype or out.shape != x.shape or out.strides != x.strides:
        return None
    size, dtype = x.size, _DTYPES[x.dtype]

    def build(b: Builder) -> Call:
        d = b.packed((size,), dtype)
        return b.call(b.descriptor("binary", c.ADD, d, d, d), {c.SRC: d, c.SRC + 1: d}, {c.DST: d})

    call = cached(("add", size, dtype), build)
    if call is None:
        return None
    call(x, y, out)
    return out


# -- rectifier ---------------------------------------------------------------------------------------------------------


def relu(x: np.ndarray, out: np.ndarray | None) -> np.ndarray | None:
    """max(x, 0), into `out` if given. Only what is finite: oneDNN drops NaN."""
    last = lies_channels_last(x)
    if x.dtype not in _DTYPES or not x.size or not (last or x.flags.c_contiguous) or not _finite(x):
        return None
    if out is None:
        out = empty(x.shape, x.dtype, last)
    elif out.dtype != x.dtype or out.shape != x.shape or out.strides != x.strides:
        return None
    size, dtype = x.size, _DTYPES[x.dtype]

    def build(b: Builder) -> Call:
        d = b.packed((size,), dtype)
        return b.call(b.descriptor("eltwise_forward", c.TRAINING, c.RELU, d, d, 0.0, 0.0), {c.SRC: d}, {c.DST: d})

    call = cached(("relu", size, dtype), build)
    if call is None:
        return None
    call(x, out)
    return out
