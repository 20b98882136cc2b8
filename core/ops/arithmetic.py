"""More elementwise ops: mixtures of products, hyperbolic inverses, bits, numbers that are not finite. They promote as `pointwise` ops
do."""

from __future__ import annotations

import math

import numpy as np

from core import dtypes
from core.errors import DTypeError
from core.ops.op import pointwise
from core.ops.pointwise import _as, floating, ordered, promoted


@pointwise(x=lambda F, g, x: g * F.rsqrt(x * x + 1))
def asinh(be, x, *, out=None):
    """arsinh x"""
    return be.xp.arcsinh(floating(be, x), out=out)


@pointwise(x=lambda F, g, x: g * F.rsqrt(x * x - 1))
def acosh(be, x, *, out=None):
    """arcosh x"""
    with np.errstate(invalid="ignore"):
        return be.xp.arccosh(floating(be, x), out=out)


@pointwise(x=lambda F, g, x: F.div(g, 1 - x * x))
def atanh(be, x, *, out=None):
    """artanh x"""
    with np.errstate(invalid="ignore", divide="ignore"):
        return be.xp.arctanh(floating(be, x), out=out)


@pointwise(x=lambda F, g, out: g * out * math.log(2))
def exp2(be, x, *, out=None):
    """2ˣ"""
    return be.xp.exp2(floating(be, x), out=out)


@pointwise(x=lambda F, g: g)
def frac(be, x):
    """x − trunc(x)"""
    return x - be.xp.trunc(x)


def _scaled(be, x, factor):
    x = floating(be, x)
    if x.dtype.itemsize == 2:  # the factor must not be rounded to so few digits
        return (x.astype(np.float32) * factor).astype(x.dtype)
    return x * factor


@pointwise(x=lambda F, g: g * (math.pi / 180))
def deg2rad(be, x):
    """Degrees as radians."""
    return _scaled(be, x, math.pi / 180)


@pointwise(x=lambda F, g: g * (180 / math.pi))
def rad2deg(be, x):
    """Radians as degrees."""
    return _scaled(be, x, 180 / math.pi)


# -- two and three arguments -----------------------------------------------------------------------------------------------


@pointwise(x=lambda F, g, x, y: g * F.sigmoid(x - y), y=lambda F, g, x, y: g * F.sigmoid(y - x))
def logaddexp(be, x, y):
    """ln(eˣ + eʸ)"""
    return be.xp.logaddexp(*promoted(x, y))


@pointwise(
    x=lambda F, g, x, y: g * F.sigmoid((x - y) * math.log(2)), y=lambda F, g, x, y: g * F.sigmoid((y - x) * math.log(2))
)
def logaddexp2(be, x, y):
    """log₂(2ˣ + 2ʸ)"""
    return be.xp.logaddexp2(*promoted(x, y))


@pointwise(x=lambda F, g, x, out: g * F.div(x, out), y=lambda F, g, y, out: g * F.div(y, out))
def hypot(be, x, y):
    """√(x² + y²)"""
    return be.xp.hypot(*promoted(x, y))


@pointwise(x=lambda F, g, x, out: g * F.sgn(x) * F.sgn(out), y=lambda F, g: g * 0)
def copysign(be, x, y):
    """|x| with the sign of y."""
    x, y = promoted(floating(be, x), y)
    return be.xp.copysign(x, y)


@pointwise(x=lambda F, g, x, y: F.where(F.ge(x, y), g, 0), y=lambda F, g, x, y: F.where(F.ge(x, y), 0, g))
def fmax(be, x, y):
    """The greater; the other one where one is NaN."""
    x, y = promoted(x, y)
    ordered(x, "fmax")
    return be.xp.fmax(x, y)


@pointwise(x=lambda F, g, x, y: F.where(F.le(x, y), g, 0), y=lambda F, g, x, y: F.where(F.le(x, y), 0, g))
def fmin(be, x, y):
    """The lesser; the other one where one is NaN."""
    x, y = promoted(x, y)
    ordered(x, "fmin")
    return be.xp.fmin(x, y)


@pointwise(names=("input", "values"))
def heaviside(be, x, y):
    """0 for x < 0, y for x = 0, 1 for x > 0."""
    if x.dtype != y.dtype:
        raise DTypeError(f"heaviside: expected equal dtypes, got {dtypes.of(x.dtype)} and {dtypes.of(y.dtype)}")
    return be.xp.where(x == 0, y, (x > 0).astype(x.dtype))


@pointwise()
def nextafter(be, x, y):
    """The next number that the dtype holds after x on the way to y."""
    return be.xp.nextafter(*promoted(x, y))


@pointwise(
    x=lambda F, g, w: g * (1 - w),
    y=lambda F, g, w: g * w,
    w=lambda F, g, x, y: g * (y - x),
    names=("input", "end", "weight"),
)
def lerp(be, x, y, w):
    """x + w·(y − x); w is a number or a tensor."""
    if x.dtype != y.dtype or getattr(w, "dtype", x.dtype) != x.dtype:
        raise DTypeError(f"lerp: expected equal dtypes, got {dtypes.of(x.dtype)} and {dtypes.of(y.dtype)}")
    if not hasattr(w, "dtype"):
        return (x + (y - x) * w if abs(w) < 0.5 else y - (y - x) * (1 - w)).astype(x.dtype, copy=False)
    return be.xp.where(be.xp.abs(w) < 0.5, x + w * (y - x), y - (y - x) * (1 - w))


def _third(be, x, y):
    """x and a second operand in their common dtype."""
    d = dtypes.result_numpy(x, y)
    return _as(x, d), _as(y, d)


@pointwise(
    x=lambda F, g: g,
    y=lambda F, g, z, value: g * F.conj(z) * value,
    z=lambda F, g, y, value: g * F.conj(y) * value,
    names=("input", "tensor1", "tensor2"),
)
def addcmul(be, x, y, z, *, value=1):
    """x + value·y·z"""
    y, z = promoted(y, z)
    x, p = _third(be, x, be.xp.multiply(y, z))
    return x + (p if value == 1 else p * p.dtype.type(value))


@pointwise(
    x=lambda F, g: g,
    y=lambda F, g, z, value: F.div(g, z) * value,
    z=lambda F, g, y, z, value: F.div(g * y, z * z) * -value,
    names=("input", "tensor1", "tensor2"),
)
def addcdiv(be, x, y, z, *, value=1):
    """x + value·y/z"""
    y, z = promoted(y, z)
    if dtypes.category(y.dtype) < dtypes.FLOATING:
        raise DTypeError("addcdiv: expected floating tensors to divide, got integers; convert one with .float()")
    with np.errstate(divide="ignore", invalid="ignore"):
        x, q = _third(be, x, be.xp.true_divide(y, z))
    return x + (q if value == 1 else q * q.dtype.type(value))


@pointwise(x=lambda F, g, x: g * F.isfinite(x))
def nan_to_num(be, x, *, nan=0.0, posinf=None, neginf=None):
    """NaN, +∞ and −∞ replaced: by `nan`, and by `posinf` and `neginf` or the greatest and least finite number."""
    if dtypes.category(x.dtype) < dtypes.FLOATING:
        return be.xp.array(x)
    if x.dtype.kind == "V":  # bfloat16, which NumPy has no limits of
        import ml_dtypes

        top = float(ml_dtypes.finfo(x.dtype).max)
        posinf, neginf = top if posinf is None else posinf, -top if neginf is None else neginf
        y = be.xp.where(be.xp.isnan(x), 0.0 if nan is None else nan, x.astype(np.float32))
        return be.xp.where(y == np.inf, posinf, be.xp.where(y == -np.inf, neginf, y)).astype(x.dtype)
    return be.xp.nan_to_num(x, nan=0.0 if nan is None else nan, posinf=posinf, neginf=neginf)


# -- integers and signs: no gradients ---------------------------------------------------------------------------------------


def _whole(name: str, ufunc: str, doc: str):
    def forward(be, x, y):
        x, y = promoted(x, y)
        if dtypes.category((x if hasattr(x, "dtype") else y).dtype) != dtypes.INTEGER:
            raise DTypeError(f"{name}: expected integers, got {dtypes.of((x if hasattr(x, 'dtype') else y).dtype)}")
        return getattr(be.xp, ufunc)(x, y)

    forward.__name__ = forward.__qualname__ = name
    forward.__doc__ = doc
    return pointwise()(forward)


gcd = _whole("gcd", "gcd", "The greatest common divisor.")
lcm = _whole("lcm", "lcm", "The least common multiple.")
bitwise_left_shift = _whole("bitwise_left_shift", "left_shift", "x·2ʸ of integers.")
bitwise_right_shift = _whole("bitwise_right_shift", "right_shift", "⌊x/2ʸ⌋ of integers.")


@pointwise()
def signbit(be, x):
    """Whether the sign is negative, that of −0 and NaN included."""
    return be.xp.signbit(x) if x.dtype.kind in "fV" else x < 0


@pointwise()
def isposinf(be, x):
    """Whether each element is +∞."""
    return x == np.inf


@pointwise()
def isneginf(be, x):
    """Whether each element is −∞."""
    return x == -np.inf


@pointwise()
def isreal(be, x):
    """Whether each element has no imaginary part."""
    return x.imag == 0 if x.dtype.kind == "c" else be.xp.ones(x.shape, dtype=np.bool_)
