"""Reductions and scans over dimensions."""

from __future__ import annotations

import builtins
from typing import Any

import numpy as np

from core import dtypes
from core._tensor import _dim
from core.errors import ArgumentError, ShapeError
from core.ops.op import op
from core.ops.pointwise import floating, ordered

Dim = Any  # None, an int or a sequence of ints


class EmptyError(ShapeError, IndexError):
    """An extreme of nothing."""


def dims_of(dim: Dim, ndim: int, where: str) -> tuple[int, ...]:
    """The dimensions that a reduction runs over, counted from the front; None, () and [] are all of them."""
    if dim is None or (type(dim) in (tuple, list) and not dim):
        return tuple(range(ndim))
    if not isinstance(dim, (tuple, list)):
        d = _dim(int(dim), ndim, where)
        return (d,) if ndim else ()
    dims = tuple(_dim(int(d), ndim, where) for d in dim)
    if len(set(dims)) != len(dims):
        raise ArgumentError(f"{where}: expected each dimension once, got {tuple(dim)}")
    return dims if ndim else ()


def _kept(F: Any, g: Any, x_shape: tuple[int, ...], dim: Dim, keepdim: bool) -> Any:
    """g with the reduced dimensions back, as 1, so that it broadcasts against x."""
    if keepdim or not x_shape:
        return g
    dims = dims_of(dim, len(x_shape), "reduce")
    return F.reshape(g, shape=tuple(1 if i in dims else n for i, n in enumerate(x_shape)))


def _spread(F: Any, g: Any, x_shape: tuple[int, ...], dim: Dim, keepdim: bool) -> Any:
    return F.expand(_kept(F, g, x_shape, dim, keepdim), shape=x_shape)


def _count(shape: tuple[int, ...], dim: Dim) -> int:
    n = 1
    for d in dims_of(dim, len(shape), "reduce"):
        n *= shape[d]
    return n


def _accumulator(x: Any, dtype: Any) -> Any:
    """Sums of small integers and booleans are int64, as in torch."""
    if dtype is not None:
        return dtypes.as_numpy(dtype)
    return np.dtype(np.int64) if dtypes.category(x.dtype) < dtypes.FLOATING else x.dtype


@op(x=lambda F, g, x_shape, dim, keepdim: _spread(F, g, x_shape, dim, keepdim))
def sum(be, x, *, dim=None, keepdim=False, dtype=None):
    """The sum over `dim` (an int, several, or all). bfloat16 and float16 are accumulated in float32."""
    d = _accumulator(x, dtype)
    wide = np.dtype(np.float32) if d.itemsize == 2 and dtypes.category(d) == dtypes.FLOATING else d
    y = x.sum(axis=dims_of(dim, x.ndim, "sum"), keepdims=keepdim, dtype=wide)
    return y.astype(d, copy=False) if wide is not d else y


@op(x=lambda F, g, x_shape, dim, keepdim: F.div(_spread(F, g, x_shape, dim, keepdim), _count(x_shape, dim)))
def mean(be, x, *, dim=None, keepdim=False, dtype=None):
    """The mean over `dim` (an int, several, or all)."""
    d = x.dtype if dtype is None else dtypes.as_numpy(dtype)
    if dtypes.category(d) < dtypes.FLOATING:
        raise ArgumentError(f"mean: expected a floating or complex dtype, got {dtypes.of(d)}; use x.float().mean()")
    wide = np.dtype(np.float32) if d.itemsize == 2 else d
    y = x.sum(axis=dims_of(dim, x.ndim, "mean"), keepdims=keepdim, dtype=wide)
    n = x.size // y.size if x.size else _count(x.shape, dim)
    if n and d.kind == "f":
        return y / n if wide is d else (y / n).astype(d)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (y / n if n else y * np.nan).astype(d, copy=False)


def _before(F, x):
    """The product of all elements before each one, along the last dimension; exact where there are zeros."""
    n = x.shape[-1]
    return F.cumprod(F.cat([x[..., :1] * 0 + 1, x[..., : n - 1]], dim=-1), dim=-1) if n else x


def _prod_dx(F, g, x, x_shape, dim, keepdim):
    # the product of the others: everything before each element times everything after it
    dims = dims_of(dim, len(x_shape), "prod")
    order = (*(i for i in range(len(x_shape)) if i not in dims), *dims)
    rows = F.reshape(
        F.permute(x, dims=order), shape=(*(x_shape[i] for i in order[: len(order) - len(dims)]), _count(x_shape, dim))
    )
    after = F.flip(_before(F, F.flip(rows, dims=(-1,))), dims=(-1,))
    others = F.reshape(_before(F, rows) * after, shape=tuple(x_shape[i] for i in order))
    return _kept(F, g, x_shape, dim, keepdim) * F.permute(others, dims=tuple(np.argsort(order).tolist()))


@op(x=_prod_dx)
def prod(be, x, *, dim=None, keepdim=False, dtype=None):
    """The product over `dim` (an int or all)."""
    return be.as_array(x.prod(axis=dims_of(dim, x.ndim, "prod"), keepdims=keepdim, dtype=_accumulator(x, dtype)))


def _extreme_dx(F, g, x, out, x_shape, dim, keepdim):
    # equal extremes share the gradient evenly, as torch's amax, amin and the full max and min do
    won = F.eq(x, _kept(F, out, x_shape, dim, keepdim))
    share = F.div(won, F.sum(won, dim=dim, keepdim=True))
    return _kept(F, g, x_shape, dim, keepdim) * F.cast(share, dtype=_dtype(x))


def _dtype(x: Any) -> dtypes.dtype:
    return x.dtype if isinstance(x.dtype, dtypes.dtype) else dtypes.of(x.dtype)


def _not_empty(x: Any, dim: Dim, where: str) -> tuple[int, ...]:
    ordered(x, where)
    dims = dims_of(dim, x.ndim, where)
    if builtins.any(x.shape[d] == 0 for d in dims):
        raise EmptyError(f"{where}: expected reduction dims with elements, got shape {tuple(x.shape)}")
    return dims


@op(x=_extreme_dx)
def amax(be, x, *, dim=None, keepdim=False):
    """The greatest element over `dim`."""
    return x.max(axis=_not_empty(x, dim, "amax"), keepdims=keepdim)


@op(x=_extreme_dx)
def amin(be, x, *, dim=None, keepdim=False):
    """The least element over `dim`."""
    return x.min(axis=_not_empty(x, dim, "amin"), keepdims=keepdim)


def _taken_dx(F, g, index, x_shape, dim, keepdim):
    d = _dim(dim, len(x_shape), "reduce")
    if not x_shape:
        return g
    if not keepdim:
        g, index = F.unsqueeze(g, dim=d), F.unsqueeze(index, dim=d)
    return F.scatter_add(F.new_zeros(g, shape=x_shape), index, g, dim=d)


def _extreme_index(be: Any, x: Any, dim: int, keepdim: bool, which: str) -> tuple[Any, Any]:
    xp = be.xp
    if not x.ndim:
        return xp.array(x), xp.zeros((), dtype=np.int64)
    d = _not_empty(x, dim, which[3:])[0]
    index = getattr(xp, which)(x, axis=d, keepdims=True)
    y = getattr(x, which[3:])(axis=d, keepdims=True)
    return (y, index) if keepdim else (y.squeeze(d), index.squeeze(d))


@op(x=_taken_dx, outs=("values", "index"))
def max_dim(be, x, *, dim, keepdim=False):
    """(values, indices) of the greatest elements along one dimension."""
    return _extreme_index(be, x, dim, keepdim, "argmax")


@op(x=_taken_dx, outs=("values", "index"))
def min_dim(be, x, *, dim, keepdim=False):
    """(values, indices) of the least elements along one dimension."""
    return _extreme_index(be, x, dim, keepdim, "argmin")


def _arg(be: Any, x: Any, dim: int | None, keepdim: bool, which: str) -> Any:
    xp = be.xp
    _not_empty(x, dim, which)
    if dim is None:
        i = xp.asarray(getattr(xp, which)(x), dtype=np.int64)
        return i.reshape((1,) * x.ndim) if keepdim else i
    if not x.ndim:
        return xp.zeros((), dtype=np.int64)
    return xp.asarray(getattr(xp, which)(x, axis=_dim(dim, x.ndim, which), keepdims=keepdim), dtype=np.int64)


@op()
def argmax(be, x, *, dim=None, keepdim=False):
    """Index of the greatest element, along `dim` or of the flat tensor."""
    return _arg(be, x, dim, keepdim, "argmax")


@op()
def argmin(be, x, *, dim=None, keepdim=False):
    """Index of the least element, along `dim` or of the flat tensor."""
    return _arg(be, x, dim, keepdim, "argmin")


def _truth(x: Any, y: Any) -> Any:
    return y.astype(np.uint8) if x.dtype == np.uint8 else y  # torch's old masks stay what they are


@op()
def any(be, x, *, dim=None, keepdim=False):
    """Whether any element is true."""
    return _truth(x, be.xp.any(x, axis=dims_of(dim, x.ndim, "any"), keepdims=keepdim))


@op()
def all(be, x, *, dim=None, keepdim=False):
    """Whether all elements are true."""
    return _truth(x, be.xp.all(x, axis=dims_of(dim, x.ndim, "all"), keepdims=keepdim))


def _var_dx(F, g, x, x_shape, dim, correction, keepdim):
    n = _count(x_shape, dim)
    centred = x - F.mean(x, dim=dim, keepdim=True)
    return _kept(F, g, x_shape, dim, keepdim) * centred * (2.0 / (n - correction) if n != correction else float("nan"))


@op(x=_var_dx)
def var(be, x, *, dim=None, correction=1, keepdim=False):
    """The variance over `dim`; the sum of squares is divided by n − correction."""
    x, d = floating(be, x), x.dtype
    if x.dtype.itemsize == 2:
        x = x.astype(np.float32)
    with np.errstate(invalid="ignore", divide="ignore"):
        n = _count(x.shape, dim)
        axis = dims_of(dim, x.ndim, "var")
        centred = x - x.sum(axis=axis, keepdims=True) / n if n else x
        n -= correction
        squares = centred * centred if x.dtype.kind != "c" else centred.real**2 + centred.imag**2
        total = squares.sum(axis=axis, keepdims=keepdim)
        y = total / n if n > 0 else total * np.nan
    return y.astype(d) if d.itemsize == 2 and dtypes.category(d) == dtypes.FLOATING else y


def _norm2_dx(F, g, x, out, x_shape, dim, keepdim):
    # x/‖x‖, and 0 at the origin, where any vector of length ≤ 1 would do
    out = _kept(F, out, x_shape, dim, keepdim)
    return F.div(_kept(F, g, x_shape, dim, keepdim) * x, F.where(F.eq(out, 0), 1, out))


@op(x=_norm2_dx)
def norm2(be, x, *, dim=None, keepdim=False):
    """The Euclidean norm √Σ|x|² over `dim`. Public as `norm`."""
    if dtypes.category(x.dtype) < dtypes.FLOATING:
        raise ArgumentError(
            f"norm: expected a floating or complex dtype, got {dtypes.of(x.dtype)}; use x.float().norm()"
        )
    squares = be.xp.multiply(x, x) if x.dtype.kind != "c" else x.real * x.real + x.imag * x.imag
    return be.xp.sqrt(squares.sum(axis=dims_of(dim, x.ndim, "norm"), keepdims=keepdim))


@op(
    x=lambda F, g, x, out, x_shape, dim, keepdim: (
        _kept(F, g, x_shape, dim, keepdim) * F.exp(x - _kept(F, out, x_shape, dim, keepdim))
    )
)
def logsumexp(be, x, *, dim, keepdim=False):
    """ln Σ eˣ over `dim`, without overflow."""
    xp, x = be.xp, floating(be, x)
    axis = dims_of(dim, x.ndim, "logsumexp")
    m = x.max(axis=axis, keepdims=True, initial=-np.inf) if x.dtype.kind == "f" else x.max(axis=axis, keepdims=True)
    m = xp.where(xp.isfinite(m), m, 0)
    with np.errstate(divide="ignore"):
        y = xp.log(xp.exp(x - m).sum(axis=axis, keepdims=True)) + m
    return y if keepdim else y.reshape(tuple(n for i, n in enumerate(x.shape) if i not in axis))


def _cumsum_dx(F, g, x_shape, dim):
    return F.flip(F.cumsum(F.flip(g, dims=(dim,)), dim=dim), dims=(dim,)) if x_shape else g


@op(x=_cumsum_dx)
def cumsum(be, x, *, dim, dtype=None):
    """Running sums along one dimension."""
    if not x.ndim:
        return be.xp.array(x, dtype=_accumulator(x, dtype))
    return be.xp.cumsum(x, axis=_dim(dim, x.ndim, "cumsum"), dtype=_accumulator(x, dtype))


def _cumprod_dx(F, g, x, x_shape, dim):
    # dxₖ = (∏_{i<k} xᵢ)·sₖ with sₖ = gₖ + xₖ₊₁·sₖ₊₁; no division, so zeros are no exception
    if not x_shape:
        return g
    last = len(x_shape) - 1
    dim = _dim(dim, len(x_shape), "cumprod")
    g, x = F.transpose(g, dim0=dim, dim1=last), F.transpose(x, dim0=dim, dim1=last)
    n = x_shape[dim]
    s = [g[..., n - 1]]
    for k in range(n - 2, -1, -1):
        s.append(g[..., k] + x[..., k + 1] * s[-1])
    return F.transpose(_before(F, x) * F.stack(s[::-1], dim=last), dim0=dim, dim1=last)


@op(x=_cumprod_dx)
def cumprod(be, x, *, dim, dtype=None):
    """Running products along one dimension."""
    if not x.ndim:
        return be.xp.array(x, dtype=_accumulator(x, dtype))
    return be.xp.cumprod(x, axis=_dim(dim, x.ndim, "cumprod"), dtype=_accumulator(x, dtype))
