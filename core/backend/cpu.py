"""The CPU: NumPy, its BLAS, and oneDNN where there is one and it is the faster.

Contract: the same numbers as the plain backend, up to rounding. Each method says when it leaves the plain kernel; a kernel of oneDNN may
decline by returning None, and then the plain one computes. `description` says which libraries compute, for the log and for fingerprints.

The thresholds are from `python -m tests.bench ops`, AVX-512, one thread: what a call of oneDNN costs before it computes, 4 to 8 µs, NumPy
must first have lost.
"""

from __future__ import annotations

import functools
import math
import platform
from collections.abc import Sequence
from typing import Any

import numpy as np
from ml_dtypes import bfloat16

from core.backend import memory, threads
from core.backend.base import Backend, Ints, conv_out_shape
from core.backend.onednn import (
    attention,
    convolution,
    images,
    kernels,
    library,
    normalisation,
    passes,
    pooling,
    recurrent,
    steps,
)
from core.backend.recurrence import together
from core.errors import RangeError

_MATMUL_MACS = 1 << 20  # multiplications and additions of one product; NumPy's own BLAS is as good on what is smaller
_STACKED_MACS = 1 << 19  # the same for each product of a stack of matrices
_STEP_MACS = 1 << 17  # the same for a product that runs many times with one weight,
_MANY = 4  # that is so many
# weights of a long short-term memory up to which oneDNN's own primitive is the faster, where the gradient of x is wanted or is not
_LSTM_WITH_DX, _LSTM_WITHOUT = 1 << 19, 1 << 17
# rows that lie a multiple of so many bytes apart drive each other out of the cache, unless there is a gap of so many
_PERIOD, _GAP = 1 << 10, 64
_SIGMOID_SIZE = 1 << 13
_SOFTMAX_SIZE = 1 << 11  # elements, as below
_SOFTMAX_GRAD_SIZE = 1 << 12
_EXP_SIZE = 1 << 14
_NORM_SIZE = 1 << 13
_BATCH_SIZE, _CHANNELS_SIZE = 1 << 8, 1 << 11  # of batch normalisation by its own moments and back; by others
_ADD_SIZE = 1 << 13
_RELU_SIZE, _CAST_SIZE = 1 << 14, 1 << 13
_MASK_SIZE, _CLIP_SIZE = 1 << 10, 1 << 15  # below the first and from the second on a rectifier's gradient is found otherwise
_AXPBY_SIZE = 1 << 12
# Columns of a matrix by which OpenBLAS 0.3.31 multiplies vectors in an AVX-512 kernel (sgemv_t) that computes with memory that nobody has
# written, too. The result does not depend on it, but the processor's flag of an invalid operation does, and NumPy warns of that flag.
_FLAGGED = 5
_DOT = 1 << 10  # elements that are summed by one dot product: more would lose digits
_CHANNEL_LENGTH = 16  # elements of a channel of a sample, from which BLAS sums them faster than NumPy

_BFLOAT16 = np.dtype(bfloat16)
_FLOAT32 = np.dtype(np.float32)
_BITS = {_FLOAT32: np.int32, _BFLOAT16: np.int16}
_ZEROS = {d: np.zeros((), d) for d in _BITS}  # as arrays: a ufunc takes twice as long to begin with a Python number


class CPUBackend(Backend):
    """The plain implementation on NumPy arrays, with its hot kernels replaced."""

    device_type = "cpu"
    array_type = np.ndarray
    slow_dtype = _BFLOAT16
    chains = frozenset(("add_relu", "linear_relu", "conv_relu", "standardize_relu"))
    xp = np

    def __init__(self) -> None:
        memory.keep_freed()

    # -- products: float32 from a size on, bfloat16 always, since NumPy has no BLAS for it -------------------------------

    def matmul(self, x: Any, y: Any, out: Any = None) -> Any:
        if x.ndim == 2 and y.ndim == 2 and x.itemsize > 2 and x.size * y.shape[1] < _MATMUL_MACS:
            if out is None and x.shape[1] != _FLAGGED:
                return x.dot(y)  # the call of BLAS that np.matmul makes, begun in two thirds of its time
        elif x.ndim > 1 and y.ndim > 1 and (_is_large(x, y) or x.dtype == _BFLOAT16):
            z = kernels.matmul(x, y, out=out)
            if z is not None:
                return z
            with threads.blas_threads():
                return super().matmul(x, y, out)
        if x.shape[-1] != _FLAGGED:
            return super().matmul(x, y, out)
        with np.errstate(invalid="ignore"):
            return super().matmul(x, y, out)

    def linear(self, x: Any, w: Any, b: Any | None) -> Any:
        if x.ndim > 1 and (x.size * w.shape[0] >= _MATMUL_MACS or x.dtype == _BFLOAT16):
            y = kernels.matmul(x, w.T, b)
            if y is not None:
                return y
        elif x.ndim == 2 and x.itemsize > 2 and x.shape[1] != _FLAGGED:
            y = x.dot(w.T)  # as in `matmul`
            if b is not None:
                y += b
            return y
        return super().linear(x, w, b)

    def linear_relu(self, x: Any, w: Any, b: Any) -> Any:
        y = self.linear(x, w, b)
        return self.relu(y, y)

    def sum_channels(self, x: Any) -> Any:
        if images.lies_channels_last(x):
            last = kernels.channels_last(x)
            width = last.shape[-2] * last.shape[-1]  # of few channels BLAS is slow
            return self.sum_rows(self.sum_rows(last.reshape(-1, width)).reshape(-1, last.shape[-1]))
        if x.dtype == np.float32 and x.flags.c_contiguous and x.size:
            return _channel_sums(x)
        return super().sum_channels(x)

    def sum_rows(self, x: Any) -> Any:
        if x.dtype == _FLOAT32 and x.size:
            if x.flags.c_contiguous:
                rows = x if x.ndim == 2 else x.reshape(-1, x.shape[-1])
                return _ones(len(rows)).dot(rows)
            if _are_apart(x):
                return _ones(len(x)) @ x  # `dot` would make a copy
        if x.dtype == _BFLOAT16:
            return self.sum_rows(self._widened(x)).astype(x.dtype)
        return super().sum_rows(x)

    def adder(self, w: Any, x: Any, z: Any, times: int) -> Any:
        """As in the plain kernel; what w holds is read now."""
        plain, rows = super().adder(w, x, z, times), len(x)
        add = None
        if times >= _MANY and rows * w.size >= _STEP_MACS and x.strides[1] == x.itemsize and z.strides[1] == z.itemsize:
            add = steps.adder(w, rows, (x.strides[0] // x.itemsize, z.strides[0] // z.itemsize))
        if add is None:
            return plain
        as_x, as_z = x.strides, z.strides

        def either(x: Any, z_: Any) -> None:
            (add if len(x) == rows and x.strides == as_x and z_.strides == as_z else plain)(x, z_)

        return either

    def apart(self, n: int, m: int, dtype: Any) -> Any:
        gap = 0 if m * np.dtype(dtype).itemsize % _PERIOD else _GAP // np.dtype(dtype).itemsize
        return np.empty((n, m + gap), dtype)[:, :m]

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
        return np.maximum(x, _ZEROS.get(x.dtype, 0), out=out) if y is None else y

    def relu_grad(self, g: Any, y: Any) -> Any:
        bits = _BITS.get(y.dtype)
        if bits is None or g.dtype is not y.dtype or not (_whole(g) and _whole(y)):
            return super().relu_grad(g, y)
        if y.size < _MASK_SIZE and y.itemsize == 4:
            dx, zero = np.array(g, order="K"), _ZEROS[y.dtype]
            np.putmask(dx, y <= zero, zero)
            return dx
        # as integers: 0·∞ is 0, and NumPy's bfloat16 is slow
        if y.size < _CLIP_SIZE:
            return (g.view(bits) * (y.view(bits) > 0)).view(y.dtype)
        dx = np.clip(y.view(bits), 0, 1)
        dx *= g.view(bits)
        return dx.view(y.dtype)

    # -- sums ------------------------------------------------------------------------------------------------------------

    def add(self, x: Any, y: Any, out: Any = None) -> Any:
        if x.size < _ADD_SIZE:
            return super().add(x, y, out)
        if type(y) is np.ndarray:
            z = images.add(x, y, out)
            return super().add(x, y, out) if z is None else z
        if x.dtype is _BFLOAT16 and out is None:
            return self.cast(self._widened(x) + y, x.dtype)
        return super().add(x, y, out)

    def square_sum(self, x: Any) -> Any:
        if x.dtype.kind != "f" or x.itemsize == 2 or not x.flags.c_contiguous:
            return super().square_sum(x)
        flat = x.reshape(-1)
        rows, rest = np.split(flat, [x.size // _DOT * _DOT])
        rows = rows.reshape(-1, _DOT)
        return np.vecdot(rows, rows).sum() + rest.dot(rest)

    def rejoined(self, pieces: Any, dim: int) -> Any:
        first, length = pieces[0], 0
        start = at = first.__array_interface__["data"][0]
        for x in pieces:
            if x.base is None or x.base is not first.base or x.strides != first.strides or x.dtype != first.dtype:
                return None
            if x.__array_interface__["data"][0] != at:
                return None
            at += x.shape[dim] * x.strides[dim]
            length += x.shape[dim]
        shape = (*first.shape[:dim], length, *first.shape[dim + 1 :])
        whole = first.base
        if whole.size != math.prod(shape) or not whole.flags.c_contiguous or whole.dtype != first.dtype:
            return None
        return np.ndarray(shape, first.dtype, whole, start - whole.__array_interface__["data"][0], first.strides)

    # -- updates: one pass of BLAS instead of two and a temporary --------------------------------------------------------

    def axpby_(self, a: float, x: Any, b: float, y_: Any) -> None:
        if x.size < _AXPBY_SIZE or not threads.axpby(a, x, b, y_):
            super().axpby_(a, x, b, y_)

    def axpy_each_(self, a: float, xs: Sequence[Any], ys_: Sequence[Any]) -> None:
        for x, y_ in threads.axpy_each(a, xs, ys_):
            self.axpby_(a, x, 1, y_)

    def momentum_step_(self, x_: Any, g: Any, v_: Any, lr: float, momentum: float, rate: float, decay: float) -> None:
        if not (decay and x_.size >= _AXPBY_SIZE and passes.momentum(x_, g, v_, lr, momentum, rate, decay)):
            super().momentum_step_(x_, g, v_, lr, momentum, rate, decay)

    def adam_step_(
        self, x_: Any, g: Any, m_: Any, v_: Any, top_: Any, size: float, betas: tuple[float, float], eps: float, keep: float
    ) -> None:  # fmt: skip
        if top_ is not None or not passes.adam(x_, g, m_, v_, size, betas, eps, keep):
            super().adam_step_(x_, g, m_, v_, top_, size, betas, eps, keep)

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
        y = convolution.conv(x, w, b, out, stride, padding, dilation, groups)
        return super().conv(x, w, b, stride, padding, dilation, groups) if y is None else y

    def conv_relu(self, x: Any, w: Any, b: Any | None, stride: Ints, padding: Ints, dilation: Ints, groups: int) -> Any:
        y = None
        if convolution.stays_finite(x, w, b):
            out = conv_out_shape(x.shape[2:], w.shape[2:], stride, padding, dilation)
            y = convolution.conv(x, w, b, out, stride, padding, dilation, groups, rectified=True)
        return super().conv_relu(x, w, b, stride, padding, dilation, groups) if y is None else y

    def conv_input_grad(
        self, g: Any, w: Any, x_shape: Ints, stride: Ints, padding: Ints, dilation: Ints, groups: int
    ) -> Any:
        dx = convolution.conv_input_grad(g, w, x_shape, stride, padding, dilation, groups)
        return super().conv_input_grad(g, w, x_shape, stride, padding, dilation, groups) if dx is None else dx

    def conv_weight_grad(
        self, g: Any, x: Any, w_shape: Ints, stride: Ints, padding: Ints, dilation: Ints, groups: int
    ) -> Any:
        dw = convolution.conv_weight_grad(g, x, w_shape, stride, padding, dilation, groups)
        return super().conv_weight_grad(g, x, w_shape, stride, padding, dilation, groups) if dw is None else dw

    def max_pool(self, x: Any, k: Ints, out: Ints, stride: Ints, padding: Ints, dilation: Ints) -> tuple[Any, Any]:
        found = pooling.max_pool(x, k, out, stride, padding, dilation)
        return super().max_pool(x, k, out, stride, padding, dilation) if found is None else found

    def max_pool_grad(
        self, g: Any, won: Any, x_shape: Ints, k: Ints, stride: Ints, padding: Ints, dilation: Ints
    ) -> Any:
        dx = pooling.max_pool_grad(g, won, x_shape, k, stride, padding, dilation)
        return super().max_pool_grad(g, won, x_shape, k, stride, padding, dilation) if dx is None else dx

    def sum_pool(self, x: Any, k: Ints, out: Ints, stride: Ints, padding: Ints) -> Any:
        y = pooling.sum_pool(x, k, out, stride, padding)
        return super().sum_pool(x, k, out, stride, padding) if y is None else y

    def sum_pool_grad(self, g: Any, x_shape: Ints, k: Ints, stride: Ints, padding: Ints) -> Any:
        dx = pooling.sum_pool_grad(g, x_shape, k, stride, padding)
        return super().sum_pool_grad(g, x_shape, k, stride, padding) if dx is None else dx

    # -- cross-entropy: what the gradient needs, in the place of ln Σ eˣ, is the softmax (N, C) ----------------------------

    fuses_cross_entropy = True

    def cross_entropy(self, x: Any, target: Any, w: Any, ignored: int) -> tuple[Any, Any, int | None]:
        """Losses (N), softmax less 1 at the class (N, C), and how many are not ignored, if none has a weight"""
        if not x.size:
            return super().cross_entropy(x, target, w, ignored)
        safe, seen = target, None
        if not _are_classes(target, x.shape[1], ignored):
            seen = target != ignored
            wrong = seen & ((target < 0) | (target >= x.shape[1]))
            if wrong.any():
                raise RangeError(
                    f"cross_entropy: Target {int(target[wrong][0])} is out of bounds: expected classes 0 to {x.shape[1] - 1}"
                )
            safe = np.where(seen, target, 0)
        x = x.astype(np.float32) if x.itemsize == 2 else x
        top, places = np.maximum.reduce(x, axis=1, keepdims=True), _places(x, safe)  # which is what `x.max` calls
        p = passes.exp_less(x, top) if x.size >= _EXP_SIZE else None
        if p is None:
            p = np.subtract(x, top, order="C")
            picked = p.take(places)
            np.exp(p, out=p)
        else:
            picked = x.take(places) - top[:, 0]
        total = _row_sums(p)
        p /= total
        p.reshape(-1)[places] -= 1
        loss = np.log(total, out=total)[:, 0]
        loss -= picked
        if w is not None:
            loss *= w[safe]
        count = len(loss)
        if seen is not None:
            loss[~seen] = 0
            count = int(np.count_nonzero(seen))
        return loss, p, count if w is None else None

    def cross_entropy_total(
        self, loss: Any, x: Any, target: Any, w: Any, ignored: int, mean: bool, count: int | None
    ) -> tuple[Any, Any]:  # fmt: skip
        if count is None:
            return super().cross_entropy_total(loss, x, target, w, ignored, mean, count)
        total, summed = loss.dtype.type(count), np.add.reduce(loss)
        return summed if not mean else summed / total if count else loss.dtype.type(np.nan), total

    def cross_entropy_grad(self, g: Any, x: Any, target: Any, w: Any, lse: Any, total: Any, ignored: int) -> Any:
        if lse.ndim == 1:
            return super().cross_entropy_grad(g, x, target, w, lse, total, ignored)
        slope, seen = lse, None  # type: Any, Any
        if w is not None or total is None or not len(target) == total < 1 << 24:  # else all have been counted
            seen = target != ignored
        scale = np.asarray(g if total is None else g / total, dtype=slope.dtype)
        if w is not None:
            scale = scale * w[np.where(seen, target, 0)]
        dx = slope * (scale[:, None] if scale.ndim else scale)
        if seen is not None:
            dx[~seen] = 0
        return dx if dx.dtype == x.dtype else self.cast(dx, x.dtype)

    # -- softmax: along the last dimension. oneDNN's logarithm rounds badly, so that NumPy takes it --------------------------

    def softmax(self, x: Any, dim: int) -> Any:
        y = kernels.softmax(x) if dim == x.ndim - 1 and x.size >= _SOFTMAX_SIZE else None
        return super().softmax(x, dim) if y is None else y

    def softmax_grad(self, g: Any, y: Any, dim: int) -> Any:
        dx = kernels.softmax_grad(g, y) if dim == y.ndim - 1 and y.size >= _SOFTMAX_GRAD_SIZE else None
        return super().softmax_grad(g, y, dim) if dx is None else dx

    def log_softmax(self, x: Any, dim: int) -> Any:
        if x.dtype == _BFLOAT16:
            return self.cast(self.log_softmax(self._widened(x), dim), x.dtype)
        if dim != x.ndim - 1 or x.size < _EXP_SIZE:
            return super().log_softmax(x, dim)
        rows = x.reshape(-1, x.shape[-1])
        top = rows.max(axis=1, keepdims=True)
        y = passes.exp_less(rows, top)
        if y is None:
            return super().log_softmax(x, dim)
        total = _row_sums(y)
        if not np.isfinite(total).all():  # NaN and ∞ NumPy carries through the row
            return super().log_softmax(x, dim)
        np.subtract(rows, top, out=y)
        y -= np.log(total, out=total)
        return y.reshape(x.shape)

    def log_softmax_grad(self, g: Any, y: Any, dim: int) -> Any:
        if y.dtype == _BFLOAT16:
            return self.cast(self.log_softmax_grad(self._widened(g), self._widened(y), dim), y.dtype)
        dx = kernels.softmax_grad(g, y, log=True) if dim == y.ndim - 1 and y.size >= _SOFTMAX_GRAD_SIZE else None
        return super().log_softmax_grad(g, y, dim) if dx is None else dx

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

    def lstm(
        self, x: Any, h: Any, cell: Any, w: Any, u: Any, b: Any, c: Any, r: Any, sizes: Ints, reverse: bool,
        want_dx: bool = False,
    ) -> tuple[Any, ...]:  # fmt: skip
        """By oneDNN's primitive, whose workspaces stand for the gates, where the layer is small: it always computes the gradient of x."""
        if x.dtype != _BFLOAT16:
            small = w.size + u.size <= (_LSTM_WITH_DX if want_dx else _LSTM_WITHOUT)
            fits = small and r is None and x.dtype == w.dtype == u.dtype == h.dtype == cell.dtype == np.float32
            found = recurrent.lstm(x, h, cell, w, u, together(b, c), sizes, reverse) if fits else None
            return super().lstm(x, h, cell, w, u, b, c, r, sizes, reverse) if found is None else found
        wide: list[Any] = [*map(self._widened, (x, h, cell, w, u, b, c, r)), sizes, reverse]
        y, h, cell, *kept = Backend.lstm(_bfloat16_products(), *wide)
        return (*(self.cast(a, x.dtype) for a in (y, h, cell)), *kept)

    def lstm_grad(
        self, gy: Any, gh: Any, gc: Any, x: Any, w: Any, u: Any, r: Any, gates: Any, was: Any,
        was_cell: Any, bent: Any, sizes: Ints, reverse: bool, want_dx: bool,
    ) -> tuple[Any, ...]:  # fmt: skip
        if gates.dtype == np.uint8:
            dx, *rest = recurrent.lstm_grad(gy, gh, gc, x, w, u, gates, was, was_cell, bent, sizes, reverse)
            return dx if want_dx else None, *rest, None
        if x.dtype != _BFLOAT16:
            return super().lstm_grad(gy, gh, gc, x, w, u, r, gates, was, was_cell, bent, sizes, reverse, want_dx)
        arrays = gy, gh, gc, x, w, u, r, gates, was, was_cell, bent
        wide: list[Any] = [*map(self._widened, arrays), sizes, reverse, want_dx]
        found = _bfloat16_products().lstm_grad(*wide)
        return tuple(None if a is None else self.cast(a, x.dtype) for a in found)

    # -- sigmoid, and gelu, this always, since the plain one is a dozen passes -------------------------------------------

    def sigmoid(self, x: Any) -> Any:
        fits = x.size >= _SIGMOID_SIZE and x.dtype == np.float32 and x.flags.c_contiguous
        y = kernels.sigmoid(x) if fits else None
        return super().sigmoid(x) if y is None else y

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
                return y, mean[..., None], variance[..., None]
        found = self._by_batch(x, w, b, axes, eps, False)
        return super().normalize(x, w, b, axes, eps) if found is None else found[:3]

    def normalize_relu(self, x: Any, w: Any, b: Any, axes: Ints, eps: float) -> tuple[Any, Any, Any, Any]:
        found = self._by_batch(x, w, b, axes, eps, True)
        return super().normalize_relu(x, w, b, axes, eps) if found is None else found

    def _by_batch(self, x: Any, w: Any, b: Any, axes: Ints, eps: float, rectified: bool) -> tuple[Any, ...] | None:
        """`normalisation.normalize_by_batch` where it is the case."""
        if w is None or b is None or not _are_last(x, axes, _BATCH_SIZE) or not w.size == b.size == x.shape[1]:
            return None
        found = normalisation.normalize_by_batch(x, _vector(w), _vector(b), eps, rectified)
        if found is None:
            return None
        y, mean, variance, kept = found
        like = _like(x)
        return y, mean.reshape(like), variance.reshape(like), kept

    def moments(self, x: Any, axes: Ints) -> tuple[Any, Any]:
        if _are_rows(x, axes):
            found = kernels.row_moments(x)
            if found is not None:
                return found[0][..., None], found[1][..., None]
        elif _are_last(x, axes):
            found = normalisation.channel_moments(x)
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
            y = normalisation.normalize_channels(x, *(_vector(a) for a in (w, b, mean, rstd)))
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
                return _like_weights(found, w, b)
        elif _are_last(x, axes, _BATCH_SIZE) and w.size == b.size == mean.size == x.shape[1]:
            found = normalisation.normalize_channels_grad(g, x, *(_vector(a) for a in (w, mean, rstd)))
            if found is not None:
                return _like_weights(found, w, b)
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

    def normalize_relu_grad(
        self, g: Any, x: Any, w: Any, b: Any, y: Any, mean: Any, rstd: Any, kept: Any, axes: Ints
    ) -> tuple[Any, Any, Any]:
        if kept.size:
            weight, centre, scale = (_vector(a) for a in (w, mean, rstd))
            found = normalisation.normalize_channels_grad(g, x, weight, centre, scale, kept)
            if found is not None:
                return _like_weights(found, w, b)
        return super().normalize_relu_grad(g, x, w, b, y, mean, rstd, kept, axes)


class _Bfloat16Products(CPUBackend):
    """On float32 arrays: what is multiplied is rounded to bfloat16 first, all else stays."""

    def matmul(self, x: Any, y: Any, out: Any = None) -> Any:
        x, y = self.operand(x), self.operand(y)
        wide = np.empty((*x.shape[:-1], y.shape[-1]), np.float32) if out is None else out
        z = kernels.matmul(x, y, out=wide)
        return self._widened(super().matmul(x, y)) if z is None else z

    def linear(self, x: Any, w: Any, b: Any | None) -> Any:
        y = np.empty((len(x), len(w)), np.float32)
        if kernels.matmul(self.operand(x), self.operand(w.T), b, y) is None:
            y = self.matmul(x, w.T) if b is None else self.matmul(x, w.T) + b
        return y

    def operand(self, x: Any) -> Any:
        if x.dtype == _BFLOAT16:
            return x
        if _are_apart(x):
            y = self.apart(x.shape[0], x.shape[1], _BFLOAT16)
            if images.reorder(x, y):
                return y
        return self.cast(x, _BFLOAT16)

    def adder(self, w: Any, x: Any, z: Any, times: int) -> Any:
        add = super().adder(self.cast(w, _BFLOAT16), self.cast(x, _BFLOAT16), z, times)
        return lambda x, z_: add(self.cast(x, _BFLOAT16), z_)


@functools.cache
def _bfloat16_products() -> _Bfloat16Products:
    return _Bfloat16Products()


def _is_large(x: Any, y: Any) -> bool:
    if y.ndim == 2:
        return x.size * y.shape[1] >= _MATMUL_MACS
    return x.shape[-2] * x.shape[-1] * y.shape[-1] >= _STACKED_MACS


def _are_apart(x: Any) -> bool:
    """Whether x is a matrix whose rows lie in order, but with gaps between them."""
    return x.ndim == 2 and x.strides[1] == x.itemsize and x.strides[0] > x.shape[1] * x.itemsize


def _are_rows(x: Any, axes: Ints) -> bool:
    """Whether each row is normalised by itself, and there is enough to do."""
    return axes == (x.ndim - 1,) and x.ndim > 1 and x.size >= _NORM_SIZE


def _are_last(x: Any, axes: Ints, least: int = _CHANNELS_SIZE) -> bool:
    """Whether each channel of (N, C, *) is, there is enough to do, and channels lie side by side in memory."""
    if x.ndim < 2 or axes != (0, *range(2, x.ndim)) or x.size < least:
        return False
    return x.ndim == 2 or images.lies_channels_last(x)


def _like(x: Any) -> Ints:
    """(1, C, 1, …), the shape of what each channel has one of."""
    return (1, x.shape[1], *(1,) * (x.ndim - 2))


def _like_weights(found: tuple[Any, Any, Any], w: Any, b: Any) -> tuple[Any, Any, Any]:
    """Gradients for x, w and b, the last two in the dtypes and shapes of w and b."""
    dx, *rest = found
    dw, db = (d.astype(p.dtype, copy=False).reshape(p.shape) for d, p in zip(rest, (w, b)))
    return dx, dw, db


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


_FEW = 32  # numbers that Python looks through sooner than NumPy
_UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


def _are_classes(target: np.ndarray, classes: int, ignored: int) -> bool:
    """Whether each target is a class, 0 to `classes` − 1, and none is ignored. It may say no although it is so."""
    if 0 <= ignored < classes:
        return False
    if len(target) <= _FEW:
        labels = target.tolist()
        return min(labels) >= 0 and max(labels) < classes
    unsigned = target.view(_UNSIGNED[target.itemsize])  # what is negative is large
    return np.maximum.reduce(unsigned, axis=None) < classes


def _places(p: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Where in the flat p, which is (N, C), p[n, target[n]] are."""
    n, c = p.shape
    starts = _starts(n, c) if n <= len(_ONES) else np.arange(0, n * c, c)
    return starts + target.astype(starts.dtype, copy=False)


@functools.lru_cache(maxsize=16)
def _starts(n: int, c: int) -> np.ndarray:
    """Where the rows of (n, c) begin; shared, so nobody writes to it."""
    return np.arange(0, n * c, c)


def _channel_sums(x: np.ndarray) -> np.ndarray:
    """(N, C, *) -> (C)"""
    rows = x.reshape(x.shape[0], x.shape[1], -1)
    return (rows @ np.ones(rows.shape[2], x.dtype)).sum(axis=0)


_ONES = np.ones(1 << 10, np.float32)  # what short sums are multiplied by: making an array takes as long as the sum


def _ones(n: int) -> np.ndarray:
    return _ONES[:n] if n <= len(_ONES) else np.ones(n, np.float32)


def _row_sums(x: np.ndarray) -> np.ndarray:
    """(N, C) -> (N, 1)"""
    ones = _column(x.shape[1]) if x.dtype == _FLOAT32 else np.ones((x.shape[1], 1), x.dtype)
    if x.shape[1] != _FLAGGED:
        return x.dot(ones)
    with np.errstate(invalid="ignore"):
        return x.dot(ones)


@functools.lru_cache(maxsize=16)
def _column(n: int) -> np.ndarray:
    return np.ones((n, 1), np.float32)


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
