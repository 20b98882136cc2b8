"""The memory behind a tensor: as bytes, or as elements in a row; tensors given other memory."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from core import backend, dtypes
from core._tensor import Tensor, wrap
from core.errors import RangeError, ShapeError


class UntypedStorage:
    """The bytes that a tensor and all views of it share."""

    def __init__(self, x: Tensor):
        self._tensor = x if x._base is None else x._base

    @property
    def device(self) -> Any:
        return self._tensor.device

    def data_ptr(self) -> int:
        """Address of the first byte."""
        return self._tensor.data_ptr()

    def nbytes(self) -> int:
        """How many bytes there are."""
        return int(self._tensor._a.nbytes)

    def size(self) -> int:
        """How many elements there are: bytes here."""
        return self.nbytes()

    __len__ = size

    def element_size(self) -> int:
        """Bytes of one element."""
        return 1

    def _elements(self) -> np.ndarray:
        return np.frombuffer(np.ascontiguousarray(self._tensor._host()).tobytes(), np.uint8)

    def tolist(self) -> list[Any]:
        """The elements as Python numbers."""
        return self._elements().tolist()

    def __getitem__(self, i: Any) -> Any:
        return self._elements()[i].item() if isinstance(i, int) else self._elements()[i].tolist()

    def __iter__(self) -> Any:
        return iter(self.tolist())

    def is_shared(self) -> bool:
        """Whether other processes see the memory."""
        from core.functions.memory import is_shared

        return is_shared(self._tensor)

    def untyped(self) -> UntypedStorage:
        """The same as bytes."""
        return UntypedStorage(self._tensor)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.size()} elements on {self.device}>"


class TypedStorage(UntypedStorage):
    """The elements that a tensor and all views of it share, in the order of memory."""

    @property
    def dtype(self) -> dtypes.dtype:
        return self._tensor.dtype

    def size(self) -> int:
        return int(self._tensor._a.size)

    __len__ = size

    def element_size(self) -> int:
        return int(self._tensor._a.itemsize)

    def _elements(self) -> np.ndarray:
        return self._tensor._host().ravel("K")


def untyped_storage(x: Tensor) -> UntypedStorage:
    """The bytes that x and all views of it share."""
    return UntypedStorage(x)


def storage(x: Tensor) -> TypedStorage:
    """The elements that x and all views of it share."""
    return TypedStorage(x)


def is_set_to(x: Tensor, tensor: Tensor) -> bool:
    """Whether both are the same memory, seen the same way."""
    return x.data_ptr() == tensor.data_ptr() and x._a.shape == tensor._a.shape and x._a.strides == tensor._a.strides


def set_(x: Tensor, source: Any = None, storage_offset: int = 0, size: Any = None, stride: Any = None) -> Tensor:
    """Give x the memory of another tensor or storage, from an offset on, with a size and strides. In place."""
    t = source._tensor if isinstance(source, UntypedStorage) else source
    if t is None:
        x._a = x._a.reshape(-1)[:0]
        return x
    if size is None:
        x._a = t._a
    else:
        strides = stride if stride is not None else _row_major(tuple(size))
        flat = wrap(t._a.reshape(-1))
        x._a = flat.as_strided(tuple(size), tuple(strides), storage_offset)._a
    x._bump()
    return x


def _row_major(size: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(math.prod(size[i + 1 :]) for i in range(len(size)))


def resize_(x: Tensor, *size: Any, memory_format: Any = None) -> Tensor:
    """Give x another size, with the elements it has in order, and any numbers where it grows. In place."""
    from core.ops.shape import shape_of

    if x._requires_grad:
        raise ShapeError("resize_: cannot resize variables that require grad; use detach()")
    shape = shape_of(size)
    n, flat = math.prod(shape), x._a.reshape(-1)
    if n > flat.size:
        grown = backend.of(x._a).xp.zeros(n, dtype=flat.dtype)
        grown[: flat.size] = flat
        flat = grown
    x._a = flat[:n].reshape(shape)
    x._bump()
    return x


def resize_as_(x: Tensor, tensor: Tensor, memory_format: Any = None) -> Tensor:
    """`resize_` to another tensor's size. In place."""
    return resize_(x, tensor.shape)


def as_strided_(x: Tensor, size: Any, stride: Any, storage_offset: Any = None) -> Tensor:
    """`as_strided`, in place."""
    x._a = wrap(x._a).as_strided(tuple(size), tuple(stride), storage_offset)._a
    return x


def new(x: Tensor, *args: Any, device: Any = None) -> Tensor:
    """torch's legacy constructor with x's dtype: sizes make an uninitialised tensor, a list or array is copied."""
    if len(args) == 1 and not isinstance(args[0], (int, np.integer, tuple)) and not hasattr(args[0], "numel"):
        return wrap(np.array(args[0], dtype=x._a.dtype)).to(device or x.device)
    if len(args) == 1 and isinstance(args[0], Tensor):
        return wrap(args[0]._a.astype(x._a.dtype)).to(device or x.device)
    if any(isinstance(a, float) for a in args):
        raise RangeError(f"new: expected sizes or a sequence, got {args}")
    shape = tuple(args[0]) if len(args) == 1 and isinstance(args[0], tuple) else args
    return wrap(np.empty(tuple(map(int, shape)) if args else (0,), dtype=x._a.dtype)).to(device or x.device)


def record_stream(x: Tensor, stream: Any) -> None:
    """Say that another stream uses x: when x is freed, its memory is used again only after what that stream has to do by then."""
    if stream is not None:
        backend.of(x._a).hold(x._a, stream)
