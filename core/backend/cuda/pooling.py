"""Pooling in one to three dimensions, in C order or channels-last: the host side of `pooling.cuh`. None where it is not its case."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from core.backend.cuda.channels import as_lies, empty, is_last
from core.backend.cuda.launch import blocks, instance

Ints = tuple[int, ...]

_SIZES = ("in", "out", "k", "stride", "padding", "dilation")
_POOL = np.dtype(
    [(name, np.int32) for name in ("n", "c", "last")] + [(name, np.int32, 3) for name in _SIZES], align=True
)


def _pool(x_shape: Ints, out: Ints, k: Ints, stride: Ints, padding: Ints, dilation: Ints, last: bool) -> np.ndarray:
    """What the kernels are told; dimensions that are missing are of length 1."""
    more = 3 - len(k)
    sizes = [(1,) * more + tuple(v) for v in (x_shape[2:], out, k, stride)]
    zeros, ones = (0,) * more + tuple(padding), (1,) * more + tuple(dilation)
    return np.array((x_shape[0], x_shape[1], last, *sizes, zeros, ones), _POOL)


def _launch(be: Any, of: Any, kernel: str, results: tuple[Any, ...], inputs: tuple[Any, ...], pool: np.ndarray) -> None:
    total = results[0].size
    be.launch(of, kernel, blocks(total, most=1 << 30), (256,), *results, *inputs, np.int64(total), pool)


def max_pool(be: Any, x: Any, k: Ints, out: Ints, stride: Ints, padding: Ints, dilation: Ints) -> Any:
    """(N, C, *in) -> (N, C, *out) and the numbers of the offsets that won"""
    xp, kind = be.xp, np.dtype(np.int16 if math.prod(k) > 255 else np.uint8)
    shape = (*x.shape[:2], *out)
    if not x.size or not math.prod(shape) or len(k) > 3:
        return None
    last = is_last(x)
    won = empty(xp, shape, kind, last)
    of = instance(be, "pooling", x, won)
    if of is None:
        return None
    y = empty(xp, shape, x.dtype, last)
    _launch(
        be, of, "max_pool", (y, won), (as_lies(xp, x, last),), _pool(x.shape, out, k, stride, padding, dilation, last)
    )
    return y, won


def max_pool_grad(
    be: Any, g: Any, won: Any, x_shape: Ints, k: Ints, stride: Ints, padding: Ints, dilation: Ints
) -> Any:
    """(N, C, *out) -> (N, C, *in)"""
    of = instance(be, "pooling", g, won)
    if of is None or not g.size or len(k) > 3:
        return None
    xp, last = be.xp, is_last(won)
    dx = empty(xp, x_shape, g.dtype, last)
    inputs = as_lies(xp, g, last), as_lies(xp, won, last)
    _launch(be, of, "max_pool_grad", (dx,), inputs, _pool(x_shape, g.shape[2:], k, stride, padding, dilation, last))
    return dx


def max_pool_pick(be: Any, x: Any, won: Any, k: Ints, stride: Ints, padding: Ints, dilation: Ints) -> Any:
    """(N, C, *in) -> (N, C, *out)"""
    of = instance(be, "pooling", x, won)
    if of is None or not x.size or len(k) > 3:
        return None
    xp, last = be.xp, is_last(won)
    y = empty(xp, won.shape, x.dtype, last)
    inputs = as_lies(xp, x, last), as_lies(xp, won, last)
    _launch(be, of, "max_pool_pick", (y,), inputs, _pool(x.shape, won.shape[2:], k, stride, padding, dilation, last))
    return y


def sum_pool(be: Any, x: Any, k: Ints, out: Ints, stride: Ints, padding: Ints) -> Any:
    """(N, C, *in) -> (N, C, *out)"""
    of = _summing(be, x)
    shape = (*x.shape[:2], *out)
    if of is None or not math.prod(shape) or len(k) > 3:
        return None
    xp, last, one = be.xp, is_last(x), (1,) * len(k)
    y = empty(xp, shape, x.dtype, last)
    _launch(be, of, "sum_pool", (y,), (as_lies(xp, x, last),), _pool(x.shape, out, k, stride, padding, one, last))
    return y


def sum_pool_grad(be: Any, g: Any, x_shape: Ints, k: Ints, stride: Ints, padding: Ints) -> Any:
    """(N, C, *out) -> (N, C, *in)"""
    of = _summing(be, g)
    if of is None or not math.prod(x_shape) or len(k) > 3:
        return None
    xp, last, one = be.xp, is_last(g), (1,) * len(k)
    dx = empty(xp, x_shape, g.dtype, last)
    _launch(
        be,
        of,
        "sum_pool_grad",
        (dx,),
        (as_lies(xp, g, last),),
        _pool(x_shape, g.shape[2:], k, stride, padding, one, last),
    )
    return dx


def _summing(be: Any, x: Any) -> Any:
    """An instance for sums, which number no winners: any W."""
    return instance(be, "pooling", x, _NUMBERS) if x.size else None


_NUMBERS = np.empty(0, np.uint8)
