"""Convolution to few channels: adjacent columns of the result as channels of one that is narrower by their number.

oneDNN's kernels compute 16 channels of the result at once, so that of 6 they fill 6 lanes of 16. Two columns beside each other are 12
channels of an image of half the width, whose filters are the same ones, each with a column of zeros before or behind: in memory, where
images lie channels-last, that is the same image. A 5×5 filter is then multiplied by 6 columns instead of 2·5.
`together` says how many columns are worth it. Arrays are (N, C, *size), as in `images`; results lie channels-last.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from core.backend.onednn import library as c
from core.backend.onednn.kernels import _DTYPES, Ints, _as_it_lies, _finite, channels_last
from core.backend.onednn.library import Handle
from core.backend.onednn.primitives import CAPACITY, Builder, Call, cached, dims, last_strides

_LANES = 16
WORK = 1 << 18  # vectors of products, below which the longer filters cost more than they save
_GAIN = 0.8  # of the products, at most so many are left
# below so many, oneDNN likes x channels-last; more it likes better in blocks, but for vectors of them where columns stand alone
_FEW_CHANNELS = 4


class _Wide(NamedTuple):
    """A convolution whose result has `together` columns in one."""

    together: int
    x_shape: Ints
    w_shape: Ints  # (together·K, C, *k) with longer rows
    y_shape: Ints
    stride: Ints
    padding: Ints
    right: Ints
    dtype: int

    def places(self) -> list[Any]:
        return [dims(self.stride), dims([0] * len(self.stride)), dims(self.padding), dims(self.right)]

    def channels_last(self, b: Builder) -> Handle:
        """x inside of the primitive"""
        return b.strided(self.x_shape, self.dtype, last_strides(self.x_shape))


@lru_cache(maxsize=CAPACITY)
def together(n: int, w_shape: Ints, out: Ints, stride: Ints) -> int:
    """How many columns of (N, K, *out) to compute as one for the least work, 1 if that is not worth it."""
    filters, channels, *k = w_shape
    width = k[-1]

    def cost(columns: int) -> float:
        return (width + (columns - 1) * stride[-1]) / columns

    if len(k) > 2 or n * math.prod(out) * channels * math.prod(k) < WORK:  # of volumes there is no such primitive
        return 1
    best = min((m for m in range(1, _LANES // filters + 1) if out[-1] % m == 0), key=cost, default=1)
    return best if cost(best) <= _GAIN * width else 1


def conv(
    x: np.ndarray, w: np.ndarray, bias: np.ndarray | None, y: np.ndarray, stride: Ints, padding: Ints, rectified: bool
) -> bool:
    """(N, C, *in), (K, C, *k), (K) -> y, (N, K, *out) channels-last; whether it could be computed. Only of what is finite: a zero of the
    longer filters times ∞ is NaN."""
    it = _wide(x.shape, w.shape, y.shape, stride, padding, y.dtype)
    if it is None or not _finite(x):
        return False
    longer = np.zeros((it.together, *w.shape[:-1], it.w_shape[-1]), w.dtype)
    for part, own in zip(longer, _own(w.shape, it)):
        part[own] = w
    if bias is not None:
        bias = np.concatenate([bias] * it.together)
    return _convolved(x, longer, bias, _folded(y, it.together), it, rectified)


def conv_plain(x: np.ndarray, w: np.ndarray, y: np.ndarray, padding: Ints) -> bool:
    """(N, C, *in), (K, C, *k) -> y, (N, K, *out) channels-last, as it stands, for strides of 1; whether it could be computed"""
    it = _Wide(1, x.shape, w.shape, y.shape, (1,) * len(padding), padding, padding, _DTYPES[y.dtype])
    return _convolved(x, w, None, y, it, False)


def _convolved(
    x: np.ndarray, w: np.ndarray, bias: np.ndarray | None, y: np.ndarray, it: _Wide, rectified: bool
) -> bool:
    def build(b: Builder) -> Call:
        if rectified:
            b.append(("eltwise", c.RELU, 0.0, 0.0))
        bd = None if bias is None else b.packed((it.w_shape[0],), it.dtype)
        xd, yd, wd = _image(b, x), _as_it_lies(b, y), b.any(it.w_shape, it.dtype)
        last = it.x_shape[1] < _FEW_CHANNELS or (it.together == 1 and it.x_shape[1] >= _LANES)
        inside = it.channels_last(b) if last else b.any(it.x_shape, it.dtype)
        d = b.descriptor("convolution_forward", c.TRAINING, c.DIRECT, inside, wd, bd, yd, *it.places())
        inputs: dict[int, Handle] = {c.SRC: xd, c.WEIGHTS: b.packed(it.w_shape, it.dtype)}
        return b.call(d, inputs if bd is None else {**inputs, c.BIAS: bd}, {c.DST: yd})

    call = cached(("columns", it, x.strides, bias is None, rectified), build)
    if call is None:
        return False
    if bias is None:
        call(x, w, y)
    else:
        call(x, w, bias, y)
    return True


def conv_input_grad(g: np.ndarray, w: np.ndarray, dx: np.ndarray, padding: Ints) -> bool:
    """(N, K, *out), (K, C, *k) -> dx, (N, C, *in) channels-last, for strides of 1: a convolution with the filters turned round"""
    turned = np.flip(w.swapaxes(0, 1), tuple(range(2, w.ndim)))
    around = tuple(k - 1 - p for k, p in zip(w.shape[2:], padding))
    return min(around) >= 0 and conv(g, turned, None, dx, (1,) * len(padding), around, False)


def conv_weight_grad(g: np.ndarray, x: np.ndarray, w_shape: Ints, stride: Ints, padding: Ints) -> np.ndarray | None:
    """(N, K, *out) channels-last, (N, C, *in) -> (K, C, *k)"""
    it = _wide(x.shape, w_shape, g.shape, stride, padding, g.dtype)
    if it is None:
        return None
    narrow = _folded(g, it.together)

    def build(b: Builder) -> Call:
        xd, yd, wd = _image(b, x), _as_it_lies(b, narrow), b.any(it.w_shape, it.dtype)
        places = (*it.places(), None)
        d = b.descriptor("convolution_backward_weights", c.DIRECT, it.channels_last(b), wd, None, yd, *places)
        return b.call(d, {c.DIFF + c.DST: yd, c.SRC: xd}, {c.DIFF + c.WEIGHTS: b.packed(it.w_shape, it.dtype)})

    call = cached(("columns_weight_grad", it, x.strides), build)
    if call is None:
        return None
    longer = np.empty((it.together, *w_shape[:-1], it.w_shape[-1]), g.dtype)
    call(narrow, x, longer)
    first, *rest = (part[own] for part, own in zip(longer, _own(w_shape, it)))
    return sum(rest, first)


@lru_cache(maxsize=CAPACITY)
def _wide(x: Ints, w: Ints, y: Ints, stride: Ints, padding: Ints, dtype: np.dtype) -> _Wide | None:
    """What is computed in place of this; None where it is not worth it, or x has places at its end that meet no result."""
    n, filters, *out = y
    m = together(n, w, tuple(out), stride)
    right = tuple((o - 1) * s + t - i - p for o, s, t, i, p in zip(out, stride, w[2:], x[2:], padding))
    if m == 1 or min(right) < 0:
        return None
    longer = (m * filters, *w[1:-1], w[-1] + (m - 1) * stride[-1])
    folded = (n, m * filters, *out[:-1], out[-1] // m)
    return _Wide(m, x, longer, folded, (*stride[:-1], m * stride[-1]), padding, right, _DTYPES[dtype])


def _image(b: Builder, x: np.ndarray) -> Handle:
    """x as it lies, which of one channel in C order is channels-last, too"""
    if x.shape[1] == 1 and x.flags.c_contiguous:
        return b.strided(x.shape, _DTYPES[x.dtype], last_strides(x.shape))
    return _as_it_lies(b, x)


def _folded(y: np.ndarray, m: int) -> np.ndarray:
    """(N, K, *out), which lies channels-last, seen as (N, m·K, *out[:-1], out[-1] / m)"""
    n, *size, k = channels_last(y).shape
    seen = channels_last(y).reshape(n, *size[:-1], size[-1] // m, m * k)
    return seen.transpose(0, -1, *range(1, y.ndim - 1))


def _own(w_shape: Ints, it: _Wide) -> list[Any]:
    """By the column, where in the longer filters its own filter, (K, C, *k), is."""
    step, k = it.stride[-1] // it.together, w_shape[-1]
    return [(..., slice(i * step, i * step + k)) for i in range(it.together)]
