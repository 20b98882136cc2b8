"""What the names in a file may stand for: a closed table, and what callers add to it by naming a class.

Contract: a name is looked up, never imported; each entry is a function of ours that checks what it is given and makes
data. A class that a caller named with `add_safe_globals` is called by the file as the file likes: name only what you
would let a stranger construct.
Source: torch/_utils.py, torch/storage.py and torch/serialization.py (names and arguments), numpy/_core/src/multiarray
(states).
"""

from __future__ import annotations

import collections
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FunctionType, ModuleType
from typing import Any

import numpy as np

from core import backend, devices, dtypes
from core._tensor import Size, Tensor, _moved, wrap
from core.errors import CheckpointError
from core.serialize.unpickle import Named, brief, key

# -- classes that callers name -------------------------------------------------------------------------------------------

_safe: dict[tuple[str, str], Any] = {}  # (module, name) -> class or function


def add_safe_globals(safe_globals: list[Any]) -> None:
    """Let files name these classes or functions, which `load` will call as a file asks.

    (object, "module.name") gives one another name.
    """
    for item in safe_globals:
        item, path = item if isinstance(item, tuple) else (item, f"{item.__module__}.{item.__qualname__}")
        module, _, name = path.rpartition(".")
        if path == f"{item.__module__}.{item.__qualname__}":
            module, name = item.__module__, item.__qualname__  # a nested class has dots of its own
        _safe[module, name] = item


def get_safe_globals() -> list[Any]:
    """The classes and functions that callers have named."""
    return list(_safe.values())


def clear_safe_globals() -> None:
    """Forget them."""
    _safe.clear()


@contextmanager
def safe_globals(safe_globals: list[Any]) -> Iterator[None]:
    """Let files name these, in a block."""
    before = dict(_safe)
    add_safe_globals(safe_globals)
    try:
        yield
    finally:
        _safe.clear()
        _safe.update(before)


# -- storages and tensors ------------------------------------------------------------------------------------------------

STORAGE_NAMES = {
    "FloatStorage": dtypes.float32, "DoubleStorage": dtypes.float64, "HalfStorage": dtypes.float16, "BFloat16Storage": dtypes.bfloat16,
    "LongStorage": dtypes.int64, "IntStorage": dtypes.int32, "ShortStorage": dtypes.int16, "CharStorage": dtypes.int8,
    "ByteStorage": dtypes.uint8, "BoolStorage": dtypes.bool,
    "ComplexFloatStorage": dtypes.complex64, "ComplexDoubleStorage": dtypes.complex128,
}  # fmt: skip


class Storage:
    """The bytes that tensors share, (n,) uint8 on a device: what a `map_location` function gets, and may move."""

    def __init__(self, raw: Any):
        self.raw = raw

    def nbytes(self) -> int:
        """How many bytes."""
        return int(self.raw.nbytes)

    @property
    def device(self) -> devices.device:
        return wrap(self.raw).device

    def to(self, device: Any) -> Storage:
        """The bytes on a device; itself if they are there."""
        raw = _moved(self.raw, device)
        return self if raw is self.raw else Storage(raw)

    def cpu(self) -> Storage:
        return self.to("cpu")

    def cuda(self, device: Any = None) -> Storage:
        return self.to(devices.device("cuda", device) if isinstance(device, int) else device or "cuda")

    def __repr__(self) -> str:
        return f"Storage({self.nbytes()} bytes, device='{self.device}')"


class _Mention:
    """A storage as a file mentions it: the bytes, and as what elements."""

    def __init__(self, storage: Storage, dtype: dtypes.dtype | None):
        self.storage, self.dtype = storage, dtype


class _StorageType:
    def __init__(self, dtype: dtypes.dtype | None):
        self.dtype = dtype  # None: bytes, whose tensors bring their own


def _rule(ok: bool, name: str, expected: str, got: Any) -> None:
    if not ok:
        raise CheckpointError(f"{name}: expected {expected}, got {brief(got)}; the file is damaged or made to do harm")


def _is_sizes(x: Any) -> bool:
    return isinstance(x, tuple) and len(x) <= 64 and all(type(n) is int and 0 <= n < 2**63 for n in x)


def _tensor(
    storage: Any,
    offset: Any,
    size: Any,
    stride: Any,
    requires_grad: Any = False,
    hooks: Any = None,
    metadata: Any = None,
) -> Tensor:
    _rule(type(storage) is _Mention and storage.dtype is not None, "tensor", "a typed storage", type(storage).__name__)
    return _view(storage.storage, storage.dtype, offset, size, stride, requires_grad, metadata)


def _tensor_v3(
    storage: Any, offset: Any, size: Any, stride: Any, requires_grad: Any, hooks: Any, dtype: Any, metadata: Any = None
) -> Tensor:
    _rule(type(storage) is _Mention, "tensor", "a storage", type(storage).__name__)
    _rule(isinstance(dtype, dtypes.dtype), "tensor", "a dtype", dtype)
    return _view(storage.storage, dtype, offset, size, stride, requires_grad, metadata)


def _view(
    storage: Storage, dtype: dtypes.dtype, offset: Any, size: Any, stride: Any, requires_grad: Any, metadata: Any
) -> Tensor:
    """A tensor on a storage's memory, all of whose elements lie inside it. Offset and strides count elements."""
    fit = _is_sizes(size) and _is_sizes(stride) and len(size) == len(stride)
    _rule(fit, "tensor", "as many sizes as strides, all >= 0", (size, stride))
    fit = _is_sizes((offset,)) and type(requires_grad) is bool
    _rule(fit, "tensor", "an offset >= 0 and a bool", (offset, requires_grad))
    _rule(not requires_grad or _differentiable(dtype), "tensor", "a dtype that can require grad", dtype)
    _rule(not metadata, "tensor", "no lazy conjugation or negation (save x.resolve_conj().resolve_neg())", metadata)
    raw, held = storage.raw, storage.raw.nbytes // dtype.itemsize
    last = offset + sum((n - 1) * s for n, s in zip(size, stride)) if all(size) else offset - 1
    _rule(last < held, "tensor", f"sizes, strides and offset inside of a storage of {held}", (size, stride, offset))
    count = dtype.itemsize
    for n in size:
        count *= n or 1
    _rule(count < 2**62, "tensor", "a size that can be addressed", size)
    strides = tuple(s * dtype.itemsize if n > 1 else dtype.itemsize for n, s in zip(size, stride))
    if not all(size):
        array = np.empty(size, dtype.numpy) if type(raw) is np.ndarray else backend.of(raw).xp.empty(size, dtype.numpy)
    elif type(raw) is np.ndarray:  # as_strided would hide whose memory it is, and `save` would not see what is shared
        array = np.ndarray(size, dtype.numpy, raw, offset * dtype.itemsize, strides)
    else:
        typed = raw[: held * dtype.itemsize].view(dtype.numpy)[offset:]
        array = backend.of(raw).xp.lib.stride_tricks.as_strided(typed, size, strides)
    t = wrap(array)
    return t.requires_grad_() if requires_grad else t


def _differentiable(dtype: dtypes.dtype) -> bool:
    return dtype.is_floating_point or dtype.is_complex


def _parameter(data: Any, requires_grad: Any, hooks: Any, state: Any = None) -> Tensor:
    from core.nn.parameter import Parameter  # not above: tensors are loaded and saved without core.nn

    fit = type(data) is Tensor and type(requires_grad) is bool
    _rule(fit, "Parameter", "a tensor and a bool", (type(data).__name__, requires_grad))
    _rule(not requires_grad or _differentiable(data.dtype), "Parameter", "a dtype that can require grad", data.dtype)
    return _with_attributes(Parameter(data, requires_grad), state)


def _from_type(function: Any, kind: Any, args: Any, state: Any) -> Tensor:
    """A Tensor that had attributes."""
    fit = type(function) is Named and function.call in (_tensor, _tensor_v3)
    _rule(fit, "tensor", "a function that makes tensors", function)
    t = function.call(*args)
    if type(kind) is Named and kind.name in _PARAMETER:
        return _parameter(t.detach(), t.requires_grad, None, state)
    _rule(type(kind) is Named and kind.name in _TENSOR, "tensor", "the class Tensor or Parameter", kind)
    return _with_attributes(t, state)


def _with_attributes(t: Any, state: Any) -> Any:
    if state:
        _rule(type(state) is dict, "tensor", "attributes as a dict", type(state).__name__)
        for name, value in state.items():
            ok = type(name) is str and name.isidentifier() and name[0] != "_" and not hasattr(type(t), name)
            _rule(ok, "tensor", "attributes of the user's own", name)
            setattr(t, name, value)
    return t


_TENSOR = ("torch.Tensor", "torch._tensor.Tensor")
_PARAMETER = ("torch.nn.parameter.Parameter", "torch.nn.Parameter")


# -- Python and NumPy ----------------------------------------------------------------------------------------------------

NUMERIC = "biufc"  # kinds of NumPy dtypes whose bytes are only numbers
_array_stub = Named("numpy.ndarray")
_defaults = {
    "builtins.list": list,
    "builtins.dict": dict,
    "builtins.set": set,
    "builtins.int": int,
    "builtins.float": float,
}


def _encode(text: Any, encoding: Any) -> bytes:
    _rule(type(text) is str and encoding in ("latin1", "latin-1"), "bytes", "text to encode as latin1", encoding)
    return text.encode("latin1")


def _bytes() -> bytes:
    return b""


def _bytearray(data: Any = b"", encoding: Any = "latin-1") -> bytearray:
    return bytearray(_encode(data, encoding) if type(data) is str else _only(bytes, data))


def _complex(real: Any, imag: Any) -> complex:
    return complex(_only(float, real), _only(float, imag))


def _only(kind: type, value: Any) -> Any:
    _rule(type(value) is kind, kind.__name__, f"a {kind.__name__}", type(value).__name__)
    return value


def _set(items: Any = ()) -> set[Any]:
    return {key(x) for x in (items if items == () else _only(list, items))}


def _frozenset(items: Any = ()) -> frozenset[Any]:
    return frozenset(_set(items))


def _ordered_dict(pairs: Any = ()) -> Any:
    return collections.OrderedDict((key(k), v) for k, v in (pairs if pairs == () else _only(list, pairs)))


def _default_dict(factory: Any = None) -> Any:
    known = factory is None or (type(factory) is Named and factory.name in _defaults)
    _rule(known, "defaultdict", f"no default or one of {', '.join(_defaults)}", factory)
    return collections.defaultdict(None if factory is None else _defaults[factory.name])


def _counter(counts: Any = None) -> Any:
    return collections.Counter({} if counts is None else _only(dict, counts))


def _size(lengths: Any) -> Size:
    _rule(_is_sizes(lengths), "Size", "lengths >= 0", lengths)
    return Size(lengths)


def _device(kind: Any, index: Any = None) -> devices.device:
    _rule(type(kind) is str and (index is None or type(index) is int), "device", "a type and an index", (kind, index))
    _rule(kind in backend.BACKENDS, "device", f"one of {', '.join(backend.BACKENDS)}", kind)
    return devices.device(kind, index)


def _numpy_dtype(code: Any, align: Any = False, copy: Any = True) -> np.dtype:
    fit = type(code) is str and code[:1] in NUMERIC and code[1:].isdigit()
    _rule(fit, "NumPy dtype", "a type of numbers, such as 'f4'", code)
    return np.dtype(code, align=False, copy=True)  # a copy: its state comes with BUILD


def _numpy_scalar(dtype: Any, data: Any) -> Any:
    ok = isinstance(dtype, np.dtype) and dtype.kind in NUMERIC and type(data) is bytes and len(data) == dtype.itemsize
    _rule(ok, "NumPy scalar", "a type of numbers and its bytes", dtype)
    return np.frombuffer(data, dtype)[0]


def _numpy_array(kind: Any, shape: Any, code: Any) -> np.ndarray:
    _rule(kind is _array_stub and shape == (0,), "NumPy array", "an empty ndarray to fill", (kind, shape))
    return np.empty((0,), np.uint8)


def _build_array(a: np.ndarray, state: Any) -> None:
    _rule(type(state) is tuple and len(state) == 5, "NumPy array", "a state of 5 parts", type(state).__name__)
    version, shape, dtype, fortran, data = state
    fit = version == 1 and _is_sizes(shape) and type(fortran) is bool
    _rule(fit, "NumPy array", "version 1, a shape and a bool", state[:2])
    _rule(isinstance(dtype, np.dtype) and dtype.kind in NUMERIC, "NumPy array", "a type of numbers", dtype)
    size = dtype.itemsize
    for n in shape:
        size *= n
    _rule(type(data) is bytes and len(data) == size, "NumPy array", f"{size} bytes", data)
    a.__setstate__((version, shape, dtype, fortran, data))


def _build_dtype(d: np.dtype, state: Any) -> None:
    # version, byte order, then what only other types have: subarray, names, fields, item size, alignment, flags
    ok = type(state) is tuple and len(state) == 8 and state[0] == 3 and state[1] in ("<", ">", "|", "=")
    _rule(ok and state[2:] == (None, None, None, -1, -1, 0), "NumPy dtype", "the state of a type of numbers", state)
    d.__setstate__(state)  # type: ignore[attr-defined]


# -- the table -----------------------------------------------------------------------------------------------------------

_CALLS: dict[str, Callable[..., Any] | None] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._tensor._rebuild_from_type_v2": _from_type,
    "torch.Size": _size,
    "torch.device": _device,
    **dict.fromkeys((*_TENSOR, *_PARAMETER)),
    "collections.OrderedDict": _ordered_dict,
    "collections.defaultdict": _default_dict,
    "collections.Counter": _counter,
    "_codecs.encode": _encode,
    "builtins.bytes": _bytes,
    "builtins.bytearray": _bytearray,
    "builtins.complex": _complex,
    "builtins.set": _set,
    "builtins.frozenset": _frozenset,
    **{name: None for name in _defaults if name != "builtins.set"},
    "numpy.dtype": _numpy_dtype,
    **{f"{module}.scalar": _numpy_scalar for module in ("numpy._core.multiarray", "numpy.core.multiarray")},
    **{f"{module}._reconstruct": _numpy_array for module in ("numpy._core.multiarray", "numpy.core.multiarray")},
}

TABLE: dict[str, Any] = {
    **{name: Named(name, call) for name, call in _CALLS.items()},
    "numpy.ndarray": _array_stub,
    **{f"torch.{name}": _StorageType(d) for name, d in STORAGE_NAMES.items()},
    **{f"torch.{d.name}": d for d in dtypes.ALL},
    "torch.storage.UntypedStorage": _StorageType(None),
}


class FileWorld:
    """What the unpickling machine asks for, answered from the table, the storages of one file, and classes and functions
    that are trusted: those that callers have named and, in a file with `models`, what models are made of.

    `storage(key, location, nbytes)` gives the bytes that go by a key.
    """

    def __init__(self, storage: Callable[[str, str, int], Storage], models: bool):
        self.storage, self.models = storage, models
        self.trusted: dict[int, Named] = {}  # by the number of a class or function that the file has named
        self._made_by: set[type] = set()

    def find(self, module: str, name: str) -> Any:
        module = "builtins" if module == "__builtin__" else module
        found = TABLE.get(f"{module}.{name}") if "." not in name else None
        if found is not None:
            return found
        c = _safe.get((module, name))
        known = c is not None
        if c is None and self.models:
            c = model_part(module, name)
        if c is None:
            raise CheckpointError(
                f"expected data only, got the class or function {module}.{name}, which load does not know and will not "
                f"import or run; if you trust it with what the file holds: core.serialize.add_safe_globals([{name}]), "
                "or save a state_dict instead"
            )
        # What callers have named, a file may call; what models are made of, it may only mention, and fill with a state.
        new = (lambda *args: c.__new__(c, *args)) if isinstance(c, type) else None
        self.trusted[id(c)] = Named(f"{module}.{name}", c if known else None, new)
        if isinstance(c, type):
            self._made_by.add(c)
        return c

    def callable(self, value: Any) -> Named | None:
        return self.trusted.get(id(value))

    def persistent(self, identity: Any) -> Any:
        _rule(type(identity) is tuple and 5 <= len(identity) <= 6, "storage", "an identity of 5 or 6 parts", identity)
        tag, kind, name, location, count = identity[:5]
        _rule(tag == "storage" and type(kind) is _StorageType, "storage", "a known storage type", kind)
        _rule(type(name) is str and name.isascii() and name.isdigit(), "storage", "a number as key", name)
        _rule(type(location) is str and _is_sizes((count,)), "storage", "a location and a count", (location, count))
        _rule(len(identity) == 5 or identity[5] is None, "storage", "no view of a storage, as in PyTorch 0.1", identity)
        itemsize = 1 if kind.dtype is None else kind.dtype.itemsize
        return _Mention(self.storage(name, location, count * itemsize), kind.dtype)

    def build(self, value: Any, state: Any) -> None:
        kind = type(value)
        if kind is collections.OrderedDict:
            ok = type(state) is dict and set(state) == {"_metadata"} and isinstance(state["_metadata"], dict)
            _rule(ok, "OrderedDict", "no attribute but _metadata, a dict", state)
            value._metadata = state["_metadata"]
        elif kind is np.ndarray:
            _build_array(value, state)
        elif isinstance(value, np.dtype):
            _build_dtype(value, state)
        elif kind in self._made_by:
            self._build_named(value, state)
        else:
            _rule(False, "BUILD", "an OrderedDict, a NumPy array or a class that was named safe", kind.__name__)

    def _build_named(self, value: Any, state: Any) -> None:
        if hasattr(value, "__setstate__"):
            value.__setstate__(state)
            return
        fields, slots = state if isinstance(state, tuple) and len(state) == 2 else (state, None)
        for part in (fields, slots):
            fit = part is None or (type(part) is dict and all(type(k) is str for k in part))
            _rule(fit, type(value).__name__, "fields by name", part)
        if fields:
            vars(value).update(fields)
        for name, v in (slots or {}).items():
            setattr(value, name, v)

    def inside(self, value: Any) -> Any:
        bare = isinstance(value, (_Mention, _StorageType))
        _rule(not bare, "load", "tensors", "a bare storage, which core does not have (save its tensor)")
        return vars(value).values() if type(value) in self._made_by and hasattr(value, "__dict__") else ()


def model_part(module: str, name: str) -> Any:
    """What a whole model is made of: a class of Modules that the program has, or a function of core.nn.functional. None
    if the name is neither. Nothing is imported; names that PyTorch wrote are those of our layers.
    """
    from core.nn import functional
    from core.nn.modules.module import Module

    module = "core" + module[5:] if module.startswith("torch.nn.") else module
    if module.startswith("core.nn.functional"):
        function = vars(functional).get(name)
        return function if isinstance(function, FunctionType) else None
    found: Any = sys.modules.get(module)
    for part in name.split("."):  # by what is there: asking a module or class for a name can run code
        found = vars(found).get(part) if isinstance(found, (ModuleType, type)) else None
    return found if isinstance(found, type) and issubclass(found, Module) else None
