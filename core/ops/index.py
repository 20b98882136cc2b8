"""Indexing by tensors: x[i], gather, scatter, embedding, sorting. Indices have no gradients; they are checked against the range.

The parameter `index` of `index` and `index_put` is a tuple of slices and integer arrays; `core.indexing` makes it of what users write.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from core import dtypes
from core._tensor import _dim
from core.errors import DTypeError, RangeError, ShapeError
from core.ops.op import op


def integers(index: Any, where: str) -> Any:
    """The index as an array of signed integers."""
    if index.dtype.kind not in "iu":
        raise DTypeError(f"{where}: expected an integer index, got {dtypes.of(index.dtype)}; use index.long()")
    return index


def check_range(be: Any, index: Any, n: int, where: str, lowest: int = 0) -> None:
    """An error for an index outside lowest … n−1. On a GPU the kernel would have to be waited for, so there it is not looked at."""
    if index.size and be.device_type == "cpu":
        lo, hi = int(index.min()), int(index.max())
        if lo < lowest or hi >= n:
            raise RangeError(f"{where}: expected indices from {lowest} to {n - 1}, got {lo if lo < lowest else hi}")


@op(x=lambda F, g, x_shape, index: F.index_grad(g, shape=x_shape, index=index))
def index(be, x, *, index):
    """x[index], a copy."""
    try:
        return x[index]
    except IndexError as e:
        raise RangeError(f"index: {e}; the tensor's shape is {tuple(x.shape)}") from None


@op(g=lambda F, gg, index: F.index(gg, index=index))
def index_grad(be, g, *, shape, index):
    """The gradient of `index`: zeros of this shape with g added at the index, every occurrence counted."""
    y = be.xp.zeros(shape, dtype=g.dtype)
    be.add_at_(y, index, g)
    return y


@op(
    x=lambda F, g, index, accumulate: (
        g
        if accumulate
        else F.index_put(g, F.new_zeros(F.index(g, index=index), shape=()), index=index, accumulate=False)
    ),
    y=lambda F, g, y_shape, index: F.sum_to(F.index(g, index=index), shape=y_shape),
)
def index_put(be, x, y, *, index, accumulate=False):
    """x with x[index] = y, or with y added there, every occurrence counted."""
    z = be.xp.array(x)
    y = y.astype(x.dtype, copy=False)
    try:
        if accumulate:
            be.add_at_(z, index, y)
        else:
            z[index] = y
    except IndexError as e:
        raise RangeError(f"index: {e}; the tensor's shape is {tuple(x.shape)}") from None
    except ValueError:
        raise ShapeError(
            f"index: expected values that broadcast to {tuple(x[index].shape)}, got {tuple(y.shape)}"
        ) from None
    return z


@op(x=lambda F, g, x_shape: F.expand(g, shape=x_shape))
def sum_to(be, x, *, shape):
    """The sum of x over what broadcasting added, so that the result has this shape."""
    shape = tuple(shape)
    added = x.ndim - len(shape)
    axes = tuple(range(added)) + tuple(i + added for i, n in enumerate(shape) if n == 1 and x.shape[i + added] != 1)
    if axes == tuple(range(x.ndim - 1)) and axes and x.shape[-1] == shape[-1]:
        return be.sum_rows(x).reshape(shape)
    return x.sum(axis=axes, keepdims=True, dtype=x.dtype).reshape(shape) if axes else x.reshape(shape)


def _flat_index(be: Any, shape: tuple[int, ...], index: Any, dim: int, where: str) -> tuple[Any, ...]:
    """gather's and scatter's index as one array for each dimension."""
    integers(index, where)
    if index.ndim != len(shape):
        raise ShapeError(f"{where}: expected an index with {len(shape)} dimensions, got shape {tuple(index.shape)}")
    for i, (n, m) in enumerate(zip(index.shape, shape)):
        if i != dim and n > m:
            raise ShapeError(
                f"{where}: expected an index no longer than {shape} outside of dim {dim}, got {tuple(index.shape)}"
            )
    check_range(be, index, shape[dim], where)
    last = index.ndim - 1
    return tuple(
        index if i == dim else be.xp.arange(n).reshape((n, *(1,) * (last - i))) for i, n in enumerate(index.shape)
    )


@op(
    x=lambda F, g, index, x_shape, dim: F.scatter_add(F.new_zeros(g, shape=x_shape), index, g, dim=dim),
    names=("input", "index"),
)
def gather(be, x, index, *, dim):
    """out[i][j] = x[index[i][j]][j] for dim 0, and so on: the index picks along one dimension."""
    if not x.ndim:
        return be.xp.broadcast_to(x, index.shape).copy()
    return x[_flat_index(be, x.shape, index, _dim(dim, x.ndim, "gather"), "gather")]


@op(
    x=lambda F, g: g,
    src=lambda F, g, index, src_shape, dim: _src_grad(F, g, index, src_shape, dim),
    names=("input", "index", "src"),
)
def scatter_add(be, x, index, src, *, dim):
    """x with src added where the index says along one dimension, every occurrence counted."""
    y = be.xp.array(x)
    at = _flat_index(be, x.shape, index, _dim(dim, x.ndim, "scatter_add"), "scatter_add")
    be.add_at_(y, at, src[tuple(slice(n) for n in index.shape)])
    return y


def _src_grad(F: Any, g: Any, index: Any, src_shape: tuple[int, ...], dim: int) -> Any:
    picked = F.gather(g, index, dim=dim)
    if tuple(picked.shape) == tuple(src_shape):
        return picked
    return F.slice_put(F.new_zeros(g, shape=src_shape), picked, index=tuple(slice(n) for n in picked.shape))


@op(
    x=lambda F, g, index, dim: F.scatter(g, index, F.new_zeros(g, shape=index.shape), dim=dim),
    src=lambda F, g, index, src_shape, dim: _src_grad(F, g, index, src_shape, dim),
    names=("input", "index", "src"),
)
def scatter(be, x, index, src, *, dim):
    """x with src written where the index says along one dimension. src may be a number."""
    y = be.xp.array(x)
    at = _flat_index(be, x.shape, index, _dim(dim, x.ndim, "scatter"), "scatter")
    if hasattr(src, "dtype"):
        if src.dtype != x.dtype:
            raise DTypeError(f"scatter: expected src of dtype {dtypes.of(x.dtype)}, got {dtypes.of(src.dtype)}")
        src = src[tuple(slice(n) for n in index.shape)]
    y[at] = src
    return y


def _combine_won(F, x, index, src, out, dim):
    """Where x and src are the extreme that came out, and how many of them share a place."""
    mine, theirs = F.eq(x, out), F.eq(src, F.gather(out, index, dim=dim))
    one = F.new_zeros(out, shape=()) + 1
    mine, theirs = F.where(mine, one, 0), F.where(theirs, one, 0)
    return mine, theirs, F.scatter_add(mine, index, theirs, dim=dim)


def _combine_dx(F, g, x, index, src, out, dim, how):
    if how == "prod":
        return F.div(g * out, x)
    mine, _, count = _combine_won(F, x, index, src, out, dim)
    return F.div(g * mine, F.clamp(count, 1.0, None))


def _combine_dsrc(F, g, x, index, src, out, dim, how):
    if how == "prod":
        return F.div(F.gather(g * out, index, dim=dim), src)
    _, theirs, count = _combine_won(F, x, index, src, out, dim)
    return F.gather(F.div(g, F.clamp(count, 1.0, None)), index, dim=dim) * theirs


@op(x=_combine_dx, src=_combine_dsrc, names=("input", "index", "src"))
def scatter_combine(be, x, index, src, *, dim, how):
    """x multiplied ("prod") by src, or the greatest or least of both ("amax", "amin"), where the index says. Public as `scatter_reduce`."""
    y = be.xp.array(x)
    at = _flat_index(be, x.shape, index, _dim(dim, x.ndim, "scatter_reduce"), "scatter_reduce")
    ufunc = {"prod": be.xp.multiply, "amax": be.xp.maximum, "amin": be.xp.minimum}[how]
    ufunc.at(y, at, src[tuple(slice(n) for n in index.shape)])
    return y


def _index_select_dx(F, g, index, x_shape, dim):
    d = _dim(dim, len(x_shape), "index_select")
    return F.index_grad(g, shape=x_shape, index=(slice(None),) * d + (getattr(index, "_a", index),))


@op(x=_index_select_dx, names=("input", "index"))
def index_select(be, x, index, *, dim):
    """The slices of x along `dim` that a 1-d index names."""
    check_range(be, integers(index, "index_select"), x.shape[_dim(dim, x.ndim, "index_select")], "index_select")
    return be.xp.take(x, index, axis=dim)


def _embedding_dw(F, g, index, w_shape, padding_idx):
    i = getattr(index, "_a", index)
    dw = F.index_grad(g, shape=w_shape, index=(i,))
    if padding_idx is not None:
        dw = F.slice_put(dw, F.new_zeros(g, shape=w_shape[1:]), index=(padding_idx,))
    return dw


@op(w=_embedding_dw, names=("input", "weight"))
def embedding(be, index, w, *, padding_idx=None):
    """Rows of w (V, D) by an index of any shape (*): (*, D). The row `padding_idx` gets no gradient."""
    check_range(be, integers(index, "embedding"), w.shape[0], "embedding")
    return w[index]


def _order(xp: Any, x: Any, d: int, descending: bool) -> Any:
    """The indices that sort x along dimension d; equal elements keep their order, NaN is the greatest."""
    x = x.astype(np.float32) if x.dtype.kind == "V" else x  # NumPy would not put bfloat16's NaN last
    if descending:  # sort the reversed array and reverse what comes out
        return x.shape[d] - 1 - xp.flip(xp.argsort(xp.flip(x, d), axis=d, kind="stable"), d)
    return xp.argsort(x, axis=d, kind="stable")


@op()
def nonzero(be, x):
    """(count, ndim): the indices of the elements that are not zero."""
    if not x.ndim:
        return be.xp.zeros((int(bool(x)), 0), dtype=np.int64)
    return be.xp.stack(be.xp.nonzero(x), axis=1).astype(np.int64)


@op(
    x=lambda F, g, index, x_shape, dim: (
        F.scatter_add(F.new_zeros(g, shape=x_shape), index, g, dim=dim) if x_shape else g
    ),
    outs=("values", "index"),
)
def sort(be, x, *, dim=-1, descending=False, stable=True):
    """(values, indices) in order along one dimension. Equal elements keep their order."""
    xp = be.xp
    if not x.ndim:
        return xp.array(x), xp.zeros((), dtype=np.int64)
    d = _dim(dim, x.ndim, "sort")
    i = _order(xp, x, d, descending)
    return xp.take_along_axis(x, i, axis=d), i.astype(np.int64)


@op(
    x=lambda F, g, index, x_shape, dim: (
        F.scatter_add(F.new_zeros(g, shape=x_shape), index, g, dim=dim) if x_shape else g
    ),
    outs=("values", "index"),
)
def topk(be, x, *, k, dim=-1, largest=True, sorted=True):
    """(values, indices) of the k greatest (or least) elements along one dimension, in order."""
    xp = be.xp
    if not x.ndim:
        return xp.array(x), xp.zeros((), dtype=np.int64)
    d = _dim(dim, x.ndim, "topk")
    if not 0 <= k <= x.shape[d]:
        raise RangeError(f"topk: expected k from 0 to {x.shape[d]}, the length of dim {d}, got {k}")
    i = _order(xp, x, d, largest)[(slice(None),) * d + (slice(k),)]
    return xp.take_along_axis(x, i, axis=d), i.astype(np.int64)
