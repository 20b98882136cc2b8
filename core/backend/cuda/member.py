"""The member of the seam for NVIDIA GPUs: CuPy's arrays, and who computes on them. `core.backend.cuda` says what stands behind it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from core.backend.base import Backend, Ints, conv_out_shape
from core.backend.cuda import (
    channels,
    dnn,
    embedding,
    gemm,
    memory,
    optimizers,
    philox,
    pointwise,
    pooling,
    recurrent,
    rows,
)
from core.backend.cuda.launch import Launch, Launcher, is_float
from core.backend.switches import SWITCHES
from core.errors import DeviceError, missing_library


def is_available() -> bool:
    """Whether CuPy is installed and sees a GPU. Never raises."""
    try:
        import cupy
    except ImportError:
        return False
    return bool(cupy.is_available())


class CUDABackend(Backend):
    """The plain implementation on CuPy's arrays, with its hot kernels replaced."""

    device_type = "cuda"

    gemm: gemm.Gemm | None = None
    _dnn: dnn.DNN | None = None
    launch: Launch | None
    memory: memory.Counter
    fused: Mapping[Any, Callable[..., Any]] = {**pointwise.fused(), **rows.fused()}

    def __init__(self) -> None:
        try:
            import cupy
        except ImportError:
            raise missing_library("cupy", "device 'cuda'", "cuda13") from None
        if not cupy.is_available():
            raise DeviceError(
                "device 'cuda': expected an NVIDIA GPU and its driver, found none; "
                "use device 'cpu', or look at the output of nvidia-smi"
            )
        self._open(cupy, cupy.ndarray, Launcher(cupy))
        self.gemm, self._dnn = gemm.opened(cupy), dnn.opened(cupy)
        cupy.cuda.set_allocator(self.memory.counted(cupy.get_default_memory_pool().malloc))

    def _open(self, xp: Any, array_type: type, launch: Launch | None) -> None:
        self.xp, self.array_type, self.launch = xp, array_type, launch
        self.memory = memory.Counter(xp)
        self._read: deque[tuple[Any, np.ndarray]] = (
            deque()
        )  # pinned arrays that are being read, and when that has ended

    @property
    def dnn(self) -> Any:
        """cuDNN, where it is installed and not switched off."""
        return self._dnn if SWITCHES.cudnn else None

    # -- arrays in, out and about ----------------------------------------------------------------------------------------

    def index_of(self, array: Any) -> int:
        return int(array.device.id)

    def count(self) -> int:
        return int(self.xp.cuda.runtime.getDeviceCount())

    def from_numpy(self, array: np.ndarray, index: int | None = None, non_blocking: bool = False) -> Any:
        """`non_blocking`: if the array is pinned, the copy only begins here, and the array must stay as it is until it has ended."""
        if index is None:
            return self._copied(array, non_blocking)
        with self.xp.cuda.Device(self._checked(index)):
            return self._copied(array, non_blocking)

    def _copied(self, array: np.ndarray, non_blocking: bool) -> Any:
        """CuPy copies what is not pinned to a pinned buffer of its own first; what is pinned it keeps until the copy has ended."""
        blocking = not non_blocking and memory.is_pinned(self.xp, array)
        return self.xp.asarray(array, blocking=True) if blocking else self.xp.asarray(array)

    def copied(self, array: Any, index: int | None) -> Any:
        """From GPU to GPU, after the work on both that was asked for so far; the source stays until it has been read."""
        index, cuda = self._checked(index), self.xp.cuda
        with cuda.Device(self.index_of(array)):
            source, array = cuda.get_current_stream(), self.xp.ascontiguousarray(array)
            written = source.record()
        with cuda.Device(index):
            here = cuda.get_current_stream()
            here.wait_event(written)
            y = self.xp.asarray(array)  # which copies to the current device
            read = here.record()
        with cuda.Device(self.index_of(array)):
            source.wait_event(read)
        return y

    def _checked(self, index: int | None) -> int:
        if index is None:
            return int(self.xp.cuda.runtime.getDevice())
        if index >= self.count():
            raise DeviceError(f"device 'cuda:{index}': expected an index below {self.count()}, the number of GPUs")
        return index

    def fill_(self, y_: Any, array: np.ndarray) -> None:
        """y_ ← an array of the host, of its shape and dtype. What is pinned is copied while the host goes on, and must stay as it is."""
        y_.set(array)
        if memory.is_pinned(self.xp, array):
            while self._read and self._read[0][0].done:
                self._read.popleft()
            self._read.append((self.xp.cuda.get_current_stream().record(), array))

    def to_numpy(self, array: Any) -> np.ndarray:
        return self.xp.asnumpy(array)

    def pinned(self, array: np.ndarray) -> np.ndarray:
        """A copy in pinned memory of the host."""
        return memory.pinned(self.xp, array)

    def pinned_empty(self, size: int, dtype: Any) -> np.ndarray:
        """(size) numbers in pinned memory of the host, whatever is there."""
        return memory.pinned_empty(self.xp, (size,), np.dtype(dtype))

    def is_pinned(self, array: np.ndarray) -> bool:
        """Whether it is there."""
        return memory.is_pinned(self.xp, array)

    def reshape_view(self, x: Any, shape: Ints) -> Any:
        y = x.view()
        try:
            y.shape = shape  # CuPy, like NumPy, refuses where this would need a copy
        except (AttributeError, ValueError):
            return None
        return y

    def synchronize(self) -> None:
        self.xp.cuda.get_current_stream().synchronize()

    def at(self, place: int, size: int, owner: Any) -> Any:
        """(size) bytes of the current device from an address on; `owner` lives as long as the array does."""
        cuda = self.xp.cuda
        memory = cuda.UnownedMemory(place, size, owner, int(cuda.runtime.getDevice()))
        return self.xp.ndarray((size,), np.uint8, memptr=cuda.MemoryPointer(memory, 0))

    def nccl(self) -> Any:
        """CuPy's binding of NCCL."""
        from cupy.cuda import nccl

        if not nccl.available:
            raise missing_library("nvidia-nccl-cu13", "transport nccl", "cuda13")
        return nccl

    # -- products --------------------------------------------------------------------------------------------------------

    def matmul(self, x: Any, y: Any) -> Any:
        if x.ndim == 1 or y.ndim == 1:
            z = self.matmul(x[None] if x.ndim == 1 else x, y[:, None] if y.ndim == 1 else y)
            z = z[..., 0] if y.ndim == 1 else z
            return z[..., 0] if x.ndim == 1 and y.ndim == 1 else z[..., 0, :] if x.ndim == 1 else z
        z = None if self.gemm is None else self.gemm.matmul(x, y)
        if z is not None:
            return z
        if x.ndim == y.ndim == 2 and is_float(x):
            return self.xp.matmul(x, y).astype(x.dtype, copy=False)  # CuPy has two-byte products of two matrices
        return super().matmul(x, y)

    def linear(self, x: Any, w: Any, b: Any | None) -> Any:
        y = None if self.gemm is None or b is None or x.ndim < 2 else self.gemm.matmul(x, w.T, b)
        return super().linear(x, w, b) if y is None else y

    def linear_gelu(self, x: Any, w: Any, b: Any) -> Any:
        """gelu(x wᵀ + b) in its tanh form: one call of cuBLASLt where there is one."""
        y = None if self.gemm is None or x.ndim < 2 else self.gemm.matmul(x, w.T, b, gelu=True)
        if y is not None:
            return y
        z = self.matmul(x, w.T)
        y = pointwise.run(self, "bias_gelu_tanh", (z, b))
        assert y is not None, f"linear_gelu: no kernel for {x.dtype}"
        return y

    # -- updates and scatter ---------------------------------------------------------------------------------------------

    def axpby_(self, a: float, x: Any, b: float, y_: Any) -> None:
        if x.shape != y_.shape or pointwise.run(self, "axpby", (x, y_), (a, b), y_) is None:
            super().axpby_(a, x, b, y_)

    def add_at_(self, x_: Any, index: Any, g: Any) -> None:
        if embedding.add_rows_(self, x_, index, g):
            return
        if x_.dtype.kind == "V":  # CuPy's scatter has no bfloat16
            wide = x_.astype(np.float32)
            super().add_at_(wide, index, g.astype(np.float32))
            x_[...] = wide.astype(x_.dtype)
        else:
            super().add_at_(x_, index, g)

    # -- convolution and pooling -----------------------------------------------------------------------------------------

    def conv(self, x: Any, w: Any, b: Any | None, stride: Ints, padding: Ints, dilation: Ints, groups: int) -> Any:
        out = conv_out_shape(x.shape[2:], w.shape[2:], stride, padding, dilation)
        y = None if self.dnn is None else self.dnn.conv(x, w, out, stride, padding, dilation)
        if y is None:
            return super().conv(x, w, b, stride, padding, dilation, groups)
        if b is not None:
            y += b.reshape(-1, *(1,) * len(out))
        return y

    def conv_input_grad(
        self, g: Any, w: Any, x_shape: Ints, stride: Ints, padding: Ints, dilation: Ints, groups: int
    ) -> Any:
        dx = None if self.dnn is None else self.dnn.conv_input_grad(g, w, x_shape, stride, padding, dilation)
        return super().conv_input_grad(g, w, x_shape, stride, padding, dilation, groups) if dx is None else dx

    def conv_weight_grad(
        self, g: Any, x: Any, w_shape: Ints, stride: Ints, padding: Ints, dilation: Ints, groups: int
    ) -> Any:
        dw = None if self.dnn is None else self.dnn.conv_weight_grad(g, x, w_shape, stride, padding, dilation)
        return super().conv_weight_grad(g, x, w_shape, stride, padding, dilation, groups) if dw is None else dw

    def max_pool(self, x: Any, k: Ints, out: Ints, stride: Ints, padding: Ints, dilation: Ints) -> tuple[Any, Any]:
        found = pooling.max_pool(self, x, k, out, stride, padding, dilation)
        return super().max_pool(x, k, out, stride, padding, dilation) if found is None else found

    def max_pool_grad(
        self, g: Any, won: Any, x_shape: Ints, k: Ints, stride: Ints, padding: Ints, dilation: Ints
    ) -> Any:
        dx = pooling.max_pool_grad(self, g, won, x_shape, k, stride, padding, dilation)
        return super().max_pool_grad(g, won, x_shape, k, stride, padding, dilation) if dx is None else dx

    def max_pool_pick(self, x: Any, won: Any, k: Ints, stride: Ints, padding: Ints, dilation: Ints) -> Any:
        y = pooling.max_pool_pick(self, x, won, k, stride, padding, dilation)
        return super().max_pool_pick(x, won, k, stride, padding, dilation) if y is None else y

    def sum_pool(self, x: Any, k: Ints, out: Ints, stride: Ints, padding: Ints) -> Any:
        y = pooling.sum_pool(self, x, k, out, stride, padding)
        return super().sum_pool(x, k, out, stride, padding) if y is None else y

    def sum_pool_grad(self, g: Any, x_shape: Ints, k: Ints, stride: Ints, padding: Ints) -> Any:
        dx = pooling.sum_pool_grad(self, g, x_shape, k, stride, padding)
        return super().sum_pool_grad(g, x_shape, k, stride, padding) if dx is None else dx

    # -- rows and channels -----------------------------------------------------------------------------------------------

    def softmax(self, x: Any, dim: int) -> Any:
        y = rows.softmax(self, x, dim, logarithm=False)
        return super().softmax(x, dim) if y is None else y

    def softmax_grad(self, g: Any, y: Any, dim: int) -> Any:
        dx = rows.softmax_grad(self, g, y, dim, logarithm=False)
        return super().softmax_grad(g, y, dim) if dx is None else dx

    def log_softmax(self, x: Any, dim: int) -> Any:
        y = rows.softmax(self, x, dim, logarithm=True)
        return super().log_softmax(x, dim) if y is None else y

    def log_softmax_grad(self, g: Any, y: Any, dim: int) -> Any:
        dx = rows.softmax_grad(self, g, y, dim, logarithm=True)
        return super().log_softmax_grad(g, y, dim) if dx is None else dx

    def moments(self, x: Any, axes: Ints) -> tuple[Any, Any]:
        found = rows.moments(self, x, axes) or channels.moments(self, x, axes)
        return super().moments(x, axes) if found is None else found

    def standardize(self, x: Any, w: Any, b: Any, mean: Any, rstd: Any, axes: Ints) -> Any:
        for family in (rows, channels):
            y = family.standardize(self, x, w, b, mean, rstd, axes)
            if y is not None:
                return y
        return super().standardize(x, w, b, mean, rstd, axes)

    def standardize_grad(
        self, g: Any, x: Any, w: Any, b: Any, mean: Any, rstd: Any, axes: Ints
    ) -> tuple[Any, Any, Any]:
        for family in (rows, channels):
            found = family.standardize_grad(self, g, x, w, b, mean, rstd, axes)
            if found is not None:
                return found
        return super().standardize_grad(g, x, w, b, mean, rstd, axes)

    def rms_norm(self, x: Any, w: Any, axes: Ints, eps: float) -> tuple[Any, Any]:
        found = rows.rms_norm(self, x, w, axes, eps)
        return super().rms_norm(x, w, axes, eps) if found is None else found

    def rms_norm_grad(self, g: Any, x: Any, w: Any, rstd: Any, axes: Ints) -> tuple[Any, Any]:
        found = rows.rms_norm_grad(self, g, x, w, rstd, axes)
        return super().rms_norm_grad(g, x, w, rstd, axes) if found is None else found

    # -- attention -------------------------------------------------------------------------------------------------------
    # What the gradient needs of cuDNN's forward pass, the output and ln Σ e^score, travels in the place of the probabilities, as one flat
    # float32 array: (1, n) for causal attention, (n,) without. No probabilities are of either shape: they have four dimensions there.

    def attention(self, q: Any, k: Any, v: Any, mask: Any, drop: Any, causal: bool, scale: float) -> tuple[Any, Any]:
        found = (
            self.dnn.attention(q, k, v, causal, scale)
            if self.dnn is not None and mask is None and drop is None
            else None
        )
        if found is None:
            return super().attention(q, k, v, mask, drop, causal, scale)
        y, stats = found
        saved = self.xp.concatenate([self.xp.ascontiguousarray(y).reshape(-1).view(np.float32), stats.reshape(-1)])
        return y, saved[None] if causal else saved

    def attention_grad(self, g: Any, q: Any, k: Any, v: Any, drop: Any, p: Any, scale: float) -> tuple[Any, Any, Any]:
        if q.ndim != 4 or p.ndim > 2 or self._dnn is None:
            return super().attention_grad(g, q, k, v, drop, p, scale)
        flat, causal = p.reshape(-1), p.ndim == 2
        size = q.size * q.itemsize // 4
        y, stats = flat[:size].view(q.dtype).reshape(q.shape), flat[size:].reshape(*q.shape[:3], 1)
        found = self._dnn.attention_grad(g, q, k, v, y, stats, causal, scale)
        if found is None:  # no plan back: once more with probabilities
            _, p = super().attention(q, k, v, None, None, causal, scale)
            return super().attention_grad(g, q, k, v, None, p, scale)
        return found

    # -- recurrence ------------------------------------------------------------------------------------------------------

    def lstm(self, *args: Any) -> tuple[Any, ...]:
        found = recurrent.lstm(self, *args)
        return super().lstm(*args) if found is None else found

    def lstm_grad(self, *args: Any) -> tuple[Any, ...]:
        found = recurrent.lstm_grad(self, *args)
        return super().lstm_grad(*args) if found is None else found

    def gru(self, *args: Any) -> tuple[Any, ...]:
        found = recurrent.gru(self, *args)
        return super().gru(*args) if found is None else found

    def gru_grad(self, *args: Any) -> tuple[Any, ...]:
        found = recurrent.gru_grad(self, *args)
        return super().gru_grad(*args) if found is None else found

    # -- activations and special functions -----------------------------------------------------------------------------------------------

    def erf(self, x: Any) -> Any:
        y = pointwise.run(self, "erf", (x,))
        return super().erf(x) if y is None else y

    def relu_grad(self, g: Any, y: Any) -> Any:
        dx = pointwise.run(self, "relu.x", (g, y))
        return super().relu_grad(g, y) if dx is None else dx

    def gelu(self, x: Any, approximate: str) -> Any:
        y = pointwise.run(self, "gelu" if approximate == "none" else "gelu_tanh", (x,))
        return super().gelu(x, approximate) if y is None else y

    def gelu_grad(self, g: Any, x: Any, approximate: str) -> Any:
        dx = pointwise.run(self, "gelu.x" if approximate == "none" else "gelu_tanh.x", (g, x))
        return super().gelu_grad(g, x, approximate) if dx is None else dx

    fuses_cross_entropy = True

    def cross_entropy(self, x: Any, target: Any, w: Any, ignored: int) -> tuple[Any, Any]:
        found = rows.cross_entropy(self, x, target, w, ignored)
        return super().cross_entropy(x, target, w, ignored) if found is None else found

    def cross_entropy_total(self, loss: Any, x: Any, target: Any, w: Any, ignored: int, mean: bool) -> tuple[Any, Any]:
        found = rows.cross_entropy_total(self, loss, x, target, w, ignored, mean)
        return super().cross_entropy_total(loss, x, target, w, ignored, mean) if found is None else found

    def cross_entropy_grad(self, g: Any, x: Any, target: Any, w: Any, lse: Any, total: Any, ignored: int) -> Any:
        dx = rows.cross_entropy_grad(self, g, x, target, w, lse, total, ignored)
        return super().cross_entropy_grad(g, x, target, w, lse, total, ignored) if dx is None else dx

    # -- random numbers and optimizers -----------------------------------------------------------------------------------

    def dropout_mask(self, shape: Ints, dtype: Any, p: float, draw: philox.Draw, advance: Any = None) -> Any:
        """0 or 1/(1 − p), with the bits of `core.philox`; None where the kernels do not serve."""
        return philox.dropout_mask(self, shape, dtype, p, draw, advance)

    def serves_updates(self, arrays: Sequence[Any]) -> bool:
        """Whether `sgd_`, `adam_` and `unscale_` take these arrays together."""
        return optimizers.fits(self, arrays)

    def unscale_(self, gs: Sequence[Any], inverse_scale: Any, found_inf: Any) -> None:
        """gs *= inverse_scale, in place; found_inf becomes 1 if any is then not finite."""
        optimizers.unscale_(self, gs, inverse_scale, found_inf)

    def sgd_(self, xs: Sequence[Any], gs: Sequence[Any], buffers: Sequence[Any] | None, **options: Any) -> None:
        """A step of SGD on all parameters at once: see `optimizers.sgd_`."""
        optimizers.sgd_(self, xs, gs, buffers, **options)

    def adam_(
        self, xs: Sequence[Any], gs: Sequence[Any], ms: Sequence[Any], vs: Sequence[Any], tops: Any, **options: Any
    ) -> None:
        """A step of Adam or AdamW on all parameters at once: see `optimizers.adam_`."""
        optimizers.adam_(self, xs, gs, ms, vs, tops, **options)
