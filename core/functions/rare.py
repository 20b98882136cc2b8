"""Functions that fewer scripts call, by torch's signatures: parts of numbers, indices unravelled, low-rank factors, elements by a Python
function."""

from __future__ import annotations

import math
from collections import namedtuple
from collections.abc import Callable
from typing import Any

import numpy as np

from core import backend, rng
from core._tensor import Tensor, wrap
from core.errors import ArgumentError, DTypeError, ShapeError
from core.functions.indices import nonzero
from core.ops import linalg as _linalg
from core.ops import pointwise as _pw
from core.ops import reduce as _reduce
from core.ops import shape as _shape

Frexp = namedtuple("Frexp", "mantissa exponent")


def frexp(x: Tensor) -> Frexp:
    """(mantissa, exponent): x = mantissa·2^exponent, ½ ≤ |mantissa| < 1; the exponent is int32."""
    if not x.is_floating_point():
        raise DTypeError(f"frexp: expected floating numbers, got {x.dtype}; use x.float()")
    be = backend.of(x._a)
    exponent = wrap(be.xp.frexp(x._a.astype(np.float32) if x._a.dtype.kind == "V" else x._a)[1].astype(np.int32))
    return Frexp(_pw.mul(x, wrap(be.xp.exp2(-exponent._a.astype(np.float64)).astype(x._a.dtype))), exponent)


def unravel_index(indices: Tensor, shape: Any) -> tuple[Tensor, ...]:
    """Indices into a flattened tensor -> for each dimension of `shape` the indices along it."""
    size = (shape,) if isinstance(shape, int) else tuple(int(n) for n in shape)
    flat = indices._host()
    if flat.size and not 0 <= int(flat.min()) <= int(flat.max()) < math.prod(size):
        raise ArgumentError(f"unravel_index: expected indices within shape {size}, got {flat.min()} to {flat.max()}")
    return tuple(wrap(np.asarray(p, np.int64)).to(indices.device) for p in np.unravel_index(flat, size))


def nonzero_static(x: Tensor, *, size: int, fill_value: int = -1) -> Tensor:
    """(size, ndim): the first indices of elements that are not zero, filled up with `fill_value`."""
    found = nonzero(x)[:size]
    return _shape.constant_pad(found, pad=(0, 0, 0, size - found._a.shape[0]), value=fill_value)


def fill_diagonal_(x: Tensor, fill_value: Any, wrap: bool = False) -> Tensor:
    """Fill the main diagonal; with `wrap` it starts over below a tall matrix. In place."""
    if x._a.ndim < 2 or (x._a.ndim > 2 and len(set(x._a.shape)) > 1):
        raise ShapeError(f"fill_diagonal_: expected a matrix, or all dimensions of equal length, got {tuple(x.shape)}")
    if x._a.ndim > 2:
        x[(np.arange(x._a.shape[0]),) * x._a.ndim] = fill_value
        return x
    rows, columns = x._a.shape
    at = np.arange(0, rows * columns, columns + 1)
    at = at if wrap else at[: min(rows, columns)]
    x[at // columns, at % columns] = fill_value
    return x


def as_strided_scatter(x: Tensor, src: Tensor, size: Any, stride: Any, storage_offset: Any = None) -> Tensor:
    """A copy of x in whose memory src is written at the places that `as_strided` names."""
    y = _pw.clone(x)
    _shape.as_strided(y, size=tuple(size), stride=tuple(stride), storage_offset=storage_offset).copy_(src)
    return y


def frobenius_norm(x: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
    """√Σ|x|²"""
    return _reduce.norm2(x, dim=dim if dim != () else None, keepdim=keepdim)


# -- low rank --------------------------------------------------------------------------------------------------------------


def svd_lowrank(
    A: Tensor, q: int | None = 6, niter: int | None = 2, M: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """(U, S, V) of the best rank-q approximation, nearly: A − M ≈ U diag(S) Vᴴ. Halko, Martinsson & Tropp 2009, algorithm 5.1."""
    from core import linalg

    a = A if M is None else _pw.sub(A, M)
    wide = a._a.shape[-2] < a._a.shape[-1]
    a = _hermitian(a) if wide else a
    q = 6 if q is None else q
    basis = rng.randn(a._a.shape[-1], q, dtype=a.dtype, device=a.device)
    basis = linalg.qr(_linalg.matmul(a, basis)).Q
    for _ in range(2 if niter is None else niter):
        basis = linalg.qr(_linalg.matmul(_hermitian(a), basis)).Q
        basis = linalg.qr(_linalg.matmul(a, basis)).Q
    u, s, vh = linalg.svd(_linalg.matmul(_hermitian(basis), a), full_matrices=False)
    u, v = _linalg.matmul(basis, u), _hermitian(vh)
    return (v, s, u) if wide else (u, s, v)


def pca_lowrank(A: Tensor, q: int | None = None, center: bool = True, niter: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """`svd_lowrank` of the rows less their mean: the columns of V are the principal directions."""
    m, n = A._a.shape[-2:]
    q = min(6, m, n) if q is None else q
    if not 0 <= q <= min(m, n):
        raise ArgumentError(f"q(={q}) must be non-negative integer and not greater than min(m, n)={min(m, n)}")
    mean = _reduce.mean(A, dim=(-2,), keepdim=True) if center else None
    return svd_lowrank(A if mean is None else _pw.sub(A, mean), q, niter)


def _hermitian(x: Tensor) -> Tensor:
    y = _shape.transpose(x, dim0=-2, dim1=-1)
    return _pw.conj(y) if x.is_complex() else y


# -- by a Python function ----------------------------------------------------------------------------------------------------


def _by_function(x: Tensor, where: str, f: Callable[..., Any], *others: Tensor) -> Tensor:
    x._check_inplace(where)
    arrays = [np.broadcast_to(t._host(), x._a.shape) for t in (x, *others)]
    values = [f(*v) for v in zip(*(a.reshape(-1).tolist() for a in arrays))]
    x._a[...] = backend.of(x._a).from_numpy(np.array(values, dtype=x._a.dtype).reshape(x._a.shape))
    x._bump()
    return x


def apply_(x: Tensor, callable: Callable[[Any], Any]) -> Tensor:
    """Each element replaced by the function's value. In place; slow."""
    return _by_function(x, "apply", callable)


def map_(x: Tensor, tensor: Tensor, callable: Callable[[Any, Any], Any]) -> Tensor:
    """Each element of x replaced by the function's value of it and the tensor's. In place; slow."""
    return _by_function(x, "map", callable, tensor)


def map2_(x: Tensor, x2: Tensor, y: Tensor, callable: Callable[[Any, Any, Any], Any]) -> Tensor:
    """`map_` with two tensors."""
    return _by_function(x, "map2", callable, x2, y)
