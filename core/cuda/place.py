"""Which GPU is meant, and the backend behind it. The rest of `core.cuda` stands on this."""

from __future__ import annotations

from typing import Any

from core import backend
from core.devices import device as _device
from core.errors import DeviceError


def gpu() -> Any:
    """The backend; an error that says what is missing where there is no GPU."""
    return backend.get("cuda")


def is_initialized() -> bool:
    """Whether the GPU has been used yet."""
    return "cuda" in backend._open


def current_device() -> int:
    """The index of the GPU that new tensors go to."""
    return int(gpu().xp.cuda.runtime.getDevice())


def index(where: Any) -> int:
    """The index meant by None (the current one), a number, a string or a device."""
    if where is None:
        return current_device()
    found = where if isinstance(where, int) else _device(where).index
    if found is None:
        return current_device()
    if not 0 <= found < gpu().count():
        raise DeviceError(f"device 'cuda:{found}': expected an index below {gpu().count()}, the number of GPUs")
    return found


class device:
    """`with device(1):` new tensors go to another GPU. None or a negative index does nothing."""

    def __init__(self, where: Any):
        self.where = where

    def __enter__(self) -> None:
        if self.where is not None and not (isinstance(self.where, int) and self.where < 0):
            self._context = gpu().xp.cuda.Device(index(self.where))
            self._context.__enter__()

    def __exit__(self, *exc: object) -> None:
        if hasattr(self, "_context"):
            self._context.__exit__(*exc)
