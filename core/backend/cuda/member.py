"""The member of the seam for NVIDIA GPUs: CuPy's arrays, and who computes on them. `core.backend.cuda` says what stands behind it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

import numpy as np

from core.backend.base import Backend, Ints, conv_out_shape
from core.backend.cuda import (
    attention,
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
from core.backend.cuda.namespace import Namespace
from core.backend.switches import SWITCHES
from core.errors import DeviceError, missing_library


def is_available() -> bool:
    """Whether CuPy is installed and sees a GPU. Never raises."""
    try:
        import cupy
    except ImportError:
        return False
    return bool(cupy.is_available())


_CHAINS = frozenset(("add_relu", "add_gelu", "linear_relu", "linear_gelu", "conv_relu", "dropout_add"))


class CUDABackend(Backend):
    """The plain implementation on CuPy's arrays, with its hot kernels replaced."""

    device_type = "cuda"

    gemm: gemm.Gemm | None = None
    _dnn: dnn.DNN | None = None
    launch: Launch | None
    memory: memory.Counter
    second_device = "core.cuda.guard:install"  # is called with this backend when arrays come to lie on a second one
    fused: Mapping[Any, Callable[..., Any]] = {**pointwise.fused(), **rows.fused(), **attention.fused()}

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
        self.xp, self.array_type, self.launch = Namespace(xp), array_type, launch
        self.memory = memory.Counter(xp)
        self._used: set[int] = set()  # devices that arrays have come to
        self._read: deque[tuple[Any, np.ndarray]] = (
            deque()
        )  # pinned arrays that are being read, and when that has ended

    @property
    def dnn(self) -> Any:
        """cuDNN, where it is installed and not switched off."""
        return self._dnn if SWITCHES.cudnn else None

    # -- arrays in, out and about ----------------------------------------------------------------------------------------

    def index_of(self, array: Any) -> int:
        return int(array.data.device_id)

    def current(self) -> int:
        return int(self.xp.cuda.runtime.getDevice())

    def count(self) -> int:
        return int(self.xp.cuda.runtime.getDeviceCount())

    def made(self, make: Callable[[Any], Any], index: int | None = None) -> Any:
        index = self._checked(index)
        self.using(index)
        with self.xp.cuda.Device(index):
            return make(self.xp)

    def from_numpy(self, array: np.ndarray, index: int | None = None, non_blocking: bool = False) -> Any:
        """`non_blocking`: if the array is pinned, the copy only begins here, and the array must stay as it is until it has ended."""
        self.using(self._checked(index))
        if index is None:
            return self._copied(array, non_blocking)
        with self.xp.cuda.Device(index):
            return self._copied(array, non_blocking)

    def _copied(self, array: np.ndarray, non_blocking: bool) -> Any:
        """CuPy copies what is not pinned to a pinned buffer of its own first; what is pinned it keeps until the copy has ended."""
        blocking = not non_blocking and memory.is_pinned(self.xp, array)
        return self.xp.asarray(array, blocking=True) if blocking else self.xp.asarray(array)

    def copied(self, array: Any, index: int | None) -> Any:
        """From GPU to GPU, after the work on both that was asked for so far; the source stays until it has been read."""
        index, cuda = self._checked(index), self.xp.cuda
        self.using(index)
        with cuda.Device(self.index_of(array)):
            source = cuda.get_current_stream()
            if not array.flags.c_contiguous:  # `ascontiguousarray` would give what has no dimension one
                array = self.xp.ascontiguousarray(array)
            written = self.event(source)
        with cuda.Device(index):
            here = cuda.get_current_stream()
            here.wait_event(written)
            y = self.xp.asarray(array)  # which copies to the current device
            read = self.event(here)
        with cuda.Device(self.index_of(array)):
            source.wait_event(read)
        return y

    def using(self, index: int) -> None:
        """Arrays come to lie on this device."""
        if index not in self._used:
            self._used.add(index)
            if len(self._used) == 2:
                module, _, name = self.second_device.partition(":")
                getattr(import_module(module), name)(self)

    def _checked(self, index: int | None) -> int:
        if index is None:
            return self.current()
        if index >= self.count():
            raise DeviceError(f"device 'cuda:{index}': expected an index below {self.count()}, the number of GPUs")
        return index

    def fill_(self, y_: Any, array: np.ndarray) -> None:
        """y_ ← an array of the host, of its shape and dtype. What is pinned is copied while the host goes on, and must stay as it is."""
        y_.set(array)
        if memory.is_pinned(self.xp, array):
            while self._read and self._read[0][0].done:
                self._read.popleft()
            self._read.append((self.event(), array))

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

    def event(self, stream: Any = None) -> Any:
        """An event behind the work that a stream, by default the current one, has so far; one that is not timed costs less."""
        event = self.xp.cuda.Event(disable_timing=True)
        event.record(stream)
        return event

    def hold(self, array: Any, stream: Any) -> None:
        self.memory.used_on(array, stream.raw)

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

    def matmul(self, x: Any, y: Any, out: Any = None) -> Any:
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

    # -- chains ----------------------------------------------------------------------------------------------------------

    @property
    def chains(self) -> frozenset[str]:  # type: ignore[override]
        """All, where there are kernels."""
        return frozenset() if self.launch is None else _CHAINS

    def linear_relu(self, x: Any, w: Any, b: Any) -> Any:
        y = None if self.gemm is None else self.gemm.matmul(x, w.T, b, "relu")
        return self.add_relu(self.matmul(x, w.T), b) if y is None else y

    def linear_gelu(self, x: Any, w: Any, b: Any) -> tuple[Any, Any]:
        found = None if self.gemm is None else self.gemm.linear_gelu(x, w.T, b)
        return super().linear_gelu(x, w, b) if found is None else found

    def conv_relu(self, x: Any, w: Any, b: Any | None, stride: Ints, padding: Ints, dilation: Ints, groups: int) -> Any:
        if b is None:
            return super().conv_relu(x, w, b, stride, padding, dilation, groups)
        return self.add_relu(self.conv(x, w, None, stride, padding, dilation, groups), b.reshape(-1, *(1,) * len(stride)))

    def add_relu(self, x: Any, y: Any) -> Any:
        z = pointwise.run(self, "add_relu", (x, y))
        return super().add_relu(x, y) if z is None else z

    def add_gelu(self, x: Any, y: Any, approximate: str) -> Any:
        z = pointwise.run(self, "add_gelu" if approximate == "none" else "add_gelu_tanh", (x, y))
        return super().add_gelu(x, y, approximate) if z is None else z

    def add_gelu_grad(self, g: Any, x: Any, y: Any, approximate: str) -> Any:
        d = pointwise.run(self, "add_gelu.x" if approximate == "none" else "add_gelu_tanh.x", (g, x, y))
        return super().add_gelu_grad(g, x, y, approximate) if d is None else d

    def kept(self, x: Any, keep: Any, scale: float) -> Any:
        y = philox.kept(self, x, keep, scale)
        return super().kept(x, keep, scale) if y is None else y

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
        y = None if self.dnn is None else self.dnn.conv(x, w, b, out, stride, padding, dilation)
        return super().conv(x, w, b, stride, padding, dilation, groups) if y is None else y

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

    def add(self, x: Any, y: Any, out: Any = None) -> Any:
        z = pointwise.run(self, "add", (x, y), (), out) if isinstance(y, self.array_type) else None
        return super().add(x, y, out) if z is None else z

    def relu(self, x: Any, out: Any = None) -> Any:
        y = pointwise.run(self, "relu", (x,), (), out)
        return super().relu(x, out) if y is None else y

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

    def cross_entropy(self, x: Any, target: Any, w: Any, ignored: int) -> tuple[Any, Any, int | None]:
        found = rows.cross_entropy(self, x, target, w, ignored)
        return super().cross_entropy(x, target, w, ignored) if found is None else (*found, None)

    def cross_entropy_total(
        self, loss: Any, x: Any, target: Any, w: Any, ignored: int, mean: bool, count: int | None
    ) -> tuple[Any, Any]:  # fmt: skip
        found = rows.cross_entropy_total(self, loss, x, target, w, ignored, mean)
        return super().cross_entropy_total(loss, x, target, w, ignored, mean, count) if found is None else found

    def cross_entropy_grad(self, g: Any, x: Any, target: Any, w: Any, lse: Any, total: Any, ignored: int) -> Any:
        dx = rows.cross_entropy_grad(self, g, x, target, w, lse, total, ignored)
        return super().cross_entropy_grad(g, x, target, w, lse, total, ignored) if dx is None else dx

    # -- random numbers and optimizers -----------------------------------------------------------------------------------

    def dropout_mask(self, shape: Ints, dtype: Any, p: float, draw: philox.Draw, advance: Any = None) -> Any:
        """0 or 1/(1 − p), with the bits of `core.philox`; None where the kernels do not serve."""
        return philox.dropout_mask(self, shape, dtype, p, draw, advance)

    def draws(self, dtype: np.dtype) -> bool:
        """Whether the kernels draw for arrays of this dtype."""
        return self.launch is not None and philox.serves(dtype)

    def dropout_add(
        self, x: Any, residual: Any, scale: float, p: float, draw: philox.Draw, advance: Any
    ) -> tuple[Any, Any]:
        """residual + x·mask and what was kept: see `philox.dropout_add`."""
        return philox.dropout_add(self, x, residual, scale, p, draw, advance)

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
