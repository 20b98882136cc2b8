"""Convolutions of oneDNN on images, (N, C, *), and their gradients.

Contract: that of `images`. Several ways compute one: a plain product, the direct sum, and what is the faster for few channels (`columns`),
3×3 filters (`winograd`), few places or large weights. `_Convolution` says which, once for each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from core.backend.onednn import columns, winograd
from core.backend.onednn import library as c
from core.backend.onednn.images import empty, in_order, lies_channels_last, reorder
from core.backend.onednn.kernels import (
    _ALIASED,
    _DTYPES,
    Ints,
    _as_it_lies,
    _finite,
    _fits,
    _seen,
    channels_last,
    matmul,
)
from core.backend.onednn.library import Handle, OneDNNError
from core.backend.onednn.primitives import CAPACITY, Builder, Call, cached, dims, last_strides
from core.backend.switches import SWITCHES

# Below so many input channels a blocked gradient for the input is mostly padding (blocks hold 16), and a plain product wins.
_FEW_CHANNELS = 4
# Channels-last is as fast as oneDNN's own blocked layouts from one block of channels on, and is an order that NumPy can hold, so that
# results stay in it from layer to layer. Below, blocks are mostly padding, unless something else fills them: several columns, a block of
# places, or samples.
_BLOCK = 16
# Elements of a weight from which on its gradient is one product over all samples instead of a sum over them, of columns that must not
# be too many.
_LARGE_WEIGHT, _COLUMNS = 1 << 20, 1 << 24
# Bytes of a weight that is reordered faster from a copy, where its filters share lines of the cache.
_SPREAD = range(1 << 16, (1 << 22) + 1)


@dataclass(frozen=True, eq=False)
class _Convolution:
    """What the three products of a convolution share, and which ways are worth it: found out once, since `_convolution` keeps each."""

    x_shape: Ints
    w_shape: Ints
    y_shape: Ints
    dtype: int
    stride: Ints
    padding: Ints
    dilation: Ints
    groups: int

    def places(self) -> list[Any]:
        return [dims(self.stride), dims([d - 1 for d in self.dilation]), dims(self.padding), dims(self.padding)]

    def grouped(self) -> Ints:
        """The weight's shape as oneDNN wants it."""
        k, c, *size = self.w_shape
        return self.w_shape if self.groups == 1 else (self.groups, k // self.groups, c, *size)

    @cached_property
    def by_weight(self) -> bool:
        """Whether the weight is what most of the time goes to: then its blocked layout pays, and that of the images is a trifle."""
        return math.prod(self.w_shape) > math.prod(self.x_shape)

    @cached_property
    def few_places(self) -> bool:
        """Whether samples have so few places that the gradient for the weight had better go over all samples at each of them.

        Measured: in bfloat16 1.1 to 2 times as fast, in float32 where the weight is large and there are half a block of samples.
        """
        places = math.prod(self.y_shape[2:])
        if self.dtype == c.BF16:
            return places <= 64
        return places <= 16 and math.prod(self.w_shape) >= _LARGE_WEIGHT // 4 and 2 * self.x_shape[0] >= _BLOCK

    @cached_property
    def outgrows_caches(self) -> bool:
        """Whether the weight's gradient, added to by each sample, would go to memory and back each time."""
        return math.prod(self.w_shape) >= _LARGE_WEIGHT

    @cached_property
    def by_winograd(self) -> bool:
        """Whether a quarter of the multiplications, and the work around them, are the faster way"""
        return self._suits_winograd and winograd.pays(self.x_shape, self.w_shape, self.padding)

    @cached_property
    def weight_grad_by_winograd(self) -> bool:
        """The same of the gradient for the weight"""
        return self._suits_winograd and winograd.pays_for_weight_grad(self.x_shape, self.w_shape, self.padding)

    @property
    def _suits_winograd(self) -> bool:
        return self.dtype == c.F32 and self.groups == 1 and self.stride + self.dilation == (1, 1, 1, 1)

    @cached_property
    def has_one_place(self) -> bool:
        """Whether the filters cover x, each once: a plain product."""
        return (
            self.groups == 1
            and math.prod(self.y_shape[2:]) == 1
            and self.x_shape[2:] == self.w_shape[2:]
            and not any(self.padding)
        )

    @cached_property
    def by_columns(self) -> bool:
        """Whether the result has so few channels that several of its columns are computed as one."""
        if self.groups > 1 or max(self.dilation) > 1:
            return False
        return columns.together(self.x_shape[0], self.w_shape, self.y_shape[2:], self.stride) > 1

    @cached_property
    def input_grad_by_columns(self) -> bool:
        """The same of the gradient for the input."""
        k, channels, *size = self.w_shape
        if self.groups > 1 or max(self.stride + self.dilation) > 1:
            return False
        return columns.together(self.x_shape[0], (channels, k, *size), self.x_shape[2:], self.stride) > 1

    @cached_property
    def taps(self) -> Ints:
        """How many outputs along each dimension a place of x meets, at most."""
        return tuple(-(-k // s) for k, s in zip(self.w_shape[2:], self.stride))

    @cached_property
    def by_blocks(self) -> bool:
        """Whether blocks of x, as large as the strides, have so few channels that they are computed as one, of which little is padding."""
        k, channels, *size = self.w_shape
        filters, work = channels * math.prod(self.stride), math.prod(self.y_shape) * math.prod(size)
        if self.groups > 1 or max(self.dilation) > 1 or min(self.stride) == 1 or self.dtype != c.F32:
            return False
        if filters > _BLOCK or work < columns.WORK:
            return False
        return channels * math.prod(size) >= 0.7 * _BLOCK * math.prod(self.taps)

    @cached_property
    def by_samples(self) -> bool:
        """Whether x has so few channels that samples fill the lanes of its gradient better."""
        n, channels = self.x_shape[:2]
        lanes = -(-n // _BLOCK) * _BLOCK
        return self.groups == 1 and self.dtype == c.F32 and n / lanes > 1.5 * channels / _BLOCK

    @cached_property
    def right(self) -> Ints | None:
        """The padding at the end; None where places at the end of x meet no output."""
        places = zip(self.w_shape[2:], self.y_shape[2:], self.x_shape[2:], self.stride, self.padding, self.dilation)
        right = tuple((k - 1) * d + (o - 1) * s + 1 - n - p for k, o, n, s, p, d in places)
        return right if min(right) >= 0 else None

    def inside(self, b: Builder, last: bool) -> tuple[Handle, Handle, Handle]:
        """x, w and y inside of the primitive: channels-last, or in the layouts that it likes best."""
        w = b.any(self.grouped(), self.dtype)
        if not last:
            return b.any(self.x_shape, self.dtype), w, b.any(self.y_shape, self.dtype)
        few = _FEW_CHANNELS <= self.x_shape[1] < _BLOCK
        x = b.any(self.x_shape, self.dtype) if few else b.strided(self.x_shape, self.dtype, last_strides(self.x_shape))
        return x, w, b.strided(self.y_shape, self.dtype, last_strides(self.y_shape))


@lru_cache(maxsize=CAPACITY)
def _convolution(
    x: Ints, w: Ints, y: Ints, dtype: np.dtype, stride: Ints, padding: Ints, dilation: Ints, groups: int
) -> _Convolution:
    """The one of these shapes of x, w and y, of which there is but one, so that it stands for them in keys"""
    return _Convolution(x, w, y, _DTYPES[dtype], stride, padding, dilation, groups)


def _either(last: bool, build: Callable[[bool], Call]) -> Call:
    """What is built channels-last, or where there is no such primitive, in the layouts that it likes best."""
    if last:
        try:
            return build(True)
        except OneDNNError as error:
            if error.status != c.UNIMPLEMENTED:
                raise
    return build(False)


def conv(
    x: np.ndarray,
    w: np.ndarray,
    bias: np.ndarray | None,
    out: Ints,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    groups: int,
    rectified: bool = False,
) -> np.ndarray | None:
    """(N, C, *in), (K, C/G, *k), (K) -> (N, K, *out); `rectified`: max(·, 0) of it, where `stays_finite` says that there is no NaN"""
    if not _fits(x, w) or (bias is not None and bias.dtype != x.dtype):
        return None
    w, x = np.ascontiguousarray(w), _seen(x)
    it = _convolution(x.shape, w.shape, (x.shape[0], w.shape[0], *out), x.dtype, stride, padding, dilation, groups)
    if it.has_one_place:
        y = matmul(_rows_of(x), _rows_of(w).T, None if bias is None else np.ascontiguousarray(bias))
        if y is not None:
            y = y.reshape(it.y_shape)
            return np.maximum(y, 0, out=y) if rectified else y
    wide = it.by_columns
    last = w.shape[0] >= _BLOCK or wide or lies_channels_last(x)
    if bias is not None:
        bias = np.ascontiguousarray(bias)
    y = empty(it.y_shape, x.dtype, last)
    if wide and columns.conv(x, w, bias, y, stride, padding, rectified):
        return y
    if (
        SWITCHES.winograd
        and it.by_winograd
        and winograd.conv(channels_last(in_order(x, True)), w, padding, channels_last(y))
    ):
        if bias is not None:
            channels_last(y)[...] += bias
        return np.maximum(y, 0, out=y) if rectified else y

    if groups == 1:
        w = _apart(w)

    def build(b: Builder) -> Call:
        bd = None if bias is None else b.packed(bias.shape, it.dtype)
        weights = b.packed(it.grouped(), it.dtype) if groups > 1 else _as_it_lies(b, w)
        if rectified:
            b.append(("eltwise", c.RELU, 0.0, 0.0))

        def inside(last: bool) -> Call:
            xd, wd, yd = it.inside(b, last)
            d = b.descriptor("convolution_forward", c.TRAINING, c.DIRECT, xd, wd, bd, yd, *it.places())
            inputs = {c.SRC: _as_it_lies(b, x), c.WEIGHTS: weights}
            return b.call(d, inputs if bd is None else {**inputs, c.BIAS: bd}, {c.DST: _as_it_lies(b, y)})

        return _either(last and not it.by_weight, inside)

    call = cached(("conv", it, x.strides, w.strides, last, bias is None, rectified), build)
    if call is None:
        return None
    if bias is None:
        call(x, w, y)
    else:
        call(x, w, bias, y)
    return y


def _apart(w: np.ndarray) -> np.ndarray:
    """w; or where filters lie a multiple of 4 KB apart, and share few lines of the cache, a copy in which they do not: oneDNN's layouts
    hold blocks of filters, which are then gathered two to three times as fast"""
    if w.strides[0] % _ALIASED or w.nbytes not in _SPREAD or w.dtype != np.float32:
        return w
    k, channels, *size = w.shape
    y = np.empty((k, w[0].size + _BLOCK), w.dtype)[:, : w[0].size].reshape(k, *size, channels)
    y = y.transpose(0, -1, *range(1, w.ndim - 1))
    return y if reorder(w, y) else w


def _rows_of(x: np.ndarray) -> np.ndarray:
    """(N, *) -> (N, the rest in C order)"""
    return in_order(x, False).reshape(len(x), -1)


def stays_finite(x: np.ndarray, w: np.ndarray, bias: np.ndarray | None) -> bool:
    """Whether no sum of a convolution can be NaN: |x|·|w| is finite, which no partial sum exceeds (Cauchy and Schwarz)."""
    return x.dtype == np.float32 and all(_finite(a) for a in (x, w, bias) if a is not None)


def conv_input_grad(
    g: np.ndarray, w: np.ndarray, x_shape: Ints, stride: Ints, padding: Ints, dilation: Ints, groups: int
) -> np.ndarray | None:
    """(N, K, *out), (K, C/G, *k) -> (N, C, *in)"""
    if not _fits(g, w) or not math.prod(x_shape):
        return None
    w, g = np.ascontiguousarray(w), _seen(g)
    it = _convolution(x_shape, w.shape, g.shape, g.dtype, stride, padding, dilation, groups)
    wide = it.input_grad_by_columns
    few = w.shape[1] < _FEW_CHANNELS <= w.shape[0]
    last = x_shape[1] >= _FEW_CHANNELS or wide
    if it.has_one_place:
        dx = matmul(_rows_of(g), _rows_of(w))
        if dx is not None:
            return in_order(dx.reshape(x_shape), last)
    dx = empty(x_shape, g.dtype, last)
    if it.by_samples and _input_grad_in_other_roles(g, w, dx, it):
        return dx
    if it.by_blocks and _input_grad_by_blocks(g, w, dx, it):
        return dx
    if wide and columns.conv_input_grad(g, w, dx, padding):
        return dx
    if (
        SWITCHES.winograd
        and it.by_winograd
        and winograd.conv_input_grad(channels_last(in_order(g, True)), w, padding, channels_last(dx))
    ):
        return dx

    def build(b: Builder) -> Call:
        def inside(last: bool) -> Call:
            xd, wd, yd = it.inside(b, last)
            if few:
                xd, yd = b.packed(x_shape, it.dtype), b.packed(g.shape, it.dtype)
            d = b.descriptor("convolution_backward_data", c.DIRECT, xd, wd, yd, *it.places(), None)
            inputs = {c.DIFF + c.DST: _as_it_lies(b, g), c.WEIGHTS: b.packed(it.grouped(), it.dtype)}
            return b.call(d, inputs, {c.DIFF + c.SRC: _as_it_lies(b, dx)})

        return _either(last and not it.by_weight, inside)

    call = cached(("conv_input_grad", it, g.strides), build)
    if call is None:
        return None
    call(g, w, dx)
    return dx


def _input_grad_in_other_roles(g: np.ndarray, w: np.ndarray, dx: np.ndarray, it: _Convolution) -> bool:
    """The gradient for x where samples are channels and channels samples, and g is the weight: dx[n, c, o·stride + i·dilation − padding]
    is Σ g[n, k, o]·w[k, c, i] over k and over o and i. Whether there is a fast primitive; False where places of x meet no output, too."""
    right = it.right
    if right is None:
        return False
    arrays = [a.swapaxes(0, 1) for a in (w, g, dx)]

    def build(b: Builder) -> Call:
        wd, gd, xd = (_as_it_lies(b, a) for a in arrays)
        y, weights = (b.any(a.shape, it.dtype) for a in arrays[:2])
        x = b.strided(arrays[2].shape, it.dtype, last_strides(arrays[2].shape))
        steps = [dims(it.dilation), dims([s - 1 for s in it.stride]), dims(it.padding), dims(right)]
        d = b.descriptor("convolution_backward_data", c.DIRECT, x, weights, y, *steps, None)
        return b.call(d, {c.DIFF + c.DST: wd, c.WEIGHTS: gd}, {c.DIFF + c.SRC: xd})

    call = cached(("input_grad_in_other_roles", it, g.strides), build)
    if call is None:
        return False
    call(*arrays)
    return True


def _cut(x: np.ndarray, places: Iterable[slice]) -> np.ndarray:
    """(N, C, *size) with only these places along each of its last dimensions"""
    index: Any = (..., *places)
    return x[index]


def _input_grad_by_blocks(g: np.ndarray, w: np.ndarray, dx: np.ndarray, it: _Convolution) -> bool:
    """The gradient for x of few channels by a convolution of g whose channels are those of all places of a block of x that is as large
    as the strides; so none of them meets a zero. dx[n, c, stride·a + r − padding] is Σ g[n, k, a − t]·w[k, c, r + stride·t] over k and
    t. Whether it could be computed; False where places of x meet no output, too."""
    k, channels, *size = it.w_shape
    taps, n = it.taps, len(size)
    many = [o + t - 1 for o, t in zip(it.y_shape[2:], taps)]
    if any(m * s - p < i for m, s, p, i in zip(many, it.stride, it.padding, it.x_shape[2:])):
        return False
    whole = np.zeros((k, channels, *(t * s for t, s in zip(taps, it.stride))), w.dtype)
    _cut(whole, map(slice, size))[...] = w
    parts = whole.reshape(k, channels, *(m for both in zip(taps, it.stride) for m in both))  # (K, C, taps, stride, …)
    parts = np.flip(parts, tuple(range(2, 2 + 2 * n, 2))).transpose(
        *range(3, 3 + 2 * n, 2), 1, 0, *range(2, 2 + 2 * n, 2)
    )
    filters = parts.reshape(-1, k, *taps)
    blocks = empty((len(g), len(filters), *many), g.dtype, True)
    if not columns.conv_plain(g, filters, blocks, tuple(t - 1 for t in taps)):
        return False
    for i, place in enumerate(np.ndindex(*it.stride)):
        first = [max(0, -(-(p - r) // s)) for p, r, s in zip(it.padding, place, it.stride)]
        starts = [a * s + r - p for a, s, r, p in zip(first, it.stride, place, it.padding)]
        target = _cut(dx, (slice(a, None, s) for a, s in zip(starts, it.stride)))
        ends = (slice(a, a + m) for a, m in zip(first, target.shape[2:]))
        source = _cut(blocks[:, i * channels : (i + 1) * channels], ends)
        if not target.size or not reorder(source, target):
            target[...] = source
    return True


def conv_weight_grad(
    g: np.ndarray, x: np.ndarray, w_shape: Ints, stride: Ints, padding: Ints, dilation: Ints, groups: int
) -> np.ndarray | None:
    """(N, K, *out), (N, C, *in) -> (K, C/G, *k)"""
    if not _fits(g, x) or not math.prod(w_shape):
        return None
    it = _convolution(x.shape, w_shape, g.shape, g.dtype, stride, padding, dilation, groups)
    g, x = _seen(g), _seen(x)
    if it.has_one_place:
        dw = matmul(_rows_of(g).T, _rows_of(x))
        if dw is not None:
            return dw.reshape(w_shape)
    if it.by_columns:
        dw = columns.conv_weight_grad(in_order(g, True), x, w_shape, stride, padding)
        if dw is not None:
            return dw
    if SWITCHES.winograd and it.weight_grad_by_winograd:
        images = [channels_last(in_order(a, True)) for a in (g, x)]
        dw = winograd.conv_weight_grad(images[0], images[1], padding)
        if dw is not None:
            return dw
    ways = [_weight_grad_in_other_roles] * it.few_places + [_weight_grad_by_columns] * it.outgrows_caches
    for way in ways if groups == 1 else []:
        dw = way(g, x, it)
        if dw is not None:
            return dw
    last = lies_channels_last(x) or lies_channels_last(g)

    def build(b: Builder) -> Call:
        def inside(last: bool) -> Call:
            xd, wd, yd = it.inside(b, last)
            d = b.descriptor("convolution_backward_weights", c.DIRECT, xd, wd, None, yd, *it.places(), None)
            inputs = {c.DIFF + c.DST: _as_it_lies(b, g), c.SRC: _as_it_lies(b, x)}
            return b.call(d, inputs, {c.DIFF + c.WEIGHTS: b.packed(it.grouped(), it.dtype)})

        return _either(last, inside)

    call = cached(("conv_weight_grad", it, g.strides, x.strides), build)
    if call is None:
        return None
    dw = np.empty(w_shape, g.dtype)
    call(g, x, dw)
    return dw


def _weight_grad_in_other_roles(g: np.ndarray, x: np.ndarray, it: _Convolution) -> np.ndarray | None:
    """The gradient for the weight as a convolution of x by g, in which samples are channels and channels samples: dw[k, c, i] is
    Σ g[n, k, o]·x[n, c, o·stride + i·dilation − padding] over n and o. None where places at the end of x meet no output."""
    right = it.right
    if right is None:
        return None
    dw = np.empty(it.w_shape, g.dtype)
    arrays = [a.swapaxes(0, 1) for a in (x, g, dw)]

    def build(b: Builder) -> Call:
        src, weights, dst = (b.any(a.shape, it.dtype) for a in arrays)
        steps = [dims(it.dilation), dims([s - 1 for s in it.stride]), dims(it.padding), dims(right)]
        d = b.descriptor("convolution_forward", c.TRAINING, c.DIRECT, src, weights, None, dst, *steps)
        xd, gd, wd = (_as_it_lies(b, a) for a in arrays)
        return b.call(d, {c.SRC: xd, c.WEIGHTS: gd}, {c.DST: wd})

    call = cached(("weight_grad_in_other_roles", it, g.strides, x.strides), build)
    if call is None:
        return None
    call(*arrays)
    return dw


def _weight_grad_by_columns(g: np.ndarray, x: np.ndarray, it: _Convolution) -> np.ndarray | None:
    """The gradient for the weight as (K, N·out) @ (N·out, C·k); None where there are too many columns."""
    channels, k = it.x_shape[1], it.w_shape[2:]
    n, out = it.y_shape[0], it.y_shape[2:]
    length = n * math.prod(out)
    if channels * math.prod(k) * length > _COLUMNS:
        return None
    room = [i + 2 * p for i, p in zip(it.x_shape[2:], it.padding)]
    padded = np.zeros((channels, n, *room), x.dtype)
    _cut(padded, (slice(p, p + i) for p, i in zip(it.padding, it.x_shape[2:])))[...] = x.swapaxes(0, 1)
    c_step, n_step, *steps = padded.strides
    windows = np.lib.stride_tricks.as_strided(
        padded, (channels, *k, n, *out),
        (c_step, *(s * d for s, d in zip(steps, it.dilation)), n_step, *(s * t for s, t in zip(steps, it.stride))),
    )  # fmt: skip
    dw = matmul(g.swapaxes(0, 1).reshape(-1, length), windows.reshape(-1, length).T)
    return None if dw is None else dw.reshape(it.w_shape)
