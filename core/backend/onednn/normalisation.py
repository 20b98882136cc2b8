"""Batch normalisation by oneDNN of images, (N, C, *).

Contract: that of `images`. Inside, (N, C, *) is an image of one row, (1, C, 1, N·size), channels-last. oneDNN takes a variance and adds
eps; by given moments we pass 1/rstd² and no eps, since rstd is what is kept. Moments and the gradients for w and b are float32.
"""

from __future__ import annotations

import math

import numpy as np

from core.backend.onednn import library as c
from core.backend.onednn.images import empty, in_order, lies_channels_last
from core.backend.onednn.kernels import _DTYPES, _fits, _seen
from core.backend.onednn.library import Handle
from core.backend.onednn.primitives import Builder, Call, Described, cached, last_strides

_AFFINE = c.USE_SCALE | c.USE_SHIFT


def channel_moments(x: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Mean and (biased) variance of each channel of (N, C, *), both (C)"""
    rows = _rows(x)
    if rows is None:
        return None
    channels, dtype = rows[1], _DTYPES[x.dtype]

    def build(b: Builder) -> Call:
        d, s = _image(b, rows, dtype), b.packed((channels,), c.F32)
        p = b.descriptor("batch_normalization_forward", c.TRAINING, d, d, 0.0, 0)
        return b.call(p, {c.SRC: d}, {c.DST: d, c.MEAN: s, c.VARIANCE: s})

    call = cached(("channel_moments", rows, dtype), build)
    if call is None:
        return None
    mean, variance = np.empty(channels, np.float32), np.empty(channels, np.float32)
    call(x, np.empty(x.size, x.dtype), mean, variance)
    return mean, variance


def normalize_by_batch(
    x: np.ndarray, w: np.ndarray, b: np.ndarray, eps: float, rectified: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray] | None:
    """(x − mean)/√(variance + eps)·w + b by the moments of x itself, its mean, its variance, and the bytes that the gradient of max(·, 0)
    wants. `rectified`: that maximum; None where there may be NaN, which oneDNN drops. All but x are float32 (C)."""
    rows = _rows(x)
    if rows is None:
        return None
    dtype = _DTYPES[x.dtype]

    def build(bu: Builder) -> Call:
        d, s = _image(bu, rows, dtype), bu.packed((rows[1],), c.F32)
        p = bu.descriptor("batch_normalization_forward", c.TRAINING, d, d, eps, _flags(rectified))
        outputs: dict[int, Handle | Described] = {c.DST: d, c.MEAN: s, c.VARIANCE: s}
        if not rectified:
            return bu.call(p, {c.SRC: d, c.SCALE: s, c.SHIFT: s}, outputs)
        outputs[c.WORKSPACE] = kept = bu.wanted(p, c.WORKSPACE)
        call = bu.call(p, {c.SRC: d, c.SCALE: s, c.SHIFT: s}, outputs)
        call.workspace = bu.bytes(kept)
        return call

    call = cached(("normalize_by_batch", rows, dtype, eps, rectified), build)
    if call is None:
        return None
    y, kept = empty(x.shape, x.dtype, lies_channels_last(x)), np.empty(call.workspace, np.uint8)
    mean, variance = np.empty(rows[1], np.float32), np.empty(rows[1], np.float32)
    call(x, w, b, y, mean, variance, kept)
    if rectified:  # an x that is not finite makes its moments so
        with np.errstate(all="ignore"):
            scale = w / np.sqrt(variance + np.float32(eps))
            if not math.isfinite(sum(np.dot(v, v) for v in (mean, variance, scale, b))):
                return None
    return y, mean, variance, kept


def normalize_channels(
    x: np.ndarray, w: np.ndarray, b: np.ndarray, mean: np.ndarray, rstd: np.ndarray
) -> np.ndarray | None:
    """(x − mean)·rstd·w + b; all but x are float32 (C)"""
    rows = _rows(x)
    if rows is None:
        return None
    dtype = _DTYPES[x.dtype]

    def build(bu: Builder) -> Call:
        d, s = _image(bu, rows, dtype), bu.packed((rows[1],), c.F32)
        p = bu.descriptor("batch_normalization_forward", c.INFERENCE, d, d, 0.0, _AFFINE | c.USE_GLOBAL_STATS)
        return bu.call(p, {c.SRC: d, c.MEAN: s, c.VARIANCE: s, c.SCALE: s, c.SHIFT: s}, {c.DST: d})

    call = cached(("normalize_channels", rows, dtype), build)
    if call is None:
        return None
    y = empty(x.shape, x.dtype, lies_channels_last(x))
    call(x, mean, np.square(1 / rstd), w, b, y)
    return y


def normalize_channels_grad(
    g: np.ndarray, x: np.ndarray, w: np.ndarray, mean: np.ndarray, rstd: np.ndarray, kept: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Gradients for x, w and b, the moments being those of x; `kept` by `normalize_by_batch`, whose result was rectified."""
    rows = _rows(x)
    if rows is None or not _fits(g, x):
        return None
    dtype, g, flags = _DTYPES[x.dtype], _seen(g), _flags(kept is not None)
    if _rows(g) is None:
        g = in_order(g, True)

    def build(b: Builder) -> Call:
        d, s = _image(b, rows, dtype), b.packed((rows[1],), c.F32)
        forward = b.descriptor("batch_normalization_forward", c.TRAINING, d, d, 0.0, flags)
        p = b.descriptor("batch_normalization_backward", c.BACKWARD, d, d, d, 0.0, flags, forward)
        inputs: dict[int, Handle | Described] = {c.DIFF + c.DST: d, c.SRC: d, c.MEAN: s, c.VARIANCE: s, c.SCALE: s}
        if kept is not None:
            inputs[c.WORKSPACE] = b.wanted(p, c.WORKSPACE)
        return b.call(p, inputs, {c.DIFF + c.SRC: d, c.DIFF_SCALE: s, c.DIFF_SHIFT: s})

    call = cached(("normalize_channels_grad", rows, dtype, flags), build)
    if call is None:
        return None
    dx = empty(x.shape, x.dtype, lies_channels_last(x))
    dw, db = np.empty(rows[1], np.float32), np.empty(rows[1], np.float32)
    call(g, x, mean, np.square(1 / rstd), w, *(() if kept is None else (kept,)), dx, dw, db)
    return dx, dw, db


def _flags(rectified: bool) -> int:
    return _AFFINE | (c.FUSE_RELU if rectified else 0)


def _rows(x: np.ndarray) -> tuple[int, int] | None:
    """(N·size, C) if each sample's every place has its channels side by side, else None."""
    if not _fits(x) or not (lies_channels_last(x) or (x.flags.c_contiguous and (x.ndim == 2 or x[0, 0].size == 1))):
        return None
    return x.size // x.shape[1], x.shape[1]


def _image(b: Builder, rows: tuple[int, int], dtype: int) -> Handle:
    shape = (1, rows[1], 1, rows[0])
    return b.strided(shape, dtype, last_strides(shape))
