"""The plain backend: every kernel in array code over `self.xp`, right on any module that speaks NumPy. It is the oracle.

Contract: kernels take and return arrays of `self.array_type`, never change an argument unless its name ends in `_`, know nothing of
gradients or Tensors, and may assume shapes that the op layer has checked. Most ops need no kernel: they are one line over `be.xp`.
What stands here is what some library does better than array code: products, convolutions, pooling, row-wise normalisers, scatter.

Shape letters: N batch, C channels in, K channels out, G groups; spatial sizes are tuples, so one kernel serves 1, 2 and 3 dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from types import MappingProxyType
from typing import Any

import numpy as np

from core.backend.chains import ChainKernels
from core.backend.kernels_nn import NNKernels
from core.backend.recurrence import RecurrentKernels
from core.errors import DeviceError

Ints = tuple[int, ...]


class Backend(NNKernels, RecurrentKernels, ChainKernels):
    device_type: str
    array_type: type[Any]
    xp: Any  # the module that speaks NumPy
    slow_dtype: Any = None  # a floating dtype that element-wise work is better converted from than done in
    raw: Any = None  # the ops as functions of this backend's arrays; `core.ops.namespaces` puts them here
    # What computes whole ops here: by an op's name its forward pass, by (name, input) a gradient rule. Each has the signature of what
    # it stands in for, and returns None where it declines.
    fused: Mapping[Any, Callable[..., Any]] = MappingProxyType({})

    # -- arrays in, out and about --------------------------------------------------------------------------------------

    def index_of(self, array: Any) -> int | None:
        """Which device of this type holds the array; None where there is only one."""
        return None

    def current(self) -> int | None:
        """The device that new arrays go to; None where there is only one."""
        return None

    def count(self) -> int:
        """How many devices of this type there are."""
        return 1

    def made(self, make: Callable[[Any], Any], index: int | None = None) -> Any:
        """The array that make(xp) makes, on the device of this number."""
        return self.from_numpy(make(self.xp), index)

    def from_numpy(self, array: np.ndarray, index: int | None = None, non_blocking: bool = False) -> Any:
        """The array here, on the device of this number. `non_blocking`: a copy may go on after the return."""
        if index:
            raise DeviceError(f"device '{self.device_type}:{index}': expected index 0, the only one, got {index}")
        return array

    def copied(self, array: Any, index: int | None) -> Any:
        """A copy on another device of this type."""
        return self.from_numpy(array, index)

    def to_numpy(self, array: Any) -> np.ndarray:
        return array

    def as_array(self, value: Any) -> Any:
        """An array from what a kernel returned: reductions of NumPy return scalars."""
        return self.xp.asarray(value)

    def in_c_order(self, x: Any) -> Any:
        """x, or a copy of it if it does not lie in memory in index order."""
        return self.xp.ascontiguousarray(x)

    def cast(self, x: Any, dtype: Any) -> Any:
        """x in another dtype, a copy in the same order in memory."""
        if dtype.kind == "f" and x.itemsize < dtype.itemsize:  # holds it all: there is nothing to warn of
            return x.astype(dtype)
        with np.errstate(invalid="ignore", over="ignore"):
            return x.astype(dtype)

    def reshape_view(self, x: Any, shape: Ints) -> Any:
        """x seen in another shape, or None if that would need a copy."""
        try:
            return x.reshape(shape, copy=False)
        except ValueError:
            return None

    def hold(self, array: Any, stream: Any) -> None:
        """Another stream uses the array's memory; see `Tensor.record_stream`."""

    def synchronize(self) -> None:
        """Wait until everything asked for has been computed."""

    # -- products ------------------------------------------------------------------------------------------------------

    def matmul(self, x: Any, y: Any, out: Any = None) -> Any:
        """x @ y. `out` is room for it, of its shape and dtype, which need not be used."""
        if x.dtype.itemsize == 2 and x.dtype.kind not in "iu":  # NumPy has no product of halves worth the name
            f32 = np.float32
            return self.xp.matmul(x.astype(f32), y.astype(f32)).astype(x.dtype)
        return self.xp.matmul(x, y, out)

    def linear(self, x: Any, w: Any, b: Any | None) -> Any:
        """(*, I), (O, I), (O) -> (*, O)"""
        y = self.matmul(x, w.T)
        if b is not None:
            y += b
        return y

    def sum_channels(self, x: Any) -> Any:
        """The sum over all but the channels: (N, C, *) -> (C)"""
        wide = np.dtype(np.float32) if x.dtype.itemsize == 2 else x.dtype
        return x.sum(axis=(0, *range(2, x.ndim)), dtype=wide).astype(x.dtype, copy=False)

    def sum_rows(self, x: Any) -> Any:
        """The sum over all but the last dimension: (*, C) -> (C)"""
        wide = np.dtype(np.float32) if x.dtype.itemsize == 2 else x.dtype
        return x.sum(axis=tuple(range(x.ndim - 1)), dtype=wide).astype(x.dtype, copy=False)

    # -- rectifier -----------------------------------------------------------------------------------------------------

    def relu(self, x: Any, out: Any = None) -> Any:
        """max(x, 0); NaN stays."""
        return self.xp.maximum(x, 0, out=out)

    def relu_grad(self, g: Any, y: Any) -> Any:
        """g where y > 0, else 0"""
        dx = (y > 0).astype(g.dtype)
        dx *= g
        return dx

    # -- sums ----------------------------------------------------------------------------------------------------------

    def add(self, x: Any, y: Any, out: Any = None) -> Any:
        """x + y of one dtype, into `out` if given; shapes broadcast."""
        return self.xp.add(x, y, out=out)

    def rejoined(self, pieces: Sequence[Any], dim: int) -> Any:
        """The array whose pieces these are, if they lie in memory as its pieces along `dim` do; else None."""
        return None

    # -- updates -------------------------------------------------------------------------------------------------------

    def axpby_(self, a: float, x: Any, b: float, y_: Any) -> None:
        """y ← a·x + b·y"""
        if b != 1:
            y_ *= b
        y_ += x * a

    def axpy_each_(self, a: float, xs: Sequence[Any], ys_: Sequence[Any]) -> None:
        """y ← a·x + y for each pair of arrays"""
        for x, y_ in zip(xs, ys_):
            self.axpby_(a, x, 1, y_)

    def momentum_step_(self, x_: Any, g: Any, v_: Any, lr: float, momentum: float, rate: float, decay: float) -> None:
        """v ← momentum·v + rate·(g + decay·x), x ← x − lr·v"""
        self.axpby_(rate, g + x_ * decay if decay else g, momentum, v_)
        self.axpby_(-lr, v_, 1, x_)

    def adam_step_(
        self, x_: Any, g: Any, m_: Any, v_: Any, top_: Any, size: float, betas: tuple[float, float], eps: float, keep: float
    ) -> None:  # fmt: skip
        """m ← β₁m + (1−β₁)g, v ← β₂v + (1−β₂)g², x ← keep·x − size·m/(√v + eps). With top, the greatest v so far, that is under the
        root instead."""
        xp, (beta1, beta2) = self.xp, betas
        self.axpby_(1 - beta1, g, beta1, m_)
        t = xp.multiply(g, g, out=xp.empty_like(v_))
        self.axpby_(1 - beta2, t, beta2, v_)
        if top_ is not None:
            v_ = xp.maximum(top_, v_, out=top_)
        xp.sqrt(v_, out=t)
        t += eps
        xp.divide(m_, t, out=t)
        self.axpby_(-size, t, keep, x_)

    # -- scatter -------------------------------------------------------------------------------------------------------

    def add_at_(self, x_: Any, index: Any, g: Any) -> None:
        """x_[index] += g, every occurrence of an index counted."""
        self.xp.add.at(x_, index, g)

    # -- convolution ---------------------------------------------------------------------------------------------------
    # Cross-correlation, as in every framework. One geometry for the three products: output o, kernel k, input i with
    # i = o·stride + k·dilation − padding.

    def _columns(self, x: Any, k: Ints, out: Ints, stride: Ints, padding: Ints, dilation: Ints) -> Any:
        """(N, C, *in) -> (N, C, *k, *out): for each kernel offset, the inputs it meets."""
        x = self._pad(x, padding, 0)
        n, c = x.shape[:2]
        view = np.lib.stride_tricks.as_strided if self.xp is np else self.xp.lib.stride_tricks.as_strided
        s = x.strides
        strides = s[:2] + tuple(a * d for a, d in zip(s[2:], dilation)) + tuple(a * t for a, t in zip(s[2:], stride))
        return view(x, (n, c, *k, *out), strides)

    def _pad(self, x: Any, padding: Ints, value: float) -> Any:
        if not any(padding):
            return x
        return self.xp.pad(x, ((0, 0), (0, 0), *((p, p) for p in padding)), constant_values=value)

    def conv(self, x: Any, w: Any, b: Any | None, stride: Ints, padding: Ints, dilation: Ints, groups: int) -> Any:
        """(N, C, *in), (K, C/G, *k) -> (N, K, *out)"""
        k = w.shape[2:]
        out = conv_out_shape(x.shape[2:], k, stride, padding, dilation)
        columns = self._columns(x, k, out, stride, padding, dilation)
        n, rows, length = x.shape[0], w.shape[1] * math.prod(k), math.prod(out)
        columns = columns.reshape(n, groups, rows, length)
        y = self.matmul(w.reshape(1, groups, w.shape[0] // groups, rows), columns)  # (N, G, K/G, out)
        y = y.reshape(n, w.shape[0], *out)
        if b is not None:
            y += b.reshape(-1, *(1,) * len(k))
        return y

    def conv_input_grad(
        self, g: Any, w: Any, x_shape: Ints, stride: Ints, padding: Ints, dilation: Ints, groups: int
    ) -> Any:
        """(N, K, *out), (K, C/G, *k) -> (N, C, *in)"""
        xp, k, out = self.xp, w.shape[2:], g.shape[2:]
        n, rows, length = g.shape[0], w.shape[1] * math.prod(k), math.prod(out)
        wt = w.reshape(1, groups, w.shape[0] // groups, rows).swapaxes(2, 3)
        columns = self.matmul(wt, g.reshape(n, groups, w.shape[0] // groups, length))  # (N, G, rows, out)
        columns = columns.reshape(n, x_shape[1], *k, *out)
        size = tuple(i + 2 * p for i, p in zip(x_shape[2:], padding))
        dx = xp.zeros((n, x_shape[1], *size), dtype=g.dtype)
        for offset, window in _windows(k, out, stride, dilation):
            dx[(..., *window)] += columns[(slice(None), slice(None), *offset)]
        return xp.ascontiguousarray(dx[(..., *(slice(p, p + i) for p, i in zip(padding, x_shape[2:])))])

    def conv_weight_grad(
        self, g: Any, x: Any, w_shape: Ints, stride: Ints, padding: Ints, dilation: Ints, groups: int
    ) -> Any:
        """(N, K, *out), (N, C, *in) -> (K, C/G, *k)"""
        k, out = w_shape[2:], g.shape[2:]
        n, rows, length = g.shape[0], w_shape[1] * math.prod(k), math.prod(out)
        columns = self._columns(x, k, out, stride, padding, dilation).reshape(n, groups, rows, length)
        # one product over samples and positions together: (G, K/G, N·out) @ (G, N·out, rows)
        each = w_shape[0] // groups
        gs = g.reshape(n, groups, each, length).transpose(1, 2, 0, 3).reshape(groups, each, n * length)
        columns = columns.transpose(1, 0, 3, 2).reshape(groups, n * length, rows)
        return self.matmul(gs, columns).reshape(w_shape)

    # -- pooling -------------------------------------------------------------------------------------------------------
    # A pass per kernel offset over strided views: no copies of windows, and few passes for the usual 2×2 and 3×3.

    def max_pool(self, x: Any, k: Ints, out: Ints, stride: Ints, padding: Ints, dilation: Ints) -> tuple[Any, Any]:
        """(N, C, *in) -> (N, C, *out) and, per output, the number of the kernel offset that won (the first on ties; NaN wins)."""
        xp = self.xp
        lowest = -xp.inf if x.dtype.kind not in "iu" else np.iinfo(x.dtype).min
        x = self._pad_to(x, k, out, stride, padding, dilation, lowest)
        y = won = None
        for number, (_, window) in enumerate(_windows(k, out, stride, dilation)):
            v = x[(..., *window)]
            if y is None:
                y, won = v.copy(), xp.zeros(v.shape, dtype=np.int16 if math.prod(k) > 255 else np.uint8)
            else:
                better = (v > y) | (v != v)
                xp.copyto(y, v, where=better)
                xp.copyto(won, won.dtype.type(number), where=better)
        return y, won

    def max_pool_grad(
        self, g: Any, won: Any, x_shape: Ints, k: Ints, stride: Ints, padding: Ints, dilation: Ints
    ) -> Any:
        """(N, C, *out) -> (N, C, *in): each output's gradient goes to the input that won."""
        dx, inner = self._padded_zeros(x_shape, k, g, stride, padding, dilation)
        for number, (_, window) in enumerate(_windows(k, g.shape[2:], stride, dilation)):
            dx[(..., *window)] += g * (won == number)
        return dx[inner]

    def max_pool_pick(self, x: Any, won: Any, k: Ints, stride: Ints, padding: Ints, dilation: Ints) -> Any:
        """(N, C, *in) -> (N, C, *out): the value at the input that won; the gradient of `max_pool_grad`."""
        xp, out = self.xp, won.shape[2:]
        x = self._pad_to(x, k, out, stride, padding, dilation, 0)
        y = xp.zeros(won.shape, dtype=x.dtype)
        for number, (_, window) in enumerate(_windows(k, out, stride, dilation)):
            xp.copyto(y, x[(..., *window)], where=won == number)
        return y

    def sum_pool(self, x: Any, k: Ints, out: Ints, stride: Ints, padding: Ints) -> Any:
        """(N, C, *in) -> (N, C, *out): the sum of each window, padding counted as zeros."""
        one = (1,) * len(k)
        x = self._pad_to(x, k, out, stride, padding, one, 0)
        y = self.xp.zeros((*x.shape[:2], *out), dtype=x.dtype)
        for _, window in _windows(k, out, stride, one):
            y += x[(..., *window)]
        return y

    def sum_pool_grad(self, g: Any, x_shape: Ints, k: Ints, stride: Ints, padding: Ints) -> Any:
        """(N, C, *out) -> (N, C, *in): the transpose of `sum_pool`."""
        one = (1,) * len(k)
        dx, inner = self._padded_zeros(x_shape, k, g, stride, padding, one)
        for _, window in _windows(k, g.shape[2:], stride, one):
            dx[(..., *window)] += g
        return dx[inner]

    def _pad_to(self, x: Any, k: Ints, out: Ints, stride: Ints, padding: Ints, dilation: Ints, value: float) -> Any:
        """x padded left by `padding` and right as far as the last window reaches (ceil_mode may reach beyond the padding)."""
        reach = tuple((o - 1) * s + (n - 1) * d + 1 for o, s, n, d in zip(out, stride, k, dilation))
        right = tuple(max(0, r - i - p) for r, i, p in zip(reach, x.shape[2:], padding))
        if not any(padding) and not any(right):
            return x
        return self.xp.pad(x, ((0, 0), (0, 0), *zip(padding, right)), constant_values=value)

    def _padded_zeros(
        self, x_shape: Ints, k: Ints, g: Any, stride: Ints, padding: Ints, dilation: Ints
    ) -> tuple[Any, tuple[Any, ...]]:
        """Zeros that every window fits into, and the index of the part that is the input."""
        reach = tuple((o - 1) * s + (n - 1) * d + 1 for o, s, n, d in zip(g.shape[2:], stride, k, dilation))
        size = tuple(max(r, i + p) for r, i, p in zip(reach, x_shape[2:], padding))
        inner = (..., *(slice(p, p + i) for p, i in zip(padding, x_shape[2:])))
        return self.xp.zeros((*x_shape[:2], *size), dtype=g.dtype), inner

    # -- rows ----------------------------------------------------------------------------------------------------------

    def softmax(self, x: Any, dim: int) -> Any:
        xp = self.xp
        y = x - x.max(axis=dim, keepdims=True)
        xp.exp(y, out=y)
        y /= y.sum(axis=dim, keepdims=True)
        return y

    def softmax_grad(self, g: Any, y: Any, dim: int) -> Any:
        dx = g * y
        return dx - y * dx.sum(axis=dim, keepdims=True)

    def log_softmax(self, x: Any, dim: int) -> Any:
        xp = self.xp
        y = x - x.max(axis=dim, keepdims=True)
        y -= xp.log(xp.exp(y).sum(axis=dim, keepdims=True))
        return y

    def log_softmax_grad(self, g: Any, y: Any, dim: int) -> Any:
        return g - self.xp.exp(y) * g.sum(axis=dim, keepdims=True)

    def square_sum(self, x: Any) -> Any:
        """Σ x² over all of it"""
        return self.xp.sum(x * x)

    # Cross-entropy of logits (N, C) for classes (N), C weights or None. Sums are float32 for two-byte dtypes. What is ignored, or no class,
    # has no gradient; what is no class has the loss NaN.

    fuses_cross_entropy = False  # whether this is faster than a log_softmax and a choice from it

    def cross_entropy(self, x: Any, target: Any, w: Any, ignored: int) -> tuple[Any, Any, int | None]:
        """Losses (N), ln Σ eˣ (N), and how many are not ignored, where that is known"""
        xp = self.xp
        x = x.astype(np.float32) if x.dtype.itemsize == 2 else x
        top = x.max(axis=1, keepdims=True)
        lse = xp.log(xp.exp(x - top).sum(axis=1)) + top[:, 0]
        weight, safe, wrong = self._class_weights(target, w, x.shape[1], ignored, lse.dtype)
        loss = (lse - xp.take_along_axis(x, safe[:, None], axis=1)[:, 0]) * weight
        return xp.where(wrong, xp.nan, xp.where(weight == 0, 0, loss)).astype(lse.dtype), lse, None

    def cross_entropy_total(
        self, loss: Any, x: Any, target: Any, w: Any, ignored: int, mean: bool, count: int | None
    ) -> tuple[Any, Any]:  # fmt: skip
        """Σ loss, divided by the weights of what is not ignored if `mean`, and those weights' sum. `count`: see `cross_entropy`."""
        weight, _, _ = self._class_weights(target, w, x.shape[1], ignored, loss.dtype)
        total = weight.sum()
        with np.errstate(invalid="ignore"):
            return loss.sum() / total if mean else loss.sum(), total

    def cross_entropy_grad(self, g: Any, x: Any, target: Any, w: Any, lse: Any, total: Any, ignored: int) -> Any:
        """(N, C) from g (N), or of no dimension for a reduced loss; `total`: what a mean was divided by, or None."""
        xp = self.xp
        weight, safe, wrong = self._class_weights(target, w, x.shape[1], ignored, lse.dtype)
        scale = g * xp.where(wrong, 0, weight)
        if total is not None:
            scale = scale / total
        dx = xp.exp(x - lse[:, None])
        self.add_at_(dx, (xp.arange(dx.shape[0]), safe), -xp.ones(dx.shape[0], dx.dtype))
        return xp.where(scale[:, None] == 0, 0, dx * scale[:, None]).astype(x.dtype)

    def _class_weights(self, target: Any, w: Any, classes: int, ignored: int, dtype: Any) -> tuple[Any, Any, Any]:
        """(N) each: the weight, 0 where ignored; the class, 0 where it is none; whether it is none, and not ignored."""
        xp = self.xp
        seen = target != ignored
        wrong = seen & ((target < 0) | (target >= classes))
        safe = xp.where(seen & ~wrong, target, 0)
        return xp.where(seen, 1 if w is None else w[safe], 0).astype(dtype), safe, wrong


# -- geometry ----------------------------------------------------------------------------------------------------------


def conv_out_shape(size: Ints, k: Ints, stride: Ints, padding: Ints, dilation: Ints) -> Ints:
    """out = ⌊(in + 2·padding − dilation·(k−1) − 1) / stride⌋ + 1, in each dimension."""
    return tuple((i + 2 * p - d * (n - 1) - 1) // s + 1 for i, n, s, p, d in zip(size, k, stride, padding, dilation))


def _windows(k: Ints, out: Ints, stride: Ints, dilation: Ints) -> Iterator[tuple[Ints, tuple[slice, ...]]]:
    """For each kernel offset, the slices of the padded input that it meets, one element per output."""
    for offset in product(*map(range, k)):
        yield (
            offset,
            tuple(slice(a * d, a * d + (o - 1) * s + 1, s) for a, d, o, s in zip(offset, dilation, out, stride)),
        )
