"""Factors that LAPACK keeps in one matrix: LU with row exchanges, and Householder reflections. They are computed on the host.

Gradient of LU: de Hoog, Anderssen & Lukas, Differentiation of matrix functionals using triangular factorization, 2011.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from core.ops.decompose import _lapack, _matrices
from core.ops.linalg import _t
from core.ops.op import op


def _eliminated(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(L and U in one matrix, pivots, order of rows) by Gaussian elimination, the greatest element of a column as pivot."""
    m, n = x.shape[-2:]
    a = x.reshape(-1, m, n).copy()
    b, k = len(a), min(m, n)
    each = np.arange(b)
    pivots = np.zeros((b, k), np.int32)
    order = np.broadcast_to(np.arange(m), (b, m)).copy()
    for j in range(k):
        column = a[:, j:, j]
        at = j + (np.abs(column.real) + np.abs(column.imag)).argmax(axis=1)  # as LAPACK weighs complex numbers
        pivots[:, j] = at + 1  # counted from 1, as LAPACK does
        for y in (a, order):
            y[each, at], y[:, j] = y[:, j].copy(), y[each, at].copy()
        pivot = a[:, j, j]
        a[:, j + 1 :, j] /= np.where(pivot == 0, 1, pivot)[:, None]
        a[:, j + 1 :, j + 1 :] -= a[:, j + 1 :, j, None] * a[:, j, None, j + 1 :]
    lead = x.shape[:-2]
    return a.reshape(x.shape), pivots.reshape(*lead, k), order.reshape(*lead, m)


def _lu_dx(F, g, lu, order, x_shape):
    # P is taken off first: its rows are in `order`
    g = g[0] if isinstance(g, list) else g
    m, n = x_shape[-2:]
    k = min(m, n)
    square, gs = F.slice_view(lu, index=(..., slice(k), slice(k))), F.slice_view(g, index=(..., slice(k), slice(k)))
    lh, uh = _t(F, F.tril(square, diagonal=-1)), _t(F, F.triu(square))
    eye = F.diagonal_put(square * 0, F.diagonal(square, dim1=-2, dim2=-1) * 0 + 1, dim1=-2, dim2=-1)
    lower = F.matmul(lh + eye, F.tril(gs, diagonal=-1))
    upper = F.matmul(F.triu(gs), uh)
    rest = None
    if m > k:
        below, gb = F.slice_view(lu, index=(..., slice(k, None), slice(None))), F.slice_view(
            g, index=(..., slice(k, None), slice(None))
        )  # fmt: skip
        upper = upper - F.matmul(_t(F, below), gb)
        rest = _t(F, F.triangular_solve_left(F.triu(square), _t(F, gb), upper=True))
    elif n > k:
        beside, gb = F.slice_view(lu, index=(..., slice(None), slice(k, None))), F.slice_view(
            g, index=(..., slice(None), slice(k, None))
        )  # fmt: skip
        lower = lower - F.matmul(gb, _t(F, beside))
        rest = F.triangular_solve_left(lh, gb, upper=True, unitriangular=True)
    middle = F.tril(lower, diagonal=-1) + F.triu(upper)
    y = F.triangular_solve_left(lh, middle, upper=True, unitriangular=True)
    dx = _t(F, F.triangular_solve_left(F.triu(square), _t(F, y), upper=True))
    if rest is not None:
        dx = F.cat([dx, rest], dim=-2 if m > k else -1)
    index = F.expand(F.unsqueeze(order, dim=-1), shape=x_shape)
    return F.scatter(dx * 0, index, dx, dim=-2)


@op(x=_lu_dx, outs=("lu", "pivots"), aux=("order",))
def lu(be, x):
    """(*, m, n) -> L (below the diagonal; 1 on it) and U in one matrix (*, m, n), and the rows exchanged in each step, counted
    from 1, int32 (*, min(m, n)). Public as `linalg.lu_factor`."""
    _matrices(x, "lu")
    return _lapack(be, "lu", _eliminated, x)


@op(outs=("a", "tau"))
def geqrf(be, x):
    """(R above the diagonal and reflections below it, their factors): QR as LAPACK keeps it. `householder_product` makes Q."""
    _matrices(x, "geqrf")

    def f(x: Any) -> Any:
        h, tau = np.linalg.qr(x, "raw")
        return np.ascontiguousarray(h.swapaxes(-1, -2)).astype(x.dtype), tau.astype(x.dtype)

    return _lapack(be, "geqrf", f, x)
