"""Shapes: views, joins, cuts, order. Views share memory, as in torch."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from core import backend, dtypes
from core._tensor import _dim
from core.errors import ArgumentError, RangeError, ShapeError
from core.ops.op import graph, op

Shape = tuple[int, ...]


def shape_of(args: Any) -> Shape:
    """torch's two ways to give a shape: f(2, 3) and f((2, 3))."""
    if len(args) == 1 and isinstance(args[0], (tuple, list)):
        args = args[0]
    return tuple(map(int, args))


def _inferred(shape: Shape, size: int, where: str, was: Shape) -> Shape:
    """The shape with its −1 filled in."""
    if math.prod(shape) == size and min(shape, default=0) >= 0:
        return shape
    unknown = shape.count(-1)
    known = math.prod(n for n in shape if n != -1)
    if unknown > 1 or any(n < -1 for n in shape):
        raise ShapeError(f"{where}: expected at most one -1 in the shape, got {shape}")
    if unknown and known and size % known == 0:
        return tuple(size // known if n == -1 else n for n in shape)
    if unknown or known != size:
        raise ShapeError(
            f"{where}: expected a shape of {size} elements for a tensor of shape {tuple(was)}, got {shape}"
        )
    return shape


# -- views ---------------------------------------------------------------------------------------------------------------


@op(view=True, x=lambda F, g, x_shape: F.reshape(g, shape=x_shape))
def view_as_shape(be, x, *, shape):
    """x in another shape, in the same memory; an error where that is impossible. Public as `Tensor.view`."""
    shape = _inferred(shape, x.size, "view", x.shape)
    y = be.reshape_view(x, shape)
    if y is None:
        raise ShapeError(
            f"view: size is not compatible with the strides: expected a shape that spans the memory of {tuple(x.shape)} with strides "
            f"{tuple(s // x.itemsize for s in x.strides)}, got {shape}; use reshape()"
        )
    return y


@op(x=lambda F, g, x_shape: F.reshape(g, shape=x_shape))
def reshape(be, x, *, shape):
    """A copy of x in another shape. The public `reshape` returns a view where it can."""
    return x.reshape(_inferred(shape, x.size, "reshape", x.shape))


@op(view=True, x=lambda F, g, x_shape: g)
def alias(be, x):
    """x itself, as a new tensor."""
    return x.view()


def _inverse(dims: Shape) -> Shape:
    """The permutation that undoes this one."""
    n, inverse = len(dims), [0] * len(dims)
    for i, d in enumerate(dims):
        inverse[d % n] = i
    return tuple(inverse)


@op(view=True, x=lambda F, g, dims: F.permute(g, dims=_inverse(dims)))
def permute(be, x, *, dims):
    """The dimensions in another order."""
    order = tuple(_dim(int(d), x.ndim, "permute") for d in dims)
    if sorted(order) != list(range(x.ndim)):
        raise ArgumentError(f"permute: expected each of {x.ndim} dimensions once, got {tuple(dims)}")
    return x.transpose(order)


@op(view=True, x=lambda F, g, dim0, dim1: F.transpose(g, dim0=dim0, dim1=dim1))
def transpose(be, x, *, dim0, dim1):
    """Two dimensions exchanged."""
    if not x.ndim:
        return x.view()
    return x.swapaxes(_dim(dim0, x.ndim, "transpose"), _dim(dim1, x.ndim, "transpose"))


def _writeable(view: Any, x: Any) -> Any:
    """NumPy makes some views read-only; in torch they can be written to if x can."""
    if isinstance(view, np.ndarray):
        view.flags.writeable = x.flags.writeable
    return view


def _expand_dx(F, g, x_shape):
    added = g.ndim - len(x_shape)
    dims = tuple(range(added)) + tuple(i + added for i, n in enumerate(x_shape) if n == 1 and g.shape[i + added] != 1)
    g = F.sum(g, dim=dims, keepdim=True) if dims else g
    return F.reshape(g, shape=x_shape)


@op(view=True, x=_expand_dx)
def expand(be, x, *, shape):
    """x repeated along dimensions of length 1 and new leading ones, without copying. −1 keeps a length."""
    added = len(shape) - x.ndim
    if added < 0:
        raise ShapeError(
            f"expand: expected at least {x.ndim} dimensions for shape {tuple(x.shape)}, got {tuple(shape)}"
        )
    old = (1,) * added + x.shape
    new = tuple(o if n == -1 else int(n) for n, o in zip(shape, old))
    if any(o != n and o != 1 for n, o in zip(new, old)):
        raise ShapeError(
            f"expand: expected lengths equal to those of {tuple(x.shape)} or stretching a 1, got {tuple(shape)}"
        )
    if type(x) is np.ndarray and x.flags.c_contiguous:  # a third of the time of broadcast_to
        steps = (0,) * added + x.strides
        return np.ndarray(new, x.dtype, x, 0, tuple(0 if o != n else s for n, o, s in zip(new, old, steps)))
    return _writeable(be.xp.broadcast_to(x, new), x)


@op(view=True, x=lambda F, g, x_shape: F.reshape(g, shape=x_shape))
def squeeze(be, x, *, dim=None):
    """Without the dimensions of length 1: all of them, or those in `dim`."""
    dims = range(x.ndim) if dim is None else dim if isinstance(dim, (tuple, list)) else (dim,)
    drop = {_dim(int(d), x.ndim, "squeeze") for d in dims}
    return x.reshape(tuple(n for i, n in enumerate(x.shape) if not (i in drop and n == 1)))


@op(view=True, x=lambda F, g, x_shape: F.reshape(g, shape=x_shape))
def unsqueeze(be, x, *, dim):
    """A new dimension of length 1 at `dim`."""
    d = _dim(int(dim), x.ndim + 1, "unsqueeze")
    return x.reshape((*x.shape[:d], 1, *x.shape[d:]))  # never a copy


def _diagonal_dx(F, g, x_shape, offset, dim1, dim2):
    return F.diagonal_put(F.new_zeros(g, shape=x_shape), g, offset=offset, dim1=dim1, dim2=dim2)


@op(view=True, x=_diagonal_dx)
def diagonal(be, x, *, offset=0, dim1=0, dim2=1):
    """The diagonal of two dimensions, as the last dimension."""
    return _writeable(be.xp.diagonal(x, offset, dim1, dim2), x)


def _diagonal_put_dx(F, g, offset, dim1, dim2):
    return F.diagonal_put(g, F.diagonal(g, offset=offset, dim1=dim1, dim2=dim2) * 0, offset=offset, dim1=dim1, dim2=dim2)


@op(x=_diagonal_put_dx, g=lambda F, g, offset, dim1, dim2: F.diagonal(g, offset=offset, dim1=dim1, dim2=dim2))
def diagonal_put(be, x, g, *, offset=0, dim1=0, dim2=1):
    """x with its diagonal replaced by g."""
    y = be.xp.array(x)
    moved = be.xp.moveaxis(y, (dim1, dim2), (-2, -1))
    n = g.shape[-1]
    i = be.xp.arange(n)
    moved[..., i + max(0, -offset), i + max(0, offset)] = g
    return y


# -- making and filling --------------------------------------------------------------------------------------------------


@op()
def new_zeros(be, x, *, shape, dtype=None):
    """Zeros of this shape, with x's dtype and device."""
    return be.xp.zeros(shape, dtype=x.dtype if dtype is None else dtypes.as_numpy(dtype))


@op()
def fill(be, x, *, value):
    """x's shape, every element `value`."""
    return be.xp.full(x.shape, value, dtype=x.dtype)


@op()
def zero(be, x):
    """x's shape, zeros."""
    return be.xp.zeros(x.shape, dtype=x.dtype)


@op(broadcasts=True, y=lambda F, g: g)
def copy(be, x, y):
    """y with x's shape and dtype; in place it is `x.copy_(y)`."""
    try:
        return be.xp.broadcast_to(y.astype(x.dtype) if hasattr(y, "dtype") else be.xp.asarray(y).astype(x.dtype), x.shape)
    except ValueError:
        raise ShapeError(
            f"copy_: expected a source that broadcasts to {tuple(x.shape)}, got {tuple(y.shape)}"
        ) from None


# -- joins and cuts ------------------------------------------------------------------------------------------------------


def _cat_dxs(F, g, xs_shape, dim):
    ndim = max(len(s) for s in xs_shape)
    dim = _dim(dim, ndim, "cat")
    grads, start = [], 0
    for shape in xs_shape:
        if shape == (0,) and ndim != 1:
            grads.append(F.new_zeros(g, shape=shape))
            continue
        grads.append(F.narrow(g, dim=dim, start=start, length=shape[dim]))
        start += shape[dim]
    return grads


@op(xs=_cat_dxs)
def cat(be, *xs, dim=0):
    """The tensors one after the other along a dimension. Promotes; empty 1-d tensors are skipped, as in torch."""
    ndim = max(x.ndim for x in xs)
    parts = [x for x in xs if ndim == 1 or x.shape != (0,)] or list(xs)
    d = _dim(dim, ndim, "cat")
    first = parts[0]
    for x in parts[1:]:
        if x.ndim != first.ndim or any(a != b for i, (a, b) in enumerate(zip(x.shape, first.shape)) if i != d):
            raise ShapeError(
                f"cat: Sizes of tensors must match except in dimension {d}: expected shapes like {tuple(first.shape)}, got {tuple(x.shape)}"
            )
    if not first.ndim:
        raise ShapeError("cat: expected tensors with dimensions, got 0-d tensors; use stack()")
    common = first.dtype
    for x in xs:
        common = dtypes.join(common, x.dtype)
    return be.xp.concatenate([x.astype(common, copy=False) for x in parts], axis=d)


@op(xs=lambda F, g, dim: F.unbind(g, dim=dim))
def stack(be, *xs, dim=0):
    """The tensors side by side along a new dimension."""
    for x in xs[1:]:
        if x.shape != xs[0].shape:
            raise ShapeError(f"stack: expected tensors of equal shape, got {tuple(xs[0].shape)} and {tuple(x.shape)}")
    return be.xp.stack(xs, axis=_dim(dim, xs[0].ndim + 1, "stack"))


def _narrow_dx(F, g, x_shape, dim, start, length):
    return F.slice_grad(g, shape=x_shape, index=_span(x_shape, dim, start, length))


def _span(shape: Shape, dim: int, start: int, length: int) -> tuple[slice, ...]:
    d = _dim(dim, len(shape), "narrow")
    start = start + shape[d] if start < 0 else start
    if not 0 <= start <= start + length <= shape[d]:
        raise RangeError(
            f"narrow: expected 0 <= start <= start + length <= {shape[d]}, got start {start}, length {length}"
        )
    return (slice(None),) * d + (slice(start, start + length),)


@op(view=True, x=_narrow_dx)
def narrow(be, x, *, dim, start, length):
    """`length` elements from `start` on, along one dimension."""
    return x[_span(x.shape, dim, start, length)]


@op(view=True, x=lambda F, g, x_shape, index: F.slice_grad(g, shape=x_shape, index=index))
def slice_view(be, x, *, index):
    """x[index] for an index of ints, slices, None and …: a view."""
    try:
        y = x[index]
    except IndexError as e:
        raise RangeError(f"index: {e}; the tensor's shape is {tuple(x.shape)}") from None
    return y if hasattr(y, "flags") and y.base is not None else x[(*index, ...)]


@op(g=lambda F, gg, index: F.slice_view(gg, index=index))
def slice_grad(be, g, *, shape, index):
    """The gradient of `slice_view`: zeros of this shape, but g at the index."""
    y = be.xp.zeros(shape, dtype=g.dtype)
    y[index] = g
    return y


@op(g=lambda F, g, index: F.slice_view(g, index=index))
def slice_put(be, x, g, *, index):
    """x with x[index] replaced by g. x is taken to be constant."""
    y = be.xp.array(x)
    y[index] = g
    return y


def _split_dx(F, g, dim):
    pieces = g if isinstance(g, list) else [g]
    whole = None if F is graph else backend.of(pieces[0]).rejoined(pieces, _dim(dim, pieces[0].ndim, "split"))
    return F.cat(pieces, dim=dim) if whole is None else whole


@op(view=True, x=_split_dx)
def split_with_sizes(be, x, *, split_sizes, dim=0):
    """Consecutive pieces of these sizes along a dimension, as a tuple."""
    d = _dim(dim, x.ndim, "split")
    if any(n < 0 for n in split_sizes) or sum(split_sizes) != x.shape[d]:
        raise ShapeError(
            f"split: expected sizes that sum to {x.shape[d]}, the length of dim {dim}, got {list(split_sizes)}"
        )
    pieces, start = [], 0
    for n in split_sizes:
        pieces.append(x[(slice(None),) * d + (slice(start, start + n),)])
        start += n
    return tuple(pieces)


@op(view=True, x=lambda F, g, dim: F.stack(g if isinstance(g, list) else [g], dim=dim))
def unbind(be, x, *, dim=0):
    """The slices along a dimension, as a tuple."""
    if not x.ndim:
        raise ShapeError("unbind: expected a tensor with dimensions, got a 0-d tensor")
    d = _dim(dim, x.ndim, "unbind")
    return tuple(x[(*(slice(None),) * d, i, ...)] for i in range(x.shape[d]))


# -- order and repetition ------------------------------------------------------------------------------------------------


@op(x=lambda F, g, dims: F.flip(g, dims=dims))
def flip(be, x, *, dims):
    """The order reversed along dimensions. A copy."""
    dims = (dims,) if isinstance(dims, int) else dims
    return be.xp.array(be.xp.flip(x, tuple(_dim(d, x.ndim, "flip") for d in dims)), order="C")


@op(
    x=lambda F, g, shifts, dims: F.roll(
        g, shifts=tuple(-s for s in shifts) if isinstance(shifts, (tuple, list)) else -shifts, dims=dims
    )
)
def roll(be, x, *, shifts, dims=None):
    """Elements moved along dimensions, what falls off one end coming back at the other."""
    return be.xp.roll(x, shifts, dims if dims is None or isinstance(dims, int) or len(dims) else None)


def _repeat_dx(F, g, x_shape, repeats):
    added = len(repeats) - len(x_shape)
    shape = (1,) * added + tuple(x_shape)
    split = tuple(n for pair in zip(repeats, shape) for n in pair)
    summed = F.sum(F.reshape(g, shape=split), dim=tuple(range(0, 2 * len(repeats), 2))) if repeats else g
    return F.reshape(summed, shape=tuple(x_shape))


@op(x=_repeat_dx)
def repeat(be, x, *, repeats):
    """x laid side by side, `repeats` times in each dimension; more numbers than dimensions add leading ones."""
    if len(repeats) < x.ndim:
        raise ShapeError(f"repeat: expected at least {x.ndim} numbers for shape {tuple(x.shape)}, got {tuple(repeats)}")
    return be.xp.tile(x, tuple(int(r) for r in repeats)) if repeats else be.xp.array(x)


def _pad_dx(F, g, x_shape, pad):
    index = tuple(
        slice(max(lo, 0), max(lo, 0) + n - max(-lo, 0) - max(-hi, 0))
        for (lo, hi), n in zip(_pairs(pad, len(x_shape)), x_shape)
    )
    inner = F.slice_view(g, index=index)
    crop = tuple((max(-lo, 0), max(-hi, 0)) for lo, hi in _pairs(pad, len(x_shape)))
    if any(lo or hi for lo, hi in crop):
        inner = F.constant_pad(inner, pad=tuple(n for pair in reversed(crop) for n in pair), value=0)
    return inner


def _pairs(pad: Any, ndim: int) -> list[tuple[int, int]]:
    """torch's padding, last dimension first, as (before, after) for each dimension in order."""
    pairs = [(int(pad[i]), int(pad[i + 1])) for i in range(0, len(pad), 2)]
    return [(0, 0)] * (ndim - len(pairs)) + pairs[::-1]


@op(x=_pad_dx)
def constant_pad(be, x, *, pad, value=0.0):
    """x with `value` around it; `pad` is (before, after) for the last dimension, then the one before it. Negative numbers cut."""
    if len(pad) % 2 or len(pad) > 2 * x.ndim:
        raise ArgumentError(f"pad: expected an even number of lengths, at most {2 * x.ndim}, got {tuple(pad)}")
    pairs = _pairs(pad, x.ndim)
    x = x[tuple(slice(max(-lo, 0), n - max(-hi, 0)) for (lo, hi), n in zip(pairs, x.shape))]
    return be.xp.pad(x, [(max(lo, 0), max(hi, 0)) for lo, hi in pairs], constant_values=value)


@op(x=lambda F, g, x_shape, diagonal: F.tril(g, diagonal=diagonal))
def tril(be, x, *, diagonal=0):
    """The lower triangle of the last two dimensions; zeros above."""
    return be.xp.tril(x, diagonal)


@op(x=lambda F, g, x_shape, diagonal: F.triu(g, diagonal=diagonal))
def triu(be, x, *, diagonal=0):
    """The upper triangle of the last two dimensions; zeros below."""
    return be.xp.triu(x, diagonal)


# -- views by strides ----------------------------------------------------------------------------------------------------


@op(view=True, x=lambda F, g, x_shape, dim, size, step: F.windows_put(g, x_shape=x_shape, dim=dim, size=size, step=step))
def windows(be, x, *, dim, size, step):
    """All slices of `size` elements along a dimension, `step` apart, as a new last dimension. Public as `Tensor.unfold`."""
    d = _dim(dim, x.ndim, "unfold")
    n = x.shape[d] if x.ndim else 1
    if not 0 <= size <= n or step < 1:
        raise RangeError(f"unfold: expected 0 <= size <= {n}, the length of dim {dim}, and step > 0, got size {size}, step {step}")
    stride = x.strides[d] if x.ndim else 0
    shape = (*x.shape[:d], (n - size) // step + 1, *x.shape[d + 1 :], size)
    strides = (*x.strides[:d], stride * step, *x.strides[d + 1 :], stride)
    return be.xp.lib.stride_tricks.as_strided(x, shape if x.ndim else (size,), strides if x.ndim else (stride,))


@op(g=lambda F, g, dim, size, step: F.windows(g, dim=dim, size=size, step=step))
def windows_put(be, g, *, x_shape, dim, size, step):
    """Each element of g added to the one that `windows` shows there."""
    if not x_shape:
        return be.as_array(g.sum())
    d = _dim(dim, len(x_shape), "unfold")
    y = be.xp.zeros(x_shape, dtype=g.dtype)
    count = g.shape[d]
    for k in range(size):  # of each slice the k-th element; those of different slices are different elements of x
        y[(slice(None),) * d + (slice(k, k + (count - 1) * step + 1, step),)] += g[..., k]
    return y


def _memory_index(x_shape: Shape, size: Any, stride: Any, offset: Any) -> np.ndarray:
    """For each element of `as_strided`, its place in x as a vector."""
    flat = np.arange(math.prod(x_shape))
    return np.lib.stride_tricks.as_strided(flat[offset or 0 :], size, [s * flat.itemsize for s in stride])


def _as_strided_dx(F, g, x_shape, size, stride, storage_offset):
    return F.as_strided_put(g, x_shape=x_shape, size=size, stride=stride, storage_offset=storage_offset)


@op(view=True, x=_as_strided_dx)
def as_strided(be, x, *, size, stride, storage_offset=None):
    """A view of x's memory with these lengths and strides, in elements. Its gradient is for x in index order."""
    offset = storage_offset or 0
    reach = offset + sum((n - 1) * s for n, s in zip(size, stride))
    if not x.flags.c_contiguous or reach >= x.size or min(stride, default=0) < 0:
        raise RangeError(
            f"as_strided: expected a contiguous tensor and places inside of its {x.size} elements, got size {tuple(size)}, "
            f"stride {tuple(stride)}, offset {offset}"
        )
    return be.xp.lib.stride_tricks.as_strided(x.reshape(-1)[offset:], tuple(size), tuple(s * x.itemsize for s in stride))


@op(g=lambda F, g, size, stride, storage_offset: F.as_strided(g, size=size, stride=stride, storage_offset=storage_offset))
def as_strided_put(be, g, *, x_shape, size, stride, storage_offset=None):
    """Each element of g added to the one that `as_strided` shows there."""
    y = be.xp.zeros(math.prod(x_shape), dtype=g.dtype)
    be.add_at_(y, (be.from_numpy(_memory_index(x_shape, size, stride, storage_offset), be.index_of(g)),), g)
    return y.reshape(x_shape)
