"""The kernels of `core.backend.base` that oneDNN computes, on NumPy arrays.

Contract: same arguments and same numbers as the plain kernel, up to rounding; None where it is not oneDNN's case (no library, a dtype, an
empty array, no implementation), and then the plain kernel computes. Results are new arrays in C order.
float32 and bfloat16; sums are in float32. Shape letters as in `base`.
"""

from __future__ import annotations

import math

import numpy as np
from ml_dtypes import bfloat16

from core.backend.onednn import library as c
from core.backend.onednn.library import Handle
from core.backend.onednn.primitives import Builder, Call, cached, strides_of

Ints = tuple[int, ...]

SPILLED = 1 << 13  # elements, from which it pays to ask where the stack stands
_ALIASED = 1 << 12  # bytes: rows that lie a multiple of these apart share few lines of the cache
_DTYPES = {np.dtype(np.float32): c.F32, np.dtype(bfloat16): c.BF16}


def _seen(x: np.ndarray) -> np.ndarray:
    """x, or a copy of it where oneDNN cannot see x as it lies."""
    return x if strides_of(x) is not None else np.ascontiguousarray(x)


def _as_it_lies(b: Builder, x: np.ndarray) -> Handle:
    strides = strides_of(x)
    assert strides is not None
    return b.strided(x.shape, _DTYPES[x.dtype], strides)


_LAST = {n: (0, *range(2, n), 1) for n in range(2, 33)}  # by the number of dimensions


def _fits(*arrays: np.ndarray) -> bool:
    """Whether oneDNN knows the dtype, which all share, and there is something to compute."""
    first = arrays[0]
    return first.dtype in _DTYPES and first.ndim <= 5 and all(a.size and a.dtype == first.dtype for a in arrays)


def _finite(x: np.ndarray) -> bool:
    """Whether all of x, which lies without gaps, is finite. Of huge numbers it may say no, too, and the plain kernel computes."""
    v = flat(x)
    if x.dtype == bfloat16:
        return int((v.view(np.uint16) & 0x7FFF).max()) < 0x7F80
    with np.errstate(over="ignore", invalid="ignore"):
        return math.isfinite(np.dot(v, v))


def _below_infinity(x: np.ndarray) -> bool:
    """Whether no element is NaN or ∞; −∞ may be."""
    if x.dtype == bfloat16:
        # as bits, since its own comparisons are slow: there ∞ is the greatest that is positive, −∞ that is negative
        return int(x.view(np.int16).max()) < 0x7F80 and int(x.view(np.uint16).max()) <= 0xFF80
    return bool(x.max() < np.inf)


def flat(x: np.ndarray) -> np.ndarray:
    """The elements as they lie in memory, where they lie in C order or channels-last; else a copy in C order."""
    if not x.flags.c_contiguous and x.ndim > 2:
        x = channels_last(x)
    return x.reshape(-1)


def channels_last(x: np.ndarray) -> np.ndarray:
    """(N, C, *size) seen as (N, *size, C)"""
    return x.transpose(_LAST[x.ndim])


# -- products ----------------------------------------------------------------------------------------------------------


def matmul(
    x: np.ndarray, y: np.ndarray, bias: np.ndarray | None = None, out: np.ndarray | None = None
) -> np.ndarray | None:
    """(*, n, k) @ (*, k, m) + (m) -> (*, n, m); at least two dimensions each, read as they lie.

    Written into `out` if that has the shape and lies as oneDNN can see it; of bfloat16 it may be float32.
    """
    dtype = _DTYPES.get(x.dtype)
    if dtype is None or y.dtype != x.dtype or not x.size or not y.size:
        return None
    result = x.dtype if out is None else out.dtype
    if bias is not None and (bias.dtype != result or not bias.flags.c_contiguous):
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

    fits = out is not None and out.shape == shape and out.dtype in (x.dtype, np.float32) and strides_of(out) is not None
    z = out if out is not None and fits else np.empty(shape, x.dtype)

    def build(b: Builder) -> Call:
        xd, yd, zd = _as_it_lies(b, x), _as_it_lies(b, y), _as_it_lies(b, z)
        inputs, bd = {c.SRC: xd, c.WEIGHTS: yd}, None
        if bias is not None:
            bd = inputs[c.BIAS] = b.packed((1,) * (len(shape) - 1) + bias.shape, _DTYPES[bias.dtype])
        return b.call(b.descriptor("matmul", xd, yd, bd, zd, by=_by(x, y)), inputs, {c.DST: zd})

    call = cached(("matmul", x.shape, x.strides, y.shape, y.strides, bias is None, dtype, z.strides, z.dtype), build)
    if call is None:
        return None
    if bias is None:
        call(x, y, z)
    else:
        call(x, y, bias, z)
    return z


def _by(x: np.ndarray, y: np.ndarray) -> str:
    """Which implementation of a product is the faster; "" is oneDNN's own choice. "gemm" first copies blocks of both side by
    side, which pays where x is read down its columns (3 to 15 %) and where the product is wider than its sums are long (2 to 9 %).
    """
    if y.ndim > 2 or x.dtype != np.float32:
        return ""
    (n, k), m = x.shape, y.shape[1]
    if y.strides[1] != y.itemsize:
        pays = n >= 1024 and m >= max(2 * k, 768)
    elif x.strides[1] != x.itemsize:
        pays = x.strides[1] % _ALIASED > 0
    else:
        pays = m >= max(k, 512)
    return "gemm" if pays else ""


# -- rows --------------------------------------------------------------------------------------------------------------


def softmax(x: np.ndarray) -> np.ndarray | None:
    """eˣ / Σ eˣ along the last dimension. None where x has NaN or ∞, which NumPy carries through the row; −∞, a mask, is fine."""
    if not _fits(x) or not _below_infinity(x):
        return None
    dtype = _DTYPES[x.dtype]

    def build(b: Builder) -> Call:
        d = b.packed(x.shape, dtype)
        p = b.descriptor("softmax_forward", c.TRAINING, c.SOFTMAX, d, d, x.ndim - 1)
        return b.call(p, {c.SRC: d}, {c.DST: d}, spills=x.size >= SPILLED)

    call = cached(("softmax", x.shape, dtype), build)
    if call is None:
        return None
    y = np.empty(x.shape, x.dtype)
    call(np.ascontiguousarray(x), y)
    return y


def softmax_grad(g: np.ndarray, y: np.ndarray, log: bool = False) -> np.ndarray | None:
    """y (g − Σ g y) along the last dimension; of the logarithm of softmax g − eʸ Σ g"""
    if not _fits(g, y):
        return None
    dtype, algorithm = _DTYPES[y.dtype], c.LOG_SOFTMAX if log else c.SOFTMAX

    def build(b: Builder) -> Call:
        d = b.packed(y.shape, dtype)
        forward = b.descriptor("softmax_forward", c.TRAINING, algorithm, d, d, y.ndim - 1)
        p = b.descriptor("softmax_backward", algorithm, d, d, d, y.ndim - 1, forward)
        return b.call(p, {c.DIFF + c.DST: d, c.DST: d}, {c.DIFF + c.SRC: d}, spills=log and y.size >= SPILLED)

    call = cached(("softmax_grad", y.shape, dtype, algorithm), build)
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


def standardized_rows(
    x: np.ndarray, w: np.ndarray, b: np.ndarray, eps: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """(x − mean) / √(variance + eps)·w + b, mean and variance: in one go."""
    if not _fits(x):
        return None
    dtype = _DTYPES[x.dtype]

    def build(bu: Builder) -> Call:
        d, s, v = bu.packed(x.shape, dtype), bu.packed(x.shape[:-1], c.F32), bu.packed(w.shape, c.F32)
        p = bu.descriptor("layer_normalization_forward", c.TRAINING, d, d, s, eps, _AFFINE)
        return bu.call(p, {c.SRC: d, c.SCALE: v, c.SHIFT: v}, {c.DST: d, c.MEAN: s, c.VARIANCE: s})

    call = cached(("standardized_rows", x.shape, dtype, eps), build)
    if call is None:
        return None
    y = np.empty(x.shape, x.dtype)
    mean, variance = np.empty(x.shape[:-1], np.float32), np.empty(x.shape[:-1], np.float32)
    call(np.ascontiguousarray(x), _float32(w), _float32(b), y, mean, variance)
    return y, mean, variance


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
    """x·Φ(x), or its approximation by tanh. Of ∞ the first makes NaN, as PyTorch does."""
    return _eltwise(x, _GELU[approximate])


def sigmoid(x: np.ndarray) -> np.ndarray | None:
    """1 / (1 + e⁻ˣ), to three units in the last place; what would be subnormal is 0"""
    return _eltwise(x, c.LOGISTIC)


def gelu_grad(g: np.ndarray, x: np.ndarray, approximate: str) -> np.ndarray | None:
    """g·(Φ(x) + x·φ(x)), or the slope of the approximation, for x whose cube is finite"""
    if x.dtype not in _DTYPES or g.dtype != x.dtype or g.shape != x.shape or not x.size:
        return None
    if approximate == "tanh" and not _finite(x):
        return None
    size, dtype, algorithm = x.size, _DTYPES[x.dtype], _GELU[approximate]

    def build(b: Builder) -> Call:
        d = b.packed((size,), dtype)
        forward = b.descriptor("eltwise_forward", c.TRAINING, algorithm, d, d, 0.0, 0.0)
        p = b.descriptor("eltwise_backward", algorithm, d, d, d, 0.0, 0.0, forward)
        return b.call(p, {c.DIFF + c.DST: d, c.SRC: d}, {c.DIFF + c.SRC: d}, spills=size >= SPILLED)

    call = cached(("gelu_grad", size, dtype, algorithm), build)
    if call is None:
        return None
    dx = np.empty(x.shape, x.dtype)
    call(np.ascontiguousarray(g), np.ascontiguousarray(x), dx)
    return dx


_GELU = {"none": c.GELU_ERF, "tanh": c.GELU_TANH}


def _eltwise(x: np.ndarray, algorithm: int) -> np.ndarray | None:
    """A function of one number, of each"""
    if x.dtype not in _DTYPES or not x.size:
        return None
    size, dtype = x.size, _DTYPES[x.dtype]

    def build(b: Builder) -> Call:
        d = b.packed((size,), dtype)
        return b.call(b.descriptor("eltwise_forward", c.TRAINING, algorithm, d, d, 0.0, 0.0), {c.SRC: d}, {c.DST: d})

    call = cached(("eltwise", size, dtype, algorithm), build)
    if call is None:
        return None
    y = np.empty(x.shape, x.dtype)
    call(np.ascontiguousarray(x), y)
    return y
