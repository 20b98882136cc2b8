"""save: values into PyTorch's .pth format.

Contract: what `torch.load(f, weights_only=True)` reads. A tensor's whole storage is written once, however many tensors
view it, and they share it again when loaded; a path is replaced only when the new file is complete and on the disk.
Source: torch/serialization.py (`_save`), torch/_tensor.py (`__reduce_ex__`), format version 1 of PyTorch 2.13.
"""

from __future__ import annotations

import io
import os
import pickle
import sys
from collections import OrderedDict
from typing import Any

import numpy as np

from core import backend, devices, dtypes
from core._tensor import Size, Tensor
from core.errors import ArgumentError, CheckpointError, CoreError
from core.serialize import archive
from core.serialize.table import NUMERIC, STORAGE_NAMES


def save(
    obj: Any,
    f: Any,
    pickle_module: Any = None,
    pickle_protocol: int = 2,
    _use_new_zipfile_serialization: bool = True,
    _disable_byteorder_record: bool = False,
) -> None:
    """Write tensors, and containers of them and of plain values, to a path (which is replaced at once) or a binary
    file object.

    A whole Module is written by the names of its classes and needs them again, see `load`; its state_dict needs only
    itself.
    """
    if pickle_module not in (None, pickle):
        raise ArgumentError(f"save: expected no pickle_module, got {pickle_module!r}; the format is fixed")
    if pickle_protocol != 2 or not _use_new_zipfile_serialization:
        raise ArgumentError(
            f"save: expected the zip format with pickle_protocol=2, got {pickle_protocol}; leave out both arguments"
        )
    if not isinstance(f, (str, os.PathLike)) and not hasattr(f, "write"):
        raise ArgumentError(f"save: expected a path or a file object with write(), got {type(f).__name__}")
    program = io.BytesIO()
    pickler = _Pickler(program)
    try:
        pickler.dump(obj)
    except CoreError:
        raise
    except (pickle.PicklingError, TypeError, AttributeError, RecursionError) as e:
        raise CheckpointError(
            f"save: expected values that can be saved, got one that cannot: {e}; save a state_dict instead"
        ) from e
    if isinstance(f, (str, os.PathLike)):
        root = os.path.splitext(os.path.basename(os.fspath(f)))[0] or "archive"
        with archive.replaced(f) as file:
            _write(file, root, program, pickler, not _disable_byteorder_record)
    else:
        _write(f, "archive", program, pickler, not _disable_byteorder_record)


def _write(file: Any, root: str, program: io.BytesIO, pickler: _Pickler, byteorder: bool) -> None:
    z = archive.Writer(file, root)
    z.add("data.pkl", program.getbuffer())
    z.add(".format_version", b"1")
    z.add(".storage_alignment", str(archive.ALIGNMENT).encode())
    if byteorder:
        z.add("byteorder", sys.byteorder.encode())
    for number, (array, dtype) in enumerate(pickler.storages):
        raw = (
            backend.of(array).to_numpy(array.ravel(order="K")).view(np.uint8)
        )  # one storage at a time leaves the device
        z.add(f"data/{number}", raw[: raw.nbytes // dtype.itemsize * dtype.itemsize])
    z.add("version", b"3\n")
    z.finish()


class _Global:
    """A name to be written."""

    def __init__(self, module: str, name: str):
        self.module, self.name = module, name


class _StorageOf:
    """What a tensor's storage is written as: its persistent id."""

    def __init__(self, identity: tuple[Any, ...]):
        self.identity = identity


_TENSOR_V2 = _Global("torch._utils", "_rebuild_tensor_v2")
_TENSOR_V3 = _Global("torch._utils", "_rebuild_tensor_v3")
_PARAMETER = _Global("torch._utils", "_rebuild_parameter")
_PARAMETER_WITH_STATE = _Global("torch._utils", "_rebuild_parameter_with_state")
_FROM_TYPE = _Global("torch._tensor", "_rebuild_from_type_v2")
_TENSOR = _Global("torch", "Tensor")
_SIZE = _Global("torch", "Size")
_DEVICE = _Global("torch", "device")
_UNTYPED = _Global("torch.storage", "UntypedStorage")
_STORAGES = {d: _Global("torch", name) for name, d in STORAGE_NAMES.items()}
_DTYPES = {d: _Global("torch", d.name) for d in dtypes.ALL}


# the pickler in Python: the one in C writes no name that it cannot import, and torch is not here
_PythonPickler: Any = pickle._Pickler


class _Pickler(_PythonPickler):
    def __init__(self, file: Any):
        from core.nn.parameter import Buffer, Parameter  # not above: core.nn is loaded only if it is used

        super().__init__(file, 2)
        self.dispatch = {**self.dispatch, Buffer: _Pickler._save_tensor, Parameter: _Pickler._save_parameter}
        self.storages: list[
            tuple[Any, dtypes.dtype]
        ] = []  # the arrays that own the memory, by number, with their element type
        self._numbers: dict[int, int] = {}  # id of the owner -> number

    def persistent_id(self, obj: Any) -> Any:
        return obj.identity if type(obj) is _StorageOf else None

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, Tensor) and type(obj) not in self.dispatch:
            raise CheckpointError(
                f"save: expected a Tensor or Parameter, got the subclass {type(obj).__name__}; save x.data"
            )
        if isinstance(obj, (np.ndarray, np.generic)) and obj.dtype.kind not in NUMERIC:
            raise CheckpointError(
                f"save: expected NumPy values of a type of numbers, got {obj.dtype}; save a list, or core.tensor(x)"
            )
        return NotImplemented

    def _save_global(self, g: _Global) -> None:
        self.write(pickle.GLOBAL + f"{g.module}\n{g.name}\n".encode())
        self.memoize(g)

    def _save_call(self, obj: Any, g: _Global, args: tuple[Any, ...]) -> None:
        self.save(g)
        self.save(args)
        self.write(pickle.REDUCE)
        self.memoize(obj)

    def _save_tensor(self, t: Tensor) -> None:
        g, args = self._rebuild(t)
        attributes = _attributes(t)
        if attributes and type(t) is Tensor:  # a Buffer's own attribute is for its Module
            g, args = _FROM_TYPE, (g, _TENSOR, args, attributes)
        self._save_call(t, g, args)

    def _save_parameter(self, p: Tensor) -> None:
        attributes = _attributes(p)
        args: tuple[Any, ...] = (p.data, p._requires_grad, OrderedDict())
        if attributes:
            self._save_call(p, _PARAMETER_WITH_STATE, (*args, attributes))
        else:
            self._save_call(p, _PARAMETER, args)

    def _rebuild(self, t: Tensor) -> tuple[_Global, tuple[Any, ...]]:
        """The function that makes the tensor from a storage, and what to call it with."""
        a, dtype, size = t._a, t.dtype, t._a.itemsize
        owner = a
        while type(owner.base) is type(a):
            owner = owner.base
        low, dense = _address(owner), owner.size == 0 or _is_dense(owner)
        strides, offset = a.strides, _address(a) - low
        if not (a.size and dense) or offset % size or any(n < 0 or n % size for n in strides):
            # nothing to share, or a view that PyTorch does not have
            owner = backend.of(a).xp.array(a, order="C")
            strides, offset = owner.strides, 0
        where, shape = self._store(owner, dtype, str(t.device)), tuple(map(int, a.shape))
        view: tuple[Any, ...] = (
            where,
            offset // size,
            shape,
            tuple(s // size for s in strides),
            t._requires_grad,
            OrderedDict(),
        )
        return (_TENSOR_V2, view) if dtype in _STORAGES else (_TENSOR_V3, (*view, dtype))

    def _store(self, owner: Any, dtype: dtypes.dtype, device: str) -> _StorageOf:
        number = self._numbers.setdefault(id(owner), len(self.storages))
        if number == len(self.storages):
            self.storages.append((owner, dtype))  # keeps it alive, and with it its id
        elif self.storages[number][1] is not dtype:
            raise CheckpointError(
                f"save: expected tensors that share memory to have one dtype, "
                f"got {self.storages[number][1]} and {dtype}; clone() one of them"
            )
        count = int(owner.nbytes) // dtype.itemsize
        kind, count = (_STORAGES[dtype], count) if dtype in _STORAGES else (_UNTYPED, count * dtype.itemsize)
        return _StorageOf(("storage", kind, str(number), device, count))

    dispatch: Any = {
        **_PythonPickler.dispatch,
        _Global: _save_global,
        Tensor: _save_tensor,
        Size: lambda self, s: self._save_call(s, _SIZE, (tuple(s),)),
        dtypes.dtype: lambda self, d: self.save(_DTYPES[d]),
        devices.device: lambda self, d: self._save_call(d, _DEVICE, (d.type,) if d.index is None else (d.type, d.index)),
    }  # fmt: skip


def _attributes(t: Tensor) -> dict[str, Any]:
    """What a user has put on a tensor."""
    return {k: v for k, v in vars(t).items() if k[0] != "_"}


def _address(a: Any) -> int:
    return int(a.__array_interface__["data"][0] if isinstance(a, np.ndarray) else a.data.ptr)


def _is_dense(a: Any) -> bool:
    """Whether the elements fill the memory from the first one on, in some order of the dimensions."""
    expected = a.itemsize
    for stride, n in sorted((s, n) for s, n in zip(a.strides, a.shape) if n > 1):
        if stride != expected:
            return False
        expected *= n
    return True
