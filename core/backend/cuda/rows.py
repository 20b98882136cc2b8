"""Softmax, cross-entropy, layer and RMS norm: host sides of `rows.cuh` and `norms.cuh`. None where it is not their case."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from core.backend.cuda import pointwise
from core.backend.cuda.launch import accumulator, blocks, instance, row_threads

Ints = tuple[int, ...]

_COLUMN_ROWS = 512  # rows that a block of `column_sums` adds up


def softmax(be: Any, x: Any, dim: int, logarithm: bool) -> Any:
    """eˣ / Σ eˣ along `dim`, or its logarithm."""
    return _along(be, "softmax", (x,), dim, logarithm)


def softmax_grad(be: Any, g: Any, y: Any, dim: int, logarithm: bool) -> Any:
    """The gradient of `softmax` from its output."""
    return _along(be, "softmax_grad", (g, y), dim, logarithm)


def _along(be: Any, kernel: str, arrays: tuple[Any, ...], dim: int, logarithm: bool) -> Any:
    xp, of, shape = be.xp, instance(be, "rows", arrays[0]), arrays[0].shape
    if of is None or not arrays[0].size or any(a.dtype != arrays[0].dtype or a.shape != shape for a in arrays):
        return None
    last = dim == len(shape) - 1
    inputs = [xp.ascontiguousarray(a if last else xp.moveaxis(a, dim, -1)) for a in arrays]
    y, n = xp.empty_like(inputs[0]), shape[dim]
    be.launch(of, kernel, (y.size // n,), row_threads(n), y, *inputs, np.int32(n), np.int32(logarithm))
    return y if last else xp.moveaxis(y, -1, dim)


def cross_entropy(be: Any, x: Any, target: Any, w: Any, ignored: int) -> Any:
    """(N, C), (N) int64, (C) -> losses (N) and ln Σ eˣ (N), in the dtype of sums; a target that is no class gives NaN."""
    of = instance(be, "rows", x)
    if of is None or not x.size or target.dtype != np.int64:
        return None
    a, (rows, n) = accumulator(x), x.shape
    loss, lse = be.xp.empty(rows, a), be.xp.empty(rows, a)
    x, target = be.xp.ascontiguousarray(x), be.xp.ascontiguousarray(target)
    w = None if w is None else be.xp.ascontiguousarray(w.astype(a, copy=False))
    be.launch(of, "cross_entropy", (rows,), row_threads(n), loss, lse, x, target, w, np.int32(n), np.int64(ignored))
    return loss, lse


def cross_entropy_total(be: Any, loss: Any, x: Any, target: Any, w: Any, ignored: int, mean: bool) -> Any:
    """Σ loss, divided by the weights of what is not ignored if `mean`, and that sum of weights; both in the dtype of sums."""
    of, xp, a = instance(be, "rows", x), be.xp, accumulator(x)
    if of is None or not x.size or target.dtype != np.int64:
        return None
    out, total = xp.empty((), a), xp.empty((), a)
    target, w = xp.ascontiguousarray(target), None if w is None else xp.ascontiguousarray(w.astype(a, copy=False))
    sizes = np.int32(loss.size), np.int32(x.shape[1]), np.int64(ignored), np.int32(mean)
    be.launch(of, "cross_entropy_total", (1,), row_threads(loss.size), out, total, loss, target, w, *sizes)
    return out, total


def cross_entropy_grad(be: Any, g: Any, x: Any, target: Any, w: Any, lse: Any, total: Any, ignored: int) -> Any:
    """(N, C): the gradient of `cross_entropy`; g (N) or, for a reduced loss, of one element; `total`: what a mean was divided by, or
    None."""
    of, a = instance(be, "rows", x), accumulator(x)
    if of is None or not x.size or target.dtype != np.int64:
        return None
    xp, (rows, n) = be.xp, x.shape
    x, dx = xp.ascontiguousarray(x), xp.empty(x.shape, x.dtype)
    g, w, total = (None if v is None else xp.ascontiguousarray(v.astype(a, copy=False)) for v in (g, w, total))
    be.launch(
        of, "cross_entropy_grad", (rows,), row_threads(n), dx, x, lse, xp.ascontiguousarray(target), w, g,
        np.int32(g.size > 1), total, np.int32(n), np.int64(ignored),
    )  # fmt: skip
    return dx


# -- layer and RMS norm --------------------------------------------------------------------------------------------------


def _rows(x: Any, axes: Ints) -> int:
    """The length of a row if `axes` are the last of x, else 0."""
    first = x.ndim - len(axes)
    return math.prod(x.shape[first:]) if axes == tuple(range(first, x.ndim)) and x.size else 0


def _weighs(x: Any, n: int, *weights: Any) -> bool:
    """Whether each weight is None or one number for each column; all of one dtype."""
    given = [w for w in weights if w is not None]
    return all(w.size == n and w.shape == x.shape[x.ndim - w.ndim :] and w.dtype == given[0].dtype for w in given)


def _instance(be: Any, x: Any, *weights: Any) -> Any:
    return instance(be, "norms", x, next((w for w in weights if w is not None), None))


def moments(be: Any, x: Any, axes: Ints) -> Any:
    """Mean and variance of each row, as x with 1 for `axes`."""
    n, of = _rows(x, axes), instance(be, "norms", x)
    if not n or of is None:
        return None
    shape = (*x.shape[: x.ndim - len(axes)], *(1,) * len(axes))
    mean, var = be.xp.empty(shape, accumulator(x)), be.xp.empty(shape, accumulator(x))
    be.launch(of, "row_moments", (x.size // n,), row_threads(n), mean, var, be.xp.ascontiguousarray(x), np.int32(n))
    return mean, var


def standardize(be: Any, x: Any, w: Any, b: Any, mean: Any, rstd: Any, axes: Ints) -> Any:
    """(x − mean)·rstd·w + b"""
    n, of, a = _rows(x, axes), _instance(be, x, w, b), accumulator(x)
    if not n or of is None or not _weighs(x, n, w, b) or mean.dtype != a or mean.size * n != x.size or rstd.dtype != a:
        return None
    c = be.xp.ascontiguousarray
    x, w, b, mean, rstd = (v if v is None else c(v) for v in (x, w, b, mean, rstd))
    y = be.xp.empty(x.shape, x.dtype)
    be.launch(of, "row_standardize", (x.size // n,), row_threads(n), y, x, w, b, mean, rstd, np.int32(n))
    return y


def standardize_grad(be: Any, g: Any, x: Any, w: Any, b: Any, mean: Any, rstd: Any, axes: Ints) -> Any:
    """(dx, dw, db)"""
    return _norm_grad(be, g, x, w, b, mean, rstd, axes)


def rms_norm(be: Any, x: Any, w: Any, axes: Ints, eps: float) -> Any:
    """x·rstd·w and rstd"""
    n, of, a = _rows(x, axes), _instance(be, x, w), accumulator(x)
    if not n or of is None or not _weighs(x, n, w):
        return None
    x, w = be.xp.ascontiguousarray(x), w if w is None else be.xp.ascontiguousarray(w)
    y, rstd = be.xp.empty(x.shape, x.dtype), be.xp.empty((*x.shape[: x.ndim - len(axes)], *(1,) * len(axes)), a)
    be.launch(of, "row_rms_norm", (x.size // n,), row_threads(n), y, rstd, x, w, np.int32(n), a(eps))
    return y, rstd


def rms_norm_grad(be: Any, g: Any, x: Any, w: Any, rstd: Any, axes: Ints) -> Any:
    """(dx, dw)"""
    found = _norm_grad(be, g, x, w, None, None, rstd, axes)
    return found if found is None else found[:2]


def _norm_grad(be: Any, g: Any, x: Any, w: Any, b: Any, mean: Any, rstd: Any, axes: Ints) -> Any:
    xp, n, of, a = be.xp, _rows(x, axes), _instance(be, x, w, b), accumulator(x)
    if (
        not n
        or of is None
        or not _weighs(x, n, w, b)
        or g.dtype != x.dtype
        or rstd.dtype != a
        or rstd.size * n != x.size
    ):
        return None
    g, x, w, mean, rstd = (v if v is None else xp.ascontiguousarray(v) for v in (g, x, w, mean, rstd))
    rows, dx = x.size // n, xp.empty(x.shape, x.dtype)
    be.launch(of, "row_norm_grad", (rows,), row_threads(n), dx, g, x, w, mean, rstd, np.int32(n))
    dw, db = (None if v is None else xp.empty(v.shape, v.dtype) for v in (w, b))
    if dw is not None or db is not None:
        chunks = min(64, -(-rows // _COLUMN_ROWS))
        parts = xp.empty((chunks, 2, n), a)
        be.launch(
            of, "column_sums", (-(-n // 32), chunks), (32, 8), parts, g, x, mean, rstd, np.int32(rows), np.int32(n)
        )
        be.launch(of, "column_join", blocks(n), (256,), dw, db, parts, np.int32(chunks), np.int32(n))
    return dx, dw, db


# -- the whole op --------------------------------------------------------------------------------------------------------


def fused() -> dict[Any, Any]:
    """For `Backend.fused`."""
    return {"standardize": _standardized}


def _standardized(
    be: Any, x: Any, *affine: Any, axes: Ints, eps: float, moments: Any = None, follow: Any = None
) -> Any:
    """The op `standardize`: one launch for rows, and for channels no more than one for each of its three steps."""
    w, b = affine or (None, None)
    axes, a = tuple(axes), accumulator(x)
    n, of = _rows(x, axes), _instance(be, x, w, b)
    if n and moments is follow is None and of is not None and _weighs(x, n, w, b):
        c = be.xp.ascontiguousarray
        x, w, b = (v if v is None else c(v) for v in (x, w, b))
        shape = (*x.shape[: x.ndim - len(axes)], *(1,) * len(axes))
        y, mean, rstd = be.xp.empty(x.shape, x.dtype), be.xp.empty(shape, a), be.xp.empty(shape, a)
        be.launch(of, "row_norm", (x.size // n,), row_threads(n), y, mean, rstd, x, w, b, np.int32(n), a(eps))
        return y, mean, rstd
    mean, var = moments or be.moments(x, axes)
    rstd = pointwise.run(be, "rstd", (var,), (eps,))
    if rstd is None:
        return None
    if follow is not None:
        follow(mean, var)
    return be.standardize(x, w, b, mean, rstd, axes), mean, rstd
