"""Pooling as functions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from core import backend, rng
from core._tensor import Tensor, wrap
from core.errors import ArgumentError, RangeError, ShapeError
from core.nn.functional._arguments import batched, tuple_of
from core.ops import index as _index
from core.ops import nn as _nn
from core.ops import pointwise as _pw
from core.ops import reduce as _reduce
from core.ops import shape as _shape

__all__ = [
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "adaptive_max_pool1d", "adaptive_max_pool2d",
    "adaptive_max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d", "fractional_max_pool2d", "fractional_max_pool3d",
    "lp_pool1d",
    "lp_pool2d", "lp_pool3d", "max_pool1d", "max_pool1d_with_indices", "max_pool2d", "max_pool2d_with_indices",
    "max_pool3d",
    "max_pool3d_with_indices", "max_unpool1d", "max_unpool2d", "max_unpool3d",
]  # fmt: skip


def _max_pool(
    input: Tensor,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    ceil_mode: bool,
    return_indices: bool,
    n: int,
) -> Any:
    where = f"max_pool{n}d"
    k = tuple_of(kernel_size, n, where)
    geometry = {
        "k": k,
        "stride": k if stride is None or stride == [] else tuple_of(stride, n, where),
        "padding": tuple_of(padding, n, where),
        "dilation": tuple_of(dilation, n, where),
        "ceil_mode": ceil_mode,
    }
    x, single = batched(input, n, where)
    y = _nn.max_pool(x, **geometry)
    y = _shape.squeeze(y, dim=0) if single else y
    if not return_indices:
        return y
    i = _nn.max_pool_index(x, **geometry)
    return y, (_shape.squeeze(i, dim=0) if single else i)


def max_pool1d(
    input: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:  # fmt: skip
    """(N, C, L) -> (N, C, L'), with the positions of the maxima if `return_indices`"""
    return _max_pool(input, kernel_size, stride, padding, dilation, ceil_mode, return_indices, 1)


def max_pool2d(
    input: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:  # fmt: skip
    """(N, C, H, W) -> (N, C, H', W'), with the positions of the maxima if `return_indices`"""
    return _max_pool(input, kernel_size, stride, padding, dilation, ceil_mode, return_indices, 2)


def max_pool3d(
    input: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:  # fmt: skip
    """(N, C, D, H, W) -> (N, C, D', H', W'), with the positions of the maxima if `return_indices`"""
    return _max_pool(input, kernel_size, stride, padding, dilation, ceil_mode, return_indices, 3)


def _avg_pool(
    input: Tensor,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor: Any,
    n: int,
) -> Tensor:
    where = f"avg_pool{n}d"
    k, pad = tuple_of(kernel_size, n, where), tuple_of(padding, n, where)
    step = k if stride is None or stride == [] else tuple_of(stride, n, where)
    x, single = batched(input, n, where)
    y = _nn.sum_pool(x, k=k, stride=step, padding=pad, ceil_mode=ceil_mode)
    if divisor is not None:
        y = y / divisor
    elif not ceil_mode and (count_include_pad or not any(pad)):
        y = y / math.prod(k)
    else:
        y = y / _window_sizes(x, y.shape[2:], k, step, pad, count_include_pad)
    return _shape.squeeze(y, dim=0) if single else y


def _window_sizes(x: Tensor, out: Any, k: Any, stride: Any, padding: Any, count_include_pad: bool) -> Tensor:
    """(*out): how many elements each window holds; the padding counts or not, what lies beyond it never."""
    sizes = np.ones((1,) * len(k))
    for i, (n, o) in enumerate(zip(x.shape[2:], out)):
        start = np.arange(o) * stride[i] - padding[i]
        end = np.minimum(start + k[i], n + padding[i])
        if not count_include_pad:
            start, end = np.maximum(start, 0), np.minimum(end, n)
        sizes = sizes * (end - start).reshape([-1 if j == i else 1 for j in range(len(k))])
    a = x._any_order()
    return wrap(backend.of(a).from_numpy(sizes.astype(a.dtype)))


def avg_pool1d(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor:
    """(N, C, L) -> (N, C, L')"""
    return _avg_pool(input, kernel_size, stride, padding, ceil_mode, count_include_pad, None, 1)


def avg_pool2d(
    input: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: Any = None,
) -> Tensor:  # fmt: skip
    """(N, C, H, W) -> (N, C, H', W')"""
    return _avg_pool(input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override, 2)


def avg_pool3d(
    input: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: Any = None,
) -> Tensor:  # fmt: skip
    """(N, C, D, H, W) -> (N, C, D', H', W')"""
    return _avg_pool(input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override, 3)


def max_pool1d_with_indices(input: Tensor, kernel_size: Any, *args: Any, **kwargs: Any) -> Any:
    """`max_pool1d` with the positions of the maxima"""
    return max_pool1d(input, kernel_size, *args, **kwargs | {"return_indices": True})


def max_pool2d_with_indices(input: Tensor, kernel_size: Any, *args: Any, **kwargs: Any) -> Any:
    """`max_pool2d` with the positions of the maxima"""
    return max_pool2d(input, kernel_size, *args, **kwargs | {"return_indices": True})


def max_pool3d_with_indices(input: Tensor, kernel_size: Any, *args: Any, **kwargs: Any) -> Any:
    """`max_pool3d` with the positions of the maxima"""
    return max_pool3d(input, kernel_size, *args, **kwargs | {"return_indices": True})


# -- powers
# --------------------------------------------------------------------------------------------------------------


def _lp_pool(input: Tensor, p: float, kernel_size: Any, stride: Any, ceil_mode: bool, n: int) -> Tensor:
    """(Σ xᵖ)^(1/p) of each window"""
    k = tuple_of(kernel_size, n, f"lp_pool{n}d")
    powers = _pw.pow(input, float(p))
    y = _avg_pool(powers, k, stride, 0, ceil_mode, True, None, n) * math.prod(k)
    return _pw.pow(_pw.sign(y) * _pw.relu(_pw.abs(y)), 1.0 / p)


def lp_pool1d(input: Tensor, norm_type: float, kernel_size: Any, stride: Any = None, ceil_mode: bool = False) -> Tensor:
    """(Σ xᵖ)^(1/p) of each window: (N, C, L) -> (N, C, L')"""
    return _lp_pool(input, norm_type, kernel_size, stride, ceil_mode, 1)


def lp_pool2d(input: Tensor, norm_type: float, kernel_size: Any, stride: Any = None, ceil_mode: bool = False) -> Tensor:
    """(Σ xᵖ)^(1/p) of each window: (N, C, H, W) -> (N, C, H', W')"""
    return _lp_pool(input, norm_type, kernel_size, stride, ceil_mode, 2)


def lp_pool3d(input: Tensor, norm_type: float, kernel_size: Any, stride: Any = None, ceil_mode: bool = False) -> Tensor:
    """(Σ xᵖ)^(1/p) of each window: (N, C, D, H, W) -> (N, C, D', H', W')"""
    return _lp_pool(input, norm_type, kernel_size, stride, ceil_mode, 3)


# -- pooling undone
# ------------------------------------------------------------------------------------------------------


def _max_unpool(
    input: Tensor, indices: Tensor, kernel_size: Any, stride: Any, padding: Any, output_size: Any, n: int
) -> Tensor:
    """Each value where the maximum was, zeros elsewhere."""
    where = f"max_unpool{n}d"
    k, p = tuple_of(kernel_size, n, where), tuple_of(padding, n, where)
    s = k if stride is None else tuple_of(stride, n, where)
    if input._a.shape != indices._a.shape:
        raise ShapeError(
            f"{where}: expected indices of the input's shape {tuple(input.shape)}, got {tuple(indices.shape)}")
    least = [(i - 1) * b - 2 * c + a for i, a, b, c in zip(input._a.shape[-n:], k, s, p)]
    size = tuple(least) if output_size is None else tuple(int(v) for v in output_size)[-n:]
    if output_size is not None and any(not m - b < v < m + b for v, m, b in zip(size, least, s)):
        raise ShapeError(
            f"{where}: expected an output_size near {tuple(least)} (less than a stride {s} away), got {size}")
    lead = input._a.shape[:-n]
    if indices._a.size and backend.of(indices._a).device_type == "cpu":
        low, high = int(indices._a.min()), int(indices._a.max())
        if low < 0 or high >= math.prod(size):
            raise RangeError(
                f"{where}: found an invalid max index: expected 0 to {math.prod(size) - 1} for output size {size}, "
                f"got {low if low < 0 else high}")
    flat = input.new_zeros((*lead, math.prod(size)))
    y = _index.scatter(flat, indices.reshape(*lead, -1), input.reshape(*lead, -1), dim=-1)
    return y.reshape(*lead, *size)


def max_unpool1d(
    input: Tensor, indices: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, output_size: Any = None
) -> Tensor:
    """(N, C, L) and the indices of `max_pool1d` -> (N, C, L')"""
    return _max_unpool(input, indices, kernel_size, stride, padding, output_size, 1)


def max_unpool2d(
    input: Tensor, indices: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, output_size: Any = None
) -> Tensor:
    """(N, C, H, W) and the indices of `max_pool2d` -> (N, C, H', W')"""
    return _max_unpool(input, indices, kernel_size, stride, padding, output_size, 2)


def max_unpool3d(
    input: Tensor, indices: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, output_size: Any = None
) -> Tensor:
    """(N, C, D, H, W) and the indices of `max_pool3d` -> (N, C, D', H', W')"""
    return _max_unpool(input, indices, kernel_size, stride, padding, output_size, 3)


# -- windows chosen for the output
# ---------------------------------------------------------------------------------------


def _sizes_of(input: Tensor, output_size: Any, n: int, where: str) -> tuple[int, ...]:
    """The output size; None keeps a length."""
    if input.dim() not in (n + 1, n + 2):
        raise ShapeError(f"{where}: expected input of {n + 1} or {n + 2} dimensions, got shape {tuple(input.shape)}")
    given = tuple(output_size) if isinstance(output_size, (tuple, list)) else (output_size,) * n
    if len(given) != n:
        raise ArgumentError(f"{where}: expected one number or {n}, got {output_size}")
    return tuple(m if v is None else int(v) for v, m in zip(given, input._a.shape[-n:]))


def _max_of(input: Tensor, starts: list[np.ndarray], ends: list[np.ndarray], return_indices: bool) -> Any:
    """The greatest of each box of a grid of boxes, (*lead, *in) -> (*lead, *out). starts and ends (…, out) may differ
    from row to row of lead.
    """
    n = len(starts)
    lead, sizes = input._a.shape[:-n], input._a.shape[-n:]
    outs = tuple(a.shape[-1] for a in starts)
    place: Any = 0
    for i, (a, b) in enumerate(zip(starts, ends)):
        longest = int((b - a).max())
        # a box that is shorter than the longest repeats its last element: that changes no maximum
        at = np.minimum(a[..., None] + np.arange(longest), b[..., None] - 1)  # (…, out, longest)
        shape = [1] * (2 * n)
        shape[i], shape[n + i] = at.shape[-2:]
        place = place * sizes[i] + at.reshape(*at.shape[:-2], *shape)
    place = place.reshape(*place.shape[: place.ndim - 2 * n], math.prod(outs), -1)
    be = backend.of(input._a)
    place = be.from_numpy(np.ascontiguousarray(np.broadcast_to(place, (*lead, *place.shape[-2:]))))
    boxes = _index.gather(input.reshape(*lead, 1, -1).expand(*lead, place.shape[-2], math.prod(sizes)), wrap(place),
        dim=-1)
    values, won = _reduce.max_dim(boxes, dim=-1)
    values = values.reshape(*lead, *outs)
    if not return_indices:
        return values
    return values, _index.gather(wrap(place), won.unsqueeze(-1), dim=-1).reshape(*lead, *outs)


def _adaptive_max_pool(input: Tensor, output_size: Any, return_indices: bool, n: int) -> Any:
    outs = _sizes_of(input, output_size, n, f"adaptive_max_pool{n}d")
    sizes = input._a.shape[-n:]
    if all(s % o == 0 for s, o in zip(sizes, outs)):
        k = tuple(s // o for s, o in zip(sizes, outs))
        return _max_pool(input, k, k, 0, 1, False, return_indices, n)
    starts = [np.arange(o) * s // o for s, o in zip(sizes, outs)]
    ends = [-(-(np.arange(o) + 1) * s // o) for s, o in zip(sizes, outs)]
    return _max_of(input, starts, ends, return_indices)


def adaptive_max_pool1d(input: Tensor, output_size: Any, return_indices: bool = False) -> Any:
    """(N, C, L) -> (N, C, output_size)"""
    return _adaptive_max_pool(input, output_size, return_indices, 1)


def adaptive_max_pool2d(input: Tensor, output_size: Any, return_indices: bool = False) -> Any:
    """(N, C, H, W) -> (N, C, *output_size)"""
    return _adaptive_max_pool(input, output_size, return_indices, 2)


def adaptive_max_pool3d(input: Tensor, output_size: Any, return_indices: bool = False) -> Any:
    """(N, C, D, H, W) -> (N, C, *output_size)"""
    return _adaptive_max_pool(input, output_size, return_indices, 3)


def _fractional_max_pool(
    input: Tensor, kernel_size: Any, output_size: Any, output_ratio: Any, return_indices: bool, samples: Tensor | None,
    n: int
) -> Any:
    """Windows of one size whose starts are a random sequence, near to even. Graham 2014."""
    where = f"fractional_max_pool{n}d"
    k = tuple_of(kernel_size, n, where)
    if (output_size is None) == (output_ratio is None):
        raise ArgumentError(f"{where}: requires specifying either an output_size or an output_ratio, and not both")
    sizes = input._a.shape[-n:]
    if output_size is None:
        ratios = tuple(output_ratio) if isinstance(output_ratio, (tuple, list)) else (output_ratio,) * n
        if not all(0 < r < 1 for r in ratios):
            raise ArgumentError(f"{where}: output_ratio must be between 0 and 1, got {ratios}")
        outs = tuple(int(s * r) for s, r in zip(sizes, ratios))
    else:
        outs = _sizes_of(input, output_size, n, where)
    if any(o + w - 1 > s for o, w, s in zip(outs, k, sizes)):
        raise ShapeError(
            f"{where}: expected an input of at least output + kernel - 1, got {sizes}, output {outs} and kernel {k}")
    x, single = batched(input, n, where)
    lead = x._a.shape[:2]
    if samples is None:
        u = rng.default_generator.uniform(math.prod(lead) * n, np.dtype(np.float32)).reshape(*lead, n)
    else:
        u = samples._host().reshape(*lead, n)
    starts = []
    for i, (o, w, s) in enumerate(zip(outs, k, sizes)):
        v = u[..., n - 1 - i, None] if n == 2 else u[..., i, None]  # torch's sample 0 is the width's in two dimensions
        alpha = (s - w) / (o - 1) if o > 1 else 0.0
        start = ((np.arange(o) + v) * alpha).astype(np.int64) - (v * alpha).astype(np.int64)
        start[..., -1] = s - w
        starts.append(start)
    y = _max_of(x, starts, [a + w for a, w in zip(starts, k)], return_indices)
    if not single:
        return y
    return tuple(t.squeeze(0) for t in y) if return_indices else y.squeeze(0)


def fractional_max_pool2d(
    input: Tensor, kernel_size: Any, output_size: Any = None, output_ratio: Any = None, return_indices: bool = False,
    _random_samples: Any = None,
) -> Any:  # fmt: skip
    """(N, C, H, W) -> (N, C, *output_size), or output_ratio of the size"""
    return _fractional_max_pool(input, kernel_size, output_size, output_ratio, return_indices, _random_samples, 2)


def fractional_max_pool3d(
    input: Tensor, kernel_size: Any, output_size: Any = None, output_ratio: Any = None, return_indices: bool = False,
    _random_samples: Any = None,
) -> Any:  # fmt: skip
    """(N, C, D, H, W) -> (N, C, *output_size), or output_ratio of the size"""
    return _fractional_max_pool(input, kernel_size, output_size, output_ratio, return_indices, _random_samples, 3)


def _adaptive_avg_pool(input: Tensor, output_size: Any, n: int) -> Tensor:
    x = input
    for i, out in enumerate(_sizes_of(input, output_size, n, f"adaptive_avg_pool{n}d")):
        dim = x._a.ndim - n + i
        length = x._a.shape[dim]
        # windows ⌊i·L/o⌋ … ⌈(i+1)·L/o⌉: dimension by dimension, since a mean of means over a grid is the mean
        if length % out == 0:
            shape = x._a.shape
            x = _reduce.mean(x.reshape(*shape[:dim], out, length // out, *shape[dim + 1 :]), dim=dim + 1)
        else:
            parts = [(j * length // out, -(-(j + 1) * length // out)) for j in range(out)]
            x = _shape.stack(
                [_reduce.mean(_shape.narrow(x, dim=dim, start=a, length=b - a), dim=dim) for a, b in parts], dim=dim
            )
    return x


def adaptive_avg_pool1d(input: Tensor, output_size: Any) -> Tensor:
    """(N, C, L) -> (N, C, output_size)"""
    return _adaptive_avg_pool(input, output_size, 1)


def adaptive_avg_pool2d(input: Tensor, output_size: Any) -> Tensor:
    """(N, C, H, W) -> (N, C, *output_size)"""
    return _adaptive_avg_pool(input, output_size, 2)


def adaptive_avg_pool3d(input: Tensor, output_size: Any) -> Tensor:
    """(N, C, D, H, W) -> (N, C, *output_size)"""
    return _adaptive_avg_pool(input, output_size, 3)
