"""Functions that users call by torch's names and signatures, composed of ops: overloads, alternatives of spelling, combinations.

An op is here only wrapped: nothing in this file computes on arrays or has a gradient rule.
"""

from __future__ import annotations

import builtins
import math
from collections import namedtuple
from typing import Any

import numpy as np

from core import backend, dtypes
from core._tensor import Tensor, _dim, _moved, wrap
from core.devices import device as device_type
from core.errors import ArgumentError, ShapeError
from core.ops import index as _index
from core.ops import linalg as _linalg
from core.ops import pointwise as _pw
from core.ops import reduce as _reduce
from core.ops import shape as _shape
from core.ops.shape import shape_of

ValuesIndices = namedtuple("ValuesIndices", "values indices")

# -- shape ---------------------------------------------------------------------------------------------------------------


def view(x: Tensor, *shape: Any) -> Tensor:
    """x in another shape (-1: whatever is left), or its bytes as another dtype, in the same memory."""
    if len(shape) == 1 and isinstance(shape[0], dtypes.dtype):
        t = wrap(x._a.view(shape[0].numpy))
        t._counter = x._counted()
        return t
    return _shape.view_as_shape(x, shape=shape_of(shape))


def reshape(x: Tensor, *shape: Any) -> Tensor:
    """x in another shape: a view where memory allows it, else a copy."""
    target = _shape._inferred(shape_of(shape), x._a.size, "reshape", x._a.shape)
    if backend.of(x._a).reshape_view(x._a, target) is None:
        return _shape.reshape(x, shape=target)
    return _shape.view_as_shape(x, shape=target)


def view_as(x: Tensor, other: Tensor) -> Tensor:
    """x.view with other's shape."""
    return view(x, other._a.shape)


def reshape_as(x: Tensor, other: Tensor) -> Tensor:
    """x.reshape with other's shape."""
    return reshape(x, other._a.shape)


def permute(x: Tensor, *dims: Any) -> Tensor:
    """The dimensions in another order: a view."""
    return _shape.permute(x, dims=shape_of(dims))


def t(x: Tensor) -> Tensor:
    """The transpose of a matrix; a vector as it is."""
    if x._a.ndim > 2:
        raise ShapeError(f"t: expected at most 2 dimensions, got shape {tuple(x.shape)}; use transpose or mT")
    return _shape.transpose(x, dim0=0, dim1=1) if x._a.ndim == 2 else _shape.alias(x)


def expand(x: Tensor, *shape: Any) -> Tensor:
    """x stretched along dimensions of length 1 and new leading ones: a view."""
    return _shape.expand(x, shape=shape_of(shape))


def expand_as(x: Tensor, other: Tensor) -> Tensor:
    """x expanded to other's shape."""
    return _shape.expand(x, shape=other._a.shape)


def repeat(x: Tensor, *repeats: Any) -> Tensor:
    """x laid side by side."""
    return _shape.repeat(x, repeats=shape_of(repeats))


def flip(x: Tensor, *dims: Any) -> Tensor:
    """The order reversed along dimensions."""
    return _shape.flip(x, dims=shape_of(dims))


def squeeze(x: Tensor, dim: Any = None) -> Tensor:
    """Without dimensions of length 1: a view."""
    return _shape.squeeze(x, dim=dim)


def flatten(x: Tensor, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """The dimensions from start_dim to end_dim as one."""
    if not x._a.ndim:
        return reshape(x, 1)
    a, b = _dim(start_dim, x._a.ndim, "flatten"), _dim(end_dim, x._a.ndim, "flatten")
    if a > b:
        raise ArgumentError(f"flatten: expected start_dim <= end_dim, got {start_dim} and {end_dim}")
    shape = x._a.shape
    return x if a == b else reshape(x, (*shape[:a], math.prod(shape[a : b + 1]), *shape[b + 1 :]))


def split(x: Tensor, split_size_or_sections: Any, dim: int = 0) -> tuple[Tensor, ...]:
    """Consecutive pieces along a dimension, of one size (the last may be smaller) or of the sizes listed: views."""
    n = x._a.shape[_dim(dim, x._a.ndim, "split")]
    if isinstance(split_size_or_sections, (list, tuple)):
        sizes = [int(s) for s in split_size_or_sections]
        if sum_of(sizes) != n:
            raise ShapeError(f"split: expected sizes that sum to {n}, the length of dim {dim}, got {sizes}")
    else:
        size = int(split_size_or_sections)
        if size <= 0 and n:
            raise ArgumentError(f"split: expected a size > 0, got {size}")
        sizes = [min_of(size, n - start) for start in range(0, n, size)] if n else [0]
    pieces, start = [], 0
    for s in sizes:
        pieces.append(_shape.narrow(x, dim=dim, start=start, length=s))
        start += s
    return tuple(pieces)


def chunk(x: Tensor, chunks: int, dim: int = 0) -> tuple[Tensor, ...]:
    """At most `chunks` pieces of equal size along a dimension (the last may be smaller): views."""
    if chunks < 1:
        raise ArgumentError(f"chunk: expected chunks >= 1, got {chunks}")
    return split(x, max_of(1, -(-x._a.shape[_dim(dim, x._a.ndim, "chunk")] // chunks)), dim)


def select(x: Tensor, dim: int, index: int) -> Tensor:
    """The slice at one index of a dimension: a view."""
    d = _dim(dim, x._a.ndim, "select")
    return _shape.slice_view(x, index=(slice(None),) * d + (int(index),))


def narrow(x: Tensor, dim: int, start: Any, length: int) -> Tensor:
    """`length` elements from `start` on along a dimension: a view."""
    return _shape.narrow(x, dim=dim, start=int(start), length=int(length))


def contiguous(x: Tensor, memory_format: Any = None) -> Tensor:
    """x, copied if its elements are not in index order in memory."""
    if x._a.flags.c_contiguous:
        return x
    return _shape.reshape(x, shape=x._a.shape) if x._a.size == 0 else _contiguous(x)


def _contiguous(x: Tensor) -> Tensor:
    y = _pw.clone(x)
    y._a = backend.of(x._a).xp.ascontiguousarray(y._a)
    return y


def cat(tensors: Any, dim: int = 0, *, out: Any = None) -> Tensor:
    """The tensors one after the other along a dimension."""
    return _shape.cat(tensors, dim=dim, out=out)


# -- reductions with overloads -------------------------------------------------------------------------------------------


def _extreme(x: Tensor, args: Any, kwargs: dict[str, Any], whole: Any, along: Any, pair: Any) -> Any:
    if "axis" in kwargs:
        kwargs["dim"] = kwargs.pop("axis")
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
    if "axis" in kwargs:
        kwargs["dim"] = kwargs.pop("axis")
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


def norm(x: Tensor, p: Any = 2, dim: Any = None, keepdim: bool = False) -> Tensor:
    """The p-norm over `dim` (all by default): (Σ |x|ᵖ)^(1/p); p may be ±inf, 0, 1, 2, "fro"."""
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


# -- products ------------------------------------------------------------------------------------------------------------


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
    y = mm(mat1, mat2)
    return (x if beta == 1 else x * beta) + (y if alpha == 1 else y * alpha)


# -- dtype, device, memory -----------------------------------------------------------------------------------------------


def to(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """x with another dtype, on another device, or like another tensor; x itself if nothing changes and `copy` is false."""
    dtype, where, copy = kwargs.get("dtype"), kwargs.get("device"), kwargs.get("copy", False)
    for a in args:
        if isinstance(a, Tensor):
            dtype, where = a.dtype, a.device
        elif isinstance(a, dtypes.dtype) or (
            isinstance(a, type) and a in (builtins.float, builtins.int, builtins.bool)
        ):
            dtype = a
        elif isinstance(a, (str, device_type)) or (isinstance(a, int) and not isinstance(a, bool)):
            where = a
    y = x
    if where is not None:
        moved = _moved(x._a, where)
        if moved is not x._a:
            y = transfer(x, where)
    if dtype is not None and dtypes.as_numpy(dtype) != x._a.dtype:
        y = _pw.cast(y, dtype=dtype)
    return _pw.clone(y) if copy and y is x else y


def transfer(x: Tensor, where: Any) -> Tensor:
    """x copied to another device; the gradient is copied back."""
    from core.autograd.function import Function

    class ToDevice(Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.source = x.device
            return wrap(_moved(x._a, where))

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            return to(g, ctx.source)

    return ToDevice.apply(x)


def cpu(x: Tensor) -> Tensor:
    """x on the CPU."""
    return to(x, "cpu")


def cuda(x: Tensor, device: Any = None, non_blocking: bool = False) -> Tensor:
    """x on a GPU."""
    return to(x, "cuda" if device is None else device)


def type_(x: Tensor, dtype: Any = None, non_blocking: bool = False) -> Any:
    """The name of the tensor's type, "torch.FloatTensor", or x converted to a dtype or to a type by name."""
    from core import tensor_types

    if dtype is None:
        return str(tensor_types.of(x))
    if isinstance(dtype, (str, tensor_types.TensorType)):
        named = tensor_types.named(dtype)
        return to(x, named.dtype, device=named.device_type)
    return to(x, dtype)


def numel(x: Tensor) -> int:
    """The number of elements."""
    return x.numel()


def is_tensor(x: Any) -> bool:
    """Whether x is a Tensor."""
    return isinstance(x, Tensor)


def equal(x: Tensor, other: Tensor) -> bool:
    """Whether shape and all elements are equal."""
    return x._a.shape == other._a.shape and bool((x._a == other._a).all())


def isclose(x: Tensor, other: Tensor, rtol: float = 1e-05, atol: float = 1e-08, equal_nan: bool = False) -> Tensor:
    """|x − y| ≤ atol + rtol·|y|, elementwise."""
    return wrap(backend.of(x._a).xp.isclose(x._a, other._a, rtol, atol, equal_nan))


def allclose(x: Tensor, other: Tensor, rtol: float = 1e-05, atol: float = 1e-08, equal_nan: bool = False) -> bool:
    """Whether all elements are close."""
    return bool(isclose(x, other, rtol, atol, equal_nan).all())


def broadcast_tensors(*tensors: Any) -> list[Tensor]:
    """The tensors expanded to their common shape."""
    ts = tensors[0] if len(tensors) == 1 and isinstance(tensors[0], (list, tuple)) else tensors
    shape = np.broadcast_shapes(*(x._a.shape for x in ts))
    return [_shape.expand(x, shape=shape) for x in ts]


def scatter(x: Tensor, dim: int, index: Tensor, src: Any = None, *, value: Any = None) -> Tensor:
    """x with src (a tensor or a number) written where the index says along `dim`."""
    return _index.scatter(x, index, value if src is None else src, dim=dim)


def scatter_add(x: Tensor, dim: int, index: Tensor, src: Tensor) -> Tensor:
    """x with src added where the index says along `dim`."""
    return _index.scatter_add(x, index, src, dim=dim)


def gather(x: Tensor, dim: int, index: Tensor) -> Tensor:
    """x picked along `dim` by an index of the result's shape."""
    return _index.gather(x, index, dim=dim)


def index_select(x: Tensor, dim: int, index: Tensor) -> Tensor:
    """The slices along `dim` that a 1-d index names."""
    return _index.index_select(x, index, dim=dim)


def where(condition: Tensor, x: Any = None, y: Any = None) -> Any:
    """x where the condition holds, else y; with the condition alone, the indices where it holds."""
    if x is None:
        return tuple(wrap(p.astype(np.int64)) for p in backend.of(condition._a).xp.nonzero(condition._a))
    return _pw.where(condition, x, y)


def nonzero(x: Tensor, *, as_tuple: bool = False) -> Any:
    """The indices of the elements that are not zero, as one matrix or as a tuple of vectors."""
    return where(_pw.ne(x, 0)) if as_tuple else _index.nonzero(x)


# builtins whose names the functions above take
sum_of, min_of, max_of = builtins.sum, builtins.min, builtins.max
