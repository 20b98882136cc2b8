"""The kernels of `core.backend.base` that oneDNN computes, on NumPy arrays.

Contract: same arguments and same numbers as the plain kernel, up to rounding; None where it is not oneDNN's case (no library, a dtype, an
empty array, no implementation), and then the plain kernel computes. Results are new arrays in C order, except that a
convolution of an input that lies channels-last gives one that does, too, as in torch.
float32 and bfloat16; sums are in float32. Shape letters as in `base`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from ml_dtypes import bfloat16

from core.backend.onednn import library as c
from core.backend.onednn.library import Handle
from core.backend.onednn.primitives import Builder, Call, cached, dims, packed_strides, strides_of

Ints = tuple[int, ...]

_DTYPES = {np.dtype(np.float32): c.F32, np.dtype(bfloat16): c.BF16}


def _seen(x: np.ndarray) -> np.ndarray:
    """x, or a copy of it where oneDNN cannot see x as it lies."""
    return x if strides_of(x) is not None else np.ascontiguousarray(x)


def _as_it_lies(b: Builder, x: np.ndarray) -> Handle:
    strides = strides_of(x)
    assert strides is not None
    return b.strided(x.shape, _DTYPES[x.dtype], strides)


# -- products ----------------------------------------------------------------------------------------------------------


def matmul(x: np.ndarray, y: np.ndarray, bias: np.ndarray | None = None) -> np.ndarray | None:
    """(*, n, k) @ (*, k, m) + (m) -> (*, n, m); at least two dimensions each, read as they lie."""
    dtype = _DTYPES.get(x.dtype)
    if dtype is None or y.dtype != x.dtype or not x.size or not y.size:
        return None
    if bias is not None and (bias.dtype != x.dtype or not bias.flags.c_contiguous):
        return None
    if y.ndim == 2 and x.ndim > 2:  # one product over all rows
        try:
            rows = x.reshape((-1, x.shape[-1]), copy=False)
        except ValueError:
            rows = None
        if rows is not None:
            z = matmul(rows, y, bias)
            return None if z is None else z.reshape(*x.shape[:-1], y.shape[1])
    if x.ndim != y.ndim:
        n = max(x.ndim, y.ndim)
        x, y = x.reshape((1,) * (n - x.ndim) + x.shape), y.reshape((1,) * (n - y.ndim) + y.shape)
    if x.ndim > 12:
        return None
    x, y = _seen(x), _seen(y)
    if x.ndim == 2:
        shape: Ints = (x.shape[0], y.shape[1])
    else:
        shape = (*np.broadcast_shapes(x.shape[:-2], y.shape[:-2]), x.shape[-2], y.shape[-1])

    def build(b: Builder) -> Call:
        xd, yd, zd = _as_it_lies(b, x), _as_it_lies(b, y), b.packed(shape, dtype)
        inputs, bd = {c.SRC: xd, c.WEIGHTS: yd}, None
        if bias is not None:
            bd = inputs[c.BIAS] = b.packed((1,) * (len(shape) - 1) + bias.shape, dtype)
        return b.call(b.descriptor("matmul", xd, yd, bd, zd), inputs, {c.DST: zd})

    call = cached(("matmul", x.shape, x.strides, y.shape, y.strides, bias is None, dtype), build)
    if call is None:
        return None
    z = np.empty(shape, x.dtype)
    if bias is None:
        call(x, y, z)
    else:
        call(x, y, bias, z)
    return z


# -- convolution -------------------------------------------------------------------------------------------------------


# Below so many input channels a blocked gradient for the input is mostly padding (blocks hold 16), and a plain product wins.
_FEW_CHANNELS = 4


class _Geometry:
    """The descriptors that the three products share: inside the layouts that oneDNN likes best, or channels-last if the images are."""

    def __init__(
        self,
        b: Builder,
        x_shape: Ints,
        w_shape: Ints,
        y_shape: Ints,
        dtype: int,
        last: bool,
        places: tuple[Ints, ...],
        groups: int,
    ):
        stride, padding, dilation = places
        self.places = [dims(stride), dims([d - 1 for d in dilation]), dims(padding), dims(padding)]
        grouped = w_shape if groups == 1 else (groups, w_shape[0] // groups, *w_shape[1:])
        self.w_outside, self.w = b.packed(grouped, dtype), b.any(grouped, dtype)
        if last:
            self.x_outside = self.x = b.strided(x_shape, dtype, _channels_last(x_shape))
            self.y_outside = self.y = b.strided(y_shape, dtype, _channels_last(y_shape))
        else:
            self.x_outside, self.x = b.packed(x_shape, dtype), b.any(x_shape, dtype)
            self.y_outside, self.y = b.packed(y_shape, dtype), b.any(y_shape, dtype)


def _channels_last(shape: Ints) -> list[int]:
    """Strides in elements of (N, C, *size) that lies as (N, *size, C)."""
    n, channels, *size = shape
    inner = [s * channels for s in packed_strides(size)]
    return [math.prod(size) * channels, 1, *inner]


def _lies_channels_last(x: np.ndarray) -> bool:
    return x.shape[1] > 1 and not x.flags.c_contiguous and strides_of(x) == _channels_last(x.shape)


def _empty(shape: Ints, dtype: Any, last: bool) -> np.ndarray:
    if not last:
        return np.empty(shape, dtype)
    n, channels, *size = shape
    return np.moveaxis(np.empty((n, *size, channels), dtype), -1, 1)


def _fits(*arrays: np.ndarray) -> bool:
    first = arrays[0]
    return first.dtype in _DTYPES and first.ndim <= 5 and all(a.size and a.dtype == first.dtype for a in arrays)


def conv(
    x: np.ndarray,
    w: np.ndarray,
    bias: np.ndarray | None,
    out: Ints,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    groups: int,
) -> np.ndarray | None:
    """(N, C, *in), (K, C/G, *k), (K) -> (N, K, *out)"""
    if not _fits(x, w) or (bias is not None and bias.dtype != x.dtype):
        return None
    w, last = np.ascontiguousarray(w), _lies_channels_last(x)
    x = x if last else _seen(x)
    shape, dtype = (x.shape[0], w.shape[0], *out), _DTYPES[x.dtype]
    if bias is not None:
        bias = np.ascontiguousarray(bias)

    def build(b: Builder) -> Call:
        g = _Geometry(b, x.shape, w.shape, shape, dtype, last, (stride, padding, dilation), groups)
        inputs, bd = {c.SRC: _as_it_lies(b, x), c.WEIGHTS: g.w_outside}, None
        if bias is not None:
            bd = inputs[c.BIAS] = b.packed(bias.shape, dtype)
        d = b.descriptor("convolution_forward", c.TRAINING, c.DIRECT, g.x, g.w, bd, g.y, *g.places)
        return b.call(d, inputs, {c.DST: g.y_outside})

    call = cached(("conv", x.shape, x.strides, w.shape, stride, padding, dilation, groups, bias is None, dtype), build)
    if call is None:
        return None
    y = _empty(shape, x.dtype, last)
    if bias is None:
        call(x, w, y)
    else:
        call(x, w, bias, y)
    return y


def conv_input_grad(
    g: np.ndarray, w: np.ndarray, x_shape: Ints, stride: Ints, padding: Ints, dilation: Ints, groups: int
) -> np.ndarray | None:
    """(N, K, *out), (K, C/G, *k) -> (N, C, *in)"""
    if not _fits(g, w) or not math.prod(x_shape):
        return None
    w, last = np.ascontiguousarray(w), _lies_channels_last(g)
    g = g if last else _seen(g)
    dtype = _DTYPES[g.dtype]

    def build(b: Builder) -> Call:
        s = _Geometry(b, x_shape, w.shape, g.shape, dtype, last, (stride, padding, dilation), groups)
        x, y = (s.x_outside, s.y_outside) if w.shape[1] < _FEW_CHANNELS <= w.shape[0] else (s.x, s.y)
        d = b.descriptor("convolution_backward_data", c.DIRECT, x, s.w, y, *s.places, None)
        return b.call(d, {c.DIFF + c.DST: _as_it_lies(b, g), c.WEIGHTS: s.w_outside}, {c.DIFF + c.SRC: s.x_outside})

    call = cached(
        ("conv_input_grad", g.shape, g.strides, w.shape, x_shape, stride, padding, dilation, groups, dtype), build
    )
    if call is None:
        return None
    dx = _empty(x_shape, g.dtype, last)
    call(g, w, dx)
    return dx


def conv_weight_grad(
    g: np.ndarray, x: np.ndarray, w_shape: Ints, stride: Ints, padding: Ints, dilation: Ints, groups: int
) -> np.ndarray | None:
    """(N, K, *out), (N, C, *in) -> (K, C/G, *k)"""
    if not _fits(g, x) or not math.prod(w_shape):
        return None
    last = _lies_channels_last(x) and _lies_channels_last(g)
    g, x = _seen(g), _seen(x)
    dtype = _DTYPES[g.dtype]

    def build(b: Builder) -> Call:
        s = _Geometry(b, x.shape, w_shape, g.shape, dtype, last, (stride, padding, dilation), groups)
        d = b.descriptor("convolution_backward_weights", c.DIRECT, s.x, s.w, None, s.y, *s.places, None)
        return b.call(
            d, {c.DIFF + c.DST: _as_it_lies(b, g), c.SRC: _as_it_lies(b, x)}, {c.DIFF + c.WEIGHTS: s.w_outside}
        )

    key = (
        "conv_weight_grad",
        g.shape,
        g.strides,
        x.shape,
        x.strides,
        w_shape,
        stride,
        padding,
        dilation,
        groups,
        dtype,
    )
    call = cached(key, build)
    if call is None:
        return None
    dw = np.empty(w_shape, g.dtype)
    call(g, x, dw)
    return dw


# -- pooling -----------------------------------------------------------------------------------------------------------


def max_pool(
    x: np.ndarray, k: Ints, out: Ints, stride: Ints, padding: Ints, dilation: Ints
) -> tuple[np.ndarray, np.ndarray] | None:
    """(N, C, *in) -> (N, C, *out) and, per output, the number of the kernel offset that won. Only what is finite: oneDNN drops NaN."""
    if not _fits(x) or math.prod(k) > 255 or not _finite(x):
        return None
    shape = (*x.shape[:2], *out)
    call = _pool(c.MAX, x.shape, shape, x.dtype, k, stride, padding, dilation)
    if call is None:
        return None
    y, won = np.empty(shape, x.dtype), np.empty(shape, np.uint8)
    call(np.ascontiguousarray(x), y, won)
    return y, won


def max_pool_grad(
    g: np.ndarray, won: np.ndarray, x_shape: Ints, k: Ints, stride: Ints, padding: Ints, dilation: Ints
) -> np.ndarray | None:
    """(N, C, *out) -> (N, C, *in): each output's gradient goes to the input that won"""
    if not _fits(g) or won.dtype != np.uint8 or not math.prod(x_shape):
        return None
    call = _pool_grad(c.MAX, x_shape, g.shape, g.dtype, k, stride, padding, dilation)
    if call is None:
        return None
    dx = np.empty(x_shape, g.dtype)
    call(np.ascontiguousarray(g), np.ascontiguousarray(won), dx)
    return dx


def sum_pool(x: np.ndarray, k: Ints, out: Ints, stride: Ints, padding: Ints) -> np.ndarray | None:
    """(N, C, *in) -> (N, C, *out): the sum of each window, padding counted as zeros"""
    if not _fits(x):
        return None
    shape = (*x.shape[:2], *out)
    call = _pool(c.AVERAGE, x.shape, shape, x.dtype, k, stride, padding, (1,) * len(k))
    if call is None:
        return None
    y = np.empty(shape, x.dtype)
    call(np.ascontiguousarray(x), y)
    y *= x.dtype.type(math.prod(k))
    return y


def sum_pool_grad(g: np.ndarray, x_shape: Ints, k: Ints, stride: Ints, padding: Ints) -> np.ndarray | None:
    """(N, C, *out) -> (N, C, *in): the transpose of `sum_pool`"""
    if not _fits(g) or not math.prod(x_shape):
        return None
    call = _pool_grad(c.AVERAGE, x_shape, g.shape, g.dtype, k, stride, padding, (1,) * len(k))
    if call is None:
        return None
    dx = np.empty(x_shape, g.dtype)
    call(np.ascontiguousarray(g), dx)
    dx *= g.dtype.type(math.prod(k))
    return dx


def _pool(
    algorithm: int, x_shape: Ints, y_shape: Ints, np_dtype: Any, k: Ints, stride: Ints, padding: Ints, dilation: Ints
) -> Call | None:
    dtype = _DTYPES[np_dtype]

    def build(b: Builder) -> Call:
        xd, yd = b.packed(x_shape, dtype), b.packed(y_shape, dtype)
        windows = _windows(x_shape[2:], k, y_shape[2:], stride, padding, dilation)
        outputs = {c.DST: yd, c.WORKSPACE: b.packed(y_shape, c.U8)} if algorithm == c.MAX else {c.DST: yd}
        return b.call(b.descriptor("pooling_forward", c.TRAINING, algorithm, xd, yd, *windows), {c.SRC: xd}, outputs)

    return cached(("pool", algorithm, x_shape, y_shape, k, stride, padding, dilation, dtype), build)


def _pool_grad(
    algorithm: int, x_shape: Ints, y_shape: Ints, np_dtype: Any, k: Ints, stride: Ints, padding: Ints, dilation: Ints
) -> Call | None:
    dtype = _DTYPES[np_dtype]

    def build(b: Builder) -> Call:
        xd, yd = b.packed(x_shape, dtype), b.packed(y_shape, dtype)
        windows = _windows(x_shape[2:], k, y_shape[2:], stride, padding, dilation)
        forward = b.descriptor("pooling_forward", c.TRAINING, algorithm, xd, yd, *windows)
        inputs = (
            {c.DIFF + c.DST: yd, c.WORKSPACE: b.packed(y_shape, c.U8)} if algorithm == c.MAX else {c.DIFF + c.DST: yd}
        )
        return b.call(
            b.descriptor("pooling_backward", algorithm, xd, yd, *windows, forward), inputs, {c.DIFF + c.SRC: xd}
        )

    return cached(("pool_grad", algorithm, x_shape, y_shape, k, stride, padding, dilation, dtype), build)


def _windows(size: Ints, k: Ints, out: Ints, stride: Ints, padding: Ints, dilation: Ints) -> list[Any]:
    """Strides, kernel, dilation and both paddings; the right one reaches as far as the last window."""
    right = [(o - 1) * s + (n - 1) * d + 1 - i - p for o, s, n, d, i, p in zip(out, stride, k, dilation, size, padding)]
    return [dims(stride), dims(k), dims([d - 1 for d in dilation]), dims(padding), dims(right)]


def _finite(x: np.ndarray) -> bool:
    """Whether all of x is finite, by one product; of huge numbers it says no, too, and the plain kernel computes."""
    v = x.reshape(-1) if x.dtype == np.float32 else x.reshape(-1).astype(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        return math.isfinite(np.dot(v, v))


# -- rows --------------------------------------------------------------------------------------------------------------


def softmax(x: np.ndarray) -> np.ndarray | None:
    """eˣ / Σ eˣ along the last dimension. None where x has NaN or ∞, which NumPy carries through the row; −∞, a mask, is fine."""
    if not _fits(x) or not x.max() < np.inf:
        return None
    dtype = _DTYPES[x.dtype]

    def build(b: Builder) -> Call:
        d = b.packed(x.shape, dtype)
        return b.call(b.descriptor("softmax_forward", c.TRAINING, c.SOFTMAX, d, d, x.ndim - 1), {c.SRC: d}, {c.DST: d})

    call = cached(("softmax", x.shape, dtype), build)
    if call is None:
        return None
    y = np.empty(x.shape, x.dtype)
    call(np.ascontiguousarray(x), y)
    return y


def softmax_grad(g: np.ndarray, y: np.ndarray) -> np.ndarray | None:
    """y (g − Σ g y) along the last dimension"""
    if not _fits(g, y):
        return None
    dtype = _DTYPES[y.dtype]

    def build(b: Builder) -> Call:
        d = b.packed(y.shape, dtype)
        forward = b.descriptor("softmax_forward", c.TRAINING, c.SOFTMAX, d, d, y.ndim - 1)
        p = b.descriptor("softmax_backward", c.SOFTMAX, d, d, d, y.ndim - 1, forward)
        return b.call(p, {c.DIFF + c.DST: d, c.DST: d}, {c.DIFF + c.SRC: d})

    call = cached(("softmax_grad", y.shape, dtype), build)
    if call is None:
        return None
    dx = np.empty(y.shape, y.dtype)
    call(np.ascontiguousarray(g), np.ascontiguousarray(y), dx)
    return dx


# Normalisation of rows: x is (*, C), w and b are (C), moments are (*) and float32, as are the gradients for w and b. oneDNN takes a
# variance and adds eps; we pass 1/rstd² and no eps, since rstd is what is kept.

_AFFINE = c.USE_SCALE | c.USE_SHIFT


def row_moments(x: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Mean and (biased) variance of each row."""
    if not _fits(x):
        return None
    dtype = _DTYPES[x.dtype]

    def build(b: Builder) -> Call:
        d, s = b.packed(x.shape, dtype), b.packed(x.shape[:-1], c.F32)
        p = b.descriptor("layer_normalization_forward", c.TRAINING, d, d, s, 0.0, 0)
        return b.call(p, {c.SRC: d}, {c.DST: d, c.MEAN: s, c.VARIANCE: s})

    call = cached(("row_moments", x.shape, dtype), build)
    if call is None:
        return None
    mean, variance = np.empty(x.shape[:-1], np.float32), np.empty(x.shape[:-1], np.float32)
    call(np.ascontiguousarray(x), np.empty(x.shape, x.dtype), mean, variance)
    return mean, variance


def normalize_rows(
    x: np.ndarray, w: np.ndarray, b: np.ndarray, mean: np.ndarray, rstd: np.ndarray
) -> np.ndarray | None:
    """(x − mean)·rstd·w + b"""
    if not _fits(x):
        return None
    dtype = _DTYPES[x.dtype]

    def build(bu: Builder) -> Call:
        d, s, v = bu.packed(x.shape, dtype), bu.packed(x.shape[:-1], c.F32), bu.packed(w.shape, c.F32)
        p = bu.descriptor("layer_normalization_forward", c.TRAINING, d, d, s, 0.0, _AFFINE | c.USE_GLOBAL_STATS)
        return bu.call(p, {c.SRC: d, c.MEAN: s, c.VARIANCE: s, c.SCALE: v, c.SHIFT: v}, {c.DST: d})

    call = cached(("normalize_rows", x.shape, dtype), build)
    if call is None:
        return None
    y = np.empty(x.shape, x.dtype)
    call(np.ascontiguousarray(x), _float32(mean), _variance(rstd), _float32(w), _float32(b), y)
    return y


def normalize_rows_grad(
    g: np.ndarray, x: np.ndarray, w: np.ndarray, mean: np.ndarray, rstd: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Gradients for x, w and b, the moments being those of x"""
    if not _fits(g, x):
        return None
    dtype = _DTYPES[x.dtype]

    def build(b: Builder) -> Call:
        d, s, v = b.packed(x.shape, dtype), b.packed(x.shape[:-1], c.F32), b.packed(w.shape, c.F32)
        forward = b.descriptor("layer_normalization_forward", c.TRAINING, d, d, s, 0.0, _AFFINE)
        p = b.descriptor("layer_normalization_backward", c.BACKWARD, d, d, d, s, 0.0, _AFFINE, forward)
        inputs = {c.DIFF + c.DST: d, c.SRC: d, c.MEAN: s, c.VARIANCE: s, c.SCALE: v, c.SHIFT: v}
        return b.call(p, inputs, {c.DIFF + c.SRC: d, c.DIFF_SCALE: v, c.DIFF_SHIFT: v})

    call = cached(("normalize_rows_grad", x.shape, dtype), build)
    if call is None:
        return None
    dx, dw, db = np.empty(x.shape, x.dtype), np.empty(w.shape, np.float32), np.empty(w.shape, np.float32)
    scale = _float32(w)  # stands in for the shift, too: v3.2 wants one, and does not read it
    call(np.ascontiguousarray(g), np.ascontiguousarray(x), _float32(mean), _variance(rstd), scale, scale, dx, dw, db)
    return dx, dw, db


def _float32(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x, dtype=np.float32)


def _variance(rstd: np.ndarray) -> np.ndarray:
    v = np.square(rstd, dtype=np.float32, order="C")
    return np.reciprocal(v, out=v)


# -- elements ----------------------------------------------------------------------------------------------------------


def gelu(x: np.ndarray, approximate: str) -> np.ndarray | None:
    """x·Φ(x), or its approximation by tanh. Only what is finite: oneDNN makes NaN of ∞."""
    if x.dtype not in _DTYPES or not x.size or not _finite(x):
        return None
    call = _gelu(x.size, _DTYPES[x.dtype], approximate)
    if call is None:
        return None
    y = np.empty(x.shape, x.dtype)
    call(np.ascontiguousarray(x), y)
    return y


def gelu_grad(g: np.ndarray, x: np.ndarray, approximate: str) -> np.ndarray | None:
    """g·(Φ(x) + x·φ(x)), or the slope of the approximation"""
    if x.dtype not in _DTYPES or g.dtype != x.dtype or g.shape != x.shape or not x.size or not _finite(x):
        return None
    size, dtype, algorithm = x.size, _DTYPES[x.dtype], _GELU[approximate]

    def build(b: Builder) -> Call:
        d = b.packed((size,), dtype)
        forward = b.descriptor("eltwise_forward", c.TRAINING, algorithm, d, d, 0.0, 0.0)
        p = b.descriptor("eltwise_backward", algorithm, d, d, d, 0.0, 0.0, forward)
        return b.call(p, {c.DIFF + c.DST: d, c.SRC: d}, {c.DIFF + c.SRC: d})

    call = cached(("gelu_grad", size, dtype, algorithm), build)
    if call is None:
        return None
    dx = np.empty(x.shape, x.dtype)
    call(np.ascontiguousarray(g), np.ascontiguousarray(x), dx)
    return dx


_GELU = {"none": c.GELU_ERF, "tanh": c.GELU_TANH}


def _gelu(size: int, dtype: int, approximate: str) -> Call | None:
    algorithm = _GELU[approximate]

    def build(b: Builder) -> Call:
        d = b.packed((size,), dtype)
        return b.call(b.descriptor("eltwise_forward", c.TRAINING, algorithm, d, d, 0.0, 0.0), {c.SRC: d}, {c.DST: d})

    return cached(("gelu", size, dtype, algorithm), build)
