"""The CPU: NumPy, its BLAS, and oneDNN where there is one and it is the faster.

Contract: the same numbers as the plain backend, up to rounding. Each method says when it leaves the plain kernel; a kernel of oneDNN may
decline by returning None, and then the plain one computes. `description` says which libraries compute, for the log and for fingerprints.

The thresholds are from `python -m tests.bench ops`, AVX-512, one thread: what a call of oneDNN costs before it computes, 4 to 8 µs, NumPy
must first have lost.
"""

from __future__ import annotations

import platform
from typing import Any

import numpy as np
from ml_dtypes import bfloat16

from core.backend import memory, threads
from core.backend.base import Backend, Ints, conv_out_shape
from core.backend.onednn import kernels, library

_MATMUL_MACS = 1 << 20  # multiplications and additions of one product; NumPy's own BLAS is as good on what is smaller
_STACKED_MACS = 1 << 19  # the same for each product of a stack of matrices
_SOFTMAX_SIZE = 1 << 11  # elements, as below
_SOFTMAX_GRAD_SIZE = 1 << 12
_NORM_SIZE = 1 << 13
_AXPBY_SIZE = 1 << 12
_CHANNEL_LENGTH = 16  # elements of a channel of a sample, from which BLAS sums them faster than NumPy

_BFLOAT16 = np.dtype(bfloat16)


class CPUBackend(Backend):
    """The plain implementation on NumPy arrays, with its hot kernels replaced."""

    device_type = "cpu"
    array_type = np.ndarray
    xp = np

    def __init__(self) -> None:
        memory.keep_freed()

    # -- products: float32 from a size on, bfloat16 always, since NumPy has no BLAS for it -------------------------------

    def matmul(self, x: Any, y: Any) -> Any:
        if x.ndim > 1 and y.ndim > 1 and (_is_large(x, y) or x.dtype == _BFLOAT16):
            z = kernels.matmul(x, y)
            if z is not None:
                return z
        return super().matmul(x, y)

    def linear(self, x: Any, w: Any, b: Any | None) -> Any:
        if x.ndim > 1 and (x.size * w.shape[0] >= _MATMUL_MACS or x.dtype == _BFLOAT16):
            y = kernels.matmul(x, w.T, b)
            if y is not None:
                return y
        return super().linear(x, w, b)

    # -- updates: one pass of BLAS instead of two and a temporary --------------------------------------------------------

    def axpby_(self, a: float, x: Any, b: float, y_: Any) -> None:
        if x.size < _AXPBY_SIZE or not threads.axpby(a, x, b, y_):
            super().axpby_(a, x, b, y_)

    # -- convolution and pooling: always, small ones gain most -----------------------------------------------------------

    def conv(self, x: Any, w: Any, b: Any | None, stride: Ints, padding: Ints, dilation: Ints, groups: int) -> Any:
        out = conv_out_shape(x.shape[2:], w.shape[2:], stride, padding, dilation)
        y = kernels.conv(x, w, b, out, stride, padding, dilation, groups)
        return super().conv(x, w, b, stride, padding, dilation, groups) if y is None else y

    def conv_input_grad(
        self, g: Any, w: Any, x_shape: Ints, stride: Ints, padding: Ints, dilation: Ints, groups: int
    ) -> Any:
        dx = kernels.conv_input_grad(g, w, x_shape, stride, padding, dilation, groups)
        return super().conv_input_grad(g, w, x_shape, stride, padding, dilation, groups) if dx is None else dx

    def conv_weight_grad(
        self, g: Any, x: Any, w_shape: Ints, stride: Ints, padding: Ints, dilation: Ints, groups: int
    ) -> Any:
        dw = kernels.conv_weight_grad(g, x, w_shape, stride, padding, dilation, groups)
        return super().conv_weight_grad(g, x, w_shape, stride, padding, dilation, groups) if dw is None else dw

    def max_pool(self, x: Any, k: Ints, out: Ints, stride: Ints, padding: Ints, dilation: Ints) -> tuple[Any, Any]:
        found = kernels.max_pool(x, k, out, stride, padding, dilation)
        return super().max_pool(x, k, out, stride, padding, dilation) if found is None else found

    def max_pool_grad(
        self, g: Any, won: Any, x_shape: Ints, k: Ints, stride: Ints, padding: Ints, dilation: Ints
    ) -> Any:
        dx = kernels.max_pool_grad(g, won, x_shape, k, stride, padding, dilation)
        return super().max_pool_grad(g, won, x_shape, k, stride, padding, dilation) if dx is None else dx

    def sum_pool(self, x: Any, k: Ints, out: Ints, stride: Ints, padding: Ints) -> Any:
        y = kernels.sum_pool(x, k, out, stride, padding)
        return super().sum_pool(x, k, out, stride, padding) if y is None else y

    def sum_pool_grad(self, g: Any, x_shape: Ints, k: Ints, stride: Ints, padding: Ints) -> Any:
        dx = kernels.sum_pool_grad(g, x_shape, k, stride, padding)
        return super().sum_pool_grad(g, x_shape, k, stride, padding) if dx is None else dx

    # -- softmax: along the last dimension. Its logarithm stays with NumPy, which is as fast and rounds better -----------

    def softmax(self, x: Any, dim: int) -> Any:
        y = kernels.softmax(x) if dim == x.ndim - 1 and x.size >= _SOFTMAX_SIZE else None
        return super().softmax(x, dim) if y is None else y

    def softmax_grad(self, g: Any, y: Any, dim: int) -> Any:
        dx = kernels.softmax_grad(g, y) if dim == y.ndim - 1 and y.size >= _SOFTMAX_GRAD_SIZE else None
        return super().softmax_grad(g, y, dim) if dx is None else dx

    # -- gelu: always, since the plain one is a dozen passes -------------------------------------------------------------

    def gelu(self, x: Any, approximate: str) -> Any:
        y = kernels.gelu(x, approximate)
        return super().gelu(x, approximate) if y is None else y

    def gelu_grad(self, g: Any, x: Any, approximate: str) -> Any:
        dx = kernels.gelu_grad(g, x, approximate)
        return super().gelu_grad(g, x, approximate) if dx is None else dx

    # -- normalisation: oneDNN over rows, BLAS over the channels of (N, C, *) --------------------------------------------
    # oneDNN's own kernels for channels are fast on its blocked layouts only; in C order BLAS sums are three times as fast.

    def moments(self, x: Any, axes: Ints) -> tuple[Any, Any]:
        if _are_rows(x, axes):
            found = kernels.row_moments(x)
            if found is not None:
                return found[0][..., None], found[1][..., None]
        elif _are_channels(x, axes):
            n, like = x.size // x.shape[1], (1, -1, *(1,) * (x.ndim - 2))
            mean = (_channel_sums(x) / n).reshape(like)
            centred = x - mean
            return mean, (_channel_dots(centred, centred) / n).reshape(like)
        return super().moments(x, axes)

    def standardize(self, x: Any, w: Any, b: Any, mean: Any, rstd: Any, axes: Ints) -> Any:
        if w is None or b is None:
            return super().standardize(x, w, b, mean, rstd, axes)
        if _are_rows(x, axes) and w.shape == b.shape == x.shape[-1:] and mean.shape == (*x.shape[:-1], 1):
            y = kernels.normalize_rows(x, w, b, mean[..., 0], rstd[..., 0])
            if y is not None:
                return y
        elif _are_channels(x, axes) and w.size == b.size == mean.size == x.shape[1] and w.dtype == x.dtype:
            scale = rstd * w.reshape(rstd.shape)
            y = x * scale
            y += b.reshape(rstd.shape) - mean * scale
            return y
        return super().standardize(x, w, b, mean, rstd, axes)

    def standardize_grad(
        self, g: Any, x: Any, w: Any, b: Any, mean: Any, rstd: Any, axes: Ints
    ) -> tuple[Any, Any, Any]:
        if w is None or b is None:
            return super().standardize_grad(g, x, w, b, mean, rstd, axes)
        if _are_rows(x, axes) and w.shape == b.shape == x.shape[-1:] and mean.shape == (*x.shape[:-1], 1):
            found = kernels.normalize_rows_grad(g, x, w, mean[..., 0], rstd[..., 0])
            if found is not None:
                dx, dw, db = found
                return dx, dw.astype(w.dtype, copy=False), db.astype(b.dtype, copy=False)
        elif (
            _are_channels(x, axes)
            and _are_channels(g, axes)
            and w.size == b.size == mean.size == x.shape[1]
            and w.dtype == x.dtype
        ):
            n = x.size // x.shape[1]
            h = x - mean
            sum_g, sum_gh = _channel_sums(g).reshape(rstd.shape), _channel_dots(g, h).reshape(rstd.shape)
            # dx = rstd·w·(g − Σg/n − h·rstd²·Σgh/n)
            h *= rstd * rstd * sum_gh / -n
            h -= sum_g / n
            h += g
            h *= rstd * w.reshape(rstd.shape)
            return h, (sum_gh * rstd).reshape(w.shape), sum_g.reshape(b.shape)
        return super().standardize_grad(g, x, w, b, mean, rstd, axes)


def _is_large(x: Any, y: Any) -> bool:
    if y.ndim == 2:
        return x.size * y.shape[1] >= _MATMUL_MACS
    return x.shape[-2] * x.shape[-1] * y.shape[-1] >= _STACKED_MACS


def _are_rows(x: Any, axes: Ints) -> bool:
    """Whether each row is normalised by itself, and there is enough to do."""
    return axes == (x.ndim - 1,) and x.ndim > 1 and x.size >= _NORM_SIZE


def _are_channels(x: Any, axes: Ints) -> bool:
    """Whether each channel of (N, C, *) is, and lies in memory so that BLAS can sum it."""
    return (
        x.ndim > 2
        and axes == (0, *range(2, x.ndim))
        and x.dtype == np.float32
        and x.flags.c_contiguous
        and x.size >= _CHANNEL_LENGTH * x.shape[0] * x.shape[1] > 0
    )


def _channel_sums(x: np.ndarray) -> np.ndarray:
    """(N, C, *) -> (C)"""
    rows = x.reshape(x.shape[0], x.shape[1], -1)
    return (rows @ np.ones(rows.shape[2], x.dtype)).sum(axis=0)


def _channel_dots(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Σ x·y over all but the channels: (N, C, *), (N, C, *) -> (C)"""
    shape = (x.shape[0], x.shape[1], -1)
    return np.vecdot(x.reshape(shape), y.reshape(shape)).sum(axis=0)


# -- who computes ------------------------------------------------------------------------------------------------------


def description() -> dict[str, str]:
    """Everything that the bits of a result may depend on: processor, libraries, their kernels, threads. Loads oneDNN."""
    lib = library.get()
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    return {
        "processor": platform.machine(),
        "numpy": np.__version__,
        "blas": " ".join(filter(None, [blas.get("name"), blas.get("version"), threads.blas_kernels()])),
        "onednn": f"{'.'.join(map(str, lib.version))} {lib.isa}" if lib else f"none ({library.reason()})",
        "threads": str(threads.get_num_threads()),
    }
