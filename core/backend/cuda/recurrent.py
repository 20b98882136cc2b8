"""LSTM and GRU over all steps: one product for the inputs of all of them, then for each step a product and a cell (`recurrent.cuh`). None
where it is not their case, which the types of x, w and u decide, so that a forward pass and its gradient are both of one kind: gates lie
here as in torch. What else they take and return is said in `core.backend.recurrence`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from core.backend.cuda.launch import blocks, instance
from core.backend.recurrence import _steps

Ints = tuple[int, ...]


def _instance(be: Any, x: Any, w: Any, u: Any) -> Any:
    return instance(be, "recurrent", x) if x.size and w.dtype == u.dtype == x.dtype else None


def _cell(be: Any, of: Any, kernel: str, outs: tuple[Any, ...], ins: tuple[Any, ...], rows: int, size: int) -> None:
    be.launch(of, kernel, blocks(rows * size, most=1 << 30), (256,), *outs, *ins, np.int64(rows * size), np.int32(size))


def _own(xp: Any, state: Any, x: Any) -> Any:
    """A copy to work in."""
    return xp.array(state, dtype=x.dtype, order="C")


def _like(xp: Any, a: Any, x: Any) -> Any:
    """In C order and of x's dtype."""
    return None if a is None else xp.ascontiguousarray(a.astype(x.dtype, copy=False))


def lstm(
    be: Any, x: Any, h: Any, cell: Any, w: Any, u: Any, b: Any, c: Any, r: Any, sizes: Ints, reverse: bool, want_dx: bool = False,
) -> Any:  # fmt: skip
    of, xp, size = _instance(be, x, w, u), be.xp, u.shape[0] // 4
    if of is None or r is not None:
        return None
    bias = _like(xp, b if c is None else c if b is None else b + c, x)
    gates = xp.ascontiguousarray(be.linear(x, w, bias))
    h, cell, ut = _own(xp, h, x), _own(xp, cell, x), u.T
    y, was, was_cell, bent = (xp.empty((x.shape[0], size), x.dtype) for _ in range(4))
    for rows, n in _steps(sizes, reverse):
        hu = be.matmul(h[:n], ut)
        outs = (gates[rows], h, cell, y[rows], was[rows], was_cell[rows], bent[rows])
        _cell(be, of, "lstm_cell", outs, (hu,), n, size)
    return y, h, cell, gates, was, was_cell, bent


def lstm_grad(
    be: Any, gy: Any, gh: Any, gc: Any, x: Any, w: Any, u: Any, r: Any, gates: Any, was: Any, was_cell: Any, bent: Any, sizes: Ints,
    reverse: bool, want_dx: bool,
) -> Any:  # fmt: skip
    of, xp, size = _instance(be, x, w, u), be.xp, u.shape[0] // 4
    if of is None or r is not None:
        return None
    gy, dh, dc, da = _like(xp, gy, x), _own(xp, gh, x), _own(xp, gc, x), xp.empty_like(gates)
    for rows, n in _steps(sizes, not reverse):
        ins = (dh, gy[rows], gates[rows], was_cell[rows], bent[rows])
        _cell(be, of, "lstm_cell_grad", (da[rows], dc), ins, n, size)
        dh[:n] = be.matmul(da[rows], u)
    dx = be.matmul(da, w) if want_dx else None
    return dx, dh, dc, be.matmul(da.T, x), be.matmul(da.T, was), be.sum_rows(da), None


def gru(be: Any, x: Any, h: Any, w: Any, u: Any, b: Any, c: Any, sizes: Ints, reverse: bool) -> Any:
    of, xp, size = _instance(be, x, w, u), be.xp, u.shape[1]
    if of is None:
        return None
    gates = xp.ascontiguousarray(be.linear(x, w, _like(xp, b, x)))
    h, ut, c = _own(xp, h, x), u.T, _like(xp, c, x)
    y, was, hidden = (xp.empty((x.shape[0], size), x.dtype) for _ in range(3))
    for rows, n in _steps(sizes, reverse):
        hu = be.matmul(h[:n], ut)
        _cell(be, of, "gru_cell", (gates[rows], h, y[rows], was[rows], hidden[rows]), (hu, c), n, size)
    return y, h, gates, was, hidden


def gru_grad(
    be: Any, gy: Any, gh: Any, x: Any, w: Any, u: Any, gates: Any, was: Any, hidden: Any, sizes: Ints, reverse: bool,
    want_dx: bool,
) -> Any:  # fmt: skip
    of, xp, size = _instance(be, x, w, u), be.xp, u.shape[1]
    if of is None:
        return None
    gy, dh, da, dhu = _like(xp, gy, x), _own(xp, gh, x), xp.empty_like(gates), xp.empty_like(gates)
    for rows, n in _steps(sizes, not reverse):
        ins = (gy[rows], gates[rows], was[rows], hidden[rows])
        _cell(be, of, "gru_cell_grad", (da[rows], dhu[rows], dh), ins, n, size)
        dh[:n] += be.matmul(dhu[rows], u)
    dx, dw, du = be.matmul(da, w) if want_dx else None, be.matmul(da.T, x), be.matmul(dhu.T, was)
    return dx, dh, dw, du, be.sum_rows(da), be.sum_rows(dhu)
