"""Incomplete gamma functions, elementwise, and their relatives. They compute in float64 and round to the tensor's dtype.

Source: DLMF, https://dlmf.nist.gov, §8.7 (series) and §8.9 (continued fraction); §8.12 for large arguments is not needed: both
converge there in some √a terms.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from core.ops.op import pointwise
from core.ops.pointwise import floating, promoted
from core.ops.special import _lgamma


def _both(be: Any, a: Any, x: Any, f: Any) -> Any:
    a, x = promoted(*(floating(be, v) if hasattr(v, "dtype") else v for v in (a, x)))
    d = (a if hasattr(a, "dtype") else x).dtype
    with np.errstate(all="ignore"):
        a, x = be.xp.broadcast_arrays(be.xp.asarray(a, dtype=np.float64), be.xp.asarray(x, dtype=np.float64))
        return f(a, x).astype(d)


def _terms(a: Any) -> int:
    """How many terms are enough: the tails fall off beyond some √a of them."""
    top = float(np.max(np.where(np.isfinite(a), a, 0), initial=0.0)) if isinstance(a, np.ndarray) else float(a.max())
    return int(60 + 12 * np.sqrt(max(top, 0.0)))


def _lower(be: Any, a: Any, x: Any) -> Any:
    """P(a, x), the lower one, regularised."""
    xp = be.xp
    below = x < a + 1
    front = xp.exp(a * xp.log(x) - x - _lgamma(xp, a))
    xs, n = xp.where(below, x, 0.0), _terms(a)
    term = total = 1 / a
    for k in range(1, n):  # 8.7.1, for x < a + 1
        term = term * xs / (a + k)
        total = total + term
    h = _fraction(xp, a, x, n)
    y = xp.where(below, front * total, 1 - front * h)
    y = xp.where(x == 0, 0.0, xp.where(x == np.inf, 1.0, y))
    y = xp.where(a == 0, 1.0, y)
    return xp.where((x < 0) | (a < 0) | ((a == 0) & (x == 0)) | (a != a) | (x != x), np.nan, y)


def _fraction(xp: Any, a: Any, x: Any, terms: int) -> Any:
    """8.9.2 by Lentz's method: the upper function is front times this; for x < a + 1, where it is not used, that of a + 1."""
    x = xp.where(x < a + 1, a + 1, x)
    b, c = x + 1 - a, xp.full_like(x, 1e300)
    d = 1 / b
    h = d
    for k in range(1, terms):
        step = -k * (k - a)
        b = b + 2
        d = 1 / xp.where(step * d + b == 0, 1e-300, step * d + b)
        c = b + step / c
        c = xp.where(c == 0, 1e-300, c)
        h = h * (d * c)
    return h


def _upper(be: Any, a: Any, x: Any) -> Any:
    """1 − P(a, x), exact where that is small."""
    xp = be.xp
    front = xp.exp(a * xp.log(x) - x - _lgamma(xp, a))
    h = _fraction(xp, a, x, _terms(a))
    return xp.where((x >= a + 1) & (x < np.inf) & (a > 0), front * h, 1 - _lower(be, a, x))


def _slope(F, g, a, x):
    """x^(a−1) e⁻ˣ / Γ(a)"""
    return g * F.exp((a - 1) * F.log(x) - x - F.lgamma(a))


@pointwise(y=lambda F, g, x, y: _slope(F, g, x, y), names=("input", "other"))
def igamma(be, x, y):
    """P(a, x) = ∫₀ˣ t^(a−1) e^−t dt / Γ(a), a first. Its gradient is for x alone."""
    return _both(be, x, y, lambda a, x: _lower(be, a, x))


@pointwise(y=lambda F, g, x, y: _slope(F, g, x, y) * -1, names=("input", "other"))
def igammac(be, x, y):
    """1 − P(a, x), a first. Its gradient is for x alone."""
    return _both(be, x, y, lambda a, x: _upper(be, a, x))
