"""Where the stack stands when a kernel begins.

Some kernels of oneDNN save vector registers on the stack at every few elements: softmax, the gradient of gelu, chains of element-wise
operations. The ABI promises them a stack pointer that is a multiple of 16, and where it is no multiple of 32 each save and load is
split: on Zen 4 gelu's gradient then takes 640 µs instead of 320, and softmax 450 instead of 330. Where it stands is an accident of
the size of the environment and of how deep the calls are. So who calls such a kernel asks (2 µs), and if need be passes arguments
that nobody reads: ctypes puts them on the stack, below which the kernel then begins.

Contract: numbers do not depend on it, only time. x86-64 with glibc; elsewhere nothing is ever passed. The stacks of OpenMP's other
threads are not ours to move.
"""

from __future__ import annotations

import ctypes
import platform
import sys
import threading
from ctypes import c_int, c_long, c_void_p
from functools import cache
from typing import Any

ARGUMENTS: list[Any] = [c_void_p, c_void_p, c_int, c_void_p]  # of dnnl_primitive_execute
_RSP = 160  # offset of the stack pointer in glibc's ucontext_t
_CONTEXT_BYTES = 1024  # of a ucontext_t, and some
_LINE = 32
_MOST = 16  # arguments tried
_NOTHING: tuple[int, ...] = ()


class _Thread(threading.local):
    """Each thread asks into a place of its own."""

    def __init__(self) -> None:
        self.context = ctypes.create_string_buffer(_CONTEXT_BYTES)
        self.address = ctypes.addressof(self.context)
        self.pointer = ctypes.c_uint64.from_buffer(self.context, _RSP)


_mine = _Thread()


@cache
def _calibrated() -> tuple[Any, tuple[int, ...]]:
    """The function that asks, and the arguments that make an odd stack even; (None, ()) where that cannot be."""
    if platform.machine() != "x86_64" or not sys.platform.startswith("linux"):
        return None, ()
    functions, odd = [], []
    for extra in range(_MOST):
        try:
            ask = ctypes.CDLL(None)["getcontext"]
        except (OSError, AttributeError):
            return None, ()
        ask.argtypes, ask.restype = [*ARGUMENTS, *[c_long] * extra], c_int
        ask(_mine.address, None, 0, None, *[0] * extra)
        functions.append(ask)
        odd.append(_mine.pointer.value % _LINE != 0)
    extra = next((i for i, other in enumerate(odd) if other != odd[0]), 0)
    return (functions[0], (0,) * extra) if extra else (None, ())


def correction() -> tuple[int, ...]:
    """What the caller is to pass after the arguments of dnnl_primitive_execute, so that it begins with an even stack."""
    ask, zeros = _calibrated()
    if ask is None:
        return ()
    mine = _mine
    # called as the kernel will be: without the star it would stand elsewhere
    ask(mine.address, None, 0, None, *_NOTHING)
    return zeros if mine.pointer.value % _LINE else ()


def shifted(execute: Any) -> Any:
    """The same function with as many arguments more as `correction` has."""
    made = ctypes.CFUNCTYPE(c_int, *ARGUMENTS, *[c_long] * len(_calibrated()[1]))
    return ctypes.cast(execute, made)
