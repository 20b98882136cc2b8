"""Reading and writing by indices and masks, by torch's signatures."""

from __future__ import annotations

from typing import Any

import numpy as np

from core import backend
from core._tensor import Tensor, _dim, wrap
from core.errors import ArgumentError, DTypeError, ShapeError
from core.functions.shape import broadcast_to, reshape
from core.ops import index as _index
from core.ops import pointwise as _pw
from core.ops import shape as _shape


def scatter(x: Tensor, dim: int, index: Tensor, src: Any = None, *, value: Any = None) -> Tensor:
    """x with src (a tensor or a number) written where the index says along `dim`."""
    return _index.scatter(x, index, value if src is None else src, dim=dim)


def scatter_add(x: Tensor, dim: int, index: Tensor, src: Tensor) -> Tensor:
    """x with src added where the index says along `dim`."""
    return _index.scatter_add(x, index, src, dim=dim)


def gather(x: Tensor, dim: int, index: Tensor, *, sparse_grad: bool = False) -> Tensor:
    """x picked along `dim` by an index of the result's shape."""
    return _index.gather(x, index, dim=dim)


def index_select(x: Tensor, dim: int, index: Tensor) -> Tensor:
    """The slices along `dim` that a 1-d index names; a 0-d one is an index of one element."""
    if index._a.ndim == 0:
        index = index.reshape(1)
    if x._a.ndim == 0:
        return _index.index_select(x.reshape(1), index, dim=dim).reshape(())
    return _index.index_select(x, index, dim=dim)


def where(condition: Tensor, input: Any = None, other: Any = None) -> Any:
    """`input` where the condition holds, else `other`; with the condition alone, the indices where it holds."""
    if input is None:
        return tuple(wrap(p.astype(np.int64)) for p in backend.of(condition._a).xp.nonzero(condition._a))
    return _pw.where(condition, input, other)


def nonzero(x: Tensor, *, as_tuple: bool = False) -> Any:
    """The indices of the elements that are not zero, as one matrix or as a tuple of vectors."""
    return where(_pw.ne(x, 0)) if as_tuple else _index.nonzero(x)


def argwhere(x: Tensor) -> Tensor:
    """(count, ndim): the indices of the elements that are not zero."""
    return _index.nonzero(x)


def _along(x: Tensor, dim: int, index: Tensor, where: str) -> tuple[Any, ...]:
    """The index of the slices along `dim` that a vector of indices names."""
    d = _dim(dim, x._a.ndim, where)
    if index._a.ndim > 1:
        raise ShapeError(f"{where}: expected a vector of indices, got shape {tuple(index.shape)}")
    be = backend.of(x._a)
    _index.check_range(be, _index.integers(index._a, where), x._a.shape[d] if x._a.ndim else 1, where)
    return (slice(None),) * d + (index._a.reshape(-1),)


def index_add(x: Tensor, dim: int, index: Tensor, source: Tensor, *, alpha: float = 1) -> Tensor:
    """x with alpha·source added to the slices along `dim` that the index names, every occurrence counted."""
    return _index.index_put(
        x, source if alpha == 1 else source * alpha, index=_along(x, dim, index, "index_add"), accumulate=True
    )


def index_copy(x: Tensor, dim: int, index: Tensor, source: Tensor) -> Tensor:
    """x with the slices along `dim` that the index names replaced by those of source."""
    return _index.index_put(x, source, index=_along(x, dim, index, "index_copy"))


def index_fill(x: Tensor, dim: int, index: Tensor, value: Any) -> Tensor:
    """x with the slices along `dim` that the index names filled with a number."""
    value = value if isinstance(value, Tensor) else wrap(backend.of(x._a).xp.asarray(value, dtype=x._a.dtype))
    return _index.index_put(x, value, index=_along(x, dim, index, "index_fill"))


def index_put(x: Tensor, indices: Any, values: Tensor, accumulate: bool = False) -> Tensor:
    """x with x[indices] = values, or with the values added there, every occurrence counted."""
    y = _pw.clone(x)
    if not accumulate:
        y[tuple(indices)] = values
        return y
    arrays = tuple(p for i in indices for p in (i._a.nonzero() if i._a.dtype == np.bool_ else (i._a,)))
    return _index.index_put(x, values, index=arrays, accumulate=True)


def take(x: Tensor, index: Tensor) -> Tensor:
    """The elements of x, seen as a vector, that an index of any shape names."""
    return _index.index(reshape(x, -1), index=(_index.integers(index._a, "take"),))


def put(x: Tensor, index: Tensor, source: Tensor, accumulate: bool = False) -> Tensor:
    """x with the elements that the index names, x seen as a vector, replaced by those of source, or source added to them."""
    y = _index.index_put(reshape(x, -1), reshape(source, -1), index=(reshape(index, -1)._a,), accumulate=accumulate)
    return reshape(y, x._a.shape)


def take_along_dim(x: Tensor, indices: Tensor, dim: int | None = None) -> Tensor:
    """`gather` with an index that broadcasts; without `dim`, x and the index are vectors."""
    if dim is None:
        return _index.gather(reshape(x, -1), reshape(indices, -1), dim=0)
    d = _dim(dim, x._a.ndim, "take_along_dim")
    shape = np.broadcast_shapes(*(t._a.shape[:d] + (1,) + t._a.shape[d + 1 :] for t in (x, indices)))
    x, indices = (broadcast_to(t, (*shape[:d], t._a.shape[d], *shape[d + 1 :])) for t in (x, indices))
    return _index.gather(x, indices, dim=d)


def masked_select(x: Tensor, mask: Tensor) -> Tensor:
    """The elements of x where the mask, which broadcasts, is true: a vector."""
    if mask._a.dtype != np.bool_:
        raise DTypeError(f"masked_select: expected a bool mask, got {mask.dtype}; use mask.bool()")
    shape = np.broadcast_shapes(x._a.shape, mask._a.shape)
    at = broadcast_to(mask, shape)._a.reshape(-1).nonzero()
    return _index.index(reshape(broadcast_to(x, shape), -1), index=tuple(at))


def masked_scatter(x: Tensor, mask: Tensor, source: Tensor) -> Tensor:
    """x with the elements where the mask is true replaced by those of source, in order."""
    at = broadcast_to(mask, x._a.shape)._a.reshape(-1).nonzero()
    n = int(at[0].size)
    if n > source._a.size:
        raise ShapeError(
            f"masked_scatter: expected at least {n} elements in source, one for each true, got {source._a.size}"
        )
    y = _index.index_put(reshape(x, -1), _shape.narrow(reshape(source, -1), dim=0, start=0, length=n), index=tuple(at))
    return reshape(y, x._a.shape)


def scatter_reduce(
    x: Tensor, dim: int, index: Tensor, src: Tensor, reduce: str, *, include_self: bool = True
) -> Tensor:
    """x with src combined into it where the index says: "sum", "prod", "mean", "amax" or "amin". Without `include_self`
    the elements that src reaches start from nothing."""
    start = {"sum": 0, "mean": 0, "prod": 1, "amax": -np.inf, "amin": np.inf}
    if reduce not in start:
        raise ArgumentError(f"scatter_reduce: expected reduce {', '.join(start)}, got {reduce!r}")
    if not include_self:
        first = start[reduce]
        if first in (np.inf, -np.inf) and not x.is_floating_point():
            first = (np.iinfo(x._a.dtype).max, np.iinfo(x._a.dtype).min)[first < 0]
        x = _index.scatter(x, index, first, dim=dim)
    if reduce in ("sum", "mean"):
        y = _index.scatter_add(x, index, src, dim=dim)
        if reduce == "sum":
            return y
        be = backend.of(x._a)
        ones, count = (
            wrap(f(s._a.shape, dtype=np.int64))
            for f, s in ((be.xp.ones, src), (be.xp.ones if include_self else be.xp.zeros, x))
        )
        n = _pw.clamp(_index.scatter_add(count, index, ones, dim=dim), 1)
        return _pw.div(y, n, rounding_mode=None if x.is_floating_point() else "floor")
    return _index.scatter_combine(x, index, src, dim=dim, how=reduce)
