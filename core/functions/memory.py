"""Where a tensor lives and as what: dtype, device, type by name; whether two are equal."""

from __future__ import annotations

import builtins
from typing import Any

import numpy as np

from core import backend, dtypes
from core._tensor import Tensor, _moved, wrap
from core.devices import device as device_type
from core.errors import DeviceError
from core.ops import pointwise as _pw
from core.ops import shape as _shape


def to(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """x with another dtype, on another device, or like another tensor; x itself if nothing changes and `copy` is false."""
    dtype, where, copy = kwargs.get("dtype"), kwargs.get("device"), kwargs.get("copy", False)
    flags: tuple[bool, ...] = ()  # by position: non_blocking, copy
    for a in args:
        if isinstance(a, Tensor):
            dtype, where = a.dtype, a.device
        elif isinstance(a, dtypes.dtype) or (
            isinstance(a, type) and a in (builtins.float, builtins.int, builtins.bool)
        ):
            dtype = a
        elif isinstance(a, bool):
            flags += (a,)
        elif isinstance(a, (str, device_type, int)):
            where = a
    if len(flags) > 1:
        copy = flags[1]
    y = x
    if where is not None:
        array = x._a
        moved = _moved(array, where, flags[0] if flags else kwargs.get("non_blocking", False))
        if moved is not array:
            y = _transferred(x, moved)
    if dtype is not None and dtypes.as_numpy(dtype) != x._a.dtype:
        y = _pw.cast(y, dtype=dtype)
    return _pw.clone(y) if copy and y is x else y


def _transferred(x: Tensor, moved: Any) -> Tensor:
    """x as its copy on another device; the gradient is copied back."""
    from core.autograd.function import Function

    class ToDevice(Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.source = x.device
            return wrap(moved)

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            return to(g, ctx.source)

    return ToDevice.apply(x)


def cpu(x: Tensor) -> Tensor:
    """x on the CPU."""
    return to(x, "cpu")


def cuda(x: Tensor, device: Any = None, non_blocking: bool = False) -> Tensor:
    """x on a GPU."""
    return to(x, "cuda" if device is None else device, non_blocking=non_blocking)


def type_(x: Tensor, dtype: Any = None, non_blocking: bool = False) -> Any:
    """The name of the tensor's type, "torch.FloatTensor", or x converted to a dtype or to a type by name."""
    from core import tensor_types

    if dtype is None:
        return str(tensor_types.of(x))
    if isinstance(dtype, (str, tensor_types.TensorType)):
        named = tensor_types.named(dtype)
        return to(x, named.dtype, device=named.device_type)
    return to(x, dtype)


def numel(x: Tensor) -> int:
    """The number of elements."""
    return x.numel()


def is_tensor(x: Any) -> bool:
    """Whether x is a Tensor."""
    return isinstance(x, Tensor)


def equal(x: Tensor, other: Tensor) -> bool:
    """Whether shape and all elements are equal."""
    return x._a.shape == other._a.shape and bool((x._a == other._a).all())


def isclose(x: Tensor, other: Tensor, rtol: float = 1e-05, atol: float = 1e-08, equal_nan: bool = False) -> Tensor:
    """|x − y| ≤ atol + rtol·|y|, elementwise."""
    return wrap(backend.of(x._a).xp.isclose(x._a, other._a, rtol, atol, equal_nan))


def allclose(x: Tensor, other: Tensor, rtol: float = 1e-05, atol: float = 1e-08, equal_nan: bool = False) -> bool:
    """Whether all elements are close."""
    return bool(isclose(x, other, rtol, atol, equal_nan).all())


def broadcast_tensors(*tensors: Any) -> tuple[Tensor, ...]:
    """The tensors expanded to their common shape."""
    ts = tensors[0] if len(tensors) == 1 and isinstance(tensors[0], (list, tuple)) else tensors
    shape = np.broadcast_shapes(*(x._a.shape for x in ts))
    return tuple(_shape.expand(x, shape=shape) for x in ts)


def type_as(x: Tensor, other: Tensor) -> Tensor:
    """x with other's dtype, on other's device."""
    return to(x, other)


def get_device(x: Tensor) -> int:
    """The index of the GPU that holds x; -1 on the CPU."""
    return (x.device.index or 0) if x.is_cuda else -1


def is_nonzero(x: Tensor) -> bool:
    """Whether the only element is not zero."""
    return bool(x)


def is_same_size(x: Tensor, other: Tensor) -> bool:
    """Whether the shapes are equal."""
    return x._a.shape == other._a.shape


def is_signed(x: Tensor) -> bool:
    """Whether the dtype has negative numbers."""
    return x.dtype.is_signed


def is_conj(x: Tensor) -> bool:
    """False: `conj` computes at once."""
    return False


def resolve_conj(x: Tensor) -> Tensor:
    """x itself: `conj` computes at once."""
    return x


def pin_memory(x: Tensor, device: Any = None) -> Tensor:
    """A copy in pinned memory of the host, from which `.to("cuda", non_blocking=True)` copies while the host goes on; x itself if it is
    there. Without a GPU there is nothing to pin for: x itself.
    """
    be = _pinning()
    if be is None or x.is_pinned():
        return x
    if x.is_cuda:
        raise DeviceError(f"pin_memory: expected a tensor of the CPU, got one on {x.device}; only memory of the host can be pinned")
    return wrap(be.pinned(x._a))


def is_pinned(x: Tensor, device: Any = None) -> bool:
    """Whether x lies in pinned memory; see `pin_memory`."""
    be = _pinning()
    return be is not None and be.is_pinned(x._a)


def _pinning() -> Any:
    """The backend of the GPU, which pins memory; None where there is no GPU."""
    from core.backend.cuda import is_available

    return backend.get("cuda") if "cuda" in backend._open or is_available() else None


def share_memory_(x: Tensor) -> Tensor:
    """Move the elements to memory that other processes see, where the tensor is sent to them or they are forked. In place."""
    from core.multiprocessing import sharing

    return sharing.share(x)


def is_shared(x: Tensor) -> bool:
    """Whether other processes see what is written to x."""
    from core.multiprocessing import sharing

    return sharing.is_shared(x)
