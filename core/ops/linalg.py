"""Products of matrices."""

from __future__ import annotations

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
    if not x.ndim or not y.ndim:
        raise ShapeError(f"matmul: expected operands with dimensions, got shapes {tuple(x.shape)} and {tuple(y.shape)}")
    _same_dtype(x, y, "matmul")
    if x.shape[-1] != y.shape[-2 if y.ndim > 1 else 0]:
        raise ShapeError(
            f"matmul: mat1 and mat2 shapes cannot be multiplied: expected (…, n, k) @ (…, k, m), got {tuple(x.shape)} @ {tuple(y.shape)}"
        )
    try:
        return be.matmul(x, y)
    except ValueError:
        raise ShapeError(
            f"matmul: expected leading dimensions that broadcast, got {tuple(x.shape)} @ {tuple(y.shape)}"
        ) from None


def _linear_dw(F, g, x, w_shape):
    return F.linear_weight_grad(g, _conj(F, x), w_shape=w_shape)


@op(
    g=lambda F, gg, x: F.matmul(x, _t(F, gg)),
    x=lambda F, gg, g: F.matmul(g, gg),
)
def linear_weight_grad(be, g, x, *, w_shape):
    """Σ gᵀ x over all rows, the gradient of `linear` for its weight: (*, O), (*, I) -> (O, I)"""
    o, i = w_shape
    return be.matmul(g.reshape(-1, o).T, x.reshape(-1, i))


@op(
    x=lambda F, g, w: F.matmul(g, _conj(F, w)),
    w=_linear_dw,
    b=lambda F, g, b_shape: F.sum_to(g, shape=b_shape),
    names=("input", "weight", "bias"),
)
def linear(be, x, w, b=None):
    """x wᵀ + b: (*, I), (O, I), (O) -> (*, O)"""
    if w.ndim != 2:
        raise ShapeError(f"linear: expected weight (O, I), got {tuple(w.shape)}")
    if not x.ndim or x.shape[-1] != w.shape[1]:
        raise ShapeError(
            f"linear: mat1 and mat2 shapes cannot be multiplied: expected input (…, {w.shape[1]}) for weight {tuple(w.shape)}, "
            f"got input {tuple(x.shape)}"
        )
    if b is not None and b.shape != w.shape[:1]:
        raise ShapeError(f"linear: expected bias ({w.shape[0]},) for weight {tuple(w.shape)}, got {tuple(b.shape)}")
    _same_dtype(x, w, "linear")
    return be.linear(x, w, b)
