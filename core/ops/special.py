"""Special functions, elementwise: error, gamma and Bessel functions. They compute in float64 and round to the tensor's dtype.

Formulas: Abramowitz & Stegun, Handbook of Mathematical Functions, 1964 (A&S); DLMF, https://dlmf.nist.gov.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from core.errors import ArgumentError
from core.ops.op import pointwise
from core.ops.pointwise import floating, promoted

_ROOT_PI = math.sqrt(math.pi)


def _in_double(be: Any, x: Any, f: Any) -> Any:
    """f(x) by float64, in x's dtype, or the default one for integers."""
    x = floating(be, x)
    with np.errstate(all="ignore"):
        return f(x.astype(np.float64)).astype(x.dtype)


# -- error functions -------------------------------------------------------------------------------------------------------


@pointwise(x=lambda F, g, x: g * F.exp(x * x * -1) * (2 / _ROOT_PI))
def erf(be, x):
    """2/√π ∫₀ˣ e^(−t²) dt"""
    return be.erf(floating(be, x))


@pointwise(x=lambda F, g, x: g * F.exp(x * x * -1) * (-2 / _ROOT_PI))
def erfc(be, x):
    """1 − erf x, exact where that is small."""
    return _in_double(be, x, lambda x: _erfc(be, x))


def _erfc(be: Any, x: Any) -> Any:
    xp = be.xp
    a = xp.maximum(x, 2.0)
    fraction = a  # A&S 7.1.14, from the inside out
    for k in range(60, 0, -1):
        fraction = a + (k / 2) / fraction
    y = xp.where(x < 2, 1 - be.erf(x), xp.exp(-a * a) / (_ROOT_PI * fraction))
    return xp.where(x == x, xp.where(a == np.inf, 0.0, y), x)


@pointwise(x=lambda F, g, out: g * F.exp(out * out) * (_ROOT_PI / 2))
def erfinv(be, x):
    """The inverse of erf on (−1, 1)."""
    return _in_double(be, x, lambda x: _erfinv(be, x))


def _erfinv(be: Any, x: Any) -> Any:
    xp, a = be.xp, 0.147  # Winitzki 2008, to two digits; Halley's steps on erfc then triple them
    r = xp.log1p(-x * x)
    b = 2 / (math.pi * a) + r / 2
    y = xp.sqrt(xp.sqrt(b * b - r / a) - b)
    for _ in range(3):
        error = (_erfc(be, y) - (1 - xp.abs(x))) * xp.exp(y * y) * (-_ROOT_PI / 2)
        y = y - error / (1 + y * error)
    y = xp.where(xp.abs(x) == 1, np.inf, xp.where(x == 0, 0, y))
    return xp.copysign(xp.where(xp.abs(x) > 1, np.nan, y), x)


@pointwise(x=lambda F, g, x: g * F.exp(x * x * -0.5 - F.log_ndtr(x)) * (1 / math.sqrt(2 * math.pi)))
def log_ndtr(be, x):
    """ln Φ(x), without underflow."""
    xp = be.xp

    def f(x: Any) -> Any:
        low = xp.minimum(x, -1.0)
        a, fraction = -low, -low
        for k in range(120, 0, -1):
            fraction = a + k / fraction
        return xp.where(
            x < -1,
            -low * low / 2 - xp.log(fraction * math.sqrt(2 * math.pi)),
            xp.log1p(-_erfc(be, x / math.sqrt(2)) / 2),
        )

    return _in_double(be, x, f)


# -- gamma functions ---------------------------------------------------------------------------------------------------------

_SHIFT = 10  # how far x is moved up by the recurrence, to where the asymptotic series is exact
_BERNOULLI = [
    1 / 6,
    -1 / 30,
    1 / 42,
    -1 / 30,
    5 / 66,
    -691 / 2730,
    7 / 6,
    -3617 / 510,
    43867 / 798,
    -174611 / 330,
]  # B₂, B₄, …


def _lgamma(xp: Any, x: Any) -> Any:
    """ln Γ(x) for x > 0: A&S 6.1.41 at x + _SHIFT."""
    z, product = x + _SHIFT, 1.0
    for k in range(_SHIFT):
        product = product * xp.where(x < 1e25, x + k, 1.0)
    series = sum(b / (2 * j * (2 * j - 1) * z ** (2 * j - 1)) for j, b in enumerate(_BERNOULLI[:8], 1))
    return (z - 0.5) * xp.log(z) - z + math.log(2 * math.pi) / 2 + series - xp.log(product)


@pointwise(x=lambda F, g, x: g * F.digamma(x))
def lgamma(be, x):
    """ln |Γ(x)|"""
    xp = be.xp

    def f(x: Any) -> Any:
        positive = _lgamma(xp, xp.where(x > 0, x, 1 - x))
        y = xp.where(
            x > 0, positive, math.log(math.pi) - xp.log(xp.abs(xp.sin(math.pi * (x - xp.round(x))))) - positive
        )
        pole = (x <= 0) & (x == xp.floor(x))
        return xp.where(pole | xp.isinf(x), np.inf, y)

    return _in_double(be, x, f)


@pointwise(x=lambda F, g, x: g * F.polygamma_of_order(x, n=1))
def digamma(be, x):
    """ψ(x) = d/dx ln Γ(x)"""
    xp = be.xp

    def f(x: Any) -> Any:
        p = xp.where(x > 0, x, 1 - x)
        z = p + _SHIFT
        y = (
            xp.log(z) - 1 / (2 * z) - sum(b / (2 * j * z ** (2 * j)) for j, b in enumerate(_BERNOULLI[:8], 1))
        )  # A&S 6.3.18
        for k in range(_SHIFT):
            y = y - 1 / (p + k)
        y = xp.where(x > 0, y, y - math.pi / xp.tan(math.pi * (x - xp.round(x))))
        pole = (x <= 0) & (x == xp.floor(x))
        return xp.where(x == 0, xp.copysign(np.inf, -x), xp.where(pole, np.nan, y))

    return _in_double(be, x, f)


@pointwise(x=lambda F, g, x, n: g * F.polygamma_of_order(x, n=n + 1))
def polygamma_of_order(be, x, *, n):
    """The n-th derivative of ψ, n ≥ 1 (digamma is n = 0); x > 0, for n = 1 any x. Public as `polygamma`."""
    if n < 1:
        raise ArgumentError(f"polygamma: expected n >= 0, got {n}")
    xp = be.xp

    def f(x: Any) -> Any:
        positive = xp.where(x > 0, x, 1 - x) if n == 1 else x
        y = (-1) ** (n + 1) * math.factorial(n) * _zeta(xp, float(n + 1), positive)
        return xp.where(x > 0, y, (math.pi / xp.sin(math.pi * x)) ** 2 - y) if n == 1 else y

    return _in_double(be, x, f)


def _zeta(xp: Any, s: Any, q: Any) -> Any:
    """ζ(s, q) = Σ (q + k)⁻ˢ, by the Euler–Maclaurin formula. DLMF 25.11.28."""
    z = q + _SHIFT
    total = z ** (1 - s) / (s - 1) + z**-s / 2
    for k in range(_SHIFT):
        total = total + (q + k) ** -s
    rising = s
    for j, b in enumerate(_BERNOULLI, 1):
        total = total + b / math.factorial(2 * j) * rising * z ** (-s - 2 * j + 1)
        rising = rising * (s + 2 * j - 1) * (s + 2 * j)
    return total


@pointwise(y=lambda F, g, x, y: g * x * F.zeta(x + 1, y) * -1)
def zeta(be, x, y):
    """Hurwitz's Σ (y + k)⁻ˣ over k ≥ 0, for x > 1 and y > 0."""
    x, y = promoted(x, y)
    d = getattr(x, "dtype", None) or y.dtype
    with np.errstate(all="ignore"):
        x, y = be.xp.asarray(x, dtype=np.float64), be.xp.asarray(y, dtype=np.float64)
        return be.xp.where(x == 1, np.inf, _zeta(be.xp, x, y)).astype(d)


# -- logarithms at the edge ----------------------------------------------------------------------------------------------------


@pointwise(
    x=lambda F, g, x, y: F.where(F.logical_and(F.eq(x, 0), y <= 0), 0, F.xlogy(g, y)),
    y=lambda F, g, x, y: F.div(g * x, y),
)
def xlogy(be, x, y):
    """x·ln y, and 0 where x = 0."""
    xp = be.xp
    x, y = promoted(x, y) if hasattr(x, "dtype") and hasattr(y, "dtype") else (x, y)
    x, y = promoted(*(floating(be, v) if hasattr(v, "dtype") else v for v in (x, y)))
    with np.errstate(divide="ignore", invalid="ignore"):
        return xp.where(xp.logical_and(x == 0, xp.logical_not(xp.isnan(y))), 0, x * xp.log(y)).astype(
            (x if hasattr(x, "dtype") else y).dtype
        )


@pointwise(
    x=lambda F, g, x, y: F.where(F.logical_and(F.eq(x, 0), y <= -1), 0, F.xlog1py(g, y)),
    y=lambda F, g, x, y: F.div(g * x, y + 1),
)
def xlog1py(be, x, y):
    """x·ln(1 + y), and 0 where x = 0."""
    xp = be.xp
    x, y = promoted(x, y)
    x, y = (floating(be, v) if hasattr(v, "dtype") else v for v in (x, y))
    with np.errstate(divide="ignore", invalid="ignore"):
        return xp.where(xp.logical_and(x == 0, xp.logical_not(xp.isnan(y))), 0, x * xp.log1p(y)).astype(
            (x if hasattr(x, "dtype") else y).dtype
        )


@pointwise(x=lambda F, g, x: g * (F.log(x) + 1) * -1)
def entr(be, x):
    """−x·ln x; 0 at 0, −∞ below."""
    xp = be.xp
    x = floating(be, x)
    with np.errstate(divide="ignore", invalid="ignore"):
        return xp.where(x > 0, -x * xp.log(x), xp.where(x == 0, 0, xp.where(x < 0, -np.inf, x))).astype(x.dtype)


def _logit_dx(F, g, x, eps):
    dx = F.div(g, x * (1 - x))
    if eps is None:
        return F.where(F.logical_and(F.ge(x, 0), F.le(x, 1)), dx, math.nan)
    return F.where(F.logical_and(F.ge(x, eps), F.le(x, 1 - eps)), dx, 0)


@pointwise(x=_logit_dx)
def logit(be, x, *, eps=None):
    """ln(x/(1 − x)), of x held between eps and 1 − eps if eps is given."""
    x = floating(be, x)
    x = x if eps is None else be.xp.clip(x, eps, 1 - eps).astype(x.dtype, copy=False)
    with np.errstate(divide="ignore", invalid="ignore"):
        return be.xp.log(x / (1 - x))


@pointwise(
    x=lambda F, g, x, out: F.where(F.eq(x, 0), 0, g * F.div(F.cos(x * math.pi) - out, F.where(F.eq(x, 0), 1, x)))
)
def sinc(be, x):
    """sin(πx)/(πx), 1 at 0"""
    return be.xp.sinc(floating(be, x)).astype(floating(be, x).dtype)


# -- Bessel functions ------------------------------------------------------------------------------------------------------------


def _bessel(xp: Any, n: int, x: Any) -> Any:
    """e^−|x|·Iₙ(x) for n = 0, 1: A&S 9.6.10 up to 30, 9.7.1 above."""
    a = xp.abs(x)
    low, high = xp.minimum(a, 30.0), xp.maximum(a, 30.0)
    term = total = (low / 2) ** n
    for k in range(1, 80):
        term = term * (low * low / 4) / (k * (k + n))
        total = total + term
    far = tail = xp.ones_like(high)
    for k in range(1, 20):
        tail = tail * -(4 * n * n - (2 * k - 1) ** 2) / (k * 8 * high)
        far = far + tail
    y = xp.where(a < 30, total * xp.exp(-low), far / xp.sqrt(2 * math.pi * high))
    return y * xp.sign(x) if n else y


@pointwise(x=lambda F, g, x: g * F.i1(x))
def i0(be, x):
    """The modified Bessel function I₀."""
    return _in_double(be, x, lambda x: _bessel(be.xp, 0, x) * be.xp.exp(be.xp.abs(x)))


@pointwise(x=lambda F, g, x, out: g * (F.i1e(x) - F.sgn(x) * out))
def i0e(be, x):
    """e^−|x|·I₀(x)"""
    return _in_double(be, x, lambda x: _bessel(be.xp, 0, x))


def _over(F, y, x):
    """y/x, and its limit ½ at 0."""
    return F.where(F.eq(x, 0), 0.5, F.div(y, F.where(F.eq(x, 0), 1, x)))


@pointwise(x=lambda F, g, x, out: g * (F.i0(x) - _over(F, out, x)))
def i1(be, x):
    """The modified Bessel function I₁."""
    return _in_double(be, x, lambda x: _bessel(be.xp, 1, x) * be.xp.exp(be.xp.abs(x)))


@pointwise(x=lambda F, g, x, out: g * (F.i0e(x) - F.sgn(x) * out - _over(F, out, x)))
def i1e(be, x):
    """e^−|x|·I₁(x)"""
    return _in_double(be, x, lambda x: _bessel(be.xp, 1, x))
