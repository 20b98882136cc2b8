"""Products, by torch's signatures: of matrices and vectors, sums with products, Einstein's summation, distances."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from core import engine
from core._tensor import Tensor, _dim
from core.errors import ArgumentError, ShapeError
from core.functions.reduce import norm
from core.functions.shape import reshape
from core.ops import linalg as _linalg
from core.ops import pointwise as _pw
from core.ops import reduce as _reduce
from core.ops import shape as _shape


def _matrices(x: Tensor, y: Tensor, ndim: int, where: str) -> Tensor:
    if x._a.ndim != ndim or y._a.ndim != ndim:
        raise ShapeError(
            f"{where}: expected {ndim}-d tensors, got shapes {tuple(x.shape)} and {tuple(y.shape)}; use matmul"
        )
    return _linalg.matmul(x, y)


def mm(x: Tensor, mat2: Tensor) -> Tensor:
    """(n, k) @ (k, m) -> (n, m)"""
    return _matrices(x, mat2, 2, "mm")


def bmm(x: Tensor, mat2: Tensor) -> Tensor:
    """(b, n, k) @ (b, k, m) -> (b, n, m)"""
    if x._a.ndim == 3 == mat2._a.ndim and x._a.shape[0] != mat2._a.shape[0]:
        raise ShapeError(f"bmm: expected equal batch sizes, got {tuple(x.shape)} and {tuple(mat2.shape)}")
    return _matrices(x, mat2, 3, "bmm")


def mv(x: Tensor, vec: Tensor) -> Tensor:
    """(n, k) @ (k) -> (n)"""
    if x._a.ndim != 2 or vec._a.ndim != 1:
        raise ShapeError(f"mv: expected a matrix and a vector, got shapes {tuple(x.shape)} and {tuple(vec.shape)}")
    return _linalg.matmul(x, vec)


def dot(x: Tensor, tensor: Tensor) -> Tensor:
    """Σ xᵢ yᵢ of two vectors."""
    return _matrices(x, tensor, 1, "dot")


def outer(x: Tensor, vec2: Tensor) -> Tensor:
    """(n), (m) -> (n, m): all products."""
    return _pw.mul(_shape.unsqueeze(x, dim=1), vec2)


def addmm(x: Tensor, mat1: Tensor, mat2: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """beta·x + alpha·(mat1 @ mat2)"""
    return _plus(x, mm(mat1, mat2), beta, alpha)


def addmv(x: Tensor, mat: Tensor, vec: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """beta·x + alpha·(mat @ vec)"""
    return _plus(x, mv(mat, vec), beta, alpha)


def addr(x: Tensor, vec1: Tensor, vec2: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """beta·x + alpha·(all products of vec1 and vec2)"""
    return _plus(x, outer(vec1, vec2), beta, alpha)


def baddbmm(x: Tensor, batch1: Tensor, batch2: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """beta·x + alpha·(batch1 @ batch2), in batches"""
    return _plus(x, bmm(batch1, batch2), beta, alpha)


def addbmm(x: Tensor, batch1: Tensor, batch2: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """beta·x + alpha·Σ(batch1 @ batch2), summed over the batch"""
    return _plus(x, _reduce.sum(bmm(batch1, batch2), dim=0), beta, alpha)


def _plus(x: Tensor, y: Tensor, beta: float, alpha: float) -> Tensor:
    y = y if alpha == 1 else y * alpha
    if beta == 0:
        return y
    if x._a.dtype != y._a.dtype and engine.mode.autocast is not None:
        x = x.to(y.dtype)  # the product was lowered, and the sum is a part of it
    return (x if beta == 1 else x * beta) + y


def inner(x: Tensor, other: Tensor) -> Tensor:
    """Sums of products over the last dimensions of both."""
    return _pw.mul(x, other) if not x._a.ndim or not other._a.ndim else tensordot(x, other, ([-1], [-1]))


def vdot(x: Tensor, other: Tensor) -> Tensor:
    """Σ conj(xᵢ) yᵢ of two vectors."""
    return dot(_pw.conj(x), other)


def chain_matmul(*matrices: Tensor) -> Tensor:
    """The product of matrices, multiplied in the order that needs the fewest multiplications."""
    return _chain(list(matrices[0] if len(matrices) == 1 and isinstance(matrices[0], (list, tuple)) else matrices))


def _chain(ms: Sequence[Tensor]) -> Tensor:
    """Cormen et al., Introduction to Algorithms, 15.2: cost[i, j] of the product of ms[i … j], and where it is best cut."""
    n = len(ms)
    size = [m._a.shape[0] for m in ms] + [ms[-1]._a.shape[1]]
    cost = {(i, i): 0 for i in range(n)}
    cut: dict[tuple[int, int], int] = {}
    for length in range(1, n):
        for i in range(n - length):
            j = i + length
            each = {k: cost[i, k] + cost[k + 1, j] + size[i] * size[k + 1] * size[j + 1] for k in range(i, j)}
            cut[i, j] = min(each, key=each.__getitem__)
            cost[i, j] = each[cut[i, j]]

    def product(i: int, j: int) -> Tensor:
        return ms[i] if i == j else _linalg.matmul(product(i, cut[i, j]), product(cut[i, j] + 1, j))

    return product(0, n - 1)


def tensordot(x: Tensor, y: Tensor, dims: Any = 2) -> Tensor:
    """Sums of products over dimensions: the last `dims` of x with the first of y, or the two lists of them."""
    if isinstance(dims, Tensor):
        dims = dims.tolist()
    if isinstance(dims, int):
        dims = (list(range(-dims, 0)), list(range(dims)))
    a, b = ([v] if isinstance(v, int) else list(v) for v in dims)
    a, b = [_dim(v, x._a.ndim, "tensordot") for v in a], [_dim(v, y._a.ndim, "tensordot") for v in b]
    if len(a) != len(b) or any(x._a.shape[p] != y._a.shape[q] for p, q in zip(a, b)):
        raise ShapeError(
            f"tensordot: expected dimensions of equal lengths, got {a} of {tuple(x.shape)} and {b} of {tuple(y.shape)}"
        )
    left, right = ([d for d in range(t._a.ndim) if d not in s] for t, s in ((x, a), (y, b)))
    k = math.prod(x._a.shape[d] for d in a)
    rows = reshape(_shape.permute(x, dims=(*left, *a)), (math.prod(x._a.shape[d] for d in left), k))
    columns = reshape(_shape.permute(y, dims=(*b, *right)), (k, math.prod(y._a.shape[d] for d in right)))
    return reshape(
        _linalg.matmul(rows, columns), tuple(x._a.shape[d] for d in left) + tuple(y._a.shape[d] for d in right)
    )


def kron(x: Tensor, other: Tensor) -> Tensor:
    """The Kronecker product: each element of x times all of y, as blocks."""
    ndim = max(x._a.ndim, other._a.ndim)
    a, b = ((1,) * (ndim - t._a.ndim) + t._a.shape for t in (x, other))
    wide = reshape(x, tuple(v for n in a for v in (n, 1)))
    fine = reshape(other, tuple(v for n in b for v in (1, n)))
    return reshape(_pw.mul(wide, fine), tuple(n * m for n, m in zip(a, b)))


def cross(x: Tensor, other: Tensor, dim: int | None = None) -> Tensor:
    """x × y along a dimension of length 3; by default the first one."""
    shape = x._a.shape
    if dim is None:
        dim = next((d for d, n in enumerate(shape) if n == 3), None)
    if dim is None or shape[_dim(dim, len(shape), "cross")] != 3:
        raise ShapeError(f"cross: expected a dimension of length 3, got shape {tuple(shape)}, dim {dim}")
    (a1, a2, a3), (b1, b2, b3) = (_shape.unbind(t, dim=dim) for t in (x, other))
    return _shape.stack(
        [a2 * b3 - a3 * b2, a3 * b1 - a1 * b3, a1 * b2 - a2 * b1], dim=dim if dim < 0 else dim - len(shape)
    )


def cdist(x1: Tensor, x2: Tensor, p: float = 2.0, compute_mode: Any = None) -> Tensor:
    """(*, n, d), (*, m, d) -> (*, n, m): the p-norm of each difference."""
    if x1._a.shape[-1] != x2._a.shape[-1]:
        raise ShapeError(f"cdist: expected equal last dimensions, got {tuple(x1.shape)} and {tuple(x2.shape)}")
    return norm(_pw.sub(_shape.unsqueeze(x1, dim=-2), _shape.unsqueeze(x2, dim=-3)), p, -1)


# -- Einstein's summation ------------------------------------------------------------------------------------------------


def einsum(equation: Any, *operands: Any) -> Tensor:
    """Sums of products by the names of dimensions: einsum("bij,bjk->bik", x, y); or einsum(x, [0, 1], y, [1, 2], [0, 2]).

    Two operands at a time, from the left, as one product of matrices over what they share.
    """
    terms, result, tensors = _einsum_parsed(equation, operands)
    sizes: dict[str, int] = {}
    parts: list[tuple[str, Tensor]] = []
    for term, x in zip(terms, tensors):
        for name, n in zip(term, x._a.shape):
            if sizes.get(name, 1) not in (1, n) and n != 1:
                raise ShapeError(f"einsum: expected one length for '{name}', got {sizes[name]} and {n}")
            sizes[name] = max(n, sizes.get(name, 1)) if n else 0
        parts.append(_diagonals(term, x))
    unknown = set(result) - set(sizes)
    if unknown or len(set(result)) != len(result):
        raise ArgumentError(f"einsum: expected each name of the result once and in an operand, got '{result}'")
    names, y = parts[0]
    for i, (other, z) in enumerate(parts[1:], 1):
        later = set(result).union(*(n for n, _ in parts[i + 1 :]))
        names, y = _contracted(names, y, other, z, later, sizes)
    names, y = _summed(names, y, set(result))
    return _shape.permute(y, dims=tuple(names.index(n) for n in result))


def _einsum_parsed(equation: Any, operands: Any) -> tuple[list[str], str, list[Tensor]]:
    """A name for each dimension of each operand, the names of the result, the operands."""
    if isinstance(equation, str):
        tensors = list(operands[0] if len(operands) == 1 and isinstance(operands[0], (list, tuple)) else operands)
        left, arrow, right = equation.replace(" ", "").partition("->")
        terms, result = left.split(","), right if arrow else None
    else:
        args = [equation, *operands]
        tensors, lists = args[: len(args) // 2 * 2 : 2], args[1::2]
        terms = ["".join("..." if i is ... else chr(0x100 + i) for i in one) for one in lists]
        result = "".join("..." if i is ... else chr(0x100 + i) for i in args[-1]) if len(args) % 2 else None
    if len(terms) != len(tensors):
        raise ArgumentError(f"einsum: expected {len(terms)} operands for '{equation}', got {len(tensors)}")
    spare = [chr(0x3000 + k) for k in range(64)]  # names for the dimensions of an ellipsis, last first
    full, widest = [], 0
    for term, x in zip(terms, tensors):
        extra = x._a.ndim - len(term.replace("...", ""))
        if extra < 0 or (extra and "..." not in term):
            raise ShapeError(
                f"einsum: expected {len(term.replace('...', ''))} dimensions for '{term}', got shape {tuple(x.shape)}"
            )
        full.append(term.replace("...", "".join(spare[:extra][::-1])))
        widest = max(widest, extra if "..." in term else 0)
    ellipsis = "".join(spare[:widest][::-1])
    if result is None:
        letters = "".join(terms).replace("...", "")
        result = "..." + "".join(sorted(n for n in set(letters) if letters.count(n) == 1))
    return full, result.replace("...", ellipsis), tensors


def _diagonals(names: str, x: Tensor) -> tuple[str, Tensor]:
    """A name that occurs twice is a diagonal."""
    for name in dict.fromkeys(names):
        while names.count(name) > 1:
            a = names.index(name)
            b = names.index(name, a + 1)
            x = _shape.diagonal(x, dim1=a, dim2=b)
            names = names[:a] + names[a + 1 : b] + names[b + 1 :] + name
    return names, x


def _summed(names: str, x: Tensor, kept: set[str]) -> tuple[str, Tensor]:
    dims = tuple(d for d, n in enumerate(names) if n not in kept)
    return "".join(n for n in names if n in kept), _reduce.sum(x, dim=dims) if dims else x


def _contracted(a: str, x: Tensor, b: str, y: Tensor, later: set[str], sizes: dict[str, int]) -> tuple[str, Tensor]:
    """The product of two operands, summed over what nobody needs later."""
    a, x = _summed(a, x, later | set(b))
    b, y = _summed(b, y, later | set(a))
    both = [n for n in a if n in b]
    if any(x._a.shape[a.index(n)] != y._a.shape[b.index(n)] for n in both):  # a length of 1 that broadcasts
        x, y = (
            _shape.expand(t, shape=tuple(sizes[n] if n in both else m for n, m in zip(names, t._a.shape)))
            for names, t in ((a, x), (b, y))
        )
    batch, shared = [n for n in both if n in later], [n for n in both if n not in later]
    left, right = [n for n in a if n not in b], [n for n in b if n not in a]
    if not shared:  # nothing to sum: elementwise
        names = [*batch, *left, *right]
        x = reshape(
            _shape.permute(x, dims=tuple(a.index(n) for n in [*batch, *left])),
            (*(x._a.shape[a.index(n)] for n in [*batch, *left]), *(1,) * len(right)),
        )
        y = reshape(
            _shape.permute(y, dims=tuple(b.index(n) for n in [*batch, *right])),
            (*(y._a.shape[b.index(n)] for n in batch), *(1,) * len(left), *(y._a.shape[b.index(n)] for n in right)),
        )
        return "".join(names), _pw.mul(x, y)
    lengths = dict(zip(b, y._a.shape)) | dict(zip(a, x._a.shape))
    m, k, n = (math.prod(lengths[c] for c in group) for group in (left, shared, right))
    outer_shape = tuple(lengths[c] for c in batch)
    x = reshape(_shape.permute(x, dims=tuple(a.index(c) for c in [*batch, *left, *shared])), (*outer_shape, m, k))
    y = reshape(_shape.permute(y, dims=tuple(b.index(c) for c in [*batch, *shared, *right])), (*outer_shape, k, n))
    z = reshape(_linalg.matmul(x, y), (*outer_shape, *(lengths[c] for c in left), *(lengths[c] for c in right)))
    return "".join([*batch, *left, *right]), z
