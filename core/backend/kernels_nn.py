"""Kernels of neural networks in plain array code over `self.xp`: normalisation, attention, connectionist loss, erf.

`NNKernels` is the part of the plain backend that `core.ops` of the same families call; `core.backend.base` explains
the contract. A forward kernel returns what its gradient needs besides the result; a gradient kernel returns the
gradients of all inputs together, since they share most of their work.

Shape letters: N batch, T time, S keys, L queries.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

Ints = tuple[int, ...]


class NNKernels:
    """Mixed into `Backend`; uses nothing of it but these three."""

    xp: Any
    matmul: Any
    add_at_: Any

    # -- special functions ---------------------------------------------------------------------------------------------

    def erf(self, x: Any) -> Any:
        """erf x. float64: Cephes' rational approximations (Moshier 1989), 1e-15; else a minimax quotient, 5e-7."""
        xp = self.xp
        if x.dtype == np.float64:
            small = xp.clip(x, -1, 1)
            z = small * small
            near = small * _polynomial(z, _ERF_T) / _polynomial(z, _ERF_U)
            a = xp.clip(xp.abs(x), 1, 8)
            far = 1 - xp.exp(-a * a) * _polynomial(a, _ERF_P) / _polynomial(a, _ERF_Q)
            y = xp.where(xp.abs(x) < 1, near, xp.copysign(far, x))
            return xp.where(x == x, y, x)  # a clip may swallow NaN
        y = xp.clip(x.astype(np.float32, copy=False), -4, 4)
        z = y * y
        return (y * (_polynomial(z, _ERF32_P) / _polynomial(z, _ERF32_Q))).astype(x.dtype, copy=False)

    def sigmoid(self, x: Any) -> Any:
        """1 / (1 + e⁻ˣ)"""
        with np.errstate(over="ignore"):
            y = self.xp.exp(-x)
        y += 1
        return self.xp.reciprocal(y, out=y) if y.ndim else self.xp.reciprocal(y)

    def gelu(self, x: Any, approximate: str) -> Any:
        """x·Φ(x), or its approximation by tanh."""
        if approximate == "none":
            y = self.erf(x * math.sqrt(0.5))
        else:
            y = x * x
            y *= 0.044715
            y += 1
            y *= x
            y *= math.sqrt(2 / math.pi)
            y = self.xp.tanh(y)
        y += 1
        y *= x
        y *= 0.5
        return y

    def gelu_grad(self, g: Any, x: Any, approximate: str) -> Any:
        """g·(Φ(x) + x·φ(x)), or the slope of the approximation"""
        xp = self.xp
        if approximate == "none":
            slope = (self.erf(x * math.sqrt(0.5)) + 1) * 0.5 + x * xp.exp(x * x * -0.5) * (1 / math.sqrt(2 * math.pi))
        else:
            t = xp.tanh((x * x * x * 0.044715 + x) * math.sqrt(2 / math.pi))
            slope = (t + 1) * 0.5 + x * (1 - t * t) * (x * x * (3 * 0.044715) + 1) * math.sqrt(0.5 / math.pi)
        return (g * slope).astype(g.dtype, copy=False)

    # -- normalisation -------------------------------------------------------------------------------------------------

    def moments(self, x: Any, axes: Ints) -> tuple[Any, Any]:
        """Mean and variance over `axes`, which stay as 1; float16 and bfloat16 are accumulated in float32."""
        wide = _wide(x)
        mean = x.mean(axis=axes, keepdims=True, dtype=wide)
        return mean, self.xp.square(x - mean).mean(axis=axes, keepdims=True, dtype=wide)

    def normalize(self, x: Any, w: Any, b: Any, axes: Ints, eps: float) -> tuple[Any, Any, Any]:
        """`standardize` by the moments of x itself, and these."""
        mean, var = self.moments(x, axes)
        return self.standardize(x, w, b, mean, 1 / self.xp.sqrt(var + eps), axes), mean, var

    def standardize(self, x: Any, w: Any, b: Any, mean: Any, rstd: Any, axes: Ints) -> Any:
        """(x − mean)·rstd·w + b; w and b broadcast against x, or are None."""
        y = x - mean
        if w is not None and _constant_over(w, y, axes):
            y *= rstd * w  # one pass over y instead of two
        else:
            y *= rstd
            if w is not None:
                y *= w
        if b is not None:
            y += b
        return y.astype(x.dtype, copy=False)

    def standardize_grad(
        self, g: Any, x: Any, w: Any, b: Any, mean: Any, rstd: Any, axes: Ints
    ) -> tuple[Any, Any, Any]:
        """(dx, dw, db): dx = rstd·(gw − mean(gw) − x̂·mean(gw·x̂)), Ioffe & Szegedy 2015, section 3."""
        n = math.prod(x.shape[a] for a in axes)
        h = x - mean
        h *= rstd
        gh = g * h
        if w is None or _constant_over(w, x, axes):  # w leaves the sums: they are the gradients of w and b, too
            sum_g = g.sum(axis=axes, keepdims=True, dtype=rstd.dtype)
            sum_gh = gh.sum(axis=axes, keepdims=True, dtype=rstd.dtype)
            h *= sum_gh / -n
            h -= sum_g / n
            h += g
            h *= rstd if w is None else rstd * w
        else:
            sum_g, sum_gh = g, gh
            gw = g * w
            gh = gh * w
            h *= gh.sum(axis=axes, keepdims=True, dtype=rstd.dtype) / -n
            h -= gw.sum(axis=axes, keepdims=True, dtype=rstd.dtype) / n
            h += gw
            h *= rstd
        dw = None if w is None else _sum_to(sum_gh, w.shape).astype(w.dtype, copy=False)
        db = None if b is None else _sum_to(sum_g, b.shape).astype(b.dtype, copy=False)
        return h.astype(x.dtype, copy=False), dw, db

    def rms_norm(self, x: Any, w: Any, axes: Ints, eps: float) -> tuple[Any, Any]:
        """x·rstd·w with rstd = 1/√(mean(x²) + eps) over the last axes."""
        xp, wide = self.xp, _wide(x)
        rstd = 1 / xp.sqrt(xp.square(x).mean(axis=axes, keepdims=True, dtype=wide) + wide.type(eps))
        y = x * rstd
        if w is not None:
            y *= w
        return y.astype(x.dtype, copy=False), rstd

    def rms_norm_grad(self, g: Any, x: Any, w: Any, rstd: Any, axes: Ints) -> tuple[Any, Any]:
        """(dx, dw): dx = rstd·(gw − x̂·mean(gw·x̂)), Zhang & Sennrich 2019."""
        h = x * rstd
        gh = g * h
        dw = None if w is None else _sum_to(gh, w.shape).astype(w.dtype, copy=False)
        gw = g
        if w is not None:
            gw, gh = g * w, gh * w
        h *= -gh.mean(axis=axes, keepdims=True, dtype=rstd.dtype)
        h += gw
        h *= rstd
        return h.astype(x.dtype, copy=False), dw

    # -- attention -----------------------------------------------------------------------------------------------------

    def attention(self, q: Any, k: Any, v: Any, mask: Any, drop: Any, causal: bool, scale: float) -> tuple[Any, Any]:
        """softmax(q kᵀ·scale + mask) v and the probabilities (*, L, S). A bool mask says who is seen; a row that sees
        nobody is zeros.
        """
        xp = self.xp
        p = self.matmul(q * q.dtype.type(scale), k.swapaxes(-1, -2))
        lowest = -xp.inf
        if mask is not None:
            p = xp.where(mask, p, p.dtype.type(lowest)) if mask.dtype == np.bool_ else p + mask
        if causal:
            p = xp.where(xp.tri(p.shape[-2], p.shape[-1], dtype=bool), p, p.dtype.type(lowest))
        if p.shape[-1]:
            top = p.max(axis=-1, keepdims=True)
            if mask is not None:
                top = xp.where(top == lowest, 0, top).astype(p.dtype, copy=False)
            p -= top
            xp.exp(p, out=p)
            total = p.sum(axis=-1, keepdims=True)
            if mask is not None:
                total = xp.where(total == 0, 1, total).astype(p.dtype, copy=False)
            p /= total
        return self.matmul(p if drop is None else p * drop, v), p

    def attention_grad(self, g: Any, q: Any, k: Any, v: Any, drop: Any, p: Any, scale: float) -> tuple[Any, Any, Any]:
        """(dq, dk, dv)"""
        used = p if drop is None else p * drop
        dv = self.matmul(used.swapaxes(-1, -2), g)
        dp = self.matmul(g, v.swapaxes(-1, -2))
        if drop is not None:
            dp *= drop
        ds = dp * p
        ds -= p * ds.sum(axis=-1, keepdims=True)
        ds *= ds.dtype.type(scale)
        dq, dk = self.matmul(ds, k), self.matmul(ds.swapaxes(-1, -2), q)
        return _sum_to(dq, q.shape), _sum_to(dk, k.shape), _sum_to(dv, v.shape)

    # -- connectionist temporal classification -------------------------------------------------------------------------

    def ctc(self, logp: Any, path: Any, sizes: Any, lengths: Any) -> tuple[Any, Any]:
        """−ln p(target | logp) (N) and ln α (T, N, P). logp (T, N, C); path (N, P): the target between blanks, padded;
        sizes: frames (N); lengths: of the paths (N). Graves et al. 2006, equations 6 to 8.
        """
        xp = self.xp
        steps, n, _ = logp.shape
        emit = xp.take_along_axis(logp, path[None], axis=2)
        skip = self._may_skip(path)
        alpha = xp.full(emit.shape, -xp.inf, dtype=logp.dtype)
        alpha[0, :, 0] = emit[0, :, 0]
        if path.shape[1] > 1:
            alpha[0, :, 1] = xp.where(lengths > 1, emit[0, :, 1], -xp.inf)
        for t in range(1, steps):
            alpha[t] = self._paths(alpha[t - 1], skip) + emit[t]
        row = xp.arange(n)
        last = alpha[sizes - 1, row]  # (N, P)
        ends = xp.where(lengths > 1, last[row, lengths - 2], -xp.inf)
        total = xp.logaddexp(last[row, lengths - 1], ends)
        empty = xp.where(lengths == 1, 0, -xp.inf).astype(logp.dtype)  # no frames: only the empty target is possible
        return -xp.where(sizes > 0, total, empty).astype(logp.dtype), alpha

    def ctc_grad(self, g: Any, loss: Any, logp: Any, path: Any, sizes: Any, lengths: Any, alpha: Any) -> Any:
        """d/d logp, given that logp comes from a log_softmax (torch's convention): p − γ, equation 16 of the paper."""
        xp = self.xp
        steps, n, _ = logp.shape
        emit = xp.take_along_axis(logp, path[None], axis=2)
        row, position = xp.arange(n), xp.arange(path.shape[1])
        final = (position == (lengths - 1)[:, None]) | (position == (lengths - 2)[:, None])
        skip = self._may_skip(path)
        skip = xp.concatenate([skip[:, 2:], xp.zeros((n, min(2, path.shape[1])), dtype=bool)], axis=1)[:, ::-1]
        beta = xp.full(path.shape, -xp.inf, dtype=logp.dtype)
        dx = xp.exp(logp)
        for t in range(steps - 1, -1, -1):
            onward = self._paths(beta[:, ::-1], skip)[:, ::-1]
            beta = xp.where((sizes - 1 == t)[:, None], xp.where(final, 0, -xp.inf), onward)
            gamma = xp.exp(alpha[t] + beta + xp.where(xp.isfinite(loss), loss, 0)[:, None])
            self.add_at_(dx[t], (row[:, None], path), -gamma)
            beta = beta + emit[t]
        dx[xp.arange(steps)[:, None] >= sizes] = 0
        dx *= g[:, None]
        return dx

    def _may_skip(self, path: Any) -> Any:
        """(N, P): whether a path may come to this position from two before: from one label to another that differs."""
        skip = self.xp.zeros(path.shape, dtype=bool)
        skip[:, 3::2] = path[:, 3::2] != path[:, 1:-2:2]
        return skip

    def _paths(self, alpha: Any, skip: Any) -> Any:
        """ln of the sum over the positions that lead to each: itself, one before, two before where that is allowed."""
        xp = self.xp
        y = alpha.copy()
        y[:, 1:] = xp.logaddexp(alpha[:, 1:], alpha[:, :-1])
        y[:, 2:] = xp.where(skip[:, 2:], xp.logaddexp(y[:, 2:], alpha[:, :-2]), y[:, 2:])
        return y

    # -- windows -------------------------------------------------------------------------------------------------------

    def col2im(self, columns: Any, size: Ints, out: Ints, stride: Ints, padding: Ints, dilation: Ints) -> Any:
        """(N, C, *k, *out) -> (N, C, *size): each window added where it was taken from."""
        from core.backend.base import _windows

        n, c, k = *columns.shape[:2], columns.shape[2 : 2 + len(size)]
        x = self.xp.zeros((n, c, *(s + 2 * p for s, p in zip(size, padding))), dtype=columns.dtype)
        for offset, window in _windows(k, out, stride, dilation):
            x[(..., *window)] += columns[(slice(None), slice(None), *offset)]
        return x[(..., *(slice(p, p + s) for p, s in zip(padding, size)))]


def _wide(x: Any) -> np.dtype:
    """The dtype that statistics are accumulated in."""
    return np.dtype(np.float32) if x.dtype.itemsize == 2 else x.dtype


def _constant_over(w: Any, x: Any, axes: Ints) -> bool:
    added = x.ndim - w.ndim
    return all(a < added or w.shape[a - added] == 1 for a in axes)


def _sum_to(x: Any, shape: Ints) -> Any:
    """The sum over what broadcasting from `shape` would add."""
    added = x.ndim - len(shape)
    axes = tuple(range(added)) + tuple(i + added for i, n in enumerate(shape) if n == 1 and x.shape[i + added] != 1)
    return x.sum(axis=axes, keepdims=True).reshape(shape) if axes else x.reshape(shape)


def _polynomial(x: Any, coefficients: Sequence[float]) -> Any:
    """Horner's scheme, highest power first."""
    first, second, *rest = coefficients
    y = x * first
    y += second
    for c in rest:
        y *= x
        y += c
    return y


_ERF_T = (
    9.60497373987051638749e0,
    9.00260197203842689217e1,
    2.23200534594684319226e3,
    7.00332514112805075473e3,
    5.55923013010394962768e4,
)
_ERF_U = (
    1.0, 3.35617141647503099647e1, 5.21357949780152679795e2, 4.59432382970980127987e3, 2.26290000613890934246e4,
    4.92673942608635921086e4,
)  # fmt: skip
_ERF_P = (
    2.46196981473530512524e-10, 5.64189564831068821977e-1, 7.46321056442269912687e0, 4.86371970985681366614e1,
    1.96520832956077098242e2,
    5.26445194995477358631e2, 9.34528527171957607540e2, 1.02755188689515710272e3, 5.57535335369399327526e2,
)  # fmt: skip
_ERF_Q = (
    1.0, 1.32281951154744992508e1, 8.67072140885989742329e1, 3.54937778887819891062e2, 9.75708501743205489753e2,
    1.82390916687909736289e3,
    2.24633760818710981792e3, 1.65666309194161350182e3, 5.57535340817727675546e2,
)  # fmt: skip
_ERF32_P = (
    -2.72614225801306e-10, 2.77068142495902e-08, -2.10102402082508e-06, -5.69250639462346e-05, -7.34990630326855e-04,
    -2.95459980854025e-03,
    -1.60960333262415e-02,
)  # fmt: skip
_ERF32_Q = (
    -1.45660718464996e-05,
    -2.13374055278905e-04,
    -1.68282697438203e-03,
    -7.37332916720468e-03,
    -1.42647390514189e-02,
)
