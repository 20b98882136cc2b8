"""The CPU's products, and the sums that are products with ones.

float32 from a size on is oneDNN's, bfloat16 always, since NumPy has no BLAS for it. Contract: that of `core.backend.cpu`.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from core.backend import threads
from core.backend.cpu.elements import BFLOAT16, ElementKernels
from core.backend.cpu.sums import FLAGGED, FLOAT32, channel_sums, ones
from core.backend.onednn import images, kernels, steps

_MATMUL_MACS = 1 << 20  # multiplications and additions of one product; NumPy's own BLAS is as good on what is smaller
_STACKED_MACS = 1 << 19  # the same for each product of a stack of matrices
_STEP_MACS = 1 << 17  # the same for a product that runs many times with one weight,
_MANY = 4  # that is so many
# rows that lie a multiple of so many bytes apart drive each other out of the cache, unless there is a gap of so many
_PERIOD, _GAP = 1 << 10, 64
_DOT = 1 << 10  # elements that are summed by one dot product: more would lose digits


class ProductKernels(ElementKernels):
    """Mixed into `CPUBackend`."""

    def matmul(self, x: Any, y: Any, out: Any = None) -> Any:
        if x.ndim == 2 and y.ndim == 2 and x.itemsize > 2 and x.size * y.shape[1] < _MATMUL_MACS:
            if out is None and x.shape[1] != FLAGGED:
                return x.dot(y)  # the call of BLAS that np.matmul makes, begun in two thirds of its time
        elif x.ndim > 1 and y.ndim > 1 and (_is_large(x, y) or x.dtype == BFLOAT16):
            z = kernels.matmul(x, y, out=out)
            if z is not None:
                return z
            with threads.blas_threads():
                return super().matmul(x, y, out)
        if x.shape[-1] != FLAGGED:
            return super().matmul(x, y, out)
        with np.errstate(invalid="ignore"):
            return super().matmul(x, y, out)

    def linear(self, x: Any, w: Any, b: Any | None) -> Any:
        if x.ndim > 1 and (x.size * w.shape[0] >= _MATMUL_MACS or x.dtype == BFLOAT16):
            y = kernels.matmul(x, w.T, b)
            if y is not None:
                return y
        elif x.ndim == 2 and x.itemsize > 2 and x.shape[1] != FLAGGED:
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
            return channel_sums(x)
        return super().sum_channels(x)

    def sum_rows(self, x: Any) -> Any:
        if x.dtype == FLOAT32 and x.size:
            if x.flags.c_contiguous:
                rows = x if x.ndim == 2 else x.reshape(-1, x.shape[-1])
                return ones(len(rows)).dot(rows)
            if _are_apart(x):
                return ones(len(x)) @ x  # `dot` would make a copy
        if x.dtype == BFLOAT16:
            return self.sum_rows(self.widened(x)).astype(x.dtype)
        return super().sum_rows(x)

    def square_sum(self, x: Any) -> Any:
        if x.dtype.kind != "f" or x.itemsize == 2 or not x.flags.c_contiguous:
            return super().square_sum(x)
        flat = x.reshape(-1)
        rows, rest = np.split(flat, [x.size // _DOT * _DOT])
        rows = rows.reshape(-1, _DOT)
        return np.vecdot(rows, rows).sum() + rest.dot(rest)

    # -- products of a recurrent layer's steps ---------------------------------------------------------------------------

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


class Bfloat16Products(ProductKernels):
    """On float32 arrays: what is multiplied is rounded to bfloat16 first, all else stays."""

    def matmul(self, x: Any, y: Any, out: Any = None) -> Any:
        x, y = self.operand(x), self.operand(y)
        wide = np.empty((*x.shape[:-1], y.shape[-1]), np.float32) if out is None else out
        z = kernels.matmul(x, y, out=wide)
        return self.widened(super().matmul(x, y)) if z is None else z

    def linear(self, x: Any, w: Any, b: Any | None) -> Any:
        y = np.empty((len(x), len(w)), np.float32)
        if kernels.matmul(self.operand(x), self.operand(w.T), b, y) is None:
            y = self.matmul(x, w.T) if b is None else self.matmul(x, w.T) + b
        return y

    def operand(self, x: Any) -> Any:
        if x.dtype == BFLOAT16:
            return x
        if _are_apart(x):
            y = self.apart(x.shape[0], x.shape[1], BFLOAT16)
            if images.reorder(x, y):
                return y
        return self.cast(x, BFLOAT16)

    def adder(self, w: Any, x: Any, z: Any, times: int) -> Any:
        add = super().adder(self.cast(w, BFLOAT16), self.cast(x, BFLOAT16), z, times)
        return lambda x, z_: add(self.cast(x, BFLOAT16), z_)


@functools.cache
def bfloat16_products() -> Bfloat16Products:
    return Bfloat16Products()


def _is_large(x: Any, y: Any) -> bool:
    if y.ndim == 2:
        return x.size * y.shape[1] >= _MATMUL_MACS
    return x.shape[-2] * x.shape[-1] * y.shape[-1] >= _STACKED_MACS


def _are_apart(x: Any) -> bool:
    """Whether x is a matrix whose rows lie in order, but with gaps between them."""
    return x.ndim == 2 and x.strides[1] == x.itemsize and x.strides[0] > x.shape[1] * x.itemsize
