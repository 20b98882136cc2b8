"""The CPU: NumPy, its BLAS, and oneDNN where there is one and it is the faster.

Contract: the same numbers as the plain backend, up to rounding. Each method says when it leaves the plain kernel; a kernel of oneDNN may
decline by returning None, and then the plain one computes. `description` says which libraries compute, for the log and for fingerprints.

The thresholds are from `python -m tests.bench ops`, AVX-512, one thread: what a call of oneDNN costs before it computes, 4 to 8 µs, NumPy
must first have lost.
"""

from __future__ import annotations

import functools
import platform
from typing import Any

import numpy as np
from ml_dtypes import bfloat16

from core.backend import memory, threads
from core.backend.base import Backend, Ints, conv_out_shape
from core.backend.onednn import attention, images, kernels, library, steps
from core.errors import RangeError

_MATMUL_MACS = 1 << 20  # multiplications and additions of one product; NumPy's own BLAS is as good on what is smaller
_STACKED_MACS = 1 << 19  # the same for each product of a stack of matrices
_STEP_MACS = 1 << 17  # the same for a product that runs many times with one weight,
_MANY = 4  # that is so many
_SOFTMAX_SIZE = 1 << 11  # elements, as below
_SOFTMAX_GRAD_SIZE = 1 << 12
_NORM_SIZE = 1 << 13
_CHANNELS_SIZE = 1 << 11
_ADD_SIZE = 1 << 13
_RELU_SIZE, _CAST_SIZE = 1 << 14, 1 << 13
_AXPBY_SIZE = 1 << 12
_CHANNEL_LENGTH = 16  # elements of a channel of a sample, from which BLAS sums them faster than NumPy

_BFLOAT16 = np.dtype(bfloat16)
_BITS = {np.dtype(np.float32): np.int32, _BFLOAT16: np.int16}


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
            with threads.blas_threads():
                return super().matmul(x, y)
        return super().matmul(x, y)

    def linear(self, x: Any, w: Any, b: Any | None) -> Any:
        if x.ndim > 1 and (x.size * w.shape[0] >= _MATMUL_MACS or x.dtype == _BFLOAT16):
            y = kernels.matmul(x, w.T, b)
            if y is not None:
                return y
        return super().linear(x, w, b)

    def sum_channels(self, x: Any) -> Any:
        if images.lies_channels_last(x):
            return self.sum_rows(kernels.channels_last(x))
        if x.dtype == np.float32 and x.flags.c_contiguous and x.size:
            return _channel_sums(x)
        return super().sum_channels(x)

    def sum_rows(self, x: Any) -> Any:
        if x.dtype == _BFLOAT16:
            return self.sum_rows(self._widened(x)).astype(x.dtype)
        if x.dtype == np.float32 and x.flags.c_contiguous and x.size:
            rows = x.reshape(-1, x.shape[-1])
            return np.ones(len(rows), x.dtype) @ rows
        return super().sum_rows(x)

    def adder(self, w: Any, rows: int, times: int) -> Any:
        """As in the plain kernel; what w holds is read now."""
        plain = super().adder(w, rows, times)
        add = steps.adder(w, rows) if times >= _MANY and rows * w.size >= _STEP_MACS else None
        if add is None:
            return plain

        def either(x: Any, z_: Any) -> None:
            (add if len(x) == rows and x.flags.c_contiguous and z_.flags.c_contiguous else plain)(x, z_)

        return either

    # -- order in memory, dtypes -----------------------------------------------------------------------------------------

    def in_c_order(self, x: Any) -> Any:
        y = images.in_c_order(x)
        return super().in_c_order(x) if y is None else y

    def cast(self, x: Any, dtype: Any) -> Any:
        y = images.cast(x, dtype) if x.size >= _CAST_SIZE and x.dtype != dtype else None
        return super().cast(x, dtype) if y is None else y

    # -- rectifier -------------------------------------------------------------------------------------------------------

    def relu(self, x: Any, out: Any = None) -> Any:
        y = images.relu(x, out) if x.size >= _RELU_SIZE else None
        return super().relu(x, out) if y is None else y

    def relu_grad(self, g: Any, y: Any) -> Any:
        bits = _BITS.get(y.dtype)
        if bits is None or g.dtype != y.dtype or not (_whole(g) and _whole(y)):
            return super().relu_grad(g, y)
        return (g.view(bits) * (y.view(bits) > 0)).view(y.dtype)  # as integers: 0·∞ is 0, and NumPy's bfloat16 is slow

    # -- sums ------------------------------------------------------------------------------------------------------------

    def add(self, x: Any, y: Any, out: Any = None) -> Any:
        z = images.add(x, y, out) if x.size >= _ADD_SIZE and type(y) is np.ndarray else None
        return super().add(x, y, out) if z is None else z

    # -- updates: one pass of BLAS instead of two and a temporary --------------------------------------------------------

    def axpby_(self, a: float, x: Any, b: float, y_: Any) -> None:
        if x.size < _AXPBY_SIZE or not threads.axpby(a, x, b, y_):
            super().axpby_(a, x, b, y_)

    # -- scatter: sorted, so that each row is written once ---------------------------------------------------------------

    def add_at_(self, x_: Any, index: Any, g: Any) -> None:
        rows = index[0] if isinstance(index, tuple) and len(index) == 1 else index
        if not (isinstance(rows, np.ndarray) and rows.dtype.kind in "iu" and rows.size and x_.ndim > 1):
            return super().add_at_(x_, index, g)
        if g.shape != (*rows.shape, *x_.shape[1:]) or rows.min() < 0:
            return super().add_at_(x_, index, g)
        rows = rows.reshape(-1)
        order = np.argsort(rows, kind="stable")
        rows = rows[order]
        first = np.concatenate([[0], np.flatnonzero(rows[1:] != rows[:-1]) + 1])
        wide = np.dtype(np.float32) if g.dtype.itemsize == 2 and g.dtype.kind in "fV" else g.dtype
        x_[rows[first]] += np.add.reduceat(g.reshape(-1, *x_.shape[1:])[order], first, axis=0, dtype=wide).astype(
            x_.dtype, copy=False
        )

    # -- convolution and pooling: always, small ones gain most -----------------------------------------------------------

    def conv(self, x: Any, w: Any, b: Any | None, stride: Ints, padding: Ints, dilation: Ints, groups: int) -> Any:
        out = conv_out_shape(x.shape[2:], w.shape[2:], stride, padding, dilation)
        y = images.conv(x, w, b, out, stride, padding, dilation, groups)
        return super().conv(x, w, b, stride, padding, dilation, groups) if y is None else y

    def conv_input_grad(
        self, g: Any, w: Any, x_shape: Ints, stride: Ints, padding: Ints, dilation: Ints, groups: int
    ) -> Any:
        dx = images.conv_input_grad(g, w, x_shape, stride, padding, dilation, groups)
        return super().conv_input_grad(g, w, x_shape, stride, padding, dilation, groups) if dx is None else dx

    def conv_weight_grad(
        self, g: Any, x: Any, w_shape: Ints, stride: Ints, padding: Ints, dilation: Ints, groups: int
    ) -> Any:
        dw = images.conv_weight_grad(g, x, w_shape, stride, padding, dilation, groups)
        return super().conv_weight_grad(g, x, w_shape, stride, padding, dilation, groups) if dw is None else dw

    def max_pool(self, x: Any, k: Ints, out: Ints, stride: Ints, padding: Ints, dilation: Ints) -> tuple[Any, Any]:
        found = images.max_pool(x, k, out, stride, padding, dilation)
        return super().max_pool(x, k, out, stride, padding, dilation) if found is None else found

    def max_pool_grad(
        self, g: Any, won: Any, x_shape: Ints, k: Ints, stride: Ints, padding: Ints, dilation: Ints
    ) -> Any:
        dx = images.max_pool_grad(g, won, x_shape, k, stride, padding, dilation)
        return super().max_pool_grad(g, won, x_shape, k, stride, padding, dilation) if dx is None else dx

    def sum_pool(self, x: Any, k: Ints, out: Ints, stride: Ints, padding: Ints) -> Any:
        y = images.sum_pool(x, k, out, stride, padding)
        return super().sum_pool(x, k, out, stride, padding) if y is None else y

    def sum_pool_grad(self, g: Any, x_shape: Ints, k: Ints, stride: Ints, padding: Ints) -> Any:
        dx = images.sum_pool_grad(g, x_shape, k, stride, padding)
        return super().sum_pool_grad(g, x_shape, k, stride, padding) if dx is None else dx

    # -- cross-entropy: what the gradient needs, in the place of ln Σ eˣ, is the softmax (N, C) ----------------------------

    fuses_cross_entropy = True

    def cross_entropy(self, x: Any, target: Any, w: Any, ignored: int) -> tuple[Any, Any]:
        seen = target != ignored
        wrong = seen & ((target < 0) | (target >= x.shape[1]))
        if wrong.any():
            raise RangeError(
                f"cross_entropy: Target {int(target[wrong][0])} is out of bounds: expected classes 0 to {x.shape[1] - 1}"
            )
        if x.dtype.itemsize == 2 or not x.size:
            return super().cross_entropy(x, target, w, ignored)
        safe = target if seen.all() else np.where(seen, target, 0)
        p = x - x.max(axis=1, keepdims=True)
        loss = -p[np.arange(len(p)), safe]
        np.exp(p, out=p)
        total = p @ np.ones(p.shape[1], p.dtype)
        p /= total[:, None]
        loss += np.log(total, out=total)
        if w is not None:
            loss *= w[safe]
        if safe is not target:
            loss[~seen] = 0
        return loss, p

    def cross_entropy_total(self, loss: Any, x: Any, target: Any, w: Any, ignored: int, mean: bool) -> tuple[Any, Any]:
        if w is not None:
            return super().cross_entropy_total(loss, x, target, w, ignored, mean)
        total = loss.dtype.type(np.count_nonzero(target != ignored))
        return loss.sum() if not mean else loss.sum() / total if total else loss.dtype.type(np.nan), total

    def cross_entropy_grad(self, g: Any, x: Any, target: Any, w: Any, lse: Any, total: Any, ignored: int) -> Any:
        if lse.ndim == 1:
            return super().cross_entropy_grad(g, x, target, w, lse, total, ignored)
        seen = target != ignored
        safe = target if seen.all() else np.where(seen, target, 0)
        scale = np.asarray(g if total is None else g / total)
        if w is not None:
            scale = scale * w[safe]
        dx = lse * (scale[:, None] if scale.ndim else scale)
        dx[np.arange(len(dx)), safe] -= scale
        if safe is not target:
            dx[~seen] = 0
        return dx

    # -- softmax: along the last dimension. Its logarithm stays with NumPy, which is as fast and rounds better -----------

    def softmax(self, x: Any, dim: int) -> Any:
        y = kernels.softmax(x) if dim == x.ndim - 1 and x.size >= _SOFTMAX_SIZE else None
        return super().softmax(x, dim) if y is None else y

    def softmax_grad(self, g: Any, y: Any, dim: int) -> Any:
        dx = kernels.softmax_grad(g, y) if dim == y.ndim - 1 and y.size >= _SOFTMAX_GRAD_SIZE else None
        return super().softmax_grad(g, y, dim) if dx is None else dx

    # -- attention -------------------------------------------------------------------------------------------------------

    # In bfloat16, too, scores and probabilities are float32.

    def attention(self, q: Any, k: Any, v: Any, mask: Any, drop: Any, causal: bool, scale: float) -> tuple[Any, Any]:
        if q.dtype == _BFLOAT16:
            wide_q, k, v, mask, drop = (self._widened(a) for a in (q, k, v, mask, drop))
            y, p = self.attention(wide_q, k, v, mask, drop, causal, scale)
            return self.cast(y, q.dtype), p
        found = attention.attention(q, k, v, mask, drop, causal, scale)
        return super().attention(q, k, v, mask, drop, causal, scale) if found is None else found

    def attention_grad(self, g: Any, q: Any, k: Any, v: Any, drop: Any, p: Any, scale: float) -> tuple[Any, Any, Any]:
        if q.dtype == _BFLOAT16:
            g, q, k, v, drop, p = (self._widened(a) for a in (g, q, k, v, drop, p))
            dq, dk, dv = (self.cast(a, _BFLOAT16) for a in self.attention_grad(g, q, k, v, drop, p, scale))
            return dq, dk, dv
        found = attention.attention_grad(g, q, k, v, drop, p, scale)
        return super().attention_grad(g, q, k, v, drop, p, scale) if found is None else found

    def _widened(self, x: Any) -> Any:
        """bfloat16 as float32; anything else as it is."""
        return self.cast(x, np.dtype(np.float32)) if x is not None and x.dtype == _BFLOAT16 else x

    # -- recurrence: bfloat16 where it is multiplied, float32 where it is not --------------------------------------------

    def lstm(self, x: Any, *args: Any) -> tuple[Any, ...]:
        if x.dtype != _BFLOAT16:
            return super().lstm(x, *args)
        *tensors, sizes, reverse = args
        y, h, cell, *kept = _bfloat16_products().lstm(*map(self._widened, (x, *tensors)), sizes, reverse)
        return (*(self.cast(a, x.dtype) for a in (y, h, cell)), *kept)

    def lstm_grad(self, gy: Any, gh: Any, gc: Any, x: Any, *args: Any) -> tuple[Any, ...]:
        if x.dtype != _BFLOAT16:
            return super().lstm_grad(gy, gh, gc, x, *args)
        *arrays, sizes, reverse, want_dx = args
        wide = map(self._widened, (gy, gh, gc, x, *arrays))
        found = _bfloat16_products().lstm_grad(*wide, sizes, reverse, want_dx)
        return tuple(None if a is None else self.cast(a, x.dtype) for a in found)

    # -- gelu: always, since the plain one is a dozen passes -------------------------------------------------------------

    def gelu(self, x: Any, approximate: str) -> Any:
        y = kernels.gelu(x, approximate)
        return super().gelu(x, approximate) if y is None else y

    def gelu_grad(self, g: Any, x: Any, approximate: str) -> Any:
        dx = kernels.gelu_grad(g, x, approximate)
        return super().gelu_grad(g, x, approximate) if dx is None else dx

    # -- normalisation: oneDNN over rows and over channels that lie last, BLAS over the channels of (N, C, *) in C order -------
    # where oneDNN is a third as fast.

    def normalize(self, x: Any, w: Any, b: Any, axes: Ints, eps: float) -> tuple[Any, Any, Any]:
        if w is not None and b is not None and w.shape == b.shape == x.shape[-1:] and _are_rows(x, axes):
            found = kernels.standardized_rows(x, w, b, eps)
            if found is not None:
                y, mean, variance = found
                return y, mean[..., None], 1 / np.sqrt(variance + eps)[..., None]
        return super().normalize(x, w, b, axes, eps)

    def moments(self, x: Any, axes: Ints) -> tuple[Any, Any]:
        if _are_rows(x, axes):
            found = kernels.row_moments(x)
            if found is not None:
                return found[0][..., None], found[1][..., None]
        elif _are_last(x, axes):
            found = images.channel_moments(x)
            if found is not None:
                like = _like(x)
                return found[0].reshape(like), found[1].reshape(like)
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
        elif _are_last(x, axes) and w.size == b.size == mean.size == x.shape[1]:
            y = images.normalize_channels(x, *(_vector(a) for a in (w, b, mean, rstd)))
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
        elif _are_last(x, axes) and w.size == b.size == mean.size == x.shape[1]:
            found = images.normalize_channels_grad(g, x, *(_vector(a) for a in (w, mean, rstd)))
            if found is not None:
                dx, dw, db = found
                return (
                    dx,
                    dw.astype(w.dtype, copy=False).reshape(w.shape),
                    db.astype(b.dtype, copy=False).reshape(b.shape),
                )
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


class _Bfloat16Products(CPUBackend):
    """On float32 arrays: what is multiplied is rounded to bfloat16 first, all else stays."""

    def matmul(self, x: Any, y: Any) -> Any:
        return self._widened(super().matmul(self.cast(x, _BFLOAT16), self.cast(y, _BFLOAT16)))

    def linear(self, x: Any, w: Any, b: Any | None) -> Any:
        y = self.matmul(x, w.T)
        if b is not None:
            y += b
        return y

    def adder(self, w: Any, rows: int, times: int) -> Any:
        add = super().adder(self.cast(w, _BFLOAT16), rows, times)
        return lambda x, z_: add(self.cast(x, _BFLOAT16), z_)


@functools.cache
def _bfloat16_products() -> _Bfloat16Products:
    return _Bfloat16Products()


def _is_large(x: Any, y: Any) -> bool:
    if y.ndim == 2:
        return x.size * y.shape[1] >= _MATMUL_MACS
    return x.shape[-2] * x.shape[-1] * y.shape[-1] >= _STACKED_MACS


def _are_rows(x: Any, axes: Ints) -> bool:
    """Whether each row is normalised by itself, and there is enough to do."""
    return axes == (x.ndim - 1,) and x.ndim > 1 and x.size >= _NORM_SIZE


def _are_last(x: Any, axes: Ints) -> bool:
    """Whether each channel of (N, C, *) is, and channels lie side by side in memory, or are copied so: NumPy is slow in bfloat16."""
    if x.ndim < 2 or axes != (0, *range(2, x.ndim)) or x.size < _CHANNELS_SIZE:
        return False
    return x.ndim == 2 or images.lies_channels_last(x)


def _like(x: Any) -> Ints:
    """(1, C, 1, …), the shape of what each channel has one of."""
    return (1, x.shape[1], *(1,) * (x.ndim - 2))


def _vector(x: Any) -> np.ndarray:
    return np.ascontiguousarray(x, dtype=np.float32).reshape(-1)


def _whole(x: Any) -> bool:
    """Whether x lies without gaps, so that its elements can be seen as integers."""
    return x.flags.c_contiguous or images.lies_channels_last(x)


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
