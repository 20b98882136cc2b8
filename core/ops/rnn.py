"""Recurrent layers: one op is one layer in one direction over all time steps, with its own pass back through time.

Steps lie one after the other: x (ΣN, I), step t with sizes[t] rows, sizes never increasing, so a packed batch and a
plain one (all sizes N) are the same. A state is (N, H); rows that a step does not have keep theirs. `reverse` runs
from the last step to the first. Biases, and the projection r of an LSTM, may be None. Weights: w (G·H, I), u (G·H, H),
gates stacked in torch's order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from core.ops.fused import joint
from core.ops.op import graph as F
from core.ops.op import op


def _run(x: Any, states: tuple[Any, ...], sizes: Any, reverse: bool, step: Callable[..., tuple[Any, ...]]) -> tuple[Any,
        ...]:
    """The steps in order, in simple ops: y (ΣN, H) and the last states. `step(x, *states)` returns new states, the
    output first.
    """
    starts = [sum(sizes[:t]) for t in range(len(sizes))]
    outs: list[Any] = [None] * len(sizes)
    for t in range(len(sizes) - 1, -1, -1) if reverse else range(len(sizes)):
        n = sizes[t]
        now = [F.narrow(s, dim=0, start=0, length=n) for s in states]
        new = step(F.narrow(x, dim=0, start=starts[t], length=n), *now)
        rest = [F.narrow(s, dim=0, start=n, length=s._a.shape[0] - n) for s in states]
        states = tuple(F.cat([a, b], dim=0) for a, b in zip(new, rest))
        outs[t] = new[0]
    return F.cat(outs, dim=0), *states


def _rnn(x: Any, h: Any, w: Any, u: Any, b: Any = None, c: Any = None, *, sizes: Any, reverse: bool, relu: bool) -> Any:
    def step(x: Any, h: Any) -> tuple[Any]:
        a = F.linear(x, w, b) + F.linear(h, u, c)
        return (F.relu(a) if relu else F.tanh(a),)

    return _run(x, (h,), sizes, reverse, step)


@joint(_rnn)
def _rnn_grad(be, g, xs, y, was, sizes, reverse, relu, wanted):
    x, _, w, u, b, c = xs
    dx, dh, dw, du, db = be.rnn_grad(*g, x, w, u, y, was, sizes, reverse, relu, wanted[0])
    return dx, dh, dw, du, db if b is not None else None, db if c is not None else None


@op(xs=_rnn_grad, outs=("y", "last"), aux=("was",))
def rnn_layer(be, *xs, sizes, reverse=False, relu=False):
    """h' = tanh(x wᵀ + b + h uᵀ + c), or relu: [x, h, w, u, b, c] -> y (ΣN, H), last h (N, H). Elman 1990."""
    return be.rnn(*xs, sizes, reverse, relu)


def _lstm(
    x: Any, h: Any, cell: Any, w: Any, u: Any, b: Any = None, c: Any = None, r: Any = None, *, sizes: Any, reverse: bool
) -> Any:
    size = u._a.shape[0] // 4

    def step(x: Any, h: Any, s: Any) -> tuple[Any, Any]:
        a = F.linear(x, w, b) + F.linear(h, u, c)
        i, f, g, o = (F.narrow(a, dim=1, start=k * size, length=size) for k in range(4))
        s = F.sigmoid(f) * s + F.sigmoid(i) * F.tanh(g)
        y = F.sigmoid(o) * F.tanh(s)
        return (y if r is None else F.linear(y, r)), s

    return _run(x, (h, cell), sizes, reverse, step)


@joint(_lstm)
def _lstm_grad(be, g, xs, gates, was, was_cell, bent, sizes, reverse, wanted):
    x, _, _, w, u, b, c, r = xs
    dx, dh, ds, dw, du, db, dr = be.lstm_grad(*g, x, w, u, r, gates, was, was_cell, bent, sizes, reverse, wanted[0])
    return dx, dh, ds, dw, du, db if b is not None else None, db if c is not None else None, dr


@op(xs=_lstm_grad, outs=("y", "last", "last_cell"), aux=("gates", "was", "was_cell", "bent"))
def lstm_layer(be, *xs, sizes, reverse=False, want_dx=False):
    """c' = σ(f)·c + σ(i)·tanh g, h' = σ(o)·tanh c' (times rᵀ): [x, h, cell, w, u, b, c, r] -> y, last h, last cell;
    gates i f g o. `want_dx` says that the gradient of x will be wanted, for which some kernels are faster.

    Hochreiter & Schmidhuber 1997; the projection is Sak et al. 2014.
    """
    return be.lstm(*xs, sizes, reverse, want_dx)


def _gru(x: Any, h: Any, w: Any, u: Any, b: Any = None, c: Any = None, *, sizes: Any, reverse: bool) -> Any:
    size = u._a.shape[1]

    def step(x: Any, h: Any) -> tuple[Any]:
        a, e = F.linear(x, w, b), F.linear(h, u, c)
        (ar, az, an), (er, ez, en) = (
            [F.narrow(v, dim=1, start=k * size, length=size) for k in range(3)] for v in (a, e)
        )
        z = F.sigmoid(az + ez)
        n = F.tanh(an + F.sigmoid(ar + er) * en)
        return (n + z * (h - n),)

    return _run(x, (h,), sizes, reverse, step)


@joint(_gru)
def _gru_grad(be, g, xs, gates, was, hidden, sizes, reverse, wanted):
    x, _, w, u, b, c = xs
    dx, dh, dw, du, db, dc = be.gru_grad(*g, x, w, u, gates, was, hidden, sizes, reverse, wanted[0])
    return dx, dh, dw, du, db if b is not None else None, dc if c is not None else None


@op(xs=_gru_grad, outs=("y", "last"), aux=("gates", "was", "hidden"))
def gru_layer(be, *xs, sizes, reverse=False):
    """h' = (1 − z)·n + z·h, n = tanh(xₙ + r·hₙ): [x, h, w, u, b, c] -> y (ΣN, H), last h (N, H); gates r z n. Cho et
    al. 2014.
    """
    return be.gru(*xs, sizes, reverse)
