"""torch.sparse: tensors that keep only some of their elements, as coordinates and values (COO).

Contract: the indices (ndim, n) and values (n) of a SparseTensor are Tensors; what it computes is composed of ops on them, so gradients
reach the
values and the dense operands. It is a Tensor by type, but has no array: an op that is not here refuses it by name. Duplicates add up;
`coalesce` sums them.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from core import creation, dtypes, functions, settings
from core._tensor import Size, Tensor, wrap
from core.errors import ArgumentError, DTypeError, ShapeError
from core.ops import pointwise as _pw
from core.ops import reduce as _reduce

__all__ = ["SparseTensor", "mm", "softmax", "sparse_coo_tensor", "spmm", "sum", "to_sparse"]


class SparseTensor(Tensor):
    """A sparse tensor in coordinates."""

    def __new__(cls, indices: Tensor, values: Tensor, size: Any, coalesced: bool = False) -> Any:
        self = object.__new__(cls)
        self._indices_, self._values_ = indices, values
        self._size, self._coalesced = Size(size), coalesced
        return self

    @property
    def _a(self) -> Any:  # type: ignore[override]
        raise DTypeError("sparse: expected a dense tensor here, got a sparse one; use to_dense()")

    # -- what it is ----------------------------------------------------------------------------------------------------

    shape = property(lambda self: self._size)
    dtype = property(lambda self: self._values_.dtype)
    device = property(lambda self: self._values_.device)
    ndim = property(lambda self: len(self._size))
    layout = property(lambda self: settings.sparse_coo)
    is_sparse = True
    requires_grad = property(lambda self: self._values_.requires_grad)  # type: ignore[assignment]
    grad_fn = property(lambda self: self._values_.grad_fn)
    is_cuda = property(lambda self: self._values_.is_cuda)

    def size(self, dim: int | None = None) -> Any:
        return self._size if dim is None else self._size[dim]

    def dim(self) -> int:
        return len(self._size)

    def numel(self) -> int:
        return math.prod(self._size)

    def __len__(self) -> int:
        return self._size[0]

    def sparse_dim(self) -> int:
        """How many dimensions the indices are for: all."""
        return len(self._size)

    def dense_dim(self) -> int:
        """0; see `sparse_dim`."""
        return 0

    def _nnz(self) -> int:
        return self._values_.numel()

    def is_coalesced(self) -> bool:
        """Whether the indices are in order and each occurs once."""
        return self._coalesced

    def indices(self) -> Tensor:
        """(ndim, n), of a coalesced tensor."""
        return self._checked()._indices_

    def values(self) -> Tensor:
        """(n), of a coalesced tensor."""
        return self._checked()._values_

    def _checked(self) -> SparseTensor:
        if not self._coalesced:
            raise ArgumentError(
                "sparse: Cannot get indices or values on an uncoalesced tensor, please call .coalesce() first"
            )
        return self

    def _indices(self) -> Tensor:
        return self._indices_

    def _values(self) -> Tensor:
        return self._values_

    # -- what it computes ----------------------------------------------------------------------------------------------

    def _flat(self) -> np.ndarray:
        index = self._indices_._host()
        return np.ravel_multi_index(tuple(index), self._size) if index.size else np.zeros(index.shape[1], np.int64)

    def coalesce(self) -> SparseTensor:
        """The same with indices in order, the values of equal ones summed."""
        if self._coalesced:
            return self
        flat, inverse = np.unique(self._flat(), return_inverse=True)
        where = self._values_.device
        values = functions.index_add(self._values_.new_zeros(len(flat)), 0, wrap(inverse).to(where), self._values_)
        indices = np.stack(np.unravel_index(flat, self._size)).astype(np.int64)
        return SparseTensor(wrap(indices).to(where), values, self._size, True)

    def to_dense(self, dtype: Any = None) -> Tensor:
        """All elements."""
        at = wrap(self._flat()).to(self._values_.device)
        y = functions.index_add(self._values_.new_zeros(self.numel()), 0, at, self._values_).reshape(self._size)
        return y if dtype is None else y.to(dtype)

    def _with(self, values: Tensor) -> SparseTensor:
        return SparseTensor(self._indices_, values, self._size, self._coalesced)

    def to(self, *args: Any, **kwargs: Any) -> SparseTensor:
        values = functions.to(self._values_, *args, **kwargs)
        return SparseTensor(self._indices_.to(values.device), values, self._size, self._coalesced)

    def cpu(self) -> SparseTensor:
        return self.to("cpu")

    def cuda(self, device: Any = None, non_blocking: bool = False) -> SparseTensor:
        return self.to("cuda" if device is None else device)

    def float(self) -> SparseTensor:
        return self._with(self._values_.float())

    def double(self) -> SparseTensor:
        return self._with(self._values_.double())

    def detach(self) -> SparseTensor:
        return self._with(self._values_.detach())

    def clone(self) -> SparseTensor:
        return self._with(self._values_.clone())

    def requires_grad_(self, requires_grad: bool = True) -> SparseTensor:
        self._values_.requires_grad_(requires_grad)
        return self

    def t(self) -> SparseTensor:
        """The transpose of a matrix."""
        return SparseTensor(self._indices_.flip(0), self._values_, self._size[::-1])

    def transpose(self, dim0: int, dim1: int) -> SparseTensor:
        order = list(range(self.ndim))
        order[dim0], order[dim1] = order[dim1], order[dim0]
        return SparseTensor(self._indices_[order], self._values_, tuple(self._size[d] for d in order))

    def sum(self, dim: Any = None) -> Any:
        """The sum of all elements, or over dimensions: a dense tensor."""
        return _reduce.sum(self._values_) if dim is None else _reduce.sum(self.to_dense(), dim=dim)

    def neg(self) -> SparseTensor:
        return self._with(-self._values_)

    def mul(self, other: Any) -> SparseTensor:
        """Elementwise, by a number or a tensor of this shape."""
        if isinstance(other, Tensor) and other.dim():
            other = other.to_dense() if isinstance(other, SparseTensor) else other
            return self.coalesce()._with(
                self.coalesce()._values_ * other.expand(self._size)[tuple(self.coalesce()._indices_)]
            )
        return self._with(self._values_ * other)

    def div(self, other: Any) -> SparseTensor:
        return self._with(self._values_ / other)

    def add(self, other: Any, *, alpha: float = 1) -> Tensor:
        """Sparse with sparse stays sparse; with dense it is dense."""
        if not isinstance(other, SparseTensor):
            return self.to_dense() + other * alpha
        if other._size != self._size:
            raise ShapeError(f"sparse add: expected equal shapes, got {tuple(self._size)} and {tuple(other._size)}")
        indices = functions.cat([self._indices_, other._indices_], 1)
        return SparseTensor(indices, functions.cat([self._values_, other._values_ * alpha]), self._size).coalesce()

    def sub(self, other: Any, *, alpha: float = 1) -> Tensor:
        return self.add(other, alpha=-alpha)

    def mm(self, other: Tensor) -> Tensor:
        return mm(self, other)

    matmul = spmm = mm
    __matmul__, __add__, __radd__, __sub__, __mul__, __rmul__, __truediv__, __neg__ = (
        mm,
        add,
        add,
        sub,
        mul,
        mul,
        div,
        neg,
    )

    def __rmatmul__(self, other: Tensor) -> Tensor:
        return mm(other, self)

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        inner = [
            f"indices={self._indices_!r}",
            f"values={self._values_.detach()!r}",
            f"size={tuple(self._size)}",
            f"nnz={self._nnz()}",
        ]
        inner += [] if self.dtype is dtypes.get_default_dtype() else [f"dtype={self.dtype}"]
        return f"tensor({', '.join([*inner, 'layout=' + repr(self.layout)])})"


def sparse_coo_tensor(
    indices: Any, values: Any = None, size: Any = None, *, dtype: Any = None, device: Any = None, requires_grad: bool = False,
    check_invariants: Any = None, is_coalesced: bool = False,
) -> SparseTensor:  # fmt: skip
    """(ndim, n) indices and (n) values as a tensor of this size, by default as large as the indices need."""
    if values is None:  # sparse_coo_tensor(size)
        indices, values, size = np.zeros((len(indices), 0), np.int64), creation.zeros(0, dtype=dtype), indices
    index = creation.as_tensor(indices, dtype=dtypes.int64, device=device)
    value = creation.as_tensor(values, dtype=dtype, device=device)
    if index.dim() != 2 or value.dim() != 1 or index.size(1) != value.size(0):
        raise ShapeError(
            f"sparse_coo_tensor: expected indices (ndim, n) and values (n), got {tuple(index.shape)} and {tuple(value.shape)}"
        )
    host = index._host()
    size = tuple((host.max(axis=1) + 1).tolist()) if size is None else tuple(size)
    if len(size) != len(host) or (host.size and ((host < 0).any() or (host.max(axis=1) >= size).any())):
        raise ShapeError(
            f"sparse_coo_tensor: expected indices within the size {size}, got up to {host.max(axis=1).tolist()}"
        )
    value = value.requires_grad_() if requires_grad else value
    return SparseTensor(index, value, size, is_coalesced)


def to_sparse(x: Tensor, sparse_dim: int | None = None) -> SparseTensor:
    """The elements that are not zero."""
    if isinstance(x, SparseTensor):
        return x
    if sparse_dim not in (None, x.dim()):
        raise ArgumentError(f"to_sparse: expected all {x.dim()} dimensions to be sparse, got {sparse_dim}")
    at = x.nonzero().t()
    return SparseTensor(at, x[tuple(at)], x.shape, True)


def mm(input: Tensor, mat2: Tensor) -> Tensor:
    """(n, k) @ (k, m) -> (n, m): a sparse matrix times a dense one, or a vector, is dense; times a sparse one, sparse."""
    x, y = input, mat2
    if not isinstance(x, SparseTensor):
        if not isinstance(y, SparseTensor):
            return functions.mm(x, y)
        return mm(y.t(), x.t()).t()
    if isinstance(y, SparseTensor):
        return to_sparse(mm(x, y.to_dense()))
    if x.dim() != 2 or x.size(1) != y.size(0):
        raise ShapeError(f"sparse.mm: expected (n, k) @ (k, m), got {tuple(x.shape)} @ {tuple(y.shape)}")
    rows, columns = x._indices_
    picked = functions.index_select(y, 0, columns)
    weighted = _pw.mul(picked, x._values_.unsqueeze(1) if y.dim() > 1 else x._values_)
    return functions.index_add(weighted.new_zeros((x.size(0), *y.shape[1:])), 0, rows, weighted)


spmm = mm


def addmm(mat: Tensor, x: Tensor, y: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """beta·mat + alpha·(x @ y), x sparse."""
    return _pw.add(_pw.mul(mat, beta), mm(x, y), alpha=alpha)


def sum(x: SparseTensor, dim: Any = None, dtype: Any = None) -> Any:
    """The sum of all elements, or over dimensions: sparse."""
    total = x.sum(dim)
    return total if dim is None else to_sparse(total)


def softmax(x: SparseTensor, dim: int, *, dtype: Any = None) -> SparseTensor:
    """The softmax over the elements that are kept, along one dimension."""
    x = x.coalesce()
    index = x._indices_._host()
    others = [d for d in range(x.dim()) if d != dim % x.dim()]
    _, group = np.unique(index[others], axis=1, return_inverse=True)
    at = wrap(group.reshape(-1).astype(np.int64)).to(x.device)
    n = int(group.max()) + 1 if group.size else 0
    top = functions.scatter_reduce(x._values_.new_zeros(n), 0, at, x._values_.detach(), "amax", include_self=False)
    e = _pw.exp(x._values_ - top[at])
    return x._with(e / functions.index_add(e.new_zeros(n), 0, at, e)[at])


def _old(dtype: dtypes.dtype) -> Any:
    """torch.sparse.FloatTensor(indices, values, size) and the like."""

    def make(indices: Any, values: Any = None, size: Any = None) -> SparseTensor:
        return sparse_coo_tensor(indices, values, size, dtype=dtype)

    return make


FloatTensor, DoubleTensor, LongTensor = _old(dtypes.float32), _old(dtypes.float64), _old(dtypes.int64)
