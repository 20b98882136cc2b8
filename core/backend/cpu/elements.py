"""The CPU's kernels that look at each element by itself: order in memory, dtypes, sums of two arrays, activations, updates.

All other rooms stand on these. Contract: that of `core.backend.cpu`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from ml_dtypes import bfloat16

from core.backend import threads
from core.backend.base import Backend
from core.backend.cpu.sums import FLOAT32
from core.backend.onednn import images, kernels, passes

BFLOAT16 = np.dtype(bfloat16)

# elements from which a library is the faster
_RELU_SIZE, _CAST_SIZE, _ADD_SIZE, _SIGMOID_SIZE, _AXPBY_SIZE = 1 << 14, 1 << 13, 1 << 13, 1 << 13, 1 << 12
# below the first and from the second on a rectifier's gradient is found otherwise
_MASK_SIZE, _CLIP_SIZE = 1 << 10, 1 << 15
_BITS = {FLOAT32: np.int32, BFLOAT16: np.int16}
_ZEROS = {d: np.zeros((), d) for d in _BITS}  # as arrays: a ufunc takes twice as long to begin with a Python number


class ElementKernels(Backend):
    """Mixed into `CPUBackend`, as the rooms that stand on it are."""

    device_type = "cpu"
    array_type = np.ndarray
    slow_dtype = BFLOAT16
    xp = np

    # -- order in memory, dtypes -----------------------------------------------------------------------------------------

    def in_c_order(self, x: Any) -> Any:
        y = images.in_c_order(x)
        return super().in_c_order(x) if y is None else y

    def cast(self, x: Any, dtype: Any) -> Any:
        y = images.cast(x, dtype) if x.size >= _CAST_SIZE and x.dtype != dtype else None
        return super().cast(x, dtype) if y is None else y

    def widened(self, x: Any) -> Any:
        """bfloat16 as float32; anything else as it is."""
        return self.cast(x, FLOAT32) if x is not None and x.dtype == BFLOAT16 else x

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

    # -- sums of two -----------------------------------------------------------------------------------------------------

    def add(self, x: Any, y: Any, out: Any = None) -> Any:
        if x.size < _ADD_SIZE:
            return super().add(x, y, out)
        if type(y) is np.ndarray:
            z = images.add(x, y, out)
            return super().add(x, y, out) if z is None else z
        if x.dtype is BFLOAT16 and out is None:
            return self.cast(self.widened(x) + y, x.dtype)
        return super().add(x, y, out)

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


def _whole(x: Any) -> bool:
    """Whether x lies without gaps, so that its elements can be seen as integers."""
    return x.flags.c_contiguous or images.lies_channels_last(x)
