"""Shapes, by torch's signatures: views, joins, cuts, tiles, diagonals, order of elements."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np

from core import backend, dtypes
from core._tensor import Size, Tensor, _dim, wrap
from core.errors import ArgumentError, ShapeError
from core.ops import index as _index
from core.ops import pointwise as _pw
from core.ops import shape as _shape
from core.ops.shape import shape_of

# -- views and copies ----------------------------------------------------------------------------------------------------


def view(x: Tensor, *shape: Any) -> Tensor:
    """x in another shape (-1: whatever is left), or its bytes as another dtype, in the same memory."""
    if len(shape) == 1 and isinstance(shape[0], dtypes.dtype):
        t = wrap(x._a.view(shape[0].numpy))
        t._counter = x._counted()
        return t
    return _shape.view_as_shape.apply((x,), {"shape": shape_of(shape)})


def reshape(x: Tensor, *shape: Any) -> Tensor:
    """x in another shape: a view where memory allows it, else a copy."""
    array = x._a
    target = _shape._inferred(shape_of(shape), array.size, "reshape", array.shape)
    if not array.flags.c_contiguous and backend.of(array).reshape_view(array, target) is None:
        return _shape.reshape(x, shape=target)
    return _shape.view_as_shape.apply((x,), {"shape": target})


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


def flip(x: Tensor, *args: Any, dims: Any = None) -> Tensor:
    """The order reversed along dimensions."""
    return _shape.flip(x, dims=shape_of(args if dims is None else (dims,)))


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


# -- cuts ----------------------------------------------------------------------------------------------------------------


def split(x: Tensor, split_size_or_sections: Any, dim: int = 0) -> tuple[Tensor, ...]:
    """Consecutive pieces along a dimension, of one size (the last may be smaller) or of the sizes listed: views."""
    n = x._a.shape[_dim(dim, x._a.ndim, "split")]
    if isinstance(split_size_or_sections, (list, tuple)):
        sizes = tuple(int(s) for s in split_size_or_sections)
    else:
        size = int(split_size_or_sections)
        if size <= 0 and n:
            raise ArgumentError(f"split: expected a size > 0, got {size}")
        sizes = tuple(min(size, n - start) for start in range(0, n, size)) if n else (0,)
    return _shape.split_with_sizes(x, split_sizes=sizes, dim=dim)


def chunk(x: Tensor, chunks: int, dim: int = 0) -> tuple[Tensor, ...]:
    """At most `chunks` pieces of equal size along a dimension (the last may be smaller): views."""
    if chunks < 1:
        raise ArgumentError(f"chunk: expected chunks >= 1, got {chunks}")
    return split(x, max(1, -(-x._a.shape[_dim(dim, x._a.ndim, "chunk")] // chunks)), dim)


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


def cat(tensors: Any, dim: int = 0, *, axis: int | None = None, out: Any = None) -> Tensor:
    """The tensors one after the other along a dimension."""
    return _shape.cat(tensors, dim=dim if axis is None else axis, out=out)


def tensor_split(x: Tensor, indices_or_sections: Any, dim: int = 0) -> tuple[Tensor, ...]:
    """Pieces along a dimension: so many, the first ones longer by one if need be; or cut before each of the indices."""
    n = x._a.shape[_dim(dim, x._a.ndim, "tensor_split")]
    if isinstance(indices_or_sections, Tensor):
        indices_or_sections = indices_or_sections.tolist()
    if isinstance(indices_or_sections, int):
        if indices_or_sections < 1:
            raise ArgumentError(f"tensor_split: expected at least one section, got {indices_or_sections}")
        size, longer = divmod(n, indices_or_sections)
        cuts = list(itertools.accumulate(size + (i < longer) for i in range(indices_or_sections - 1)))
    else:
        cuts = [slice(i).indices(n)[1] for i in indices_or_sections]
    bounds = [0, *cuts, n]
    return tuple(narrow(x, dim, a, max(0, b - a)) for a, b in itertools.pairwise(bounds))


def hsplit(x: Tensor, indices_or_sections: Any) -> tuple[Tensor, ...]:
    """`tensor_split` along the second dimension, of a vector along its only one."""
    return tensor_split(x, indices_or_sections, 1 if x._a.ndim > 1 else 0)


def vsplit(x: Tensor, indices_or_sections: Any) -> tuple[Tensor, ...]:
    """`tensor_split` along the first dimension."""
    return tensor_split(x, indices_or_sections, 0)


def dsplit(x: Tensor, indices_or_sections: Any) -> tuple[Tensor, ...]:
    """`tensor_split` along the third dimension."""
    return tensor_split(x, indices_or_sections, 2)


def narrow_copy(x: Tensor, dim: int, start: Any, length: int) -> Tensor:
    """`narrow`, as a copy."""
    return _pw.clone(narrow(x, dim, start, length))


# -- order of dimensions -------------------------------------------------------------------------------------------------


def movedim(x: Tensor, source: Any, destination: Any) -> Tensor:
    """Dimensions moved to other places, the rest in order: a view."""
    ndim = x._a.ndim
    sources = [_dim(d, ndim, "movedim") for d in ([source] if isinstance(source, int) else source)]
    targets = [_dim(d, ndim, "movedim") for d in ([destination] if isinstance(destination, int) else destination)]
    if len(sources) != len(targets) or len(set(sources)) != len(sources) or len(set(targets)) != len(targets):
        raise ArgumentError(
            f"movedim: expected as many sources as destinations, each once, got {source} and {destination}"
        )
    rest = iter(d for d in range(ndim) if d not in sources)
    placed = dict(zip(targets, sources))
    return _shape.permute(x, dims=tuple(placed[d] if d in placed else next(rest) for d in range(ndim)))


def adjoint(x: Tensor) -> Tensor:
    """The last two dimensions exchanged, complex numbers conjugated."""
    return _pw.conj(_shape.transpose(x, dim0=-2, dim1=-1)) if x.is_complex() else _shape.transpose(x, dim0=-2, dim1=-1)


def unflatten(x: Tensor, dim: int, sizes: Any) -> Tensor:
    """One dimension as several: a view."""
    d, shape = _dim(dim, x._a.ndim, "unflatten"), x._a.shape
    return reshape(
        x, (*shape[:d], *_shape._inferred(shape_of((sizes,)), shape[d], "unflatten", (shape[d],)), *shape[d + 1 :])
    )


def ravel(x: Tensor) -> Tensor:
    """x with one dimension."""
    return reshape(x, -1)


def broadcast_to(x: Tensor, size: Any) -> Tensor:
    """x expanded to a shape."""
    return _shape.expand(x, shape=shape_of((size,)))


def broadcast_shapes(*shapes: Any) -> Size:
    """The shape that tensors of these shapes broadcast to."""
    try:
        return Size(np.broadcast_shapes(*((s,) if isinstance(s, int) else tuple(s) for s in shapes)))
    except ValueError:
        raise ShapeError(
            f"broadcast_shapes: expected shapes that broadcast, got {', '.join(map(str, shapes))}"
        ) from None


def unfold(x: Tensor, dimension: int, size: int, step: int) -> Tensor:
    """All slices of `size` elements along a dimension, `step` apart, as a new last dimension: a view."""
    return _shape.windows(x, dim=dimension, size=size, step=step)


def fliplr(x: Tensor) -> Tensor:
    """The order reversed along dimension 1."""
    return flip(x, 1)


def flipud(x: Tensor) -> Tensor:
    """The order reversed along dimension 0."""
    return flip(x, 0)


def rot90(x: Tensor, k: int = 1, dims: Any = (0, 1)) -> Tensor:
    """Turned k times by a right angle, from the first of two dimensions towards the second."""
    a, b = dims
    if k % 4 == 2:
        return flip(x, a, b)
    if k % 4 == 1:
        return _shape.transpose(flip(x, b), dim0=a, dim1=b)
    return _shape.transpose(flip(x, a), dim0=a, dim1=b) if k % 4 == 3 else _pw.clone(x)


# -- joins ---------------------------------------------------------------------------------------------------------------


def _at_least(x: Tensor, ndim: int) -> Tensor:
    return x if x._a.ndim >= ndim else reshape(x, (1,) * (ndim - x._a.ndim) + x._a.shape)


def _each(f: Any, tensors: Any) -> Any:
    ts = tensors[0] if len(tensors) == 1 and isinstance(tensors[0], (list, tuple)) else tensors
    return f(ts[0]) if len(ts) == 1 and ts is tensors else tuple(f(x) for x in ts)


def atleast_1d(*tensors: Any) -> Any:
    """Each tensor with at least one dimension."""
    return _each(lambda x: _at_least(x, 1), tensors)


def atleast_2d(*tensors: Any) -> Any:
    """Each tensor with at least two dimensions, a vector as a row."""
    return _each(lambda x: _at_least(x, 2), tensors)


def atleast_3d(*tensors: Any) -> Any:
    """Each tensor with at least three dimensions: (n) as (1, n, 1), (m, n) as (m, n, 1)."""
    return _each(lambda x: x if x._a.ndim > 2 else _shape.unsqueeze(_at_least(x, 2), dim=-1), tensors)


def hstack(tensors: Any, *, out: Any = None) -> Tensor:
    """The tensors side by side, along dimension 1; vectors one after the other."""
    ts = [_at_least(x, 1) for x in tensors]
    return cat(ts, 0 if ts[0]._a.ndim == 1 else 1, out=out)


def vstack(tensors: Any, *, out: Any = None) -> Tensor:
    """The tensors one above the other, along dimension 0; vectors are rows."""
    return cat([_at_least(x, 2) for x in tensors], 0, out=out)


def dstack(tensors: Any, *, out: Any = None) -> Tensor:
    """The tensors one behind the other, along dimension 2."""
    return cat([atleast_3d(x) for x in tensors], 2, out=out)


def column_stack(tensors: Any, *, out: Any = None) -> Tensor:
    """The tensors side by side; vectors are columns."""
    return cat([reshape(x, -1, 1) if x._a.ndim < 2 else x for x in tensors], 1, out=out)


def block_diag(*tensors: Any) -> Tensor:
    """Matrices along the diagonal of a matrix, zeros elsewhere."""
    blocks = [_at_least(x, 2) for x in tensors]
    width, before, rows = sum(b._a.shape[1] for b in blocks), 0, []
    for b in blocks:
        rows.append(_shape.constant_pad(b, pad=(before, width - before - b._a.shape[1])))
        before += b._a.shape[1]
    return cat(rows, 0)


def tile(x: Tensor, *dims: Any) -> Tensor:
    """x laid side by side; fewer numbers than dimensions are for the last ones."""
    repeats = shape_of(dims)
    return _shape.repeat(x, repeats=(1,) * (x._a.ndim - len(repeats)) + repeats)


def repeat_interleave(x: Tensor, repeats: Any = None, dim: int | None = None, *, output_size: Any = None) -> Tensor:
    """Each element, or slice along `dim`, so many times in a row; `repeat_interleave(repeats)` gives the indices."""
    be = backend.of(x._a)
    if repeats is None:
        counts = x._host()
        return wrap(be.from_numpy(np.repeat(np.arange(len(counts)), counts), be.index_of(x._a)))
    if dim is None:
        x, dim = reshape(x, -1), 0
    counts = repeats._host() if isinstance(repeats, Tensor) else repeats
    index = np.repeat(np.arange(x._a.shape[_dim(dim, x._a.ndim, "repeat_interleave")]), counts)
    return _index.index_select(x, wrap(be.from_numpy(index, be.index_of(x._a))), dim=dim)


# -- diagonals -----------------------------------------------------------------------------------------------------------


def diag_embed(x: Tensor, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Tensor:
    """(*, n) -> the last dimension on a diagonal of two new ones, zeros elsewhere."""
    n, ndim = x._a.shape[-1] + abs(offset), x._a.ndim + 1
    a, b = _dim(dim1, ndim, "diag_embed"), _dim(dim2, ndim, "diag_embed")
    rest = iter(x._a.shape[:-1])
    shape = tuple(n if d in (a, b) else next(rest) for d in range(ndim))
    return _shape.diagonal_put(_shape.new_zeros(x, shape=shape), x, offset=offset, dim1=a, dim2=b)


def diag(x: Tensor, diagonal: int = 0) -> Tensor:
    """The diagonal of a matrix, or the matrix that has the vector on its diagonal."""
    if x._a.ndim not in (1, 2):
        raise ShapeError(
            f"diag: expected a vector or a matrix, got shape {tuple(x.shape)}; use diagonal() or diag_embed()"
        )
    return diag_embed(x, diagonal) if x._a.ndim == 1 else _pw.clone(_shape.diagonal(x, offset=diagonal))


def diagflat(x: Tensor, offset: int = 0) -> Tensor:
    """The matrix that has all elements of x on its diagonal."""
    return diag_embed(reshape(x, -1), offset)


# -- copies with a part replaced -----------------------------------------------------------------------------------------


def select_scatter(x: Tensor, src: Tensor, dim: int, index: int) -> Tensor:
    """A copy of x whose slice `index` along `dim` is src."""
    y = _pw.clone(x)
    select(y, dim, index).copy_(src)
    return y


def slice_scatter(x: Tensor, src: Tensor, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Tensor:
    """A copy of x whose slices start:end:step along `dim` are src."""
    y = _pw.clone(x)
    _shape.slice_view(
        y, index=(slice(None),) * _dim(dim, x._a.ndim, "slice_scatter") + (slice(start, end, step),)
    ).copy_(src)
    return y


def diagonal_scatter(x: Tensor, src: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Tensor:
    """A copy of x whose diagonal is src."""
    return _shape.diagonal_put(x, src, offset=offset, dim1=dim1, dim2=dim2)


# -- combinations --------------------------------------------------------------------------------------------------------


def meshgrid(*tensors: Any, indexing: str = "ij") -> tuple[Tensor, ...]:
    """Vectors of lengths n, m, … -> for each a tensor (n, m, …) that varies along its dimension; "xy" exchanges the first two."""
    if indexing not in ("ij", "xy"):
        raise ArgumentError(f"meshgrid: expected indexing 'ij' or 'xy', got {indexing!r}")
    ts = list(tensors[0] if len(tensors) == 1 and isinstance(tensors[0], (list, tuple)) else tensors)
    shape = tuple(x._a.size for x in ts)
    grids = [_shape.expand(reshape(x, (-1,) + (1,) * (len(ts) - 1 - i)), shape=shape) for i, x in enumerate(ts)]
    return (
        tuple(_shape.transpose(g, dim0=0, dim1=1) for g in grids) if indexing == "xy" and len(ts) > 1 else tuple(grids)
    )


def cartesian_prod(*tensors: Tensor) -> Tensor:
    """All tuples of one element of each vector, as rows."""
    if len(tensors) == 1:
        return tensors[0]
    return _shape.stack([reshape(g, -1) for g in meshgrid(*tensors)], dim=-1)


def combinations(x: Tensor, r: int = 2, with_replacement: bool = False) -> Tensor:
    """All choices of r elements of a vector, in order, as rows."""
    choose = itertools.combinations_with_replacement if with_replacement else itertools.combinations
    index = np.array(list(choose(range(x._a.shape[0]), r)), dtype=np.int64).reshape(-1, r)
    be = backend.of(x._a)
    return _index.index(x, index=(be.from_numpy(index, be.index_of(x._a)),))


def vander(x: Tensor, N: int | None = None, increasing: bool = False) -> Tensor:
    """(*, n) -> (*, n, N): powers of each element, falling unless `increasing`."""
    n = x._a.shape[-1] if N is None else N
    powers = [_pw.pow(x, k) for k in (range(n) if increasing else range(n - 1, -1, -1))]
    return _shape.stack(powers, dim=-1) if n else _shape.new_zeros(x, shape=(*x._a.shape, 0))
