"""torch.linalg: norms, products, solutions and decompositions of matrices, in batches (*, m, n)."""

from __future__ import annotations

import math
from collections import namedtuple
from typing import Any

import numpy as np

from core._tensor import Tensor, _dim, wrap
from core.errors import ArgumentError
from core.functions import adjoint as adjoint_of
from core.functions import diag_embed, movedim, products
from core.functions import norm as _norm
from core.functions import vander as _vander
from core.ops import decompose, factor
from core.ops import pointwise as _pw
from core.ops import reduce as _reduce
from core.ops import shape as _shape
from core.ops.decompose import SingularError as LinAlgError
from core.ops.decompose import cholesky, det, inv, matrix_exp
from core.ops.linalg import matmul
from core.ops.shape import diagonal
from core.settings import finfo

__all__ = [
    "LinAlgError", "cholesky", "cholesky_ex", "cond", "cross", "det", "diagonal", "eig", "eigh", "eigvals", "eigvalsh",
    "householder_product", "inv", "inv_ex", "lstsq", "lu", "lu_factor", "lu_factor_ex", "lu_solve", "matmul", "matrix_exp",
    "matrix_norm", "matrix_power", "matrix_rank", "multi_dot", "norm", "pinv", "qr", "slogdet", "solve", "solve_ex",
    "solve_triangular", "svd", "svdvals", "tensorinv", "tensorsolve", "vander", "vecdot", "vector_norm",
]  # fmt: skip

EigenPairs = namedtuple("EigenPairs", "eigenvalues eigenvectors")
QR = namedtuple("QR", "Q R")
SVD = namedtuple("SVD", "U S Vh")
OldSVD = namedtuple("OldSVD", "U S V")
SignLogdet = namedtuple("SignLogdet", "sign logabsdet")
LeastSquares = namedtuple("LeastSquares", "solution residuals rank singular_values")
WithInfo = namedtuple("WithInfo", "result info")
PLU = namedtuple("PLU", "P L U")
PackedLU = namedtuple("PackedLU", "LU pivots")
PackedLUInfo = namedtuple("PackedLUInfo", "LU pivots info")
Reflections = namedtuple("Reflections", "a tau")

# -- norms ---------------------------------------------------------------------------------------------------------------


def vector_norm(x: Tensor, ord: Any = 2, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """(Σ |x|ᵖ)^(1/p) over `dim`, or over all elements; p = ±inf, 0, 1, 2, …"""
    x = x if dtype is None else x.to(dtype)
    return _norm(x, ord, dim, keepdim)


def matrix_norm(
    A: Tensor, ord: Any = "fro", dim: Any = (-2, -1), keepdim: bool = False, *, dtype: Any = None
) -> Tensor:
    """A norm of matrices: "fro", "nuc" (the sum of singular values), ±2 (the greatest, the least), ±1 (of columns), ±inf (of rows)."""
    A = A if dtype is None else A.to(dtype)
    rows, columns = (_dim(d, A._a.ndim, "matrix_norm") for d in dim)
    if ord == "fro":
        return _reduce.norm2(A, dim=(rows, columns), keepdim=keepdim)
    if ord in ("nuc", 2, -2):
        s = svdvals(movedim(A, (rows, columns), (-2, -1)))
        y = _reduce.sum(s, dim=-1) if ord == "nuc" else (_reduce.amax if ord == 2 else _reduce.amin)(s, dim=-1)
    elif abs(ord) in (1, math.inf):
        inner, outer = (rows, columns) if abs(ord) == 1 else (columns, rows)
        sums = _reduce.sum(_pw.abs(A), dim=inner, keepdim=True)
        y = (_reduce.amax if ord > 0 else _reduce.amin)(sums, dim=outer, keepdim=True)
        return y if keepdim else _shape.squeeze(y, dim=(rows, columns))
    else:
        raise ArgumentError(f"matrix_norm: expected 'fro', 'nuc', ±1, ±2 or ±inf, got {ord!r}")
    for d in sorted((rows, columns)) if keepdim else ():
        y = _shape.unsqueeze(y, dim=d)
    return y


def norm(A: Tensor, ord: Any = None, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """`matrix_norm` for two dimensions, else `vector_norm`; without `ord` the root of the sum of squares."""
    if ord is None:
        return vector_norm(A, 2, dim, keepdim, dtype=dtype)
    two = len(dim) == 2 if isinstance(dim, (tuple, list)) else dim is None and A._a.ndim == 2
    if two:
        return matrix_norm(A, ord, (-2, -1) if dim is None else dim, keepdim, dtype=dtype)
    return vector_norm(A, ord, dim, keepdim, dtype=dtype)


def cond(A: Tensor, p: Any = None) -> Tensor:
    """The condition number: ‖A‖·‖A⁻¹‖, by default the greatest singular value over the least."""
    if p in (None, 2, -2):
        s = svdvals(A)
        return s[..., -1] / s[..., 0] if p == -2 else s[..., 0] / s[..., -1]
    return matrix_norm(A, p) * matrix_norm(inv(A), p)


def matrix_rank(A: Tensor, tol: Any = None, hermitian: bool = False, *, atol: Any = None, rtol: Any = None) -> Tensor:
    """How many singular values exceed max(atol, rtol·the greatest)."""
    s = _pw.abs(eigvalsh(A)) if hermitian else svdvals(A)
    atol = tol if tol is not None else atol
    if rtol is None:
        rtol = 0.0 if atol else max(A._a.shape[-2:]) * finfo(A.dtype).eps
    greatest = _reduce.amax(s, dim=-1, keepdim=True)
    return _reduce.sum(_pw.gt(s, _pw.clamp(greatest * rtol, 0.0 if atol is None else atol, None)), dim=-1)


# -- products ------------------------------------------------------------------------------------------------------------


def cross(x: Tensor, other: Tensor, *, dim: int = -1) -> Tensor:
    """x × y along a dimension of length 3."""
    return products.cross(x, other, dim)


def vecdot(x: Tensor, y: Tensor, *, dim: int = -1) -> Tensor:
    """Σ conj(x) y along a dimension."""
    return _reduce.sum(_pw.mul(_pw.conj(x), y), dim=dim)


def vander(x: Tensor, *, N: int | None = None) -> Tensor:
    """(*, n) -> (*, n, N): rising powers of each element."""
    return _vander(x, N, True)


def multi_dot(tensors: Any) -> Tensor:
    """The product of matrices, multiplied in the order that needs the fewest multiplications; vectors may be at the ends."""
    ts = list(tensors)
    first, last = ts[0]._a.ndim == 1, ts[-1]._a.ndim == 1
    ts[0] = _shape.unsqueeze(ts[0], dim=0) if first else ts[0]
    ts[-1] = _shape.unsqueeze(ts[-1], dim=1) if last else ts[-1]
    y = products._chain(ts)
    return _shape.squeeze(y, dim=tuple(d for d, drop in ((0, first), (1, last)) if drop)) if first or last else y


def matrix_power(A: Tensor, n: int) -> Tensor:
    """A·A·…·A, n times; of the inverse if n < 0."""
    if n < 0:
        A, n = inv(A), -n
    result = None
    while n:  # by squaring
        if n & 1:
            result = A if result is None else matmul(result, A)
        n >>= 1
        A = matmul(A, A) if n else A
    if result is None:
        return diag_embed(_pw.add(_shape.new_zeros(A, shape=A._a.shape[:-1]), 1))
    return result


# -- solutions -----------------------------------------------------------------------------------------------------------


def _as_columns(A: Tensor, B: Tensor) -> tuple[Tensor, bool]:
    """B as matrices, and whether it was a vector: (n), or one for each matrix of A."""
    vector = B._a.ndim == 1 or (B._a.ndim == A._a.ndim - 1 and B._a.shape == A._a.shape[:-1])
    return (_shape.unsqueeze(B, dim=-1) if vector else B), vector


def solve(A: Tensor, B: Tensor, *, left: bool = True) -> Tensor:
    """X with A X = B, or X A = B."""
    if not left:
        return _shape.transpose(
            solve(_shape.transpose(A, dim0=-2, dim1=-1), _shape.transpose(B, dim0=-2, dim1=-1)), dim0=-2, dim1=-1
        )
    b, vector = _as_columns(A, B)
    x = decompose.solve(A, b)
    return _shape.squeeze(x, dim=-1) if vector else x


def solve_triangular(A: Tensor, B: Tensor, *, upper: bool, left: bool = True, unitriangular: bool = False) -> Tensor:
    """X with A X = B, or X A = B, for triangular A, of which the other triangle is not read."""
    if left:
        return decompose.triangular_solve_left(A, B, upper=upper, unitriangular=unitriangular)
    a, b = (_shape.transpose(t, dim0=-2, dim1=-1) for t in (A, B))
    x = decompose.triangular_solve_left(a, b, upper=not upper, unitriangular=unitriangular)
    return _shape.transpose(x, dim0=-2, dim1=-1)


def triangular_solve(
    b: Tensor, A: Tensor, upper: bool = True, transpose: bool = False, unitriangular: bool = False
) -> tuple[Tensor, Tensor]:
    """(X with A X = b, A): torch's older spelling of `solve_triangular`."""
    a, upper = (_shape.transpose(A, dim0=-2, dim1=-1), not upper) if transpose else (A, upper)
    return decompose.triangular_solve_left(a, b, upper=upper, unitriangular=unitriangular), A


def cholesky_solve(B: Tensor, L: Tensor, upper: bool = False) -> Tensor:
    """X with L Lᴴ X = B (Uᴴ U X = B)."""
    low = adjoint_of(L) if upper else L
    y = decompose.triangular_solve_left(low, B, upper=False)
    return decompose.triangular_solve_left(adjoint_of(low), y, upper=True)


def cholesky_inverse(L: Tensor, upper: bool = False) -> Tensor:
    """(L Lᴴ)⁻¹"""
    return cholesky_solve(matrix_power(L, 0), L, upper)


def lstsq(A: Tensor, B: Tensor, rcond: Any = None, *, driver: Any = None) -> LeastSquares:
    """X that minimises ‖A X − B‖, by the pseudo-inverse; residuals where A has more rows than columns, and full rank."""
    b, vector = _as_columns(A, B)
    x = matmul(decompose.pinv(A, rcond=rcond), b)
    m, n = A._a.shape[-2:]
    rank = matrix_rank(A.detach())
    full = m > n and bool((rank == n).all())
    left = _pw.sub(matmul(A, x), b)
    residuals = _reduce.sum(_pw.square(_pw.abs(left)), dim=-2) if full else _shape.new_zeros(A, shape=(0,))
    solution = _shape.squeeze(x, dim=-1) if vector else x
    return LeastSquares(solution, residuals, rank, _shape.new_zeros(A, shape=(0,)))


def pinv(A: Tensor, rcond: Any = None, hermitian: bool = False, *, atol: Any = None, rtol: Any = None) -> Tensor:
    """The Moore–Penrose inverse; singular values up to rtol·(the greatest) count as zero."""
    return decompose.pinv(A, rcond=rtol if rtol is not None else rcond)


def tensorinv(A: Tensor, ind: int = 2) -> Tensor:
    """The inverse of A as a linear map of its last dimensions to its first `ind`."""
    n = math.prod(A._a.shape[:ind])
    return inv(A.reshape(n, -1)).reshape(A._a.shape[ind:] + A._a.shape[:ind])


def tensorsolve(A: Tensor, B: Tensor, dims: Any = None) -> Tensor:
    """X with tensordot(A, X) = B."""
    A = A if dims is None else movedim(A, tuple(dims), tuple(range(A._a.ndim - len(dims), A._a.ndim)))
    return solve(A.reshape(B._a.size, -1), B.reshape(-1)).reshape(A._a.shape[B._a.ndim :])


# -- decompositions ------------------------------------------------------------------------------------------------------


def slogdet(A: Tensor) -> SignLogdet:
    """(sign, ln |det A|)"""
    return SignLogdet(*decompose.slogdet(A))


def logdet(A: Tensor) -> Tensor:
    """ln det A; NaN where that is negative."""
    sign, value = decompose.slogdet(A)
    return _pw.where(_pw.lt(sign, 0), math.nan, value)


def qr(A: Tensor, mode: str = "reduced") -> QR:
    """(Q, R) with Q R = A; mode "reduced", "complete" or "r" (an empty Q)."""
    if mode not in ("reduced", "complete", "r"):
        raise ArgumentError(f"qr: expected mode 'reduced', 'complete' or 'r', got {mode!r}")
    q, r = decompose.qr(A, complete=mode == "complete")
    return QR(_shape.new_zeros(A, shape=(0,)) if mode == "r" else q, r)


def qr_some(A: Tensor, some: bool = True) -> QR:
    """torch.qr, the older spelling: reduced or complete."""
    return qr(A, "reduced" if some else "complete")


def svd(A: Tensor, full_matrices: bool = True, *, driver: Any = None) -> SVD:
    """(U, S, Vᴴ) with U diag(S) Vᴴ = A. U and V are square, and without a gradient where A is not, unless full_matrices=False."""
    whole = full_matrices and A._a.shape[-1] != A._a.shape[-2]
    return SVD(*(decompose.svd_full(A) if whole else decompose.svd(A)))


def svd_some(A: Tensor, some: bool = True, compute_uv: bool = True) -> OldSVD:
    """torch.svd, the older spelling: (U, S, V), V not transposed."""
    u, s, vh = svd(A, not some)
    if not compute_uv:
        u, vh = _pw.mul(u, 0), _pw.mul(vh, 0)
    return OldSVD(u, s, adjoint_of(vh))


def svdvals(A: Tensor, *, driver: Any = None) -> Tensor:
    """The singular values, greatest first."""
    return decompose.svd(A)[1]


def eigh(A: Tensor, UPLO: str = "L") -> EigenPairs:
    """(values in order, vectors as columns) of Hermitian matrices, of which the lower or upper triangle is read."""
    return EigenPairs(*decompose.eigh(A, uplo=UPLO.upper()))


def eigvalsh(A: Tensor, UPLO: str = "L") -> Tensor:
    """The values of `eigh`."""
    return decompose.eigh(A, uplo=UPLO.upper())[0]


def eig(A: Tensor) -> EigenPairs:
    """(values, vectors as columns), complex."""
    return EigenPairs(*decompose.eig(A))


def eigvals(A: Tensor) -> Tensor:
    """The values of `eig`."""
    return decompose.eig(A)[0]


def _attempted(f: Any, A: Tensor, check_errors: bool) -> WithInfo:
    try:
        return WithInfo(f(A), wrap(_shape.new_zeros(A, shape=A._a.shape[:-2])._a.astype("int32")))
    except LinAlgError:
        if check_errors:
            raise
        return WithInfo(A * math.nan, wrap((_shape.new_zeros(A, shape=A._a.shape[:-2])._a + 1).astype("int32")))


def cholesky_ex(A: Tensor, *, upper: bool = False, check_errors: bool = False) -> WithInfo:
    """(`cholesky`, 0), or (NaN, 1) where it fails."""
    return _attempted(lambda A: cholesky(A, upper=upper), A, check_errors)


def inv_ex(A: Tensor, *, check_errors: bool = False) -> WithInfo:
    """(`inv`, 0), or (NaN, 1) where it fails."""
    return _attempted(inv, A, check_errors)


def solve_ex(A: Tensor, B: Tensor, *, left: bool = True, check_errors: bool = False) -> WithInfo:
    """(`solve`, 0), or (NaN, 1) where it fails."""
    return _attempted(lambda A: solve(A, B, left=left), A, check_errors)


# -- LU and reflections, kept in one matrix ------------------------------------------------------------------------------


def _pivoted(pivot: bool, where: str) -> None:
    if not pivot:
        raise ArgumentError(f"{where}: LU without pivoting is not implemented: expected pivot=True, got False")


def lu_factor(A: Tensor, *, pivot: bool = True) -> PackedLU:
    """(L and U in one matrix, the rows exchanged in each step, from 1, int32): P L U = A, for `lu_solve`."""
    _pivoted(pivot, "lu_factor")
    packed = PackedLU(*factor.lu(A))
    _refuse_singular(packed.LU)
    return packed


def lu_factor_ex(A: Tensor, *, pivot: bool = True, check_errors: bool = False) -> PackedLUInfo:
    """`lu_factor` and the number, from 1, of the first zero on U's diagonal, or 0: int32."""
    _pivoted(pivot, "lu_factor_ex")
    packed, pivots = factor.lu(A)
    if check_errors:
        _refuse_singular(packed)
    return PackedLUInfo(packed, pivots, wrap(_first_zero(packed)))


def _first_zero(packed: Tensor) -> Any:
    zero = diagonal(packed, dim1=-2, dim2=-1)._a == 0
    return ((zero.argmax(-1) + 1) * zero.any(-1)).astype("int32")


def _refuse_singular(packed: Tensor) -> None:
    first = _first_zero(packed)
    if first.any():
        raise LinAlgError(
            f"lu: U[{first.max()},{first.max()}] is zero and using it on lu_solve would result in a division by zero"
        )


def old_lu(A: Tensor, pivot: bool = True, get_infos: bool = False) -> Any:
    """torch.lu, the older spelling of `lu_factor_ex`: (LU, pivots), with `get_infos` the info, too."""
    found = lu_factor_ex(A, pivot=pivot, check_errors=not get_infos)
    return tuple(found) if get_infos else tuple(found)[:2]


def lu(A: Tensor, *, pivot: bool = True) -> PLU:
    """(P, L, U) with P L U = A: (*, m, m), (*, m, k), (*, k, n), k = min(m, n)."""
    _pivoted(pivot, "lu")
    return lu_unpack(*factor.lu(A))


def _order(pivots: Tensor, m: int) -> Tensor:
    """The order that the exchanges bring m rows into: (*, k) -> (*, m)"""
    host = pivots._host().reshape(-1, pivots._a.shape[-1])
    order = np.broadcast_to(np.arange(m), (len(host), m)).copy()
    each = np.arange(len(host))
    for j in range(host.shape[1]):
        at = host[:, j] - 1
        order[each, at], order[:, j] = order[:, j].copy(), order[each, at].copy()
    return wrap(order.reshape(*pivots._a.shape[:-1], m)).to(pivots.device)


def lu_unpack(LU_data: Tensor, LU_pivots: Tensor, unpack_data: bool = True, unpack_pivots: bool = True) -> PLU:
    """(P, L, U) of what `lu_factor` returned; what is not unpacked is empty."""
    m, n = LU_data._a.shape[-2:]
    k = min(m, n)
    p = low = up = _shape.new_zeros(LU_data, shape=(0,))
    if unpack_pivots:
        order = _order(LU_pivots, m)
        rows = wrap(np.eye(m, dtype=LU_data._a.dtype)).to(LU_data.device)
        p = _shape.transpose(rows[order], dim0=-2, dim1=-1).contiguous()
    if unpack_data:
        left = LU_data[..., :k]
        ones = diagonal(left, dim1=-2, dim2=-1) * 0 + 1
        low = _shape.diagonal_put(_shape.tril(left, diagonal=-1), ones, dim1=-2, dim2=-1)
        up = _shape.triu(LU_data[..., :k, :])
    return PLU(p, low, up)


def lu_solve(LU: Tensor, pivots: Tensor, B: Tensor, *, left: bool = True, adjoint: bool = False) -> Tensor:
    """X with A X = B, or X A = B, or Aᴴ in place of A, for the A that `lu_factor` was given."""
    if not left:
        return adjoint_of(lu_solve(LU, pivots, adjoint_of(B), adjoint=not adjoint))
    order = _order(pivots, LU._a.shape[-1]).unsqueeze(-1)
    lead = np.broadcast_shapes(LU._a.shape[:-2], B._a.shape[:-2])
    order, B = order.expand(*lead, *B._a.shape[-2:]), B.expand(*lead, *B._a.shape[-2:])
    if adjoint:
        y = decompose.triangular_solve_left(adjoint_of(LU), B, upper=False)
        y = decompose.triangular_solve_left(adjoint_of(LU), y, upper=True, unitriangular=True)
        return y.scatter(-2, order, y)
    y = decompose.triangular_solve_left(LU, B.gather(-2, order), upper=False, unitriangular=True)
    return decompose.triangular_solve_left(LU, y, upper=True)


def old_lu_solve(b: Tensor, LU_data: Tensor, LU_pivots: Tensor) -> Tensor:
    """torch.lu_solve, the older spelling: b comes first."""
    return lu_solve(LU_data, LU_pivots, b)


def geqrf(A: Tensor) -> Reflections:
    """(R and reflections in one matrix, their factors), for `householder_product`. No gradient."""
    return Reflections(*factor.geqrf(A))


def householder_product(A: Tensor, tau: Tensor) -> Tensor:
    """The first n columns of H₁ H₂ … with Hᵢ = 1 − τᵢ vᵢ vᵢᴴ, vᵢ the columns of A below the diagonal: (*, m, n), (*, k) -> (*, m, n)"""
    m, n = A._a.shape[-2:]
    low = _shape.tril(A, diagonal=-1)
    vs = _shape.diagonal_put(low, diagonal(low, dim1=-2, dim2=-1) * 0 + 1, dim1=-2, dim2=-1)
    q = _pw.add(_shape.new_zeros(A, shape=A._a.shape), wrap(np.eye(m, n, dtype=A._a.dtype)).to(A.device))
    for i in reversed(range(tau._a.shape[-1])):
        v = vs[..., i : i + 1]
        q = q - matmul(v * tau[..., i, None, None], matmul(adjoint_of(v), q))
    return q
