"""Elementwise functions composed of ops, by torch's signatures."""

from __future__ import annotations

import math
from typing import Any

from core import dtypes
from core._tensor import Tensor
from core.errors import ShapeError
from core.ops import complex_parts as _complex
from core.ops import nn as _nn
from core.ops import pointwise as _pw
from core.ops import shape as _shape
from core.ops import special as _special


def clamp_min(x: Tensor, min: Any) -> Tensor:
    """x, but at least `min`."""
    return _pw.clamp(x, min, None)


def clamp_max(x: Tensor, max: Any) -> Tensor:
    """x, but at most `max`."""
    return _pw.clamp(x, None, max)


def positive(x: Tensor) -> Tensor:
    """x itself."""
    return x


def float_power(x: Any, exponent: Any) -> Tensor:
    """xʸ in float64, or complex128."""
    wide = [dtypes.complex128 if v.is_complex() else dtypes.float64 for v in (x, exponent) if isinstance(v, Tensor)]
    d = dtypes.complex128 if dtypes.complex128 in wide else dtypes.float64
    x, y = (_pw.cast(v, dtype=d) if isinstance(v, Tensor) else v for v in (x, exponent))
    return _pw.pow(x, y)


def ldexp(x: Tensor, other: Tensor) -> Tensor:
    """x·2ʸ"""
    return _pw.mul(x, _pw.pow(2.0, other))


def floor_divide(x: Any, other: Any) -> Tensor:
    """⌊x/y⌋"""
    return _pw.div(x, other, rounding_mode="floor")


def real(x: Tensor) -> Tensor:
    """The real part, in x's memory; x itself if it is real."""
    return _complex.real_part(x) if x.is_complex() else x


def polar(abs: Tensor, angle: Tensor) -> Tensor:
    """The complex number of this absolute value and angle."""
    return _complex.complex(_pw.mul(abs, _pw.cos(angle)), _pw.mul(abs, _pw.sin(angle)))


def polygamma(n: int, x: Tensor) -> Tensor:
    """The n-th derivative of the digamma function."""
    return _special.polygamma_of_order(x, n=n) if n else _special.digamma(x)


def mvlgamma(x: Tensor, p: int) -> Tensor:
    """ln of the multivariate gamma function of dimension p: p(p − 1)/4·ln π + Σ ln Γ(x − j/2) for j < p."""
    total = _special.lgamma(x)
    for j in range(1, p):
        total = total + _special.lgamma(x - j / 2)
    return total + p * (p - 1) / 4 * math.log(math.pi)


def softmax(input: Tensor, dim: int, dtype: Any = None) -> Tensor:
    """eˣ / Σ eˣ along one dimension; `dtype` is what it is converted to first."""
    return _nn.softmax(input if dtype is None else _pw.cast(input, dtype=dtype), dim=dim)


def log_softmax(input: Tensor, dim: int, dtype: Any = None) -> Tensor:
    """ln softmax(x) along one dimension; `dtype` is what it is converted to first."""
    return _nn.log_softmax(input if dtype is None else _pw.cast(input, dtype=dtype), dim=dim)


def gradient(x: Tensor, *, spacing: Any = 1, dim: Any = None, edge_order: int = 1) -> tuple[Tensor, ...]:
    """Derivatives along dimensions by central differences, one-sided at the ends; elements are `spacing` apart."""
    dims = range(x._a.ndim) if dim is None else [dim] if isinstance(dim, int) else dim
    steps = spacing if isinstance(spacing, (list, tuple)) else [spacing] * len(dims)
    found = []
    for d, h in zip(dims, steps):
        n = x._a.shape[d]
        if n < 2 or edge_order != 1:
            raise ShapeError(
                f"gradient: expected at least 2 elements along dim {d} and edge_order 1, got {n} and {edge_order}"
            )
        first, last = x.narrow(d, 1, 1) - x.narrow(d, 0, 1), x.narrow(d, n - 1, 1) - x.narrow(d, n - 2, 1)
        middle = (x.narrow(d, 2, n - 2) - x.narrow(d, 0, n - 2)) * 0.5
        found.append(_pw.div(_shape.cat([first, middle, last], dim=d), h))
    return tuple(found)
