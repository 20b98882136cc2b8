"""Standard normals in float32, to the last bit those of PyTorch's CPU kernel on x86-64 with AVX2.

Contract: `box_muller` is Box and Muller's pair of normals from a pair of uniforms, with logarithm, sine and cosine by
the single-precision polynomials of Cephes, and one rounding where that kernel is compiled to a fused multiply-add.
Here a fused multiply-add is one in float64, rounded to float32: the product is exact there, and the sum so nearly that
the last bit of the result can differ once in about 10⁸.
Source: S. L. Moshier, Cephes library, single/logf.c and sinf.c (coefficients and argument reduction); in PyTorch
aten/src/ATen/native/cpu/avx_mathfun.h.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from core.backend.threads import get_num_threads

_SQRT_HALF = np.float32(0.707106781186547524)
_LOG = (
    7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1, -1.6668057665e-1,
    2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1,
)  # fmt: skip
_LN2_LOW, _LN2_HIGH = -2.12194440e-4, 0.693359375  # their sum is ln 2
_COS = (2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2)
_SIN = (-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1)
_QUARTERS = (-0.78515625, -2.4187564849853515625e-4, -3.77489497744594108e-8)  # their sum is −π/4
# Blocks of 16 that are computed together: their intermediate results stay in the cache.
_TOGETHER = 1024
# So many of these are worth a thread's start.
_A_THREAD = 8


def box_muller(u: np.ndarray) -> np.ndarray:
    """(n,) normals from (n,) uniforms in [0, 1), n a multiple of 16, both float32: in each block of 16 the first eight
    are radii, the last eight angles.
    """
    u = u.reshape(-1, 2, 8)
    z = np.empty_like(u)

    def fill(start: int) -> None:
        part, into = u[start : start + _TOGETHER], z[start : start + _TOGETHER]
        radius = _log(np.float32(1) - part[:, 0])
        radius *= np.float32(-2)
        np.sqrt(radius, out=radius)
        sin, cos = _sin_cos(part[:, 1] * np.float32(2 * np.pi))
        np.multiply(radius, cos, out=into[:, 0])
        np.multiply(radius, sin, out=into[:, 1])

    starts = range(0, len(u), _TOGETHER)
    threads = min(get_num_threads(), len(starts) // _A_THREAD)
    if threads < 2:
        for start in starts:
            fill(start)
    else:
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(fill, starts))
    return z.reshape(-1)


def scaled(z: np.ndarray, std: float, mean: float) -> np.ndarray:
    """z·std + mean in the precision of z; in float32 rounded once."""
    if z.dtype == np.float32 and mean != 0:
        return (z * np.float64(np.float32(std)) + np.float64(np.float32(mean))).astype(np.float32)
    return z * z.dtype.type(std) + z.dtype.type(mean)


# What follows holds values of float32 in arrays of float64, where a product of two is exact, and works in place.


def _round(x: np.ndarray, scratch: np.ndarray) -> None:
    """To the nearest values of float32."""
    scratch[...] = x
    x[...] = scratch


def _fuse(a: np.ndarray, b: Any, c: Any, scratch: np.ndarray) -> None:
    """a becomes a·b + c, rounded once."""
    a *= b
    a += c
    _round(a, scratch)


def _polynomial(x: np.ndarray, coefficients: tuple[float, ...], scratch: np.ndarray) -> np.ndarray:
    """x·P(x) by Horner's rule: the first coefficient belongs to the highest power."""
    first, *others = (float(np.float32(c)) for c in coefficients)
    y = np.full_like(x, first)
    for c in others:
        _fuse(y, x, c, scratch)
    y *= x
    _round(y, scratch)
    return y


def _log(x: np.ndarray) -> np.ndarray:
    """Of float32 in (0, 1]: x = 2ᵉ·(1 + m) with 1 + m in [√½, √2), log(1 + m) = m − m²/2 + m³·P(m)."""
    bits = np.ascontiguousarray(x).view(np.int32)
    exponent = (bits >> 23) - 126
    mantissa = ((bits & 0x7FFFFF) | 0x3F000000).view(np.float32)  # in [½, 1)
    small = mantissa < _SQRT_HALF
    exponent -= small
    mantissa += np.where(small, mantissa, np.float32(0)) - np.float32(1)  # both steps are exact
    scratch, m = np.empty_like(mantissa), mantissa.astype(np.float64)
    square = m * m
    _round(square, scratch)
    low = exponent * float(np.float32(_LN2_LOW))
    _round(low, scratch)
    y = _polynomial(m, _LOG, scratch)
    _fuse(y, square, low, scratch)
    square *= -0.5
    y += square
    _round(y, scratch)
    y += m
    _round(y, scratch)
    y += exponent * _LN2_HIGH
    return y.astype(np.float32)


def _sin_cos(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(sin x, cos x) of float32 x ≥ 0: x less the nearest even number of quarters of π, then a polynomial by octant."""
    octant = (x * np.float32(4 / np.pi)).astype(np.int32)
    octant += 1
    octant &= ~1
    scratch, r = np.empty_like(x), x.astype(np.float64)
    for quarter in _QUARTERS:
        r += octant * float(np.float32(quarter))
        _round(r, scratch)
    square = r * r
    _round(square, scratch)
    cos, sin = (_polynomial(square, each, scratch) for each in (_COS, _SIN))
    _fuse(cos, square, square * -0.5, scratch)
    cos += 1.0
    _fuse(sin, r, r, scratch)
    s, c = sin.astype(np.float32), cos.astype(np.float32)
    swapped = (octant & 2) != 0
    s, c = np.where(swapped, c, s), np.where(swapped, s, c)
    s.view(np.int32)[...] ^= (octant & 4) << 29  # signs
    c.view(np.int32)[...] ^= (~(octant - 2) & 4) << 29
    return s, c
