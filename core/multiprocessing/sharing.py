"""Tensors in memory that several processes see: `share_memory_` moves them there, and what crosses to another process is the memory's
file descriptor. Other tensors cross as copies.

The memory is a file without a name; it ends with the last process that maps it.
"""

from __future__ import annotations

import mmap
import os
import tempfile
import weakref
from multiprocessing import reduction
from typing import Any

import numpy as np

from core import dtypes
from core._tensor import Tensor
from core.errors import DeviceError

_files: weakref.WeakKeyDictionary[mmap.mmap, int] = weakref.WeakKeyDictionary()  # a mapping -> its descriptor


def _mapping(fd: int, n_bytes: int) -> mmap.mmap:
    made = mmap.mmap(fd, n_bytes)
    _files[made] = fd
    weakref.finalize(made, os.close, fd)
    return made


def _new_mapping(n_bytes: int) -> mmap.mmap:
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("tensor")
    else:
        fd, path = tempfile.mkstemp()
        os.unlink(path)
    os.ftruncate(fd, n_bytes)
    return _mapping(fd, n_bytes)


def _found(array: Any) -> mmap.mmap | None:
    """The mapping that an array lies in."""
    while isinstance(array, np.ndarray) and array.base is not None:
        array = array.base
    array = array.obj if isinstance(array, memoryview) else array
    return array if isinstance(array, mmap.mmap) and array in _files else None


def share(x: Tensor) -> Tensor:
    """Move a CPU tensor's elements to shared memory. In place; views made before keep the old memory."""
    if x.device.type != "cpu":
        raise DeviceError(f"share_memory_: expected a tensor on the CPU, got {x.device}; use .cpu()")
    if not is_shared(x):
        bytes_ = np.frombuffer(_new_mapping(max(x._a.nbytes, 1)), np.uint8)
        array = np.ndarray(x._a.shape, x._a.dtype, buffer=bytes_)
        array[...] = x._a
        x._a = array
    return x


def is_shared(x: Tensor) -> bool:
    """Whether other processes see what is written to the tensor."""
    return _found(x._a) is not None


def _reduced(x: Tensor) -> Any:
    mapping = _found(x._a) if x._edge is None else None
    if mapping is None:
        return x.__reduce_ex__(2)
    start = np.frombuffer(mapping, np.uint8).__array_interface__["data"][0]
    place = x.data_ptr() - start, x._a.shape, x._a.strides
    return _rebuilt, (type(x), reduction.DupFd(_files[mapping]), len(mapping), x.dtype.name, place, x._requires_grad)


def _rebuilt(cls: type, file: Any, n_bytes: int, dtype: str, place: Any, requires_grad: bool) -> Tensor:
    import core.methods  # noqa: F401  # a new process may know of tensors only what it unpickles

    offset, shape, strides = place
    whole = np.frombuffer(_mapping(file.detach(), n_bytes), np.uint8)[offset:]
    numpy_dtype = next(d for d in dtypes.ALL if d.name == dtype).numpy
    x: Any = object.__new__(cls)
    x._a = np.ndarray(shape, numpy_dtype, buffer=whole, strides=strides)
    x._requires_grad = requires_grad
    return x


def register(*types: type) -> None:
    """Tensors of these classes cross by their memory, where that is shared."""
    for cls in types:
        reduction.register(cls, _reduced)


register(Tensor)
