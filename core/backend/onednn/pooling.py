"""oneDNN on images, (N, C, *): pooling.

Contract: that of `images`; results lie as what comes in does.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np

from core.backend.onednn import library as c
from core.backend.onednn.images import empty, in_order, lies_channels_last
from core.backend.onednn.kernels import _DTYPES, Ints, _finite, _fits, flat
from core.backend.onednn.library import Handle
from core.backend.onednn.primitives import Builder, Call, cached, dims, last_strides

_SLOW = 8  # channels, below which oneDNN's gradient of max_pool takes them one by one
_PIECE = 1 << 14  # outputs whose windows stay in the cache


def max_pool(
    x: np.ndarray, k: Ints, out: Ints, stride: Ints, padding: Ints, dilation: Ints
) -> tuple[np.ndarray, np.ndarray] | None:
    """(N, C, *in) -> (N, C, *out) and, per output, the number of the kernel offset that won. Only what is finite: oneDNN drops NaN."""
    if not _fits(x) or math.prod(k) > 255 or not _finite(x):
        return None
    call = _pool(c.MAX, x, out, k, stride, padding, dilation)
    if call is None:
        return None
    last = lies_channels_last(x)
    y, won = (empty((*x.shape[:2], *out), d, last) for d in (x.dtype, np.uint8))
    call(_either_order(x), y, won)
    return y, won


def max_pool_grad(
    g: np.ndarray, won: np.ndarray, x_shape: Ints, k: Ints, stride: Ints, padding: Ints, dilation: Ints
) -> np.ndarray | None:
    """(N, C, *out) -> (N, C, *in): each output's gradient goes to the input that won"""
    if not _fits(g) or won.dtype != np.uint8 or not math.prod(x_shape):
        return None
    last = lies_channels_last(won)
    g, won = in_order(g, last), in_order(won, last)
    if last and x_shape[1] < _SLOW and stride == k and not any(padding) and max(dilation) == 1:
        return _scattered(g, won, x_shape, k)
    call = _pool_grad(c.MAX, x_shape, g, last, k, stride, padding, dilation)
    if call is None:
        return None
    dx = empty(x_shape, g.dtype, last)
    call(g, won, dx)
    return dx


def _scattered(g: np.ndarray, won: np.ndarray, x_shape: Ints, k: Ints) -> np.ndarray:
    """The gradient of `max_pool` whose windows do not overlap, channels-last."""
    dx, n = empty(x_shape, g.dtype, True), len(g)
    together = min(n, max(1, _PIECE // g[0].size))  # samples
    begin, within = _starts((together, *g.shape[1:]), x_shape, k)
    places, won, g = (flat(a).reshape(n, -1) for a in (dx, won, g))
    for i in range(0, n, together):
        piece = slice(i, i + together)
        at = within.take(won[piece].reshape(-1), mode="clip")  # all are within; this is the mode that makes no copy
        at += begin[: at.size]
        own = places[piece].reshape(-1)
        own.fill(0)
        own[at] = g[piece].reshape(-1)
    return dx


@lru_cache(maxsize=64)
def _starts(shape: Ints, x_shape: Ints, k: Ints) -> tuple[np.ndarray, np.ndarray]:
    """Where in memory each window of (N, *out, C) begins, and how far from there each of its places is, both flat"""
    n, channels, *out = shape
    steps = last_strides(x_shape)
    starts = [np.arange(o) * s * t for o, s, t in zip((n, *out, channels), (*steps[:1], *steps[2:], 1), (1, *k, 1))]
    return _outer(*starts), _outer(*(np.arange(m) * s for m, s in zip(k, steps[2:])))


def _outer(first: np.ndarray, *others: np.ndarray) -> np.ndarray:
    """All sums of one element of each, the last running fastest"""
    for other in others:
        first = np.add.outer(first, other).reshape(-1)
    return first


def sum_pool(x: np.ndarray, k: Ints, out: Ints, stride: Ints, padding: Ints) -> np.ndarray | None:
    """(N, C, *in) -> (N, C, *out): the sum of each window, padding counted as zeros"""
    if not _fits(x):
        return None
    call = _pool(c.AVERAGE, x, out, k, stride, padding, (1,) * len(k))
    if call is None:
        return None
    y = empty((*x.shape[:2], *out), x.dtype, lies_channels_last(x))
    call(_either_order(x), y)
    y *= x.dtype.type(math.prod(k))
    return y


def sum_pool_grad(g: np.ndarray, x_shape: Ints, k: Ints, stride: Ints, padding: Ints) -> np.ndarray | None:
    """(N, C, *out) -> (N, C, *in): the transpose of `sum_pool`"""
    if not _fits(g) or not math.prod(x_shape):
        return None
    last = lies_channels_last(g)
    call = _pool_grad(c.AVERAGE, x_shape, g, last, k, stride, padding, (1,) * len(k))
    if call is None:
        return None
    dx = empty(x_shape, g.dtype, last)
    call(in_order(g, last), dx)
    dx *= g.dtype.type(math.prod(k))
    return dx


def _either_order(x: np.ndarray) -> np.ndarray:
    return x if lies_channels_last(x) else np.ascontiguousarray(x)


def _ordered(b: Builder, shape: Ints, dtype: int, last: bool) -> Handle:
    return b.strided(shape, dtype, last_strides(shape)) if last else b.packed(shape, dtype)


def _pool(
    algorithm: int, x: np.ndarray, out: Ints, k: Ints, stride: Ints, padding: Ints, dilation: Ints
) -> Call | None:
    x_shape, y_shape, dtype, last = x.shape, (*x.shape[:2], *out), _DTYPES[x.dtype], lies_channels_last(x)

    def build(b: Builder) -> Call:
        xd, yd = _ordered(b, x_shape, dtype, last), _ordered(b, y_shape, dtype, last)
        windows = _windows(x_shape[2:], k, y_shape[2:], stride, padding, dilation)
        outputs = {c.DST: yd}
        if algorithm == c.MAX:
            outputs[c.WORKSPACE] = _ordered(b, y_shape, c.U8, last)
        return b.call(b.descriptor("pooling_forward", c.TRAINING, algorithm, xd, yd, *windows), {c.SRC: xd}, outputs)

    return cached(("pool", algorithm, x_shape, y_shape, k, stride, padding, dilation, dtype, last), build)


def _pool_grad(
    algorithm: int, x_shape: Ints, g: np.ndarray, last: bool, k: Ints, stride: Ints, padding: Ints, dilation: Ints
) -> Call | None:
    y_shape, dtype = g.shape, _DTYPES[g.dtype]

    def build(b: Builder) -> Call:
        xd, yd = _ordered(b, x_shape, dtype, last), _ordered(b, y_shape, dtype, last)
        windows = _windows(x_shape[2:], k, y_shape[2:], stride, padding, dilation)
        forward = b.descriptor("pooling_forward", c.TRAINING, algorithm, xd, yd, *windows)
        inputs = {c.DIFF + c.DST: yd}
        if algorithm == c.MAX:
            inputs[c.WORKSPACE] = _ordered(b, y_shape, c.U8, last)
        backward = b.descriptor("pooling_backward", algorithm, xd, yd, *windows, forward)
        return b.call(backward, inputs, {c.DIFF + c.SRC: xd})

    return cached(("pool_grad", algorithm, x_shape, y_shape, k, stride, padding, dilation, dtype, last), build)


def _windows(size: Ints, k: Ints, out: Ints, stride: Ints, padding: Ints, dilation: Ints) -> list[Any]:
    """Strides, kernel, dilation and both paddings; the right one reaches as far as the last window."""
    right = [(o - 1) * s + (n - 1) * d + 1 - i - p for o, s, n, d, i, p in zip(out, stride, k, dilation, size, padding)]
    return [dims(stride), dims(k), dims([d - 1 for d in dilation]), dims(padding), dims(right)]
