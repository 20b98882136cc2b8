"""Order statistics, sets and counts: the k-th element, the mode, unique elements, places in a sorted sequence, histograms."""

from __future__ import annotations

from typing import Any

import numpy as np

from core import dtypes
from core._tensor import _dim
from core.errors import ArgumentError, DTypeError, RangeError, ShapeError
from core.ops.index import _order
from core.ops.op import op
from core.ops.reduce import _not_empty, _taken_dx


def _picked(be: Any, x: Any, index: Any, d: int, keepdim: bool) -> tuple[Any, Any]:
    y = be.xp.take_along_axis(x, index, axis=d)
    index = index.astype(np.int64)
    return (y, index) if keepdim else (y.squeeze(d), index.squeeze(d))


@op(x=_taken_dx, outs=("values", "index"))
def kthvalue(be, x, *, k, dim=-1, keepdim=False):
    """(values, indices) of the k-th least elements along one dimension, k from 1."""
    if not x.ndim:
        return be.xp.array(x), be.xp.zeros((), dtype=np.int64)
    d = _dim(dim, x.ndim, "kthvalue")
    if not 1 <= k <= x.shape[d]:
        raise RangeError(f"kthvalue: expected k from 1 to {x.shape[d]}, the length of dim {d}, got {k}")
    at = (slice(None),) * d + (slice(k - 1, k),)
    return _picked(be, x, _order(be.xp, x, d, False)[at], d, keepdim)


@op(x=_taken_dx, outs=("values", "index"))
def median_dim(be, x, *, dim=-1, keepdim=False, ignore_nan=False):
    """(values, indices) of the medians along one dimension, the lower of two. NaN if there is one, unless ignored."""
    xp = be.xp
    if not x.ndim:
        return xp.array(x), xp.zeros((), dtype=np.int64)
    d = _not_empty(x, dim, "median")[0]
    order = _order(xp, x, d, False)  # NaN comes last
    missing = (x != x).sum(axis=d, keepdims=True)
    middle = (x.shape[d] - missing - 1) // 2
    if ignore_nan:
        middle = xp.maximum(middle, 0)
    else:
        middle = xp.where(missing > 0, x.shape[d] - missing, middle)  # the first NaN
    return _picked(be, x, xp.take_along_axis(order, middle, axis=d), d, keepdim)


@op(x=_taken_dx, outs=("values", "index"))
def mode(be, x, *, dim=-1, keepdim=False):
    """(values, indices) of the most frequent elements along one dimension, the least of several; of equal ones the last index."""
    xp = be.xp
    if not x.ndim:
        return xp.array(x), xp.zeros((), dtype=np.int64)
    d = _not_empty(x, dim, "mode")[0]
    order = _order(xp, x, d, False)
    s = xp.moveaxis(xp.take_along_axis(x, order, axis=d), d, -1)
    n = s.shape[-1]
    place = xp.arange(n)
    start = xp.where((s != xp.roll(s, 1, -1)) | (place == 0), place, 0)  # where each run of equals starts
    step = 1
    while step < n:
        start[..., step:] = xp.maximum(start[..., step:], start[..., :-step].copy())
        step *= 2
    run = place - start  # how many equals came before: greatest at the end of the longest run
    last = xp.moveaxis(xp.argmax(run, axis=-1, keepdims=True), -1, d)
    return _picked(be, x, xp.take_along_axis(order, last, axis=d), d, keepdim)


# -- sets: no gradients ------------------------------------------------------------------------------------------------------


@op(outs=("values", "inverse", "counts"))
def unique_sorted(be, x, *, dim=None):
    """(values in order, where each element of x is among them, how often each occurs); slices along `dim` if it is given."""
    axis = None if dim is None else _dim(dim, x.ndim, "unique")
    values, inverse, counts = be.xp.unique(x, return_inverse=True, return_counts=True, axis=axis)
    return values, inverse.reshape(x.shape if axis is None else (-1,)).astype(np.int64), counts.astype(np.int64)


@op(outs=("values", "inverse", "counts"))
def unique_runs(be, x, *, dim=None):
    """`unique_sorted` of neighbours only: each run of equal elements, or slices, counts once."""
    xp = be.xp
    rows = x.reshape(-1) if dim is None else xp.moveaxis(x, _dim(dim, x.ndim, "unique_consecutive"), 0)
    n = rows.shape[0]
    flat = rows.reshape(n, -1)
    new = xp.ones(n, dtype=np.bool_)
    if n:
        new[1:] = (flat[1:] != flat[:-1]).any(axis=1)
    starts = xp.nonzero(new)[0]
    inverse = (xp.cumsum(new) - 1).astype(np.int64)
    counts = xp.bincount(inverse, minlength=0) if n else inverse
    values = rows[starts]
    if dim is not None:
        return xp.moveaxis(values, 0, dim), inverse, counts.astype(np.int64)
    return values, inverse.reshape(x.shape), counts.astype(np.int64)


@op(names=("elements", "test_elements"))
def isin(be, x, y, *, assume_unique=False, invert=False):
    """Whether each element of x is among those of y."""
    found = be.xp.isin(be.xp.asarray(x), be.xp.asarray(y))
    return ~found if invert else found


# -- places and counts ---------------------------------------------------------------------------------------------------------


@op(names=("sorted_sequence", "input"))
def searchsorted(be, x, y, *, right=False, out_int32=False, side=None, sorter=None):
    """(*, N) in order, or with the indices `sorter` that put it in order, (*, M) values -> (*, M): where each value would go so that
    the order holds, before equals (side "left") or after (`right`, or side "right")."""
    if side not in (None, "left", "right") or (side == "left" and right):
        raise ArgumentError(f"searchsorted: expected side 'left' or 'right', the same as right={right}, got {side!r}")
    xp, side = be.xp, side or ("right" if right else "left")
    x = x if sorter is None else xp.take_along_axis(x, getattr(sorter, "_a", sorter), axis=-1)
    y = y if hasattr(y, "dtype") else xp.asarray(y)
    d = np.int32 if out_int32 else np.int64
    if x.ndim == 1:
        return xp.asarray(xp.searchsorted(x, y.reshape(-1), side=side), dtype=d).reshape(y.shape)
    if x.shape[:-1] != y.shape[:-1]:
        raise ShapeError(f"searchsorted: expected equal leading dimensions, got {tuple(x.shape)} and {tuple(y.shape)}")
    rows = zip(x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1]))
    return xp.stack([xp.searchsorted(a, b, side=side) for a, b in rows]).reshape(y.shape).astype(d)


@op(names=("input", "weights"))
def bincount(be, x, w=None, *, minlength=0):
    """How often each of 0, 1, … occurs in a vector, or the sum of the weights where it does."""
    if x.ndim != 1 or x.dtype.kind not in "iu" or (x.size and be.device_type == "cpu" and x.min() < 0):
        raise ArgumentError(
            f"bincount: expected a vector of integers >= 0, got {dtypes.of(x.dtype)} of shape {tuple(x.shape)}"
        )
    counts = be.xp.bincount(x, w, minlength)
    return counts.astype(np.int64 if w is None else w.dtype if w.dtype == np.float32 else np.float64)


@op()
def histc(be, x, *, bins=100, min=0, max=0):
    """How many elements lie in each of `bins` equal parts of [min, max]; by default of the elements' own range."""
    if dtypes.category(x.dtype) != dtypes.FLOATING:
        raise DTypeError(f"histc: expected floating numbers, got {dtypes.of(x.dtype)}; use x.float()")
    lo, hi = (float(x.min()), float(x.max())) if min == max and x.size else (min, max)
    lo, hi = (lo - 1, hi + 1) if lo == hi else (lo, hi)
    v = x.reshape(-1)
    v = v[(v >= lo) & (v <= hi)]
    place = be.xp.minimum(((v - lo) * (bins / (hi - lo))).astype(np.int64), bins - 1)
    return be.xp.bincount(place, minlength=bins).astype(x.dtype)
