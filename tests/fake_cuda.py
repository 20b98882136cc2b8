"""A CUDA device made of NumPy: what an op does here, it does on CuPy.

`Array` is no ndarray, as CuPy's is none: NumPy can neither read it nor compute with it, and it refuses NumPy arrays as operands, values and
indices. `xp` is the module that computes on it; like CuPy it returns arrays also where NumPy returns scalars. `FakeCUDA` is the real CUDA
backend over that module, so its own code is tested, too. Not here: memory, streams, speed, and what CuPy has not got.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np

from core.backend.cuda import CUDABackend


def _down(value: Any) -> Any:
    """An operand as NumPy has it; a NumPy array among the operands is the mistake that this module is here to find."""
    if isinstance(value, Array):
        return value.host
    if isinstance(value, np.ndarray):
        raise TypeError("Unsupported type <class 'numpy.ndarray'>: expected an array of the device")
    if isinstance(value, (tuple, list)):
        return type(value)(map(_down, value))
    return value


def _up(value: Any) -> Any:
    """A result as the device has it."""
    if isinstance(value, (np.ndarray, np.generic)):
        return Array(np.asarray(value))
    if isinstance(value, (tuple, list)):
        return type(value)(map(_up, value))
    return value


def _lifted(function: Callable[..., Any]) -> Callable[..., Any]:
    def lifted(*args: Any, **kwargs: Any) -> Any:
        out = kwargs.get("out")
        result = function(*map(_down, args), **{k: _down(v) for k, v in kwargs.items()})
        return _up(result) if out is None else out

    return lifted


class Array:
    """An array on the fake device."""

    __array_ufunc__ = None  # np.exp(array), ndarray + array: a TypeError

    def __init__(self, host: np.ndarray):
        self.host = host

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`")

    def get(self) -> np.ndarray:
        return self.host.copy()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # no way in for NumPy by __array_interface__
            raise AttributeError(name)
        value = getattr(self.host, name)
        return _lifted(value) if callable(value) else _up(value)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.host.shape

    @shape.setter
    def shape(self, shape: tuple[int, ...]) -> None:
        self.host = self.host.reshape(shape, copy=False)

    @property
    def data(self) -> Any:
        return SimpleNamespace(ptr=self.host.__array_interface__["data"][0])

    @property
    def device(self) -> Any:
        return SimpleNamespace(id=0)

    def reshape(self, *shape: Any, order: str = "C") -> Array:  # CuPy's has no `copy`
        return Array(self.host.reshape(*shape, order=order))

    def __getitem__(self, index: Any) -> Array:
        index = _down(index)
        found = self.host[index]
        if not isinstance(found, np.ndarray):  # a 0-d view, where NumPy would hand out a scalar
            found = self.host[(*index, ...) if isinstance(index, tuple) else (index, ...)]
        return Array(found)

    def __setitem__(self, index: Any, value: Any) -> None:
        self.host[_down(index)] = _down(value)

    def __iter__(self) -> Iterator[Array]:
        return (self[i] for i in range(len(self.host)))

    def __bool__(self) -> bool:
        return bool(self.host)

    def __int__(self) -> int:
        return int(self.host)

    def __float__(self) -> float:
        return float(self.host)

    def __len__(self) -> int:
        return len(self.host)


def _operator(name: str) -> Callable[..., Any]:
    def operator(self: Array, *others: Any) -> Any:
        result = getattr(self.host, name)(*map(_down, others))
        if name.startswith("__i") and name != "__invert__":
            return self
        return result if result is NotImplemented else _up(result)

    return operator


for _name in """
    add radd sub rsub mul rmul truediv rtruediv floordiv rfloordiv mod rmod pow rpow matmul and rand or ror xor rxor neg pos abs invert
    eq ne lt le gt ge iadd isub imul itruediv ipow iand ior ixor
""".split():
    setattr(Array, f"__{_name}__", _operator(f"__{_name}__"))


class _Function:
    """A function of the module; of ufuncs also `at`."""

    def __init__(self, function: Any):
        self.call = _lifted(function)
        if hasattr(function, "at"):
            self.at = _lifted(function.at)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.call(*args, **kwargs)


class _Grid:
    def __getitem__(self, index: Any) -> Any:
        return _up(np.ogrid[index])


class Module:
    """What CuPy is to code that says `be.xp`."""

    ndarray = Array
    ogrid = _Grid()
    lib = SimpleNamespace(stride_tricks=SimpleNamespace(as_strided=_lifted(np.lib.stride_tricks.as_strided)))
    cuda = SimpleNamespace(
        runtime=SimpleNamespace(getDeviceCount=lambda: 1),
        Device=lambda index: contextlib.nullcontext(),
        get_current_stream=lambda: SimpleNamespace(synchronize=lambda: None),
    )

    def __getattr__(self, name: str) -> Any:
        value = getattr(np, name)
        return _Function(value) if callable(value) and not isinstance(value, type) else value

    @staticmethod
    def asarray(value: Any, dtype: Any = None) -> Array:
        if isinstance(value, Array) and dtype in (None, value.dtype):
            return value
        return Array(np.array(value.host if isinstance(value, Array) else value, dtype=dtype))

    @staticmethod
    def array(value: Any, dtype: Any = None, order: Any = "K") -> Array:
        return Array(np.array(value.host if isinstance(value, Array) else value, dtype=dtype, order=order))

    @staticmethod
    def asnumpy(value: Array) -> np.ndarray:
        return value.get()


class FakeCUDA(CUDABackend):
    """The row "cuda" of `core.backend.BACKENDS` while a test runs."""

    def __init__(self) -> None:
        self.xp = Module()
        self.array_type = Array
