"""Passes over arrays that do several things to each element: a product or sum of two arrays, and what follows.

Where NumPy goes over memory once for each operation, a chain of oneDNN reads and writes each element once, on all threads. Arrays are
float32, in C order and of one shape; numbers come in an array of their own, so that they may change from call to call.
Contract as in `kernels`; False, where something is changed in place, says that nothing has been.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from core.backend.onednn import library as c
from core.backend.onednn.primitives import Builder, cached
from core.backend.onednn.program import Operand, Place, Program, packed

_PIECE = 1 << 18  # elements: what a pass leaves of so many is still in the L3 cache when the next comes


def _pieces(size: int, arrays: int, numbers: int) -> Iterator[list[Operand]]:
    """Arrays of this size, a piece of each at a time, and numbers, which come in one array behind them."""
    for start in range(0, size, _PIECE):
        n = min(_PIECE, size - start)
        places = [packed(Place(i).at(start), n) for i in range(arrays)]
        yield places + [packed(Place(arrays).at(i), 1) for i in range(numbers)]


# -- rows ----------------------------------------------------------------------------------------------------------------


def exp_less(x: np.ndarray, m: np.ndarray) -> np.ndarray | None:
    """e^(x − m), of NaN ∞: (N, C), (N, 1) -> (N, C)"""
    if x.dtype != np.float32 or not x.size or not x.flags.c_contiguous:
        return None
    n, width = x.shape

    def build(b: Builder) -> Program:
        p, (x_, m_, y_) = Program(b), (packed(Place(i), n, w) for i, w in enumerate((width, 1, width)))
        p.chain(x_, c.SUBTRACT, m_, y_, ("eltwise", c.EXP, 0.0, 0.0))
        return p.done()

    call = cached(("exp_less", n, width), build)
    if call is None:
        return None
    y = np.empty(x.shape, x.dtype)
    call(x, m, y)
    return y


# -- updates of optimizers -----------------------------------------------------------------------------------------------


def _are_alike(*arrays: Any) -> bool:
    """Whether all are arrays (not NumPy's scalars, which have no memory that could be given away) in C order of one shape, in float32."""
    return all(
        type(a) is np.ndarray and a.dtype == np.float32 and a.shape == arrays[0].shape and a.flags.c_contiguous
        for a in arrays
    )


def momentum(
    x_: np.ndarray, g: np.ndarray, v_: np.ndarray, lr: float, momentum: float, rate: float, decay: float
) -> bool:
    """v ← momentum·v + rate·(g + decay·x), x ← x − lr·v"""
    if not _are_alike(x_, g, v_):
        return False

    def build(b: Builder) -> Program:
        p = Program(b)
        for x, g, v, decay, step in _pieces(x_.size, 3, 2):
            p.chain(x, c.MULTIPLY, decay, v, ("binary", c.ADD, g), ("eltwise", c.LINEAR, rate, 0.0), ("sum", momentum))
            p.chain(v, c.MULTIPLY, step, x, ("sum", 1.0))
        return p.done()

    call = cached(("momentum", x_.size, rate, momentum), build)
    if call is None:
        return False
    call(x_, g, v_, np.array((decay, -lr), np.float32))
    return True


def adam(
    x_: np.ndarray, g: np.ndarray, m_: np.ndarray, v_: np.ndarray, size: float, betas: tuple[float, float], eps: float, keep: float
) -> bool:  # fmt: skip
    """m ← β₁m + (1−β₁)g, v ← β₂v + (1−β₂)g², x ← keep·x − size·m/(√v + eps)"""
    if not (keep and _are_alike(x_, g, m_, v_)):
        return False
    beta1, beta2 = betas

    def build(b: Builder) -> Program:
        p = Program(b)
        for x, g, m, v, rate, one, eps, size, keep in _pieces(x_.size, 4, 5):
            p.chain(g, c.MULTIPLY, rate, m, ("sum", beta1))
            p.chain(g, c.MULTIPLY, g, v, ("eltwise", c.LINEAR, 1 - beta2, 0.0), ("sum", beta2))
            # ((√v + eps)⁻¹·m·(−size/keep) + x)·keep
            p.chain(
                v, c.MULTIPLY, one, x, ("eltwise", c.SQRT, 0.0, 0.0), ("binary", c.ADD, eps), ("eltwise", c.POWER, 1.0, -1.0),
                ("binary", c.MULTIPLY, m), ("binary", c.MULTIPLY, size), ("sum", 1.0), ("binary", c.MULTIPLY, keep),
            )  # fmt: skip
        return p.done()

    call = cached(("adam", x_.size, beta1, beta2), build)
    if call is None:
        return False
    call(x_, g, m_, v_, np.array((1 - beta1, 1, eps, -size / keep, keep), np.float32))
    return True
