"""Passes over arrays that do several things to each element: a product or sum of two arrays, and what follows.

Where NumPy goes over memory once for each operation, a chain of oneDNN reads and writes each element once, on all threads. Arrays are
float32, in C order and of one shape; an operand may also have one number for each row, or be a single number in an array of its own, so
that it may change from call to call.
Contract as in `kernels`; False, where something is changed in place, says that nothing has been.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from core.backend.onednn import library as c
from core.backend.onednn.primitives import Builder, Call, Handle, cached

Op = tuple[Any, ...]

ALL, ROWS, ONE = "all", "rows", "one"  # of an operand: like the first, one number for each row, one number


def chain(shape: tuple[int, ...], algorithm: int, other: str, *ops: Op) -> Call | None:
    """y ← x ∘ other and then the ops in turn: ("eltwise", algorithm, alpha, beta), ("binary", algorithm, ALL or ONE),
    ("sum", scale), which adds scale times what y holds. The operands of the call are x, the other, those of the ops, y."""

    def build(b: Builder) -> Call:
        shapes = {ALL: shape, ROWS: (*shape[:-1], 1), ONE: (1,) * len(shape)}
        operands = {kind: b.packed(of, c.F32) for kind, of in shapes.items()}
        inputs = {c.SRC: operands[ALL], c.OTHER: operands[other]}
        described = []
        for i, (kind, *args) in enumerate(ops):
            if kind == "binary":
                args[1] = inputs[c.AFTER * (i + 1) + c.OTHER] = operands[args[1]]
            described.append((kind, *args, *((0, c.UNDEF) if kind == "sum" else ())))
        b.append(*described)
        d: Handle = operands[ALL]
        return b.call(b.descriptor("binary", algorithm, d, operands[other], d), inputs, {c.DST: d})

    return cached(("chain", shape, algorithm, other, ops), build)


def number(value: float) -> np.ndarray:
    """A factor for a call."""
    return np.array(value, np.float32)


# -- rows ----------------------------------------------------------------------------------------------------------------


def exp_less(x: np.ndarray, m: np.ndarray) -> np.ndarray | None:
    """e^(x − m), of NaN ∞: (N, C), (N, 1) -> (N, C)"""
    if x.dtype != np.float32 or not x.size or not x.flags.c_contiguous:
        return None
    call = chain(x.shape, c.SUBTRACT, ROWS, ("eltwise", c.EXP, 0.0, 0.0))
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


_PIECE = 1 << 17  # elements that stay in the cache from one pass to the next


def momentum(
    x_: np.ndarray, g: np.ndarray, v_: np.ndarray, lr: float, momentum: float, rate: float, decay: float
) -> bool:
    """v ← momentum·v + rate·(g + decay·x), x ← x − lr·v"""
    if not _are_alike(x_, g, v_):
        return False
    calls = {}
    for n in {min(_PIECE, x_.size), x_.size % _PIECE} - {0}:
        first = chain((n,), c.MULTIPLY, ONE, ("binary", c.ADD, ALL), ("eltwise", c.LINEAR, rate, 0.0), ("sum", momentum))
        second = chain((n,), c.MULTIPLY, ONE, ("sum", 1.0))
        if first is None or second is None:
            return False
        calls[n] = first, second
    x, g, v, decay_, lr_ = x_.reshape(-1), g.reshape(-1), v_.reshape(-1), number(decay), number(-lr)
    for start in range(0, x.size, _PIECE):
        piece = slice(start, start + _PIECE)
        first, second = calls[x[piece].size]
        first(x[piece], decay_, g[piece], v[piece])
        second(v[piece], lr_, x[piece])
    return True


def adam(
    x_: np.ndarray, g: np.ndarray, m_: np.ndarray, v_: np.ndarray, size: float, betas: tuple[float, float], eps: float, keep: float
) -> bool:  # fmt: skip
    """m ← β₁m + (1−β₁)g, v ← β₂v + (1−β₂)g², x ← keep·x − size·m/(√v + eps)"""
    if not (keep and _are_alike(x_, g, m_, v_)):
        return False
    n, (beta1, beta2) = (x_.size,), betas
    first = chain(n, c.MULTIPLY, ONE, ("sum", beta1))
    second = chain(n, c.MULTIPLY, ALL, ("eltwise", c.LINEAR, 1 - beta2, 0.0), ("sum", beta2))
    # ((√v + eps)⁻¹·m·(−size/keep) + x)·keep
    step = chain(
        n, c.MULTIPLY, ONE, ("eltwise", c.SQRT, 0.0, 0.0), ("binary", c.ADD, ONE), ("eltwise", c.POWER, 1.0, -1.0),
        ("binary", c.MULTIPLY, ALL), ("binary", c.MULTIPLY, ONE), ("sum", 1.0), ("binary", c.MULTIPLY, ONE),
    )  # fmt: skip
    if first is None or second is None or step is None:
        return False
    first(g, number(1 - beta1), m_)
    second(g, g, v_)
    step(v_, number(1), number(eps), m_, number(-size / keep), number(keep), x_)
    return True
