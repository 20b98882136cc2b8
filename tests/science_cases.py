"""The rows of `tests.cases` for factors kept in one matrix, transforms of short pieces, histograms and rarer special functions.

`tests.cases` takes them in; import that, not this.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tests.cases import Row, a, c, k, n, row, u, z
from tests.math_cases import square


def _lu(x: Any) -> Any:
    """Doolittle's way, one matrix and one element at a time."""
    m, size = x.shape[-2:]
    packed, pivots = np.array(x, dtype=x.dtype), np.zeros((*x.shape[:-2], min(m, size)), np.int32)
    for at in np.ndindex(*x.shape[:-2]):
        y = packed[at]
        for j in range(min(m, size)):
            p = max(range(j, m), key=lambda r: abs(y[r, j]))
            y[[j, p]] = y[[p, j]]
            pivots[(*at, j)] = p + 1
            for r in range(j + 1, m):
                y[r, j] /= y[j, j]
                for col in range(j + 1, size):
                    y[r, col] -= y[r, j] * y[j, col]
    return packed, pivots


def _plu(x: Any) -> Any:
    packed, pivots = _lu(x)
    m, size = x.shape[-2:]
    rank = min(m, size)
    order = np.broadcast_to(np.arange(m), (*x.shape[:-2], m)).copy()
    for at in np.ndindex(*x.shape[:-2]):
        for j, p in enumerate(pivots[at]):
            order[(*at, [j, p - 1])] = order[(*at, [p - 1, j])]
    p = np.swapaxes(np.eye(m)[order], -1, -2)
    return p, np.tril(packed[..., :rank], -1) + np.eye(m, rank), np.triu(packed[..., :rank, :])


def _reflected(x: Any, tau: Any) -> Any:
    q = np.eye(x.shape[-2])
    for i, t in enumerate(tau):
        v = np.where(np.arange(len(x)) < i, 0, x[:, i])
        v[i] = 1
        q = q @ (np.eye(len(x)) - t * np.outer(v, v))
    return q[:, : x.shape[-1]]


def _geqrf(x: Any) -> Any:
    h, tau = np.linalg.qr(x, "raw")
    return np.swapaxes(h, -1, -2), tau


def _stft(
    x: Any, n_fft: int, hop_length: int, _: Any, window: Any, center: bool = True, return_complex: bool = True
) -> Any:
    if center:
        x = np.pad(x, [(0, 0)] * (x.ndim - 1) + [(n_fft // 2,) * 2], mode="reflect")
    starts = range(0, x.shape[-1] - n_fft + 1, hop_length)
    return np.stack([np.fft.rfft(x[..., s : s + n_fft] * window) for s in starts], axis=-1)


def _istft(x: Any, n_fft: int, hop_length: int, _: Any, window: Any) -> Any:
    size = n_fft + hop_length * (x.shape[-1] - 1)
    y, w2 = np.zeros((*x.shape[:-2], size)), np.zeros(size)
    for t in range(x.shape[-1]):
        at = slice(t * hop_length, t * hop_length + n_fft)
        y[..., at] += np.fft.irfft(x[..., t], n_fft) * window
        w2[at] += window**2
    return (y / np.where(w2 > 0, w2, 1))[..., n_fft // 2 : size - n_fft // 2]


def _histogram(x: Any, bins: Any, range: Any = None, density: bool = False) -> Any:
    counts, edges = np.histogram(x, bins, range, density=density)
    return counts.astype(x.dtype), np.asarray(edges, x.dtype)


_window = k(u(0.5, 1.5, 8))

FACTORS = [
    row("lu", _lu, c(square(3, 3)), c(n(2, 3, 4)), c(n(4, 3)), c(n(2, 2, 2)), torch="linalg.lu_factor"),
    row("linalg.lu", _plu, c(n(3, 3)), c(n(2, 3, 4)), c(n(4, 3)),
        torch=lambda torch, x: (torch.linalg.lu(x.detach())[0], *torch.linalg.lu(x)[1:])),
    row("linalg.lu_solve", lambda lu, p, x: np.linalg.solve(lu, x), c(k(a(np.triu(np.ones((3, 3))))), a([1, 2, 3]), n(3, 2)),
        torch=lambda torch, lu, p, x: torch.linalg.lu_solve(lu, p.int(), x)),
    row("geqrf", _geqrf, c(k(n(4, 3))), c(k(n(2, 3, 3)))),
    row("linalg.householder_product", _reflected, c(n(4, 3), n(3)), c(n(3, 3), n(2))),
]  # fmt: skip

_igamma = ((0.5, 0.2), (0.5, 3.0), (2.5, 1.0), (2.5, 9.0), (18.0, 15.0), (40.0, 55.0), (1.0, 0.0))
_ia, _ix = (k(a(np.array(v))) for v in zip(*_igamma))


def _lower_gamma(s: Any, x: Any) -> Any:
    """P(s, x) by its series, in long doubles."""

    def one(s: float, x: float) -> float:
        if x == 0:
            return 0.0
        term = total = np.longdouble(1) / s
        for j in range(1, 2000):
            term = term * x / (s + j)
            total += term
        return float(total * np.exp(s * np.log(np.longdouble(x)) - x - math.lgamma(s)))

    return np.vectorize(one)(s, x)


SPECIAL = [
    row("igamma", _lower_gamma, c(_ia, _ix), c(k(u(0.5, 4, 3, 1)), u(0.5, 5, 4))),
    row("igammac", lambda s, x: 1 - _lower_gamma(s, x), c(_ia, _ix), c(k(u(0.5, 4, 3, 1)), u(0.5, 5, 4))),
]  # fmt: skip

SIGNAL = [
    row("fft.stft", _stft, c(n(40), 8, 3, None, _window, return_complex=True),
        c(n(2, 30), 8, 4, None, _window, center=False, return_complex=True), torch="stft"),
    row("fft.istft", _istft, c(z(5, 9), 8, 2, None, _window), c(z(2, 5, 6), 8, 4, None, _window), torch="istft"),
    row("frobenius_norm", lambda x, dim=None, keepdim=False: np.sqrt((x * x).sum(axis=dim, keepdims=keepdim)),
        c(n(3, 4), dim=(0, 1)), c(n(3, 4), dim=1)),
    row("histogram", _histogram, c(k(n(30)), 5), c(k(n(30)), 4, range=(-1, 1)), c(k(n(5, 6)), 3, density=True)),
]  # fmt: skip

SCIENCE_ROWS: list[Row] = [*FACTORS, *SPECIAL, *SIGNAL]
