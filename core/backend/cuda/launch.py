"""Starts the kernels of the table. Each is compiled when it is first asked for; CuPy keeps the binaries on disk."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from ml_dtypes import bfloat16

from core.backend.cuda.kernels import NVRTC, SOURCES, Instance, body

# dtypes by their number, which is quicker to ask for than the dtype is to hash
NAMES = {
    np.dtype(t).num: np.dtype(t).name
    for t in (np.float32, np.float16, bfloat16, np.float64, np.uint8, np.int16, np.int32, np.int64)
}
_FLOATS = {np.dtype(t).num for t in (np.float32, np.float16, bfloat16, np.float64)}

Grid = tuple[int, ...]


class Launch(Protocol):
    """`launch(instance, kernel, grid, block, *args)`: arrays, None for a null pointer, NumPy scalars, and NumPy records by value."""

    def __call__(self, instance: Instance, kernel: str, grid: Grid, block: Grid, *args: Any) -> None: ...


class Launcher:
    """On the current device and stream."""

    def __init__(self, xp: Any):
        self._xp = xp
        self._modules: dict[Instance, Any] = {}
        self._kernels: dict[tuple[Instance, str], Any] = {}

    def __call__(self, instance: Instance, kernel: str, grid: Grid, block: Grid, *args: Any) -> None:
        found = self._kernels.get((instance, kernel))
        if found is None:
            module = self._modules.get(instance)
            if module is None:
                module = self._modules[instance] = self._xp.RawModule(
                    code=NVRTC + body(instance), options=("--std=c++17",)
                )
            found = self._kernels[instance, kernel] = module.get_function(kernel)
        found(grid, block, args)


def instance(be: Any, source: str, x: Any, w: Any = None) -> Instance | None:
    """The instance for arrays of these dtypes, if it is in the table and kernels can be started. Without w, T and W are one type."""
    if be.launch is None:
        return None
    t = NAMES.get(x.dtype.num)
    u = t if w is None else NAMES.get(w.dtype.num)
    return Instance(source, t, u) if t is not None and u is not None and (t, u) in SOURCES[source] else None


def is_float(x: Any) -> bool:
    """Whether the kernels have this dtype as T."""
    return x.dtype.num in _FLOATS


def accumulator(x: Any) -> type:
    """The NumPy type of A: what sums over x are accumulated in."""
    return np.float64 if x.dtype.itemsize == 8 else np.float32


def blocks(n: int, threads: int = 256, most: int = 1 << 16) -> Grid:
    """A grid of at least one and at most `most` blocks over n elements."""
    return (max(1, min(most, -(-n // threads))),)


def row_threads(n: int) -> Grid:
    """A block for a row of n elements: about four elements a thread."""
    return (min(1024, max(32, 1 << max(0, (n - 1) // 4).bit_length())),)
