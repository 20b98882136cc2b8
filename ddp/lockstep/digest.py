"""SHA-256 of a training state: the number that two runs of one experiment have in common.

Contract: a state is a sequence of (name, value). Values are tensors and arrays (dtype, shape and bytes count, NaNs are all alike), plain
values, containers of these, and objects with a `state_dict`. Order of keys does not count, types do not either where numbers are equal
in `repr`. What cannot be told apart by its value, a function for one, counts by its type's name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from core._tensor import Tensor

Items = Iterable[tuple[str, Any]]


def digests(items: Items) -> dict[str, str]:
    """The digest of each item, 16 hexadecimal digits: enough to tell two apart, short enough for a log."""
    found = {}
    for name, value in items:
        hasher = hashlib.sha256()
        _feed(hasher, value)
        found[name] = hasher.hexdigest()[:16]
    return found


def digest(items: Items) -> str:
    """The digest of the whole state."""
    hasher = hashlib.sha256()
    for name, value in items:
        hasher.update(f"{len(name)}:{name}".encode())
        _feed(hasher, value)
    return hasher.hexdigest()


def _feed(hasher: Any, value: Any) -> None:
    if isinstance(value, Tensor):
        value = value._host()
    if isinstance(value, np.ndarray):
        hasher.update(f"{value.dtype.name}{value.shape}".encode())
        hasher.update(np.ascontiguousarray(_same_nans(value)).reshape(-1).view(np.uint8).data)
    elif isinstance(value, Mapping):
        hasher.update(f"{{{len(value)}".encode())
        for key, member in sorted(value.items(), key=lambda item: repr(item[0])):
            hasher.update(f"{key!r}:".encode())
            _feed(hasher, member)
    elif isinstance(value, (list, tuple)):
        hasher.update(f"[{len(value)}".encode())
        for member in value:
            _feed(hasher, member)
    elif isinstance(value, float):
        hasher.update(float(value).hex().encode())
    elif value is None or isinstance(value, (bool, int, str)):
        hasher.update(f"{value!r};".encode())
    elif hasattr(value, "state_dict"):
        _feed(hasher, value.state_dict())
    else:
        hasher.update(type(value).__name__.encode())


def _same_nans(a: np.ndarray) -> np.ndarray:
    """The array with one bit pattern for all NaNs: which payload a sum of two NaNs has is nobody's promise."""
    if a.dtype.kind in "fcV" and (nans := np.isnan(a)).any():
        return np.where(nans, np.array(np.nan, a.dtype), a)
    return a
