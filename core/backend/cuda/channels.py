"""Batch normalisation of (N, C, *), in C order or channels-last: the host side of `channels.cuh`. None where it is not its case.

Not cuDNN: the seam asks for moments and normalisation apart, since SyncBatchNorm and lockstep mode come in between.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from core.backend.cuda.launch import accumulator, blocks, instance

Ints = tuple[int, ...]

_LAYOUT = np.dtype([(name, np.int32) for name in ("n", "c", "l", "last", "parts")], align=True)
_THREADS = (32, 8)
_PART = 1 << 14  # elements of a channel that a block reads
_PARTS = 256


def is_last(x: Any) -> bool:
    """Whether (N, C, *) lies as (N, *, C)."""
    if x.ndim == 2 or x.flags.c_contiguous:
        return x.ndim == 2
    return bool(x.transpose(0, *range(2, x.ndim), 1).flags.c_contiguous)


def as_lies(xp: Any, x: Any, last: bool) -> Any:
    """x itself, or a copy, that lies in C order or channels-last."""
    if not last or x.ndim == 2:
        return xp.ascontiguousarray(x)
    return x if is_last(x) else _led(xp.ascontiguousarray(x.transpose(0, *range(2, x.ndim), 1)))


def _led(x: Any) -> Any:
    """(N, *, C) as (N, C, *)"""
    return x.transpose(0, x.ndim - 1, *range(1, x.ndim - 1))


def empty(xp: Any, shape: Ints, dtype: Any, last: bool) -> Any:
    """A new array that lies so."""
    if not last or len(shape) == 2:
        return xp.empty(shape, dtype)
    return _led(xp.empty((shape[0], *shape[2:], shape[1]), dtype))


def _fits(x: Any, axes: Ints) -> bool:
    return x.ndim > 1 and axes == (0, *range(2, x.ndim)) and x.size > 0


def _layout(x: Any, last: bool) -> tuple[np.ndarray, Ints, int]:
    """What the kernels are told, the grid over channels and parts, and the number of parts."""
    n, c, l = x.shape[0], x.shape[1], math.prod(x.shape[2:])
    across = -(-c // 32) if last else c
    parts = max(1, min(_PARTS, -(-n * l // (_PART // 32 if last else _PART)), -(-4096 // across)))
    return np.array((n, c, l, last, parts), _LAYOUT), (across, parts), parts


def _flat(xp: Any, v: Any) -> Any:
    return None if v is None else xp.ascontiguousarray(v).reshape(-1)


def moments(be: Any, x: Any, axes: Ints) -> Any:
    """Mean and variance of each channel, (1, C, 1, …)."""
    of, xp = instance(be, "channels", x), be.xp
    if of is None or not _fits(x, axes):
        return None
    last = is_last(x)
    x, a, c = as_lies(xp, x, last), accumulator(x), x.shape[1]
    layout, grid, count = _layout(x, last)
    parts, mean, var = xp.empty((count, 3, c), a), xp.empty(c, a), xp.empty(c, a)
    be.launch(of, "channel_moments", grid, _THREADS, parts, x, layout)
    be.launch(of, "channel_moments_join", blocks(c), (256,), mean, var, parts, layout)
    shape = (1, c, *(1,) * (x.ndim - 2))
    return mean.reshape(shape), var.reshape(shape)


def _instance(be: Any, x: Any, w: Any, b: Any, mean: Any, rstd: Any, axes: Ints) -> Any:
    given = [v for v in (w, b) if v is not None]
    of = instance(be, "channels", x, given[0] if given else None)
    ok = _fits(x, axes) and all(
        v.size == x.shape[1] and v.dtype == given[0].dtype and _per_channel(v, x) for v in given
    )
    return of if ok and all(v.size == x.shape[1] and v.dtype == accumulator(x) for v in (mean, rstd)) else None


def _per_channel(v: Any, x: Any) -> bool:
    """Whether v broadcasts against (N, C, *) along C."""
    return v.ndim >= x.ndim - 1 and v.shape[1 - x.ndim] == x.shape[1]


def standardize(be: Any, x: Any, w: Any, b: Any, mean: Any, rstd: Any, axes: Ints) -> Any:
    """(x − mean)·rstd·w + b, lying as x does."""
    of, xp = _instance(be, x, w, b, mean, rstd, axes), be.xp
    if of is None:
        return None
    last = is_last(x)
    x = as_lies(xp, x, last)
    y, layout = empty(xp, x.shape, x.dtype, last), _layout(x, last)[0]
    vectors = [_flat(xp, v) for v in (w, b, mean, rstd)]
    be.launch(of, "channel_standardize", blocks(x.size, 1024), (256,), y, x, *vectors, np.int64(x.size), layout)
    return y


def standardize_grad(be: Any, g: Any, x: Any, w: Any, b: Any, mean: Any, rstd: Any, axes: Ints) -> Any:
    """(dx, dw, db)"""
    of, xp = _instance(be, x, w, b, mean, rstd, axes), be.xp
    if of is None or g.dtype != x.dtype:
        return None
    last, a, c = is_last(x), accumulator(x), x.shape[1]
    x, g = as_lies(xp, x, last), as_lies(xp, g, last)
    layout, grid, count = _layout(x, last)
    parts, sums, dx = xp.empty((count, 2, c), a), xp.empty((2, c), a), empty(xp, x.shape, x.dtype, last)
    dw, db = (None if v is None else xp.empty(v.shape, v.dtype) for v in (w, b))
    w, mean, rstd = (_flat(xp, v) for v in (w, mean, rstd))
    be.launch(of, "channel_sums", grid, _THREADS, parts, g, x, mean, rstd, layout)
    be.launch(of, "channel_sums_join", blocks(c), (256,), sums, dw, db, parts, layout)
    be.launch(
        of, "channel_norm_grad", blocks(x.size, 1024), (256,), dx, g, x, w, mean, rstd, sums, np.int64(x.size), layout
    )
    return dx, dw, db
