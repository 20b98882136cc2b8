"""How many threads the kernels of the CPU use: torch's `set_num_threads` and `get_num_threads`.

Contract: one pool of threads computes. Where there is oneDNN it is OpenMP's, and NumPy's BLAS has one thread: its own would spin after
each call, on the cores that OpenMP's threads wait for (a step of an encoder took 277 ms with two pools of two threads, and takes 95 ms).
Only large products that oneDNN does not know, float64 above all, get them all (`blas_threads`). Without oneDNN they are BLAS's. Until
the number is set, the libraries decide, from OMP_NUM_THREADS and the number of cores. OpenMP counts for each thread of the program by
itself, so `onednn.primitives` tells it the number in each. A forked child computes with one thread: OpenMP's others did not come along,
and it would wait for them for ever.
Not here: threads of our own; there are none.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from core.backend.onednn import library
from core.errors import ArgumentError

# names under which builds of OpenBLAS export a function; NumPy's wheels have the first
_OPENBLAS = ("scipy_openblas_{}64_", "openblas_{}64_", "openblas_{}")


def set_num_threads(n: int) -> None:
    """Compute with n threads. A BLAS that is not OpenBLAS keeps its own number."""
    if not isinstance(n, int) or isinstance(n, bool) or n < 1:
        raise ArgumentError(f"set_num_threads: expected a positive number of threads, got {n!r}")
    library.wanted_threads = n
    _set_blas_threads(n if library.get() is None else 1)


@contextmanager
def blas_threads() -> Iterator[None]:
    """A large product by NumPy's BLAS, which gets all threads for it."""
    n = get_num_threads() if library.get() is not None else 1
    if n == 1:
        yield
        return
    _set_blas_threads(n)
    try:
        yield
    finally:
        _set_blas_threads(1)


def _set_blas_threads(n: int) -> None:
    found = _openblas("set_num_threads")
    if found is not None:
        found.argtypes, found.restype = [ctypes.c_int], None
        found(n)


library.when_found.append(lambda: _set_blas_threads(1))


def get_num_threads() -> int:
    """The number that was set, or else what the libraries decided."""
    if library.wanted_threads is not None:
        return library.wanted_threads
    lib = library.get()
    if lib is not None and lib.max_threads is not None:
        return lib.max_threads()
    found = _openblas("get_num_threads")
    return found() if found is not None else os.cpu_count() or 1


def blas_kernels() -> str:
    """The processor that OpenBLAS has taken this one for, which decides its kernels; empty for another BLAS.

    OPENBLAS_CORETYPE overrides it, and is read when NumPy is first imported.
    """
    found = _openblas("get_corename")
    if found is None:
        return ""
    found.restype = ctypes.c_char_p
    return found().decode()


_FLOAT32 = np.dtype(np.float32)
_SIZE, _REAL, _POINTER = ctypes.c_int64, ctypes.c_float, ctypes.c_void_p
_DATA = object.__basicsize__  # where an array keeps its data pointer, see `onednn.primitives`


def axpby(a: float, x: Any, b: float, y_: Any) -> bool:
    """y ← a·x + b·y in one pass, if OpenBLAS can: float32, both in C order and of one shape."""
    found = _axpby()
    if (
        found is None or x.dtype != np.float32 or y_.dtype != np.float32 or x.shape != y_.shape
        or not (x.flags.c_contiguous and y_.flags.carray)
    ):  # fmt: skip
        return False
    address = ctypes.c_void_p.from_address
    found(x.size, a, address(id(x) + _DATA).value, 1, b, address(id(y_) + _DATA).value, 1)
    return True


def axpy_each(a: float, xs: Sequence[Any], ys_: Sequence[Any]) -> list[tuple[Any, Any]]:
    """y ← a·x + y for each pair, in one pass, where OpenBLAS can: float32, both in C order and of one shape. Returns the other pairs."""
    found = _axpy()
    if found is None:
        return list(zip(xs, ys_))
    rest = []
    factor, one, address = ctypes.c_float(a), ctypes.c_int64(1), ctypes.c_void_p.from_address
    for x, y_ in zip(xs, ys_):
        if x.dtype is _FLOAT32 is y_.dtype and x.shape == y_.shape and x.flags.c_contiguous and y_.flags.carray:
            found(x.size, factor, address(id(x) + _DATA), one, address(id(y_) + _DATA), one)
        else:
            rest.append((x, y_))
    return rest


@cache
def _axpby() -> Any:
    return _of_blas("saxpby", _SIZE, _REAL, _POINTER, _SIZE, _REAL, _POINTER, _SIZE)


@cache
def _axpy() -> Any:
    return _of_blas("saxpy", _SIZE, _REAL, _POINTER, _SIZE, _POINTER, _SIZE)


def _of_blas(name: str, *arguments: Any) -> Any:
    """A routine of NumPy's own OpenBLAS, which counts in 64 bits; None for another BLAS."""
    for dll in _openblas_libraries():
        found = getattr(dll, f"scipy_cblas_{name}64_", None)
        if found is not None:
            found.argtypes, found.restype = arguments, None
            return found
    return None


def _openblas(function: str) -> Any:
    for dll in _openblas_libraries():
        for name in _OPENBLAS:
            try:
                return getattr(dll, name.format(function))
            except AttributeError:
                continue
    return None


@cache
def _openblas_libraries() -> list[Any]:
    """The OpenBLAS that NumPy has loaded; loading it again gives the same one."""
    return [ctypes.CDLL(str(path)) for path in _openblas_files()]


def _openblas_files() -> Iterator[Path]:
    """Beside NumPy, in its wheels; else what this process has mapped."""
    bundled = sorted(Path(np.__file__).parent.with_name("numpy.libs").glob("*openblas*"))
    if bundled:
        yield from bundled
        return
    try:
        maps = Path("/proc/self/maps").read_text()
    except OSError:
        return
    yield from sorted({Path(line.split()[-1]) for line in maps.splitlines() if "openblas" in line})
