"""Long short-term memory by oneDNN's own primitive, whose passes over the gates are part of its products.

It runs on a chunk of steps at a time: so what the passes read is still in the cache, and one primitive serves all chunks. It always
computes the gradient of x. What a chunk keeps for the way back is known to oneDNN alone: its workspace.
Shape letters: T steps of a chunk, K chunks, N batch, I input, H hidden.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from core.backend.onednn import library as c
from core.backend.onednn.primitives import Builder, Call, Described, Handle, cached

Ints = tuple[int, ...]

_LONGEST, _SHORTEST = 16, 4  # steps of a chunk
_AHEAD, _BACK = 1, 2  # dnnl_rnn_direction_t: from the first step, from the last


class _Weight:
    """A weight (4H, I) brought into the layout of the way ahead or back, and its gradient out of its own."""

    def __init__(self, b: Builder, h: int, i: int, ahead: Described, back: Described, grad: Described):
        plain = b.strided((1, 1, i, 4, h), c.F32, (4 * h * i, 4 * h * i, 1, h * i, i))
        self._to = [(_move(b, plain, inside), b.bytes(inside)) for inside in (ahead, back)]
        self._from, self.bytes = _move(b, grad, plain), b.bytes(grad)

    def laid_out(self, w: np.ndarray, back: bool) -> np.ndarray:
        call, size = self._to[back]
        inside = np.empty(size, np.uint8)
        call(np.ascontiguousarray(w), inside)
        return inside

    def grad(self, inside: np.ndarray, w: np.ndarray) -> np.ndarray:
        dw = np.empty(w.shape, w.dtype)
        self._from(inside, dw)
        return dw


def _move(b: Builder, source: Any, target: Any) -> Call:
    return Call(b, b.reorder(source.value, target.value), {c.SRC: source}, {c.DST: target})


class _Chunk(Call):
    """The way ahead over T steps; `back` is the way back."""

    def __init__(self, b: Builder, t: int, n: int, i: int, h: int, reverse: bool):
        self.steps = t
        x, y, s, bias = (b.packed(shape, c.F32) for shape in ((t, n, i), (t, n, h), (1, 1, n, h), (1, 1, 4, h)))
        w, u = (b.any((1, 1, k, 4, h), c.F32) for k in (i, h))
        to = _BACK if reverse else _AHEAD
        of = (x, s, s, w, u, None, None, bias, y, s, s)
        d = b.descriptor("lstm_forward", c.TRAINING, to, *of, 0)
        e = b.descriptor("lstm_backward", c.BACKWARD, to, *of, *of, 0, d)
        kept = b.wanted(d, c.WORKSPACE)
        self.bytes = b.bytes(kept)
        ins: dict[int, Handle | Described] = {c.SRC: x, c.SRC_STATE: s, c.SRC_CELL: s, c.BIAS: bias}
        outs: dict[int, Handle | Described] = {c.DST: y, c.DST_STATE: s, c.DST_CELL: s}
        # oneDNN calls its only implementation "ref", but the products in it are compiled for the processor
        ahead, back = ({k: b.wanted(way, k) for k in (c.WEIGHTS, c.WEIGHTS_STATE)} for way in (d, e))
        super().__init__(b, d, ins | ahead, outs | {c.WORKSPACE: kept})
        grads = {c.DIFF + k: b.wanted(e, c.DIFF + k) for k in (c.WEIGHTS, c.WEIGHTS_STATE)}
        self.back = Call(
            b, e,
            ins | back | outs | {c.WORKSPACE: kept} | {c.DIFF + k: v for k, v in outs.items()},
            {c.DIFF + k: v for k, v in ins.items()} | grads,
        )  # fmt: skip
        self.w, self.u = (
            _Weight(b, h, k, ahead[number], back[number], grads[c.DIFF + number])
            for k, number in ((i, c.WEIGHTS), (h, c.WEIGHTS_STATE))
        )

    def parts(self, total: int, n: int, reverse: bool) -> list[slice]:
        """The rows of each chunk, in the order of the way ahead."""
        size = self.steps * n
        found = [slice(k, k + size) for k in range(0, total, size)]
        return found[::-1] if reverse else found


def _chunk(x: np.ndarray, u: np.ndarray, sizes: Ints, reverse: bool) -> _Chunk | None:
    n, i, h = sizes[0], x.shape[1], u.shape[1]
    steps = next((t for t in range(_LONGEST, _SHORTEST - 1, -1) if len(sizes) % t == 0), 0)
    if not steps or sizes[-1] != n or not n * i * h:
        return None
    call = cached(("lstm", steps, n, i, h, reverse), lambda b: _Chunk(b, steps, n, i, h, reverse))
    assert call is None or isinstance(call, _Chunk)
    return call


def lstm(
    x: np.ndarray, h: np.ndarray, cell: np.ndarray, w: np.ndarray, u: np.ndarray, bias: np.ndarray | None, sizes: Ints,
    reverse: bool,
) -> tuple[np.ndarray, ...] | None:  # fmt: skip
    """(y, last h, last cell, and what `lstm_grad` takes: workspaces of half of the chunks, (⌈K/2⌉, bytes), and of the others,
    h and cell before each chunk and after all, (2, K + 1, N, H), y again); float32. In halves: greater blocks would not be kept
    for the next step (see `core.backend.memory`).

    None where steps differ in rows or cannot be divided into chunks."""
    chunk = _chunk(x, u, sizes, reverse)
    if chunk is None:
        return None
    x, n = np.ascontiguousarray(x), sizes[0]
    parts = chunk.parts(len(x), n, reverse)
    count, size = len(parts), u.shape[1]
    bias = np.zeros(4 * size, x.dtype) if bias is None else np.ascontiguousarray(bias)
    y, states = np.empty((len(x), size), x.dtype), np.empty((2, count + 1, n, size), x.dtype)
    some, others = (np.empty((k, chunk.bytes), np.uint8) for k in (count - count // 2, count // 2))
    was, was_cell = states
    was[0], was_cell[0] = h, cell
    inside = chunk.w.laid_out(w, False), chunk.u.laid_out(u, False)
    for j, (rows, space) in enumerate(zip(parts, (*some, *others))):
        chunk(x[rows], was[j], was_cell[j], bias, *inside, y[rows], was[j + 1], was_cell[j + 1], space)
    # what callers get they may write into
    return y.copy(), was[-1].copy(), was_cell[-1].copy(), some, others, states, y


def lstm_grad(
    gy: np.ndarray, gh: np.ndarray, gc: np.ndarray, x: np.ndarray, w: np.ndarray, u: np.ndarray, some: np.ndarray,
    others: np.ndarray, states: np.ndarray, y: np.ndarray, sizes: Ints, reverse: bool,
) -> tuple[np.ndarray, ...]:  # fmt: skip
    """(dx, dh, dcell, dw, du, db). Parts of the workspaces are written: the way back has its own numbers there."""
    chunk = _chunk(x, u, sizes, reverse)
    if chunk is None or chunk.bytes != some.shape[1]:
        raise c.failure("lstm_backward without what computed the way ahead", c.UNIMPLEMENTED)
    x, gy = np.ascontiguousarray(x), np.ascontiguousarray(gy)
    parts = chunk.parts(len(x), sizes[0], reverse)
    dx, dh, dc = np.empty_like(x), np.empty((2, *gh.shape), x.dtype), np.empty((2, *gc.shape), x.dtype)
    dh[0], dc[0] = gh, gc
    dw, du, db = np.zeros(chunk.w.bytes, np.uint8), np.zeros(chunk.u.bytes, np.uint8), np.zeros(len(w), x.dtype)
    inside = chunk.w.laid_out(w, True), chunk.u.laid_out(u, True)
    was, was_cell = states
    at = 0
    for j, (rows, space) in reversed([*enumerate(zip(parts, (*some, *others)))]):
        # the bias is an operand that only other kinds of cells read; the gradients of the weights are added to
        chunk.back(
            x[rows], was[j], was_cell[j], db, *inside, y[rows], was[j + 1], was_cell[j + 1], space,
            gy[rows], dh[at], dc[at], dx[rows], dh[1 - at], dc[1 - at], db, dw, du,
        )  # fmt: skip
        at = 1 - at
    return dx, dh[at].copy(), dc[at].copy(), chunk.w.grad(dw, w), chunk.u.grad(du, u), db
