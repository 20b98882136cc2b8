"""Python values as bytes, and back: data only, never a pickle.

Contract: `unpacked(packed(x))` equals x and has its types, for None, bool, int, float, complex, str, bytes, list, tuple, dict, OrderedDict,
set, and the arrays, scalars and tensors of dtypes in `DTYPES`. Tensors come back on the CPU, without a graph; an int or a string in
disguise as a plain one, a shape as a tuple. Anything else is a DTypeError that names its type, such as a named tuple. `unpacked` builds
nothing but these, checks every length, and raises WireError for bytes that `packed` has not made.

The bytes: the length of a JSON text (4, little-endian), the text, and behind it the contents of arrays and bytes in the order in which
the text has them. In the text None, booleans, numbers and strings stand for themselves, and anything else is a list whose first element
says what.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np

from core import backend
from core._tensor import Tensor, wrap
from core.errors import DTypeError
from ddp.errors import WireError
from ddp.transport.base import DTYPES

_SERIES: dict[str, Callable[[Any], Any]] = {"list": list, "tuple": tuple, "set": set}
_MAPPINGS: dict[str, Callable[[Any], Any]] = {"dict": dict, "ordered": OrderedDict}
_NAMES = {np.dtype(dtype): name for name, dtype in DTYPES.items()}


def packed(value: Any, where: str = "packed") -> np.ndarray:
    """The bytes (n,) of a value."""
    blobs: list[bytes] = []
    try:
        text = json.dumps(_tree(value, blobs)).encode()
    except _Alien as alien:
        raise DTypeError(
            f"{where}: expected numbers, strings, bytes, lists, tuples, dicts, sets, arrays or tensors, got {alien}; "
            f"send what it is made of"
        ) from None
    except (RecursionError, ValueError) as error:
        raise DTypeError(
            f"{where}: expected a value of a size that can be sent, got one that is not: {error}"
        ) from None
    return np.frombuffer(b"".join([len(text).to_bytes(4, "little"), text, *blobs]), np.uint8).copy()


def unpacked(data: np.ndarray) -> Any:
    """The value of some bytes."""
    raw = data.tobytes()
    end = 4 + int.from_bytes(raw[:4], "little")
    try:
        reader = _Reader(raw, end)
        value = reader.value(json.loads(raw[4:end].decode()))
    except (ValueError, TypeError, KeyError, IndexError, RecursionError) as error:
        raise WireError(f"unpacked: expected bytes that `packed` has made, got others: {error}") from None
    if reader.at != len(raw):
        raise WireError(f"unpacked: expected {reader.at} bytes, got {len(raw)}")
    return value


class _Alien(Exception):
    """A type that is not ours to send."""


def _tree(x: Any, blobs: list[bytes]) -> Any:
    kind = type(x)
    if x is None or kind in (bool, float, str):
        return x
    if isinstance(x, (int, str)) and kind.__module__ != "numpy":  # also what is one in disguise: a rank, a name
        return int(x) if isinstance(x, int) else str.__str__(x)
    if kind in (list, tuple, set) or (isinstance(x, tuple) and not hasattr(x, "_fields")):  # a shape is a tuple
        return [kind.__name__ if kind in (list, set) else "tuple", *(_tree(each, blobs) for each in x)]
    if kind in (dict, OrderedDict):
        name = "dict" if kind is dict else "ordered"
        return [name, *([_tree(k, blobs), _tree(v, blobs)] for k, v in x.items())]
    if kind is complex:
        return ["complex", x.real, x.imag]
    if kind in (bytes, bytearray):
        blobs.append(bytes(x))
        return ["bytes", len(x)]
    if isinstance(x, (Tensor, np.ndarray, np.generic)):
        return _array(x, blobs)
    raise _Alien(f"{kind.__module__}.{kind.__qualname__}")


def _array(x: Any, blobs: list[bytes]) -> list[Any]:
    name = "tensor" if isinstance(x, Tensor) else "array" if isinstance(x, np.ndarray) else "scalar"
    array = backend.of(x._a).to_numpy(x._a) if isinstance(x, Tensor) else np.asarray(x)
    if array.dtype not in _NAMES:
        raise _Alien(f"an array of {array.dtype}")
    blobs.append(array.tobytes())
    return [name, _NAMES[array.dtype], *array.shape]


class _Reader:
    """What is left of the contents behind the text."""

    def __init__(self, raw: bytes, at: int):
        self.raw, self.at = raw, at

    def value(self, node: Any) -> Any:
        if not isinstance(node, list):
            if isinstance(node, dict):
                raise ValueError("an object of JSON")
            return node
        name, *rest = node
        if name in _SERIES:
            return _SERIES[name](self.value(each) for each in rest)
        if name in _MAPPINGS:
            return _MAPPINGS[name]([(self.value(k), self.value(v)) for k, v in rest])
        if name == "complex":
            return complex(*rest)
        if name == "bytes":
            (count,) = rest
            return self._take(count)
        if name not in ("tensor", "array", "scalar"):
            raise ValueError(f"a value of kind {name!r}")
        dtype, *shape = rest
        kind = np.dtype(DTYPES[dtype])
        count = kind.itemsize
        for each in shape:
            count *= each
        array = np.frombuffer(self._take(count), kind).reshape(shape).copy()
        return wrap(array) if name == "tensor" else array if name == "array" else array[()]

    def _take(self, count: int) -> bytes:
        if not isinstance(count, int) or not 0 <= count <= len(self.raw) - self.at:
            raise ValueError(f"a length of {count}")
        self.at += count
        return self.raw[self.at - count : self.at]
