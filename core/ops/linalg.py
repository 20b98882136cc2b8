"""Products of matrices."""

from __future__ import annotations

import math
from typing import Any

from core import dtypes
from core.errors import DTypeError, ShapeError
from core.ops.op import op
from core.ops.pointwise import _conj


def _same_dtype(x: Any, y: Any, where: str) -> None:
    if x.dtype != y.dtype:
        raise DTypeError(
            f"{where}: expected m1 and m2 to have the same dtype, got {dtypes.of(x.dtype)} and {dtypes.of(y.dtype)}; convert one of them"
        )


def _t(F: Any, x: Any) -> Any:
    """The transpose of the last two dimensions, conjugated if complex."""
    return _conj(F, F.transpose(x, dim0=-2, dim1=-1))


def _matmul_dx(F, g, y, x_shape):
    if len(x_shape) == 1 and y.ndim == 1:
        return F.mul(g, _conj(F, y))
    if y.ndim == 1:  # (*, n, k) @ (k) -> (*, n)
        return F.mul(F.unsqueeze(g, dim=-1), _conj(F, y))
    if len(x_shape) == 1:  # (k) @ (*, k, m) -> (*, m)
        return F.sum_to(F.sum(F.mul(F.unsqueeze(g, dim=-2), _conj(F, y)), dim=-1), shape=x_shape)
    return F.sum_to(F.matmul(g, _t(F, y)), shape=x_shape)


def _matmul_dy(F, g, x, y_shape):
    if len(y_shape) == 1 and x.ndim == 1:
        return F.mul(g, _conj(F, x))
    if len(y_shape) == 1:
        return F.sum_to(F.sum(F.mul(F.unsqueeze(g, dim=-1), _conj(F, x)), dim=tuple(range(x.ndim - 1))), shape=y_shape)
    if x.ndim == 1:
        return F.sum_to(F.mul(F.unsqueeze(g, dim=-2), F.unsqueeze(_conj(F, x), dim=-1)), shape=y_shape)
    if x.ndim > 2 and len(y_shape) == 2:  # one product over all rows rather than one for each matrix and a sum
        k, m = y_shape
        return F.matmul(_t(F, F.reshape(x, shape=(-1, k))), F.reshape(g, shape=(-1, m)))
    return F.sum_to(F.matmul(_t(F, x), g), shape=y_shape)


@op(x=_matmul_dx, y=_matmul_dy)
def matmul(be, x, y):
    """(*, n, k) @ (*, k, m) -> (*, n, m); leading dimensions broadcast; a 1-d operand is a row or a column, dropped after."""
    xs, ys = x.shape, y.shape
    if not xs or not ys:
        raise ShapeError(f"matmul: expected operands with dimensions, got shapes {tuple(xs)} and {tuple(ys)}")
    if x.dtype is not y.dtype:
        _same_dtype(x, y, "matmul")
    if xs[-1] != ys[-2 if len(ys) > 1 else 0]:
        raise ShapeError(
            f"matmul: mat1 and mat2 shapes cannot be multiplied: expected (…, n, k) @ (…, k, m), got {tuple(xs)} @ {tuple(ys)}"
        )
    try:
        return be.matmul(x, y)
    except ValueError:
        raise ShapeError(
            f"matmul: expected leading dimensions that broadcast, got {tuple(x.shape)} @ {tuple(y.shape)}"
        ) from None


def _as_rows(x):
    """(*, n) -> (m, n)"""
    return x if x.ndim == 2 else x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


@op(
    g=lambda F, gg, x: F.matmul(x, _t(F, gg)),
    x=lambda F, gg, g: F.matmul(g, gg),
)
def linear_weight_grad(be, g, x, *, out=None):
    """Σ gᵀ x over all rows, the gradient of `linear` for its weight: (*, O), (*, I) -> (O, I). `out`: room for it."""
    g, x = _as_rows(g), _as_rows(x)
    fits = out is not None and g.dtype == x.dtype == out.dtype
    return be.matmul(g.T, x, out if fits else None)


def linear_grads(be, g, wanted, x, w, w_home):
    """What the rules of `linear` give."""
    if g.ndim < 2 or g.dtype.kind == "c":
        return None
    of_x, of_w, of_b = wanted
    dx = be.matmul(g, w) if of_x else None
    g = _as_rows(g)
    dw = linear_weight_grad.forward(be, g, x, out=w_home) if of_w else None
    return [dx, dw, be.sum_rows(g) if of_b else None]


@op(
    x=lambda F, g, w: F.matmul(g, _conj(F, w)),
    w=lambda F, g, x, w_home: F.linear_weight_grad(g, _conj(F, x), out=w_home),
    b=lambda F, g, b_shape: F.sum_to(g, shape=b_shape),
    whole=linear_grads,
    names=("input", "weight", "bias"),
)
def linear(be, x, w, b=None):
    """x wᵀ + b: (*, I), (O, I), (O) -> (*, O)"""
    check_linear(x, w, b)
    return be.linear(x, w, b)


def check_linear(x: Any, w: Any, b: Any) -> None:
    shape = w.shape
    if len(shape) != 2:
        raise ShapeError(f"linear: expected weight (O, I), got {tuple(shape)}")
    if x.shape[-1:] != shape[1:]:
        raise ShapeError(
            f"linear: mat1 and mat2 shapes cannot be multiplied: expected input (…, {shape[1]}) for weight {tuple(shape)}, "
            f"got input {tuple(x.shape)}"
        )
    if b is not None and b.shape != shape[:1]:
        raise ShapeError(f"linear: expected bias ({shape[0]},) for weight {tuple(shape)}, got {tuple(b.shape)}")
    if x.dtype is not w.dtype:
        _same_dtype(x, w, "linear")
