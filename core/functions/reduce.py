"""Reductions and order, by torch's signatures: extremes, moments, norms, quantiles, unique elements, differences."""

from __future__ import annotations

import math
from collections import namedtuple
from typing import Any

from core import backend, dtypes
from core._tensor import Tensor, _dim, wrap
from core.errors import ArgumentError, DTypeError, ShapeError
from core.functions.shape import cat, flatten, narrow
from core.ops import arithmetic as _arithmetic
from core.ops import index as _index
from core.ops import order as _order
from core.ops import pointwise as _pw
from core.ops import reduce as _reduce
from core.ops import shape as _shape

ValuesIndices = namedtuple("ValuesIndices", "values indices")

# -- reductions with overloads -------------------------------------------------------------------------------------------


def _extreme(x: Tensor, args: Any, kwargs: dict[str, Any], whole: Any, along: Any, pair: Any) -> Any:
    for old, new in (("axis", "dim"), ("keepdims", "keepdim")):
        if old in kwargs:
            kwargs[new] = kwargs.pop(old)
    if not args and not kwargs:
        return whole(x)
    if (args and isinstance(args[0], Tensor)) or "other" in kwargs:
        return pair(x, args[0] if args else kwargs["other"])
    names = dict(zip(("dim", "keepdim"), args)) | kwargs
    values, indices = along(x, dim=names["dim"], keepdim=names.get("keepdim", False))
    return ValuesIndices(values, indices)


def max(x: Tensor, *args: Any, **kwargs: Any) -> Any:
    """max(x): the greatest element. max(x, dim, keepdim=False): (values, indices). max(x, y): the greater, elementwise."""
    return _extreme(x, args, kwargs, _reduce.amax, _reduce.max_dim, _pw.maximum)


def min(x: Tensor, *args: Any, **kwargs: Any) -> Any:
    """min(x): the least element. min(x, dim, keepdim=False): (values, indices). min(x, y): the lesser, elementwise."""
    return _extreme(x, args, kwargs, _reduce.amin, _reduce.min_dim, _pw.minimum)


def _correction(unbiased: Any, correction: Any) -> int:
    return int(unbiased) if unbiased is not None else 1 if correction is None else correction


def _var_args(args: Any, kwargs: dict[str, Any]) -> tuple[Any, Any, bool]:
    """torch's two signatures: (unbiased) and (dim, unbiased, keepdim), with `correction` as the newer spelling."""
    for old, new in (("axis", "dim"), ("keepdims", "keepdim")):
        if old in kwargs:
            kwargs[new] = kwargs.pop(old)
    if args and isinstance(args[0], bool):
        kwargs["unbiased"], args = args[0], ()
    names = dict(zip(("dim", "unbiased", "keepdim"), args)) | kwargs
    return names.get("dim"), _correction(names.get("unbiased"), names.get("correction")), names.get("keepdim", False)


def var(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """The variance over `dim`, divided by n − 1 (`correction`, `unbiased`)."""
    dim, correction, keepdim = _var_args(args, kwargs)
    return _reduce.var(x, dim=dim, correction=correction, keepdim=keepdim)


def std(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """The square root of the variance."""
    return _pw.sqrt(var(x, *args, **kwargs))


def norm(x: Tensor, p: Any = 2, dim: Any = None, keepdim: bool = False, out: Any = None, dtype: Any = None) -> Tensor:
    """The p-norm over `dim` (all by default): (Σ |x|ᵖ)^(1/p); p may be ±inf, 0, 1, 2, "fro"."""
    x = x if dtype is None else _pw.cast(x, dtype=dtype)
    if out is not None:
        y = norm(x, p, dim, keepdim)
        return out.resize_(y.shape).copy_(y)
    if p is None or p == "fro" or p == 2:
        return _reduce.norm2(x, dim=dim, keepdim=keepdim)
    a = _pw.abs(x)
    if p == math.inf:
        return _reduce.amax(a, dim=dim, keepdim=keepdim)
    if p == -math.inf:
        return _reduce.amin(a, dim=dim, keepdim=keepdim)
    if p == 0:
        return _pw.cast(_reduce.sum(_pw.ne(x, 0), dim=dim, keepdim=keepdim), dtype=x.dtype)
    if p == 1:
        return _reduce.sum(a, dim=dim, keepdim=keepdim)
    return _pw.pow(_reduce.sum(_pw.pow(a, p), dim=dim, keepdim=keepdim), 1.0 / p)


def sort(x: Tensor, dim: int = -1, descending: bool = False, stable: bool = False) -> Any:
    """(values, indices) in order along a dimension."""
    return ValuesIndices(*_index.sort(x, dim=dim, descending=descending))


def argsort(x: Tensor, dim: int = -1, descending: bool = False, stable: bool = False) -> Tensor:
    """The indices that sort x along a dimension."""
    return _index.sort(x, dim=dim, descending=descending)[1]


def topk(x: Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> Any:
    """(values, indices) of the k greatest or least elements along a dimension."""
    return ValuesIndices(*_index.topk(x, k=k, dim=dim, largest=largest))


def std_mean(x: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
    """(standard deviation, mean) over `dim`."""
    dim, correction, keepdim = _var_args(args, kwargs)
    deviation = _pw.sqrt(_reduce.var(x, dim=dim, correction=correction, keepdim=keepdim))
    return deviation, _reduce.mean(x, dim=dim, keepdim=keepdim)


def var_mean(x: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
    """(variance, mean) over `dim`."""
    dim, correction, keepdim = _var_args(args, kwargs)
    return _reduce.var(x, dim=dim, correction=correction, keepdim=keepdim), _reduce.mean(x, dim=dim, keepdim=keepdim)


def nansum(x: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """The sum over `dim`, NaN counted as 0."""
    return _reduce.sum(_pw.where(_pw.isnan(x), 0, x), dim=dim, keepdim=keepdim, dtype=dtype)


def nanmean(x: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """The mean over `dim` of what is not NaN."""
    n = _reduce.sum(_pw.logical_not(_pw.isnan(x)), dim=dim, keepdim=keepdim)
    return _pw.div(nansum(x, dim, keepdim, dtype=dtype), n)


def count_nonzero(x: Tensor, dim: Any = None) -> Tensor:
    """How many elements are not zero, over `dim`."""
    return _reduce.sum(_pw.ne(x, 0), dim=dim)


def aminmax(x: Tensor, *, dim: int | None = None, keepdim: bool = False) -> Any:
    """(least, greatest) over `dim`."""
    return MinMax(_reduce.amin(x, dim=dim, keepdim=keepdim), _reduce.amax(x, dim=dim, keepdim=keepdim))


MinMax = namedtuple("MinMax", "min max")


def dist(x: Tensor, other: Tensor, p: Any = 2) -> Tensor:
    """The p-norm of x − y."""
    return norm(_pw.sub(x, other), p)


def trace(x: Tensor) -> Tensor:
    """The sum of the diagonal of a matrix."""
    if x._a.ndim != 2:
        raise ShapeError(f"trace: expected a matrix, got shape {tuple(x.shape)}")
    return _reduce.sum(_shape.diagonal(x))


def renorm(x: Tensor, p: float, dim: int, maxnorm: float) -> Tensor:
    """x with each slice along `dim` whose p-norm is above `maxnorm` scaled down to it."""
    others = tuple(d for d in range(x._a.ndim) if d != _dim(dim, x._a.ndim, "renorm"))
    length = norm(x, p, others, True)
    return _pw.mul(x, _pw.where(_pw.gt(length, maxnorm), _pw.div(maxnorm, _pw.add(length, 1e-7)), 1.0))


# -- order ---------------------------------------------------------------------------------------------------------------


def msort(x: Tensor) -> Tensor:
    """In order along dimension 0."""
    return sort(x, 0)[0]


def _median(x: Tensor, args: Any, kwargs: dict[str, Any], ignore_nan: bool) -> Any:
    names = dict(zip(("dim", "keepdim"), args)) | kwargs
    if "dim" not in names:
        if not x._a.size and x.is_floating_point():
            return _reduce.sum(x) + math.nan
        return _order.median_dim(flatten(x), dim=0, ignore_nan=ignore_nan)[0]
    return ValuesIndices(*_order.median_dim(x, ignore_nan=ignore_nan, **names))


def median(x: Tensor, *args: Any, **kwargs: Any) -> Any:
    """median(x): the middle element, the lower of two. median(x, dim, keepdim=False): (values, indices)."""
    return _median(x, args, kwargs, False)


def nanmedian(x: Tensor, *args: Any, **kwargs: Any) -> Any:
    """`median` of what is not NaN."""
    return _median(x, args, kwargs, True)


_WEIGHTS = {  # how far a quantile lies between its neighbours -> where the value is taken
    "linear": lambda w: w, "lower": lambda w: w * 0, "higher": _pw.ceil, "nearest": _pw.round, "midpoint": lambda w: _pw.ceil(w) * 0.5,
}  # fmt: skip


def _quantile(x: Tensor, q: Any, dim: int | None, keepdim: bool, interpolation: str, ignore_nan: bool) -> Tensor:
    if not x.is_floating_point():
        raise DTypeError(f"quantile: expected floating numbers, got {x.dtype}; use x.float()")
    if interpolation not in _WEIGHTS:
        raise ArgumentError(f"quantile: expected interpolation {', '.join(_WEIGHTS)}, got {interpolation!r}")
    be = backend.of(x._a)
    q = q if isinstance(q, Tensor) else wrap(be.xp.asarray(q, dtype=x._a.dtype))
    if q._a.size and not (0 <= float(q._a.min()) and float(q._a.max()) <= 1):
        raise ArgumentError(f"quantile: expected q from 0 to 1, got {float(q._a.min())} to {float(q._a.max())}")
    whole = dim is None
    d = 0 if dim is None else _dim(dim, x._a.ndim, "quantile")
    rows = _shape.transpose(flatten(x) if whole else x, dim0=d, dim1=-1)
    values = sort(rows, -1)[0]
    missing = _reduce.sum(_pw.isnan(values), dim=-1, keepdim=True)  # they come last
    last = _pw.sub(values._a.shape[-1] - 1, missing) if ignore_nan else values._a.shape[-1] - 1
    place = _pw.mul(
        _shape.expand(q.reshape((1,) * (values._a.ndim - 1) + (-1,)), shape=(*values._a.shape[:-1], q._a.size)), last
    )
    low = _pw.floor(place)
    below, above = (_pw.cast(p, dtype=dtypes.int64).clamp(0) for p in (low, _pw.ceil(place)))
    weight = _WEIGHTS[interpolation](_pw.sub(place, low))
    y = _arithmetic.lerp(_index.gather(values, below, dim=-1), _index.gather(values, above, dim=-1), weight)
    unknown = _pw.eq(missing, values._a.shape[-1]) if ignore_nan else _pw.gt(missing, 0)
    y = _pw.where(unknown, math.nan, y)  # (*rows, Q)
    y = (
        _shape.transpose(y, dim0=d, dim1=-1)
        if q._a.ndim == 0
        else _shape.permute(_shape.unsqueeze(y, dim=-2), dims=(y._a.ndim, *_swapped(y._a.ndim, d)))
    )
    if whole:
        y = y.reshape((*q._a.shape, *((1,) * x._a.ndim if keepdim else ())))
    elif not keepdim:
        y = _shape.squeeze(y, dim=d + q._a.ndim)
    return y


def _swapped(ndim: int, d: int) -> list[int]:
    """The dimensions 0 … ndim−1 with d and the last exchanged."""
    order = list(range(ndim))
    order[d], order[-1] = order[-1], order[d]
    return order


def quantile(
    x: Tensor, q: Any, dim: int | None = None, keepdim: bool = False, *, interpolation: str = "linear"
) -> Tensor:
    """The q-quantiles along `dim`, or of all elements; of a vector q as a new first dimension. NaN where there is one."""
    return _quantile(x, q, dim, keepdim, interpolation, False)


def nanquantile(
    x: Tensor, q: Any, dim: int | None = None, keepdim: bool = False, *, interpolation: str = "linear"
) -> Tensor:
    """`quantile` of what is not NaN."""
    return _quantile(x, q, dim, keepdim, interpolation, True)


def _unique(f: Any, x: Tensor, return_inverse: bool, return_counts: bool, dim: int | None) -> Any:
    values, inverse, counts = f(x, dim=dim)
    if not (return_inverse or return_counts):
        return values
    return (values, *([inverse] if return_inverse else []), *([counts] if return_counts else []))


def unique(
    x: Tensor, sorted: bool = True, return_inverse: bool = False, return_counts: bool = False, dim: int | None = None
) -> Any:
    """The elements (or slices along `dim`) that occur, in order; also where each one of x is among them, and how often."""
    return _unique(_order.unique_sorted, x, return_inverse, return_counts, dim)


def unique_consecutive(
    x: Tensor, return_inverse: bool = False, return_counts: bool = False, dim: int | None = None
) -> Any:
    """x with runs of equal elements (or slices along `dim`) as one."""
    return _unique(_order.unique_runs, x, return_inverse, return_counts, dim)


def bucketize(x: Any, boundaries: Tensor, *, out_int32: bool = False, right: bool = False) -> Tensor:
    """For each element, how many boundaries lie below it; with `right` also those equal to it."""
    return _order.searchsorted(boundaries, x, right=right, out_int32=out_int32)


# -- differences and integrals -------------------------------------------------------------------------------------------


def diff(x: Tensor, n: int = 1, dim: int = -1, prepend: Any = None, append: Any = None) -> Tensor:
    """Differences of neighbours along a dimension, n times."""
    x = cat([t for t in (prepend, x, append) if t is not None], dim) if prepend is not None or append is not None else x
    for _ in range(n):
        length = x._a.shape[_dim(dim, x._a.ndim, "diff")]
        if not length:
            break
        after, before = narrow(x, dim, 1, length - 1), narrow(x, dim, 0, length - 1)
        x = _pw.bitwise_xor(after, before) if x.dtype is dtypes.bool else _pw.sub(after, before)
    return x


def _trapezoids(y: Tensor, x: Any, dx: Any, dim: int) -> Tensor:
    n = y._a.shape[_dim(dim, y._a.ndim, "trapezoid")]
    width = dx
    if x is not None:
        width = diff(x, dim=-1 if x._a.ndim == 1 else dim)
        if x._a.ndim == 1:
            width = width.reshape((-1,) + (1,) * (y._a.ndim - 1 - _dim(dim, y._a.ndim, "trapezoid")))
    return _pw.mul(_pw.mul(_pw.add(narrow(y, dim, 1, n - 1), narrow(y, dim, 0, n - 1)), 0.5), width)


def trapezoid(y: Tensor, x: Any = None, *, dx: Any = 1, dim: int = -1) -> Tensor:
    """∫ y dx along a dimension by the trapezoidal rule, at places x or `dx` apart."""
    return _reduce.sum(_trapezoids(y, x, dx, dim), dim=dim)


def cumulative_trapezoid(y: Tensor, x: Any = None, *, dx: Any = 1, dim: int = -1) -> Tensor:
    """The running integral: `trapezoid` up to each place but the first."""
    return _reduce.cumsum(_trapezoids(y, x, dx, dim), dim=dim)


# -- statistics ----------------------------------------------------------------------------------------------------------


def cov(x: Tensor, *, correction: int = 1, fweights: Any = None, aweights: Any = None) -> Tensor:
    """(variables, observations) -> the matrix of their covariances; a vector is one variable."""
    if x._a.ndim > 2:
        raise ShapeError(f"cov: expected a vector or a matrix, got shape {tuple(x.shape)}")
    rows = x.reshape(1, -1) if x._a.ndim < 2 else x
    w = fweights if aweights is None else aweights if fweights is None else _pw.mul(fweights, aweights)
    if w is None:
        centred, n = _pw.sub(rows, _reduce.mean(rows, dim=1, keepdim=True)), rows._a.shape[1] - correction
        weighted = centred
    else:
        total = _reduce.sum(w)
        centred = _pw.sub(rows, _pw.div(_reduce.sum(_pw.mul(rows, w), dim=1, keepdim=True), total))
        weighted = _pw.mul(centred, w)
        twice = (
            0 if aweights is None or not correction else _pw.div(_reduce.sum(_pw.mul(w, aweights)), total) * correction
        )
        n = total - (twice if aweights is not None else correction)
    y = _pw.div(weighted @ _pw.conj(centred).t(), n)
    return y.reshape(()) if x._a.ndim < 2 else y


def corrcoef(x: Tensor) -> Tensor:
    """(variables, observations) -> the matrix of their correlations."""
    c = cov(x)
    if not c._a.ndim:
        return _pw.div(c, c)
    deviation = _pw.sqrt(_shape.diagonal(c))
    return _pw.div(_pw.div(c, _shape.unsqueeze(deviation, dim=1)), _shape.unsqueeze(deviation, dim=0))
