"""NVIDIA GPUs: CuPy. The only module that imports cupy, and only when a GPU is asked for."""

from __future__ import annotations

from typing import Any

import numpy as np

from core.backend.base import Backend
from core.errors import DeviceError, missing_library


def is_available() -> bool:
    """Whether CuPy is installed and sees a GPU. Never raises."""
    try:
        import cupy
    except ImportError:
        return False
    return bool(cupy.is_available())


class CUDABackend(Backend):
    """The plain implementation on CuPy arrays."""

    device_type = "cuda"

    def __init__(self) -> None:
        try:
            import cupy
        except ImportError:
            raise missing_library("cupy", "device 'cuda'", "cuda13") from None
        if not cupy.is_available():
            raise DeviceError(
                "device 'cuda': expected an NVIDIA GPU and its driver, found none; "
                "use device 'cpu', or look at the output of nvidia-smi"
            )
        self.xp = cupy
        self.array_type = cupy.ndarray

    def index_of(self, array: Any) -> int:
        return int(array.device.id)

    def count(self) -> int:
        return int(self.xp.cuda.runtime.getDeviceCount())

    def from_numpy(self, array: np.ndarray, index: int | None = None) -> Any:
        if index is None:
            return self.xp.asarray(array)
        if index >= self.count():
            raise DeviceError(f"device 'cuda:{index}': expected an index below {self.count()}, the number of GPUs")
        with self.xp.cuda.Device(index):
            return self.xp.asarray(array)

    def to_numpy(self, array: Any) -> np.ndarray:
        return self.xp.asnumpy(array)

    def reshape_view(self, x: Any, shape: tuple[int, ...]) -> Any:
        y = x.view()
        try:
            y.shape = shape  # CuPy, like NumPy, refuses where this would need a copy
        except (AttributeError, ValueError):
            return None
        return y

    def synchronize(self) -> None:
        self.xp.cuda.get_current_stream().synchronize()
