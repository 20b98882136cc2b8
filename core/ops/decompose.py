"""Decompositions and inverses of matrices, in batches (*, n, n). LAPACK computes them by NumPy on the host: matrices of a device
travel there.

Gradients: Giles, Collected matrix derivative results, 2008 (inverse, solve, determinant); Murray, Differentiation of the Cholesky
decomposition, 2016; Walter & Lehmann, Algorithmic differentiation of QR, 2010; Townsend, Differentiating the SVD, 2016; Boeddeker et
al., On
the computation of complex-valued gradients, 2017 (eig); Golub & Pereyra, Differentiation of pseudo-inverses, 1973.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from core import dtypes
from core.errors import ArgumentError, DTypeError, ShapeError
from core.ops.linalg import _same_dtype, _t
from core.ops.op import op


class SingularError(ArgumentError, np.linalg.LinAlgError, RuntimeError):
    """A matrix that has no inverse, is not positive definite, or whose iteration does not converge."""


def _lapack(be: Any, where: str, f: Any, *arrays: Any) -> Any:
    """f of host arrays, its results back where the arrays were."""
    for a in arrays:
        if a.dtype.kind not in "fc" or a.dtype.itemsize == 2:
            raise DTypeError(
                f"{where}: expected float32, float64 or complex numbers, got {dtypes.of(a.dtype)}; convert it first"
            )
    try:
        y = f(*map(be.to_numpy, arrays))
    except np.linalg.LinAlgError as error:
        raise SingularError(
            f"{where}: {error}: expected a matrix of full rank (cholesky: positive definite), got one that is not"
        ) from None
    index = be.index_of(arrays[0])
    if isinstance(y, tuple):
        return tuple(be.from_numpy(np.asarray(part), index) for part in y)
    return be.from_numpy(np.asarray(y), index)


def _square(x: Any, where: str) -> None:
    if x.ndim < 2 or x.shape[-1] != x.shape[-2]:
        raise ShapeError(f"{where}: expected square matrices (*, n, n), got shape {tuple(x.shape)}")


def _matrices(x: Any, where: str) -> None:
    if x.ndim < 2:
        raise ShapeError(f"{where}: expected matrices (*, m, n), got shape {tuple(x.shape)}")


def _diag(F, v):
    """(*, n) -> (*, n, n)"""
    return F.diagonal_put(F.new_zeros(v, shape=(*v.shape, v.shape[-1])), v, dim1=-2, dim2=-1)


def _real(F, x):
    return F.real_part(x) if getattr(x, "_a", x).dtype.kind == "c" else x


# -- inverses --------------------------------------------------------------------------------------------------------------------


@op(x=lambda F, g, out: F.matmul(F.matmul(_t(F, out), g), _t(F, out)) * -1)
def inv(be, x):
    """A⁻¹"""
    _square(x, "inv")
    return _lapack(be, "inv", np.linalg.inv, x)


def _solve_db(F, g, a, b_shape):
    return F.sum_to(F.solve(_t(F, a), g), shape=b_shape)


def _solve_da(F, g, a, out, a_shape):
    return F.sum_to(F.matmul(F.solve(_t(F, a), g), _t(F, out)) * -1, shape=a_shape)


@op(a=_solve_da, b=_solve_db, names=("A", "B"))
def solve(be, a, b):
    """X with A X = B: (*, n, n), (*, n, k) -> (*, n, k)"""
    _square(a, "solve")
    _same_dtype(a, b, "solve")
    return _lapack(be, "solve", np.linalg.solve, a, b)


def _triangle(F, a, upper, unitriangular):
    if unitriangular:
        return F.triu(a, diagonal=1) if upper else F.tril(a, diagonal=-1)
    return F.triu(a) if upper else F.tril(a)


def _triangular_db(F, g, a, b_shape, upper, unitriangular):
    return F.sum_to(F.triangular_solve_left(_t(F, a), g, upper=not upper, unitriangular=unitriangular), shape=b_shape)


def _triangular_da(F, g, a, out, a_shape, upper, unitriangular):
    z = F.triangular_solve_left(_t(F, a), g, upper=not upper, unitriangular=unitriangular)
    return F.sum_to(_triangle(F, F.matmul(z, _t(F, out)) * -1, upper, unitriangular), shape=a_shape)


@op(a=_triangular_da, b=_triangular_db, names=("A", "B"))
def triangular_solve_left(be, a, b, *, upper, unitriangular=False):
    """X with A X = B, reading one triangle of A. Public as `linalg.solve_triangular`."""
    _square(a, "solve_triangular")
    _same_dtype(a, b, "solve_triangular")

    def f(a: Any, b: Any) -> Any:
        t = np.triu(a) if upper else np.tril(a)
        if unitriangular:
            t = t - t * np.eye(t.shape[-1], dtype=t.dtype) + np.eye(t.shape[-1], dtype=t.dtype)
        return np.linalg.solve(t, b)

    return _lapack(be, "solve_triangular", f, a, b)


def _pinv_dx(F, g, x, out, x_shape):
    p, ph, gh = out, _t(F, out), _t(F, g)
    if x_shape[-2] <= x_shape[-1]:
        k = F.matmul(gh, p)
        kph = F.matmul(k, ph)
        rest = F.matmul(F.matmul(ph, p), gh - F.matmul(k, x))
        return kph - _t(F, F.matmul(p, k)) - F.matmul(F.matmul(x, p), kph) + rest
    k = F.matmul(p, gh)
    phk = F.matmul(ph, k)
    rest = F.matmul(F.matmul(gh - F.matmul(x, k), p), ph)
    return phk - _t(F, F.matmul(k, p)) + rest - F.matmul(F.matmul(phk, p), x)


@op(x=_pinv_dx)
def pinv(be, x, *, rcond=None):
    """The Moore–Penrose inverse; singular values up to rcond·(the greatest) count as zero."""
    _matrices(x, "pinv")
    if rcond is None:
        rcond = max(x.shape[-2:]) * np.finfo(x.dtype).eps if x.dtype.kind in "fc" and x.dtype.itemsize > 2 else 0.0
    return _lapack(be, "pinv", lambda x: np.linalg.pinv(x, rcond), x)


# -- determinants ----------------------------------------------------------------------------------------------------------------


def _spread(F, g):
    return F.unsqueeze(F.unsqueeze(g, dim=-1), dim=-1)


@op(x=lambda F, g, x, out: _spread(F, g * F.conj(out)) * _t(F, F.inv(x)))
def det(be, x):
    """The determinant. Its gradient needs an inverse."""
    _square(x, "det")
    return _lapack(be, "det", np.linalg.det, x)


def _slogdet_dx(F, g, x):
    return _spread(F, g[1] if isinstance(g, list) else g) * _t(F, F.inv(x))


@op(x=_slogdet_dx, outs=("sign", "logabsdet"))
def slogdet(be, x):
    """(sign, ln |det|)"""
    _square(x, "slogdet")
    return _lapack(be, "slogdet", lambda x: tuple(np.linalg.slogdet(x)), x)


# -- factors ---------------------------------------------------------------------------------------------------------------------


def _cholesky_dx(F, g, out, upper):
    low, g = (_t(F, out), _t(F, g)) if upper else (out, g)
    p = F.matmul(_t(F, low), g)
    p = (F.tril(p) + F.tril(p, diagonal=-1)) * 0.5
    s = _t(F, F.solve(_t(F, low), _t(F, F.solve(_t(F, low), p))))
    return (s + _t(F, s)) * 0.5


@op(x=_cholesky_dx)
def cholesky(be, x, *, upper=False):
    """L with L Lᴴ = A, lower triangular; or U = Lᴴ. Reads one triangle of A."""
    _square(x, "cholesky")
    y = _lapack(be, "cholesky", lambda x: np.linalg.cholesky(np.swapaxes(x, -1, -2).conj() if upper else x), x)
    return be.xp.conj(be.xp.swapaxes(y, -1, -2)) if upper else y


def _qr_dx(F, g, x, q, r, x_shape):
    m, n = x_shape[-2:]
    gq, gr = g
    if m >= n:
        return _tall_qr_dx(F, gq, gr, q, r)
    # A = [X Y], R = [U V] with V = Qᴴ Y
    gu, gv, u, y = gr[..., :m], gr[..., m:], r[..., :m], x[..., m:]
    return F.cat([_tall_qr_dx(F, gq + F.matmul(y, _t(F, gv)), gu, q, u), F.matmul(q, gv)], dim=-1)


def _tall_qr_dx(F, gq, gr, q, r):
    middle = F.matmul(r, _t(F, gr)) - F.matmul(_t(F, gq), q)
    middle = F.tril(middle) + _t(F, F.tril(middle, diagonal=-1))
    return _t(F, F.solve(r, _t(F, gq + F.matmul(q, middle))))


@op(x=_qr_dx, outs=("q", "r"))
def qr(be, x, *, complete=False):
    """(Q, R) with Q R = A: (*, m, n) -> (*, m, k), (*, k, n), k = min(m, n), or k = m if complete (without a gradient where m > n)."""
    _matrices(x, "qr")
    return _lapack(be, "qr", lambda x: tuple(np.linalg.qr(x, "complete" if complete else "reduced")), x)


def _gaps(F, s):
    """1/(sⱼ − sᵢ), and 0 on the diagonal and for equal values."""
    e = F.unsqueeze(s, dim=-2) - F.unsqueeze(s, dim=-1)
    none = F.eq(e, 0)
    return F.where(none, 0.0, F.div(1.0 + e * 0, F.where(none, 1.0, e)))


def _svd_dx(F, g, u, s, vh):
    gu, gs, gvh = g
    v, gv = _t(F, vh), _t(F, gvh)
    f = _gaps(F, s * s)
    uu, vv = F.matmul(_t(F, u), gu), F.matmul(vh, gv)
    column, row = F.unsqueeze(s, dim=-1), F.unsqueeze(s, dim=-2)
    middle = f * (uu - _t(F, uu)) * row + column * (f * (vv - _t(F, vv))) + _diag(F, gs)
    if getattr(u, "_a", u).dtype.kind == "c":
        middle = middle + _diag(F, F.div(F.diagonal(uu - _t(F, uu), dim1=-2, dim2=-1), s * 2))
    dx = F.matmul(F.matmul(u, middle), vh)
    m, n, k = u.shape[-2], vh.shape[-1], s.shape[-1]
    if m > k:
        scaled = F.div(gu, row)
        dx = dx + F.matmul(scaled - F.matmul(u, F.matmul(_t(F, u), scaled)), vh)
    if n > k:
        scaled = F.div(gvh, column)
        dx = dx + F.matmul(u, scaled - F.matmul(F.matmul(scaled, v), vh))
    return dx


@op(x=_svd_dx, outs=("u", "s", "vh"))
def svd(be, x):
    """(U, S, Vᴴ) with U diag(S) Vᴴ = A: (*, m, n) -> (*, m, k), (*, k), (*, k, n), k = min(m, n). Gradient: distinct values in S."""
    _matrices(x, "svd")
    return _lapack(be, "svd", lambda x: tuple(np.linalg.svd(x, full_matrices=False)), x)


@op(outs=("u", "s", "vh"))
def svd_full(be, x):
    """`svd` with square U and V, without a gradient."""
    _matrices(x, "svd")
    return _lapack(be, "svd", lambda x: tuple(np.linalg.svd(x, full_matrices=True)), x)


def _eigh_dx(F, g, values, vectors):
    gl, gv = g
    middle = _gaps(F, values) * F.matmul(_t(F, vectors), gv) + _diag(F, gl)
    return F.matmul(F.matmul(vectors, middle), _t(F, vectors))


@op(x=_eigh_dx, outs=("values", "vectors"))
def eigh(be, x, *, uplo="L"):
    """(values in order, vectors as columns) of Hermitian matrices, of which one triangle is read."""
    _square(x, "eigh")
    return _lapack(be, "eigh", lambda x: tuple(np.linalg.eigh(x, uplo)), x)


def _eig_dx(F, g, x, values, vectors):
    gl, gv = g
    vh = _t(F, vectors)
    vhgv = F.matmul(vh, gv)
    gram = F.matmul(vh, vectors)
    diagonal = F.real_part(F.diagonal(vhgv, dim1=-2, dim2=-1))
    inner = vhgv - gram * F.unsqueeze(diagonal, dim=-2)
    middle = F.conj(_gaps(F, values)) * inner + _diag(F, gl)
    dx = F.solve(vh, F.matmul(middle, vh))
    return dx if getattr(x, "_a", x).dtype.kind == "c" else _real(F, dx)


@op(x=_eig_dx, outs=("values", "vectors"))
def eig(be, x):
    """(values, vectors as columns of length 1) of square matrices, complex."""
    _square(x, "eig")

    def f(x: Any) -> Any:
        d = dtypes.of(x.dtype).to_complex().numpy
        values, vectors = np.linalg.eig(x)
        return values.astype(d), vectors.astype(d)

    return _lapack(be, "eig", f, x)


# -- functions of matrices ---------------------------------------------------------------------------------------------------------


def _matrix_exp_dx(F, g, x, x_shape):
    # exp [[Aᴴ, g], [0, Aᴴ]] has the gradient in its upper right quarter
    n, a = x_shape[-1], _t(F, x)
    block = F.cat([F.cat([a, g], dim=-1), F.cat([a * 0, a], dim=-1)], dim=-2)
    return F.matrix_exp(block)[..., :n, n:]


@op(x=_matrix_exp_dx)
def matrix_exp(be, x):
    """e^A by its Taylor series, of A/2ˢ and squared s times."""
    _square(x, "matrix_exp")
    xp = be.xp
    size = float(xp.abs(x).sum(axis=-1).max()) if x.size else 0.0
    squarings = max(0, int(np.ceil(np.log2(size / 0.25)))) if 0 < size < np.inf else 0
    a = x / 2.0**squarings
    y = term = xp.broadcast_to(xp.eye(x.shape[-1], dtype=x.dtype), x.shape)
    for k in range(1, 13):  # 0.25¹³/13! < 1e-17
        term = be.matmul(term, a) / k
        y = y + term
    for _ in range(squarings):
        y = be.matmul(y, y)
    return y
