"""The array of a tensor: what it is like, and its values.

Contract: `_a` is the raw array; it is never a scalar. There may be `_inside` instead: the same array channels-last in memory, as
convolutions like it. Ops that keep the order in memory (`Op.orderly`) hand it on; whoever else asks for `_a` makes it, in C order, so that
nobody ever sees another order than torch's.
Not here: the graph, versions and views (`core._tensor`), operations (`core.ops`).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from core import backend, dtypes
from core.devices import device
from core.engine import mode
from core.errors import ArgumentError, DTypeError, GraphError, RangeError


class Size(tuple[int, ...]):
    """A shape."""

    def numel(self) -> int:
        """How many elements a tensor of this shape has."""
        n = 1
        for length in self:
            n *= length
        return n

    def __repr__(self) -> str:
        return f"{dtypes.dtype.prefix}.Size([{', '.join(map(str, self))}])"

    def __add__(self, other: Any) -> Size:
        return Size(tuple.__add__(self, tuple(other)))

    def __mul__(self, n: Any) -> Size:
        return Size(tuple.__mul__(self, n))

    def __getitem__(self, i: Any) -> Any:
        found = tuple.__getitem__(self, i)
        return Size(found) if isinstance(i, slice) else found


class _InOrder:
    """`_a` of a tensor that has none yet: made from `_inside`. A tensor's own `_a` hides this; a `__getattr__` would slow every look at
    any attribute."""

    def __get__(self, t: Any, owner: Any) -> Any:
        if t is None:
            return self
        array = t._inside
        if array is None:
            raise AttributeError(f"{owner.__name__!r} object has no attribute '_a'", name="_a", obj=t)
        t._a = backend.of(array).in_c_order(array)
        t._inside = None
        return t._a


class ArrayHolder:
    """What a `Tensor` is as far as its array goes."""

    _a: Any = _InOrder()
    _inside: Any = None  # the array, as long as there is no `_a`
    _requires_grad: bool

    def _any_order(self) -> Any:
        """The array, in whatever order it lies in memory."""
        return self._a if self._inside is None or "_a" in self.__dict__ else self._inside

    # -- what it is ----------------------------------------------------------------------------------------------------

    @property
    def shape(self) -> Size:
        return Size((self._a if self._inside is None else self._any_order()).shape)

    def size(self, dim: int | None = None) -> Any:
        """The shape, or the length of one dimension."""
        a = self._any_order()
        return Size(a.shape) if dim is None else a.shape[_dim(dim, a.ndim, "size")]

    @property
    def ndim(self) -> int:
        return self._any_order().ndim

    def dim(self) -> int:
        """The number of dimensions."""
        return self._any_order().ndim

    def numel(self) -> int:
        """The number of elements."""
        return int(self._any_order().size)

    @property
    def dtype(self) -> dtypes.dtype:
        return dtypes.of((self._a if self._inside is None else self._any_order()).dtype)

    @property
    def device(self) -> device:
        a = self._any_order()
        be = backend.of(a)
        return device(be.device_type, be.index_of(a))

    def stride(self, dim: int | None = None) -> Any:
        """Elements to step over for the next index, for each dimension or one."""
        strides = tuple(s // self._a.itemsize for s in self._a.strides)
        return strides if dim is None else strides[_dim(dim, self._a.ndim, "stride")]

    def element_size(self) -> int:
        """Bytes of one element."""
        return int(self._a.itemsize)

    def is_contiguous(self) -> bool:
        """Whether elements lie in memory in index order, without gaps."""
        return bool(self._a.flags.c_contiguous)

    def data_ptr(self) -> int:
        """Address of the first element."""
        return int(self._a.data.ptr if hasattr(self._a.data, "ptr") else self._a.__array_interface__["data"][0])

    def is_floating_point(self) -> bool:
        return self.dtype.is_floating_point

    def is_complex(self) -> bool:
        return self.dtype.is_complex

    @property
    def is_cuda(self) -> bool:
        return backend.of(self._any_order()).device_type == "cuda"

    @property
    def is_cpu(self) -> bool:
        return backend.of(self._any_order()).device_type == "cpu"

    # kinds of tensors that torch has and that this one is not
    is_sparse = is_sparse_csr = is_quantized = is_mps = is_xpu = is_meta = is_nested = is_mkldnn = False

    @property
    def layout(self) -> Any:
        from core.settings import strided

        return strided

    @property
    def itemsize(self) -> int:
        return int(self._a.itemsize)

    @property
    def nbytes(self) -> int:
        return int(self._a.nbytes)

    def ndimension(self) -> int:
        """The number of dimensions."""
        return self._a.ndim

    # -- values out ----------------------------------------------------------------------------------------------------

    def item(self) -> Any:
        """The only element, as a Python number."""
        if self._a.size != 1:
            raise ArgumentError(f"item: expected a tensor with 1 element, got {self._a.size}; use tolist() for many")
        return _python(self._a.item(), self._a.dtype)

    def tolist(self) -> Any:
        """The elements as nested lists; a number if there are no dimensions."""
        a = self._host()
        return (a.astype(np.float32) if a.dtype.kind == "V" else a).tolist()

    def numpy(self, *, force: bool = False) -> np.ndarray:
        """The NumPy array that shares this tensor's memory. `force` detaches, and copies from a device, where needed."""
        if self._requires_grad and mode.grad and not force:
            raise GraphError(
                "numpy: expected a tensor that requires no grad, got one that does; use tensor.detach().numpy()"
            )
        if backend.of(self._a).device_type != "cpu" and not force:
            raise DTypeError(f"numpy: expected a tensor on the CPU, got {self.device}; use tensor.cpu().numpy()")
        return self._host()

    def _host(self) -> np.ndarray:
        return backend.of(self._a).to_numpy(self._a)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.numpy(), dtype=dtype, copy=copy)

    def __dlpack__(self, **options: Any) -> Any:
        """The memory, for another library, by the DLPack protocol."""
        if self._requires_grad:
            raise GraphError("dlpack: expected a tensor that requires no grad, got one that does; use tensor.detach()")
        return self._a.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._a.__dlpack_device__()

    def __bool__(self) -> bool:
        if self._a.size != 1:
            raise ArgumentError(
                f"bool: expected a tensor with 1 element, got {self._a.size} of shape {self._a.shape}; use .any() or .all()"
            )
        return bool(self._a.item())

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __complex__(self) -> complex:
        return complex(self.item())

    def __index__(self) -> int:
        value = self.item()
        if isinstance(value, float):
            raise DTypeError(f"index: expected an integer tensor, got {self.dtype}")
        return int(value)

    def __len__(self) -> int:
        if not self._a.ndim:
            raise DTypeError("len: expected a tensor with dimensions, got a 0-d tensor")
        return int(self._a.shape[0])


def _dim(dim: int, ndim: int, where: str) -> int:
    """A dimension counted from the front."""
    n = max(ndim, 1)
    if not -n <= dim < n:
        raise RangeError(f"{where}: Dimension out of range: expected {-n} <= dim < {n}, got {dim}")
    return dim % n


def _python(value: Any, dtype: np.dtype) -> Any:
    return float(value) if dtype.kind == "V" else value
