"""Pooling as functions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from core import backend
from core._tensor import Tensor, wrap
from core.nn.functional._arguments import batched, tuple_of
from core.ops import nn as _nn
from core.ops import reduce as _reduce
from core.ops import shape as _shape

__all__ = [
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "avg_pool1d",
    "avg_pool2d",
    "avg_pool3d",
    "max_pool1d",
    "max_pool2d",
    "max_pool3d",
]


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
        y = y / _window_sizes(x, y._a.shape[2:], k, step, pad, count_include_pad)
    return _shape.squeeze(y, dim=0) if single else y


def _window_sizes(x: Tensor, out: Any, k: Any, stride: Any, padding: Any, count_include_pad: bool) -> Tensor:
    """(*out): how many elements each window holds; the padding counts or not, what lies beyond it never."""
    sizes = np.ones((1,) * len(k))
    for i, (n, o) in enumerate(zip(x._a.shape[2:], out)):
        start = np.arange(o) * stride[i] - padding[i]
        end = np.minimum(start + k[i], n + padding[i])
        if not count_include_pad:
            start, end = np.maximum(start, 0), np.minimum(end, n)
        sizes = sizes * (end - start).reshape([-1 if j == i else 1 for j in range(len(k))])
    return wrap(backend.of(x._a).from_numpy(sizes.astype(x._a.dtype)))


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
    input: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False, count_include_pad: bool = True,
    divisor_override: Any = None,
) -> Tensor:  # fmt: skip
    """(N, C, H, W) -> (N, C, H', W')"""
    return _avg_pool(input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override, 2)


def avg_pool3d(
    input: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False, count_include_pad: bool = True,
    divisor_override: Any = None,
) -> Tensor:  # fmt: skip
    """(N, C, D, H, W) -> (N, C, D', H', W')"""
    return _avg_pool(input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override, 3)


def _adaptive_avg_pool(input: Tensor, output_size: Any, n: int) -> Tensor:
    x = input
    sizes = output_size if isinstance(output_size, (tuple, list)) else (output_size,) * n
    for i, out in enumerate(sizes):
        dim = x._a.ndim - n + i
        length = x._a.shape[dim]
        out = length if out is None else int(out)
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
