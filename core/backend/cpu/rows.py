"""The CPU's kernels over rows: softmax, and cross-entropy of (N, C).

Contract: that of `core.backend.cpu`.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from core.backend.cpu.elements import BFLOAT16, ElementKernels
from core.backend.cpu.sums import SHORT, row_sums
from core.backend.onednn import kernels, passes
from core.errors import RangeError

# elements from which oneDNN is the faster
_SOFTMAX_SIZE, _SOFTMAX_GRAD_SIZE, _EXP_SIZE = 1 << 11, 1 << 12, 1 << 14
_FEW = 32  # numbers that Python looks through sooner than NumPy
_UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


class RowKernels(ElementKernels):
    """Mixed into `CPUBackend`."""

    # -- softmax: along the last dimension. oneDNN's logarithm rounds badly, so that NumPy takes it --------------------------

    def softmax(self, x: Any, dim: int) -> Any:
        y = kernels.softmax(x) if dim == x.ndim - 1 and x.size >= _SOFTMAX_SIZE else None
        return super().softmax(x, dim) if y is None else y

    def softmax_grad(self, g: Any, y: Any, dim: int) -> Any:
        dx = kernels.softmax_grad(g, y) if dim == y.ndim - 1 and y.size >= _SOFTMAX_GRAD_SIZE else None
        return super().softmax_grad(g, y, dim) if dx is None else dx

    def log_softmax(self, x: Any, dim: int) -> Any:
        if x.dtype == BFLOAT16:
            return self.cast(self.log_softmax(self.widened(x), dim), x.dtype)
        if dim != x.ndim - 1 or x.size < _EXP_SIZE:
            return super().log_softmax(x, dim)
        rows = x.reshape(-1, x.shape[-1])
        top = rows.max(axis=1, keepdims=True)
        y = passes.exp_less(rows, top)
        if y is None:
            return super().log_softmax(x, dim)
        total = row_sums(y)
        if not np.isfinite(total).all():  # NaN and ∞ NumPy carries through the row
            return super().log_softmax(x, dim)
        np.subtract(rows, top, out=y)
        y -= np.log(total, out=total)
        return y.reshape(x.shape)

    def log_softmax_grad(self, g: Any, y: Any, dim: int) -> Any:
        if y.dtype == BFLOAT16:
            return self.cast(self.log_softmax_grad(self.widened(g), self.widened(y), dim), y.dtype)
        dx = kernels.softmax_grad(g, y, log=True) if dim == y.ndim - 1 and y.size >= _SOFTMAX_GRAD_SIZE else None
        return super().log_softmax_grad(g, y, dim) if dx is None else dx

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
        total = row_sums(p)
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
    starts = _starts(n, c) if n <= SHORT else np.arange(0, n * c, c)
    return starts + target.astype(starts.dtype, copy=False)


@functools.lru_cache(maxsize=16)
def _starts(n: int, c: int) -> np.ndarray:
    """Where the rows of (n, c) begin; shared, so nobody writes to it."""
    return np.arange(0, n * c, c)
