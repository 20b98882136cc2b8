"""Kernels of recurrent layers in plain array code over `self.xp`.

The steps lie one after the other in x (ΣN, I), step t with sizes[t] rows, so a packed sequence is no special case: sequences are sorted by
length, and a state row that a step does not have just stays as it is. The input product of all steps is one; only the hidden one is a
loop. `was` is the state before each step: with it the gradient of the hidden weight is one product, too. Inside the loop everything is
written in place, so that what a step touches stays in the cache.

`RecurrentKernels` is a part of the plain backend; `core.backend.base` explains the contract.
Shape letters: N batch, T time, I input, H hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

Ints = tuple[int, ...]


class RecurrentKernels:
    """Mixed into `Backend`; uses nothing of it but these four."""

    xp: Any
    matmul: Any
    linear: Any
    sum_rows: Any

    def adder(self, w: Any, x: Any, z: Any, times: int) -> Callable[[Any, Any], None]:
        """What adds x w to z_, in place: f(x, z_) for x (n, K), w (K, M), z_ (n, M). It is called some `times` times, mostly with
        arrays that lie in memory as x and z do."""

        def add(x: Any, z_: Any) -> None:
            z_ += self.matmul(x, w)

        return add

    def apart(self, n: int, m: int, dtype: Any) -> Any:
        """Room for (n, m) in rows that need not lie side by side."""
        return self.xp.empty((n, m), dtype=dtype)

    def operand(self, x: Any) -> Any:
        """x as `matmul` takes it, for an array that is multiplied several times."""
        return x

    # -- Elman ---------------------------------------------------------------------------------------------------------

    def rnn(self, x: Any, h: Any, w: Any, u: Any, b: Any, c: Any, sizes: Ints, reverse: bool, relu: bool) -> Any:
        """h' = tanh(x wᵀ + b + h uᵀ + c), or relu: y (ΣN, H), last h (N, H), was (ΣN, H)"""
        xp = self.xp
        y = self.linear(x, w, together(b, c))
        h, was = xp.array(h), xp.empty((x.shape[0], u.shape[1]), dtype=y.dtype)
        add = self.adder(u.T, h, y[: sizes[0]], len(sizes))
        for rows, n in _steps(sizes, reverse):
            a = y[rows]
            was[rows] = h[:n]
            add(h[:n], a)
            xp.maximum(a, 0, out=a) if relu else xp.tanh(a, out=a)
            h[:n] = a
        return y, h, was

    def rnn_grad(
        self, gy: Any, gh: Any, x: Any, w: Any, u: Any, y: Any, was: Any, sizes: Ints, reverse: bool, relu: bool,
        want_dx: bool,
    ) -> tuple[Any, ...]:  # fmt: skip
        """(dx, dh, dw, du, db): the two biases have one gradient. dx is None where it is not wanted."""
        xp = self.xp
        dh, da = xp.array(gh), xp.empty_like(y)
        slope = y > 0 if relu else 1 - y * y
        add = self.adder(u, da[: sizes[0]], dh, len(sizes))
        for rows, n in _steps(sizes, not reverse):
            d, s = da[rows], dh[:n]
            s += gy[rows]
            xp.multiply(s, slope[rows], out=d)
            s[...] = 0
            add(d, s)
        return (
            self.matmul(da, w) if want_dx else None,
            dh,
            self.matmul(da.T, x),
            self.matmul(da.T, was),
            self.sum_rows(da),
        )

    # -- long short-term memory ----------------------------------------------------------------------------------------

    def lstm(
        self, x: Any, h: Any, cell: Any, w: Any, u: Any, b: Any, c: Any, r: Any, sizes: Ints, reverse: bool,
        want_dx: bool = False,
    ) -> tuple[Any, ...]:  # fmt: skip
        """(y, last h, last cell, gates, was, was_cell, tanh of cell); r (P, H) projects the state or is None. `want_dx`: the
        gradient of x will probably be wanted, which here makes no difference.

        Gates are i f g o as in torch; of what is returned the memory of each step holds all rows of i, then those of f, g and o:
        pieces of rows that lie a power of two apart would drive each other out of the cache. i, f and o are
        σ(z) = (tanh(z/2) + 1)/2, so that one tanh serves all four; the halves are folded into the weights.
        """
        xp, size = self.xp, u.shape[0] // 4
        half = xp.ones(4 * size, dtype=x.dtype)
        half[: 2 * size] = half[3 * size :] = 0.5
        bias = together(b, c)
        gates = self.linear(x, w * half[:, None], None if bias is None else bias * half)
        h, cell = xp.array(h), xp.array(cell)
        add = self.adder((u * half[:, None]).T, h, gates[: sizes[0]], len(sizes))
        total, d = x.shape[0], x.dtype
        y, was = xp.empty((total, h.shape[1]), dtype=d), xp.empty((total, h.shape[1]), dtype=d)
        was_cell, bent = xp.empty((total, size), dtype=d), xp.empty((total, size), dtype=d)
        room, k = xp.empty(4 * cell.size, dtype=d), xp.empty_like(cell)
        for rows, n in _steps(sizes, reverse):
            a, s, v, z = gates[rows], cell[:n], k[:n], bent[rows]
            was[rows], was_cell[rows] = h[:n], s
            add(h[:n], a)
            apart = room[: a.size].reshape(4, n, size)
            xp.tanh(a.reshape(n, 4, size).swapaxes(0, 1), out=apart)
            i_f, (i, f, g, o) = apart[:2], apart
            for sigmoid in (i_f, o):
                sigmoid *= 0.5
                sigmoid += 0.5
            s *= f
            s += xp.multiply(i, g, out=v)
            xp.tanh(s, out=z)
            xp.multiply(o, z, out=v)
            h[:n] = v if r is None else self.matmul(v, r.T)
            y[rows] = h[:n]
            a.reshape(4, n, size)[...] = apart
        return y, h, cell, gates, was, was_cell, bent

    def lstm_grad(
        self, gy: Any, gh: Any, gc: Any, x: Any, w: Any, u: Any, r: Any, gates: Any, was: Any, was_cell: Any, bent: Any,
        sizes: Ints, reverse: bool, want_dx: bool,
    ) -> tuple[Any, ...]:  # fmt: skip
        """(dx, dh, dcell, dw, du, db, dr); dx is None where it is not wanted."""
        xp, size = self.xp, u.shape[0] // 4
        dh, dc, da = xp.array(gh), xp.array(gc), self.apart(x.shape[0], 4 * size, x.dtype)
        room, k = xp.empty(4 * dc.size, dtype=x.dtype), xp.empty_like(dc)
        # of a projection: what comes back to it, and what went in
        dz, put = (None, None) if r is None else (xp.empty_like(was), xp.empty_like(bent))
        add = self.adder(u, da[: sizes[0]], dh, len(sizes))
        for rows, n in _steps(sizes, not reverse):
            a, t, z, s, v = gates[rows].reshape(4, n, size), bent[rows], dh[:n], dc[:n], k[:n]
            d = room[: a.size].reshape(4, n, size)
            (i, f, g, o), (di, df, dg, do) = a, d
            z += gy[rows]
            if dz is not None and put is not None:
                dz[rows] = z
                z = self.matmul(z, r)
                xp.multiply(o, t, out=put[rows])
            # the slope of the cell's tanh, times o
            xp.multiply(t, t, out=v)
            xp.subtract(1, v, out=v)
            v *= o
            v *= z
            s += v
            # the slopes of the gates, times what each is multiplied with: g, the cell before, i, the cell's tanh
            xp.subtract(1, a, out=d)
            d *= a
            di *= g
            df *= was_cell[rows]
            xp.multiply(g, g, out=dg)
            xp.subtract(1, dg, out=dg)
            dg *= i
            do *= t
            together = da[rows].reshape(n, 4, size).swapaxes(0, 1)
            xp.multiply(d[:3], s, out=together[:3])
            xp.multiply(do, z, out=together[3])
            s *= f
            dh[:n] = 0
            add(da[rows], dh[:n])
        m = self.operand(da)
        dx = self.matmul(m, w) if want_dx else None
        dr = None if dz is None else self.matmul(dz.T, put)
        return dx, dh, dc, self.matmul(m.T, x), self.matmul(m.T, was), self.sum_rows(da), dr

    # -- gated recurrent unit ------------------------------------------------------------------------------------------

    def gru(self, x: Any, h: Any, w: Any, u: Any, b: Any, c: Any, sizes: Ints, reverse: bool) -> tuple[Any, ...]:
        """(y, last h, gates, was, hidden part of n): gates r z n; n = tanh(x wₙᵀ + bₙ + r·(h uₙᵀ + cₙ)), h' = (1 −
        z)·n + z·h
        """
        xp, size = self.xp, u.shape[1]
        gates = self.linear(x, w, b)
        h, total = xp.array(h), x.shape[0]
        y, was = xp.empty((total, size), dtype=x.dtype), xp.empty((total, size), dtype=x.dtype)
        hidden, hu = xp.empty((total, size), dtype=x.dtype), xp.empty((sizes[0], 3 * size), dtype=x.dtype)
        add = self.adder(u.T, h, hu, len(sizes))
        for rows, n in _steps(sizes, reverse):
            a, m, s, e = gates[rows], hidden[rows], h[:n], hu[:n]
            was[rows] = s
            e[...] = 0 if c is None else c
            add(s, e)
            rz, new = a[:, : 2 * size], a[:, 2 * size :]
            rz += e[:, : 2 * size]
            rz *= 0.5
            xp.tanh(rz, out=rz)
            rz += 1
            rz *= 0.5
            m[...] = e[:, 2 * size :]
            new += a[:, :size] * m
            xp.tanh(new, out=new)
            s -= new
            s *= a[:, size : 2 * size]
            s += new
            y[rows] = s
        return y, h, gates, was, hidden

    def gru_grad(
        self, gy: Any, gh: Any, x: Any, w: Any, u: Any, gates: Any, was: Any, hidden: Any, sizes: Ints, reverse: bool,
        want_dx: bool,
    ) -> tuple[Any, ...]:  # fmt: skip
        """(dx, dh, dw, du, db, dc); dx is None where it is not wanted."""
        xp, size = self.xp, u.shape[1]
        dh, da, dhu = xp.array(gh), xp.empty_like(gates), xp.empty_like(gates)
        k = xp.empty_like(dh)
        add = self.adder(u, dhu[: sizes[0]], dh, len(sizes))
        for rows, n in _steps(sizes, not reverse):
            a, d, e, s, v = gates[rows], da[rows], dhu[rows], dh[:n], k[:n]
            r, z, new = (a[:, j * size : (j + 1) * size] for j in range(3))
            dr, dz, dn = (d[:, j * size : (j + 1) * size] for j in range(3))
            s += gy[rows]
            # d[:, :2H] = σ' of r and z
            xp.subtract(1, a[:, : 2 * size], out=d[:, : 2 * size])
            dr *= r
            dz *= z
            xp.subtract(was[rows], new, out=v)
            v *= s
            dz *= v
            # dn = s·(1 − z)·(1 − n²)
            xp.multiply(new, new, out=dn)
            xp.subtract(1, dn, out=dn)
            xp.subtract(1, z, out=v)
            v *= s
            dn *= v
            xp.multiply(dn, hidden[rows], out=v)
            dr *= v
            e[:, : 2 * size] = d[:, : 2 * size]
            xp.multiply(dn, r, out=e[:, 2 * size :])
            s *= z
            add(e, s)
        dw, du = self.matmul(da.T, x), self.matmul(dhu.T, was)
        return self.matmul(da, w) if want_dx else None, dh, dw, du, self.sum_rows(da), self.sum_rows(dhu)


def together(b: Any, c: Any) -> Any:
    """The sum of two biases, either of which may be None."""
    return c if b is None else b if c is None else b + c


def _steps(sizes: Ints, reverse: bool) -> Iterator[tuple[slice, int]]:
    """The rows of each step, and how many."""
    ends = np.cumsum(sizes).tolist()
    order = range(len(sizes) - 1, -1, -1) if reverse else range(len(sizes))
    return ((slice(ends[t] - sizes[t], ends[t]), sizes[t]) for t in order)
