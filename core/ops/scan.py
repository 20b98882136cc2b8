"""Scans: running extremes and running logarithms of sums along a dimension. Hillis and Steele's way: n elements in log₂ n passes."""

from __future__ import annotations

from typing import Any

import numpy as np

from core._tensor import _dim
from core.ops.op import op
from core.ops.pointwise import ordered


def _taken_dx(F, g, index, x_shape, dim):
    return F.scatter_add(F.new_zeros(g, shape=x_shape), index, g, dim=dim) if x_shape else g


def _running(be: Any, x: Any, dim: int, where: str) -> tuple[Any, Any]:
    """(values, indices) of running extremes; of equal ones the last, as in torch."""
    xp = be.xp
    ordered(x, where)
    if not x.ndim:
        return xp.array(x), xp.zeros((), dtype=np.int64)
    y = xp.array(xp.moveaxis(x, dim, -1), order="C")
    index = xp.array(xp.broadcast_to(xp.arange(y.shape[-1], dtype=np.int64), y.shape))
    step = 1
    while step < y.shape[-1]:
        before, now = y[..., :-step].copy(), y[..., step:]
        kept = ((before > now) if where == "cummax" else (before < now)) | (before != before)
        index[..., step:] = xp.where(kept, index[..., :-step].copy(), index[..., step:])
        y[..., step:] = xp.where(kept, before, now)
        step *= 2
    return xp.moveaxis(y, -1, dim), xp.moveaxis(index, -1, dim)


@op(x=_taken_dx, outs=("values", "index"))
def cummax(be, x, *, dim):
    """(values, indices) of the greatest element so far along one dimension."""
    return _running(be, x, _dim(dim, x.ndim, "cummax"), "cummax")


@op(x=_taken_dx, outs=("values", "index"))
def cummin(be, x, *, dim):
    """(values, indices) of the least element so far along one dimension."""
    return _running(be, x, _dim(dim, x.ndim, "cummin"), "cummin")


def _logcumsumexp_dx(F, g, x, out, x_shape, dim):
    # eˣ Σ_{i ≥ j} gᵢ e^−outᵢ, both exponents shifted by the greatest x
    if not x_shape:
        return g
    top = F.amax(x, dim=dim, keepdim=True)
    weighted = F.flip(F.cumsum(F.flip(g * F.exp(top - out), dims=(dim,)), dim=dim), dims=(dim,))
    return weighted * F.exp(x - top)


@op(x=_logcumsumexp_dx)
def logcumsumexp(be, x, *, dim):
    """ln of the running sums of eˣ along one dimension, without overflow."""
    xp = be.xp
    if not x.ndim:
        return xp.array(x)
    d = _dim(dim, x.ndim, "logcumsumexp")
    y = xp.array(xp.moveaxis(x, d, -1), order="C")
    step = 1
    while step < y.shape[-1]:
        y[..., step:] = xp.logaddexp(y[..., step:], y[..., :-step].copy())
        step *= 2
    return xp.moveaxis(y, -1, d)
