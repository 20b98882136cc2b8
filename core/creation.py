"""New tensors: from data, filled, ranges. `dtype=None` is the default floating type, or what the data says."""

from __future__ import annotations

from typing import Any

import numpy as np

from core import backend, dtypes
from core._tensor import Tensor, _moved, wrap
from core.devices import device as device_type
from core.errors import ArgumentError, DTypeError
from core.ops.shape import shape_of

_default_device: device_type | None = None


def set_default_device(device: Any) -> None:
    """Where new tensors go that are not told; None is the CPU."""
    global _default_device
    _default_device = None if device is None else device_type(device)


def get_default_device() -> device_type:
    """Where new tensors go that are not told."""
    return _default_device or device_type("cpu")


def placed(array: np.ndarray, device: Any = None, requires_grad: bool = False) -> Tensor:
    """A NumPy array as a tensor on a device, by default the default device."""
    device = _default_device if device is None else device
    t = wrap(array if device is None else _moved(array, device))
    return t.requires_grad_() if requires_grad else t


def tensor(
    data: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False, pin_memory: bool = False
) -> Tensor:
    """A copy of numbers, nested lists, arrays or tensors. Floats become the default type; ints int64."""
    if isinstance(data, Tensor):
        device = data.device if device is None else device
        data = data._host()
    a = _array(data, None if dtype is None else dtypes.as_numpy(dtype))
    return placed(a, device, requires_grad)


def _array(data: Any, d: np.dtype | None) -> np.ndarray:
    if isinstance(data, (np.ndarray, np.generic)):
        a = np.array(data, dtype=d)
    else:
        data = _plain(data)
        try:
            a = np.array(data)
        except ValueError:
            raise ArgumentError("tensor: expected nested lists of equal lengths, got ragged ones") from None
        if a.dtype.kind == "f" and not _holds_numpy(data):
            a = a.astype(dtypes.default_numpy())
        elif a.dtype.kind == "c":
            a = a.astype(dtypes.get_default_dtype().to_complex().numpy)
        if not a.size and d is None and a.dtype.kind == "f":
            a = a.astype(dtypes.default_numpy())
        a = a if d is None else a.astype(d)
    if a.dtype.kind not in "biufcV" or a.dtype not in dtypes._FROM_NUMPY:
        raise DTypeError(f"tensor: expected numbers, got data of NumPy dtype {a.dtype}")
    return a


def _plain(data: Any) -> Any:
    """Tensors inside lists as arrays."""
    if isinstance(data, Tensor):
        return data._host()
    if isinstance(data, (list, tuple)):
        return [_plain(d) for d in data] if any(isinstance(d, (Tensor, list, tuple)) for d in data) else data
    return data


def _holds_numpy(data: Any) -> bool:
    while isinstance(data, (list, tuple)) and data:
        data = data[0]
    return isinstance(data, (np.ndarray, np.generic)) and data.dtype != np.float64


def as_tensor(data: Any, dtype: Any = None, device: Any = None) -> Tensor:
    """Like `tensor`, without copying where that is possible."""
    if isinstance(data, Tensor):
        return data.to(device=device, dtype=dtype)
    if isinstance(data, np.ndarray):
        return from_numpy(data).to(device=device, dtype=dtype)
    return tensor(data, dtype=dtype, device=device)


asarray = as_tensor


def from_numpy(array: np.ndarray) -> Tensor:
    """A tensor that shares a NumPy array's memory."""
    if not isinstance(array, np.ndarray):
        raise DTypeError(f"from_numpy: expected a numpy.ndarray, got {type(array).__name__}")
    return Tensor._of(array)


def _filled(make: Any, shape: Any, dtype: Any, device: Any, requires_grad: bool) -> Tensor:
    d = dtypes.default_numpy() if dtype is None else dtypes.as_numpy(dtype)
    where = get_default_device() if device is None else device_type(device)
    be = backend.get(where.type)
    t = wrap(be.made(lambda xp: make(xp, shape, d), where.index))
    return t.requires_grad_() if requires_grad else t


def _size(size: Any, named: dict[str, Any]) -> tuple[int, ...]:
    return shape_of((named["size"],) if "size" in named else size)


def zeros(*size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False, **named: Any) -> Tensor:
    """Zeros of a shape."""
    return _filled(lambda xp, s, d: xp.zeros(s, dtype=d), _size(size, named), dtype, device, requires_grad)


def ones(*size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False, **named: Any) -> Tensor:
    """Ones of a shape."""
    return _filled(lambda xp, s, d: xp.ones(s, dtype=d), _size(size, named), dtype, device, requires_grad)


def empty(*size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False, **named: Any) -> Tensor:
    """Memory of a shape, with whatever was in it."""
    return _filled(lambda xp, s, d: xp.empty(s, dtype=d), _size(size, named), dtype, device, requires_grad)


def full(size: Any, fill_value: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """One value throughout; the dtype is the value's."""
    if isinstance(fill_value, Tensor):
        fill_value = fill_value.item()
    if dtype is None:
        dtype = dtypes.of(dtypes.result_numpy(fill_value))
    return _filled(lambda xp, s, d: xp.full(s, fill_value, dtype=d), shape_of((size,)), dtype, device, requires_grad)


def _like(make: Any) -> Any:
    def like(
        x: Tensor, *args: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False, **_: Any
    ) -> Tensor:
        return make(x._a.shape, *args, dtype=dtype or x.dtype, device=device or x.device, requires_grad=requires_grad)

    like.__name__ = make.__name__ + "_like"
    like.__doc__ = f"`{make.__name__}` of x's shape, dtype and device."
    return like


zeros_like, ones_like, empty_like, full_like = _like(zeros), _like(ones), _like(empty), _like(full)


def eye(n: int, m: int | None = None, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """(n, m): ones on the diagonal."""
    return _filled(lambda xp, s, d: xp.eye(*s, dtype=d), (n, n if m is None else m), dtype, device, requires_grad)


def arange(*bounds: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False, **named: Any) -> Tensor:
    """arange(end), arange(start, end), arange(start, end, step): from start up to, not including, end."""
    start, end, step = 0, None, 1
    if len(bounds) == 1:
        end = bounds[0]
    else:
        start, end, step = (*bounds, 1)[:3] if bounds else (0, None, 1)
    start, end, step = (
        v.item() if isinstance(v, (Tensor, np.generic)) else v
        for v in (named.get("start", start), named.get("end", end), named.get("step", step))
    )
    if end is None or step == 0 or (end - start) * step < 0:
        raise ArgumentError(
            f"arange: expected bounds consistent with the sign of step, got start {start}, end {end}, step {step}"
        )
    if dtype is None:
        whole = all(isinstance(v, int) for v in (start, end, step))
        dtype = dtypes.int64 if whole else dtypes.get_default_dtype()
    d = dtypes.as_numpy(dtype)
    n = int(np.ceil((end - start) / step))
    a = (start + np.arange(n) * step).astype(d) if n else np.zeros(0, d)
    return placed(a, device, requires_grad)


def linspace(
    start: Any, end: Any, steps: int, *, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """`steps` numbers evenly from start to end, both included."""
    d = dtypes.default_numpy() if dtype is None else dtypes.as_numpy(dtype)
    start, end = (v.item() if isinstance(v, Tensor) else v for v in (start, end))
    return placed(np.linspace(start, end, int(steps)).astype(d), device, requires_grad)


def logspace(
    start: Any, end: Any, steps: int, base: float = 10.0, *, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """`steps` numbers from base**start to base**end, their logarithms evenly apart."""
    d = dtypes.default_numpy() if dtype is None else dtypes.as_numpy(dtype)
    start, end = (v.item() if isinstance(v, Tensor) else v for v in (start, end))
    return placed(np.power(float(base), np.linspace(start, end, int(steps))).astype(d), device, requires_grad)


def _triangle(indices: Any, row: int, col: int, offset: int, dtype: Any, device: Any) -> Tensor:
    d = np.dtype(np.int64) if dtype is None else dtypes.as_numpy(dtype)
    return placed(np.stack(indices(row, offset, col)).astype(d), device)


def tril_indices(row: int, col: int, offset: int = 0, *, dtype: Any = None, device: Any = None) -> Tensor:
    """(2, n): rows and columns of the elements of a lower triangle."""
    return _triangle(np.tril_indices, row, col, offset, dtype, device)


def triu_indices(row: int, col: int, offset: int = 0, *, dtype: Any = None, device: Any = None) -> Tensor:
    """(2, n): rows and columns of the elements of an upper triangle."""
    return _triangle(np.triu_indices, row, col, offset, dtype, device)


def scalar_tensor(value: Any, *, dtype: Any = None, device: Any = None) -> Tensor:
    """A 0-d tensor, of the default floating type unless told otherwise."""
    return tensor(value, dtype=dtypes.get_default_dtype() if dtype is None else dtype, device=device)


def empty_strided(size: Any, stride: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Memory of a shape with these strides, in elements."""
    n = 1 + sum((m - 1) * s for m, s in zip(size, stride)) if all(size) else 0
    d = dtypes.default_numpy() if dtype is None else dtypes.as_numpy(dtype)
    flat = np.empty(n, dtype=d)
    return placed(np.lib.stride_tricks.as_strided(flat, tuple(size), [s * d.itemsize for s in stride]), device, requires_grad)


def frombuffer(buffer: Any, *, dtype: Any, count: int = -1, offset: int = 0, requires_grad: bool = False) -> Tensor:
    """A vector that shares a buffer's memory."""
    t = Tensor._of(np.frombuffer(buffer, dtypes.as_numpy(dtype), count, offset))
    return t.requires_grad_() if requires_grad else t


def from_dlpack(x: Any) -> Tensor:
    """A tensor that shares the memory of another library's array, by the DLPack protocol."""
    if not hasattr(x, "__dlpack__"):
        raise DTypeError(f"from_dlpack: expected an object with __dlpack__, got {type(x).__name__}")
    be = backend.get("cpu" if x.__dlpack_device__()[0] in (1, 3) else "cuda")
    return wrap(be.xp.from_dlpack(x))


def _window(shape: Any) -> Any:
    def window(
        window_length: int, periodic: bool = True, *args: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False
    ) -> Tensor:
        d = dtypes.default_numpy() if dtype is None else dtypes.as_numpy(dtype)
        n = window_length - (not periodic)
        t = np.arange(window_length) / n if n > 0 else np.full(window_length, 0.5)
        return placed(np.asarray(shape(t, *args)).astype(d), device, requires_grad)

    window.__doc__ = shape.__doc__
    return window


@_window
def hann_window(t: Any) -> Any:
    """sin²(πt), periodic or symmetric."""
    return np.sin(np.pi * t) ** 2


@_window
def hamming_window(t: Any, alpha: float = 0.54, beta: float = 0.46) -> Any:
    """alpha − beta·cos(2πt), periodic or symmetric."""
    return alpha - beta * np.cos(2 * np.pi * t)


@_window
def blackman_window(t: Any) -> Any:
    """0.42 − 0.5·cos(2πt) + 0.08·cos(4πt), periodic or symmetric."""
    return 0.42 - 0.5 * np.cos(2 * np.pi * t) + 0.08 * np.cos(4 * np.pi * t)


@_window
def _kaiser(t: Any, beta: float = 12.0) -> Any:
    return np.i0(beta * np.sqrt(np.maximum(0, 1 - (2 * t - 1) ** 2))) / np.i0(beta)


def kaiser_window(window_length: int, periodic: bool = True, beta: float = 12.0, **options: Any) -> Tensor:
    """I₀(β√(1 − (2t − 1)²)) / I₀(β), periodic or symmetric."""
    return ones(1, **options) if window_length == 1 else _kaiser(window_length, periodic, beta, **options)


@_window
def bartlett_window(t: Any) -> Any:
    """A triangle, periodic or symmetric."""
    return 1 - np.abs(2 * t - 1)
