"""The seam between `core` and the libraries that compute.

`base.Backend` is the plain implementation, right everywhere, and the oracle of the tests; a member overrides what its library does
better and is the only file that imports that library. An op asks `of(array)` who computes; nothing else in `core` knows.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from core.backend.base import Backend

# device type -> class, imported on first use
BACKENDS = {
    "cpu": "core.backend.cpu:CPUBackend",
    "cuda": "core.backend.cuda:CUDABackend",
}

_open: dict[str, Backend] = {}  # device type -> the one instance
_by_array: dict[type, Backend] = {}  # array type -> the same instance
opened: list[Callable[[Backend], None]] = []  # called with each backend when it has been opened


def get(device_type: str) -> Backend:
    """The backend of a device type, opened on first use; raises DeviceError where there is no such device."""
    found = _open.get(device_type)
    if found is None:
        module, _, name = BACKENDS[device_type].partition(":")
        found = getattr(import_module(module), name)()
        assert found is not None
        _open[device_type] = _by_array[found.array_type] = found
        for tell in opened:
            tell(found)
    return found


def of(array: Any) -> Backend:
    """The backend that computes on this array."""
    found = _by_array.get(type(array))
    if found is None:
        assert isinstance(array, np.ndarray), f"no backend for arrays of {type(array)}"
        found = get("cpu")  # first use, or a subclass of ndarray
    return found
