"""Elementwise ops: arithmetic, comparison, elementary functions, selection. All broadcast and promote as torch does."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from core import dtypes
from core.errors import DTypeError
from core.ops.op import op, pointwise

_BOOL, _REAL = np.dtype(np.bool_), np.dtype(np.float64)

# -- promotion -----------------------------------------------------------------------------------------------------------
# NumPy's ufuncs promote by NumPy's rules. These helpers hand them operands that already have torch's common dtype.


_MANY = 1 << 12  # elements, from which it is worth asking the backend for more than array code


def promoted(x: Any, y: Any) -> tuple[Any, Any]:
    """Both operands ready for a ufunc: equal dtypes, or an array and a Python number that does not change its dtype."""
    xd, yd = getattr(x, "dtype", None), getattr(y, "dtype", None)
    if xd is yd and xd is not None:
        return x, y
    if yd is None and xd is not None:
        number, category = y, dtypes.category(xd)
    elif xd is None and yd is not None:
        number, category = x, dtypes.category(yd)
    else:
        number, category = None, None
    if category is not None:
        c, d = dtypes.scalar_category(number), xd if yd is None else yd
        if c is not None and c <= category and d.kind != "V":  # bfloat16 would become float32
            return _unsigned(x, y) if d.kind == "u" and number < 0 else (x, y)
    d = dtypes.result_numpy(x, y)
    return _as(x, d), _as(y, d)


def _unsigned(x: Any, y: Any) -> tuple[Any, Any]:
    """A negative number that meets an unsigned type wraps around, as in C; one that is too great is an error."""
    n = 8 * getattr(x, "dtype", getattr(y, "dtype", _BOOL)).itemsize
    return (x if hasattr(x, "dtype") or x <= -(1 << n) else x + (1 << n)), (
        y if hasattr(y, "dtype") or y <= -(1 << n) else y + (1 << n)
    )


def _no_zeros(be: Any, x: Any, y: Any, where: str) -> None:
    """An error for integers divided by 0. On a GPU it would have to be waited for, so there it is not looked at."""
    d = getattr(x, "dtype", None) or y.dtype
    if dtypes.category(d) < dtypes.FLOATING and be.device_type == "cpu" and getattr(x, "size", 1) and not np.all(y):
        raise DTypeError(
            f"{where}: ZeroDivisionError: expected divisors other than 0 for tensors of {dtypes.of(d)}, got 0"
        )


def floating(be: Any, x: Any) -> Any:
    """Integers and booleans become the default floating type, as every function with real values has it."""
    return x.astype(dtypes.default_numpy()) if dtypes.category(x.dtype) < dtypes.FLOATING else x


def _as(x: Any, d: np.dtype) -> Any:
    return x.astype(d, copy=False) if hasattr(x, "dtype") else d.type(x)


def ordered(x: Any, where: str) -> None:
    """An error for complex numbers, which NumPy would order by their real parts."""
    if getattr(x, "dtype", _REAL).kind == "c" or type(x) is complex:
        raise DTypeError(
            f"{where}: expected real numbers, which have an order, got complex ones; use abs() or view_as_real()"
        )


def _conj(F: Any, x: Any) -> Any:
    """The conjugate, for gradient rules: costs nothing where x is real."""
    a = getattr(x, "_a", x)  # a Tensor where a graph is made
    if not hasattr(a, "dtype"):
        return x.conjugate() if isinstance(x, complex) else x
    return F.conj(x) if a.dtype.kind == "c" else x


# -- arithmetic ----------------------------------------------------------------------------------------------------------


def _times(alpha: Any, y: Any, x: Any, where: str) -> Any:
    """alpha·y, in the dtype of the result x ± alpha·y."""
    d = getattr(x, "dtype", None) or y.dtype
    if dtypes.scalar_category(alpha) > dtypes.category(d) != dtypes.BOOL:
        raise DTypeError(f"{where}: expected an integer alpha for tensors of {dtypes.of(d)}, got {alpha!r}")
    return _as(y, d) * d.type(alpha + (1 << 8 * d.itemsize) if d.kind == "u" and alpha < 0 else alpha)


def _no_bools(x: Any, y: Any, where: str) -> None:
    for v in (x, y):
        if v is True or v is False or getattr(v, "dtype", None) is _BOOL:
            raise DTypeError(
                f"{where}: Subtraction, the `-` operator, with a bool tensor is not supported: expected numbers, got {v}; "
                "use ^ or logical_not()"
            )


@pointwise(x=lambda F, g: g, y=lambda F, g, alpha: g if alpha == 1 else g * alpha, narrow=True)
def add(be, x, y, *, alpha=1, out=None):
    """x + alpha·y"""
    x, y = promoted(x, y)
    y = y if alpha == 1 else _times(alpha, y, x, "add")
    return be.xp.add(x, y, out=out) if getattr(x, "size", 0) < _MANY else be.add(x, y, out)


@pointwise(x=lambda F, g: g, y=lambda F, g, alpha: g * -alpha)
def sub(be, x, y, *, alpha=1, out=None):
    """x − alpha·y"""
    if getattr(x, "dtype", None) is not getattr(y, "dtype", _BOOL) or x.dtype is _BOOL:
        _no_bools(x, y, "sub")
    x, y = promoted(x, y)
    return be.xp.subtract(x, y if alpha == 1 else _times(alpha, y, x, "sub"), out=out)


@pointwise(x=lambda F, g, alpha: g * -alpha, y=lambda F, g: g)
def rsub(be, x, y, *, alpha=1):
    """y − alpha·x"""
    _no_bools(x, y, "rsub")
    x, y = promoted(x, y)
    return be.xp.subtract(y, x if alpha == 1 else _times(alpha, x, y, "rsub"))


@pointwise(x=lambda F, g, y: g * _conj(F, y), y=lambda F, g, x: g * _conj(F, x))
def mul(be, x, y, *, out=None):
    """x · y"""
    x, y = promoted(x, y)
    return be.xp.multiply(x, y, out=out)


@pointwise(
    x=lambda F, g, y, rounding_mode: F.div(g, _conj(F, y)) if rounding_mode is None else g * 0,
    y=lambda F, g, y, out, rounding_mode: (
        F.div(g * _conj(F, out), _conj(F, y)) * -1 if rounding_mode is None else g * 0
    ),
)
def div(be, x, y, *, rounding_mode=None, out=None):
    """x / y; `rounding_mode` None, "trunc" or "floor". True division of integers gives the default floating type."""
    xp = be.xp
    if rounding_mode is None and not (hasattr(x, "dtype") and hasattr(y, "dtype")):
        x, y = (floating(be, v) if hasattr(v, "dtype") else v for v in (x, y))
    x, y = promoted(x, y)
    if rounding_mode is not None:
        _no_zeros(be, x, y, "div")
    if rounding_mode == "floor":
        with np.errstate(divide="ignore", invalid="ignore"):
            return xp.floor_divide(x, y, out=out)
    if rounding_mode == "trunc":
        d = getattr(x, "dtype", None) or y.dtype
        if dtypes.category(d) < dtypes.FLOATING:
            q = xp.floor_divide(xp.abs(x), xp.abs(y))
            return (q * (xp.sign(x) * xp.sign(y))).astype(d)
        with np.errstate(divide="ignore", invalid="ignore"):
            return xp.trunc(xp.true_divide(x, y))
    if rounding_mode is not None:
        raise DTypeError(f"div: expected rounding_mode None, 'trunc' or 'floor', got {rounding_mode!r}")
    if hasattr(x, "dtype"):
        x = floating(be, x)
    if hasattr(y, "dtype"):
        y = floating(be, y)
    with np.errstate(divide="ignore", invalid="ignore"):
        return xp.true_divide(x, y, out=out)


@pointwise(x=lambda F, g, x: g, y=lambda F, g, x, y: g * F.floor(F.div(x, y)) * -1)
def remainder(be, x, y):
    """x − y·⌊x/y⌋: the sign of the divisor, as Python's %."""
    x, y = promoted(x, y)
    _no_zeros(be, x, y, "remainder")
    with np.errstate(invalid="ignore"):
        return be.xp.remainder(x, y)


@pointwise(x=lambda F, g: g, y=lambda F, g, x, y: g * F.trunc(F.div(x, y)) * -1)
def fmod(be, x, y):
    """x − y·trunc(x/y): the sign of the dividend, as C's fmod."""
    x, y = promoted(x, y)
    _no_zeros(be, x, y, "fmod")
    with np.errstate(invalid="ignore"):
        return be.xp.fmod(x, y)


def _pow_dx(F, g, x, y):
    if hasattr(y, "dtype"):
        return g * _conj(F, F.where(F.eq(y, 0), 0.0, y * F.pow(x, y - 1)))
    return g * 0.0 if y == 0 else g * _conj(F, F.pow(x, y - 1) * y)


def _pow_dy(F, g, x, y, out):
    # xʸ ln x, and 0 where x = 0 and y ≥ 0
    zero = F.eq(x, 0) if getattr(y, "_a", y).dtype.kind == "c" else F.logical_and(F.eq(x, 0), F.ge(y, 0))
    return g * _conj(F, F.where(zero, 0.0, out) * F.log(F.where(zero, 1.0, x)))


@pointwise(
    x=_pow_dx,
    y=lambda F, g, x, y, out: (
        _pow_dy(F, g, x, y, out)
        if hasattr(x, "dtype")
        else g * out * (math.log(x) if x > 0 else 0.0 if x == 0 else math.nan)
    ),
    names=("input", "exponent"),
)
def pow(be, x, y, *, out=None):
    """xʸ"""
    xp = be.xp
    if not hasattr(y, "dtype") and type(y) is int and y < 0 and dtypes.category(x.dtype) < dtypes.FLOATING:
        raise DTypeError(
            f"pow: Integers to negative integer powers are not allowed: expected an exponent >= 0, got {y}"
        )
    x, y = promoted(x, y)
    if not hasattr(y, "dtype"):
        if y == 2:
            return xp.multiply(x, x, out=out)
        if y == 1:
            return xp.array(x) if out is None else out
        if y == 0.5:
            with np.errstate(invalid="ignore"):
                return xp.sqrt(x, out=out)
    elif y.dtype.kind == "i" and bool((y < 0).any()):  # 1/xⁿ, rounded towards zero
        whole = xp.power(x, xp.abs(y))
        ones = (x == 1) | (x == -1)
        whole = xp.where((y >= 0) | ones, whole, 0).astype(whole.dtype)
        if out is None:
            return whole
        out[...] = whole
        return out
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return xp.power(x, y, out=out)


@pointwise(x=lambda F, g: g * -1)
def neg(be, x, *, out=None):
    """−x"""
    return be.xp.negative(x, out=out)


@pointwise(x=lambda F, g, x: g * F.sgn(x))
def abs(be, x):
    """|x|; the modulus of a complex number."""
    return be.xp.abs(x)


@pointwise(x=lambda F, g: g * 0)
def sign(be, x, *, out=None):
    """−1, 0 or 1"""
    ordered(x, "sign")
    return be.xp.sign(x, out=out) if x.dtype != np.bool_ else be.xp.array(x)


@pointwise(x=lambda F, g: g * 0)
def sgn(be, x):
    """x/|x|, 0 at 0: the sign, of complex numbers, too."""
    if x.dtype.kind != "c":
        return be.xp.sign(x) if x.dtype != np.bool_ else be.xp.array(x)
    m = be.xp.abs(x)
    return be.xp.where(m == 0, 0, x / be.xp.where(m == 0, 1, m)).astype(x.dtype)


@op(x=lambda F, g: F.conj(g))
def conj(be, x):
    """The complex conjugate; x itself if it is real."""
    return be.xp.conj(x) if hasattr(x, "dtype") and x.dtype.kind == "c" else x


# -- elementary functions ------------------------------------------------------------------------------------------------


@pointwise(x=lambda F, g, out: g * _conj(F, out))
def exp(be, x, *, out=None):
    """eˣ"""
    with np.errstate(over="ignore"):
        return be.xp.exp(floating(be, x), out=out)


@pointwise(x=lambda F, g, out: g * (out + 1))
def expm1(be, x, *, out=None):
    """eˣ − 1, exact for small x"""
    return be.xp.expm1(floating(be, x), out=out)


@pointwise(x=lambda F, g, x: F.div(g, _conj(F, x)))
def log(be, x, *, out=None):
    """ln x"""
    with np.errstate(divide="ignore", invalid="ignore"):
        return be.xp.log(floating(be, x), out=out)


@pointwise(x=lambda F, g, x: F.div(g, x * math.log(2)))
def log2(be, x, *, out=None):
    """log₂ x"""
    with np.errstate(divide="ignore", invalid="ignore"):
        return be.xp.log2(floating(be, x), out=out)


@pointwise(x=lambda F, g, x: F.div(g, x * math.log(10)))
def log10(be, x, *, out=None):
    """log₁₀ x"""
    with np.errstate(divide="ignore", invalid="ignore"):
        return be.xp.log10(floating(be, x), out=out)


@pointwise(x=lambda F, g, x: F.div(g, x + 1))
def log1p(be, x, *, out=None):
    """ln(1 + x), exact for small x"""
    with np.errstate(divide="ignore", invalid="ignore"):
        return be.xp.log1p(floating(be, x), out=out)


@pointwise(x=lambda F, g, out: F.div(g, _conj(F, out) * 2))
def sqrt(be, x, *, out=None):
    """√x"""
    with np.errstate(invalid="ignore"):
        return be.xp.sqrt(floating(be, x), out=out)


@pointwise(x=lambda F, g, out: g * (out * out * out) * -0.5)
def rsqrt(be, x):
    """1/√x"""
    with np.errstate(divide="ignore", invalid="ignore"):
        y = be.xp.sqrt(floating(be, x))
        return be.xp.reciprocal(y)


@pointwise(x=lambda F, g, out: g * (out * out) * -1)
def reciprocal(be, x):
    """1/x"""
    with np.errstate(divide="ignore"):
        return be.xp.reciprocal(floating(be, x))


@pointwise(x=lambda F, g, x: g * x * 2)
def square(be, x):
    """x²"""
    x = x.astype(np.int64) if x.dtype == np.bool_ else x
    return be.xp.multiply(x, x)


@pointwise(x=lambda F, g, x: g * F.cos(x))
def sin(be, x, *, out=None):
    """sin x"""
    return be.xp.sin(floating(be, x), out=out)


@pointwise(x=lambda F, g, x: g * F.sin(x) * -1)
def cos(be, x, *, out=None):
    """cos x"""
    return be.xp.cos(floating(be, x), out=out)


@pointwise(x=lambda F, g, out: g * (out * out + 1))
def tan(be, x, *, out=None):
    """tan x"""
    return be.xp.tan(floating(be, x), out=out)


@pointwise(x=lambda F, g, x: g * F.rsqrt(1 - x * x))
def asin(be, x, *, out=None):
    """arcsin x"""
    with np.errstate(invalid="ignore"):
        return be.xp.arcsin(floating(be, x), out=out)


@pointwise(x=lambda F, g, x: g * F.rsqrt(1 - x * x) * -1)
def acos(be, x, *, out=None):
    """arccos x"""
    with np.errstate(invalid="ignore"):
        return be.xp.arccos(floating(be, x), out=out)


@pointwise(x=lambda F, g, x: F.div(g, x * x + 1))
def atan(be, x, *, out=None):
    """arctan x"""
    return be.xp.arctan(floating(be, x), out=out)


@pointwise(x=lambda F, g, x, y: F.div(g * y, x * x + y * y), y=lambda F, g, x, y: F.div(g * x, x * x + y * y) * -1)
def atan2(be, x, y):
    """The angle of the point (y, x)."""
    d = dtypes.result_numpy(x, y)
    d = dtypes.default_numpy() if dtypes.category(d) < dtypes.FLOATING else d
    return be.xp.arctan2(_as(x, d), _as(y, d))


@pointwise(x=lambda F, g, x: g * F.cosh(x))
def sinh(be, x, *, out=None):
    """sinh x"""
    return be.xp.sinh(floating(be, x), out=out)


@pointwise(x=lambda F, g, x: g * F.sinh(x))
def cosh(be, x, *, out=None):
    """cosh x"""
    return be.xp.cosh(floating(be, x), out=out)


@pointwise(x=lambda F, g, out: g * (1 - out * out))
def tanh(be, x, *, out=None):
    """tanh x"""
    return be.xp.tanh(floating(be, x), out=out)


@pointwise(x=lambda F, g, out: g * (out * (1 - out)))
def sigmoid(be, x):
    """1 / (1 + e⁻ˣ)"""
    return be.sigmoid(floating(be, x))


@pointwise(x=lambda F, g: g * 0)
def floor(be, x, *, out=None):
    """The greatest integer ≤ x."""
    return be.xp.floor(x, out=out)


@pointwise(x=lambda F, g: g * 0)
def ceil(be, x, *, out=None):
    """The least integer ≥ x."""
    return be.xp.ceil(x, out=out)


@pointwise(x=lambda F, g: g * 0)
def trunc(be, x, *, out=None):
    """The integer part."""
    return be.xp.trunc(x, out=out)


@pointwise(x=lambda F, g: g * 0)
def round(be, x, *, decimals=0):
    """The nearest integer, halves to even; or to that many decimals."""
    return be.xp.round(x, decimals)


# -- rectifiers and bounds -----------------------------------------------------------------------------------------------


@pointwise(x=lambda F, g, out: F.relu_grad(g, out), narrow=True)
def relu(be, x, *, out=None):
    """max(x, 0)"""
    return be.relu(x, out)


@op(g=lambda F, gg, out: F.relu_grad(gg, out), orderly=True)
def relu_grad(be, g, out):
    """The gradient of `relu`, from its output: g where that is positive, else 0."""
    return be.relu_grad(g, out)


def _share(F, g, x, y, wins):
    """A gradient that is split between equal operands, as torch does for maximum and minimum."""
    return F.where(F.eq(x, y), F.div(g, 2), F.where(wins, g, 0))


@pointwise(x=lambda F, g, x, y: _share(F, g, x, y, F.gt(x, y)), y=lambda F, g, x, y: _share(F, g, x, y, F.gt(y, x)))
def maximum(be, x, y, *, out=None):
    """The greater; NaN if either is."""
    x, y = promoted(x, y)
    ordered(x, "maximum")
    return be.xp.maximum(x, y, out=out)


@pointwise(x=lambda F, g, x, y: _share(F, g, x, y, F.lt(x, y)), y=lambda F, g, x, y: _share(F, g, x, y, F.lt(y, x)))
def minimum(be, x, y, *, out=None):
    """The lesser; NaN if either is."""
    x, y = promoted(x, y)
    ordered(x, "minimum")
    return be.xp.minimum(x, y, out=out)


def _inside(F, x, lo, hi):
    if lo is None:
        return F.le(x, hi)
    return F.ge(x, lo) if hi is None else F.mul(F.ge(x, lo), F.le(x, hi))


@pointwise(
    x=lambda F, g, x, lo, hi: g * _inside(F, x, lo, hi),
    lo=lambda F, g, x, lo: g * F.lt(x, lo),
    hi=lambda F, g, x, hi: g * F.gt(x, hi),
    names=("input", "min", "max"),
)
def clamp(be, x, lo=None, hi=None):
    """x held between lo and hi, numbers or tensors; either may be None."""
    if lo is None and hi is None:
        raise DTypeError("clamp: expected min, max or both, got neither")
    ordered(x, "clamp")
    if lo is not None:
        x, lo = promoted(x, lo)
        x = be.xp.maximum(x, lo)
    if hi is not None:
        x, hi = promoted(x, hi)
        x = be.xp.minimum(x, hi)
    return x


# -- selection and casts -------------------------------------------------------------------------------------------------


@pointwise(
    x=lambda F, g, cond: F.where(cond, g, 0),
    y=lambda F, g, cond: F.where(cond, 0, g),
    names=("condition", "input", "other"),
)
def where(be, cond, x, y):
    """x where the condition holds, else y."""
    x, y = promoted(x, y) if hasattr(x, "dtype") or hasattr(y, "dtype") else (_as_default(be, x), _as_default(be, y))
    return be.xp.where(cond.astype(bool, copy=False), x, y)


def _as_default(be, x):
    return be.xp.asarray(x, dtype=dtypes.result_numpy(x))


@pointwise(x=lambda F, g, mask: F.where(mask, 0, g), value=lambda F, g, mask: F.sum(F.where(mask, g, 0)))
def masked_fill(be, x, mask, value):
    """x, but `value` (a number or a 0-d tensor) where the mask is true."""
    if mask.dtype != np.bool_:
        raise DTypeError(f"masked_fill: expected a bool mask, got {dtypes.of(mask.dtype)}; use mask.bool()")
    return be.xp.where(mask, be.xp.asarray(value, dtype=x.dtype), x)


@pointwise(x=lambda F, g: g)
def cast(be, x, *, dtype):
    """Another dtype. The public names are Tensor.to, .float(), .long() and so on."""
    d = dtypes.as_numpy(dtype)
    if x.dtype.kind == "c" and d.kind not in "cb":
        x = x.real
    return be.cast(x, d)


@op(x=lambda F, g: g)
def clone(be, x):
    """A copy. Keeps the order of dimensions in memory."""
    return be.xp.array(x, order="K")


# -- comparison and logic: no gradients ------------------------------------------------------------------------------------


def _comparison(name: str, ufunc: str, doc: str, by_order: bool = True):
    def forward(be, x, y):
        xd, yd = getattr(x, "dtype", None), getattr(y, "dtype", None)
        if xd is not yd and xd is not None and yd is not None:
            x, y = promoted(x, y)
        elif (xd or yd).kind == "u" and type(number := y if yd is None else x) is int and number < 0:
            x, y = _unsigned(x, y)
        if by_order:
            ordered(x, name)
            ordered(y, name)
        return getattr(be.xp, ufunc)(x, y)

    forward.__name__ = forward.__qualname__ = name
    forward.__doc__ = doc
    return pointwise()(forward)


eq = _comparison("eq", "equal", "x = y, elementwise: a bool tensor.", by_order=False)
ne = _comparison("ne", "not_equal", "x ≠ y, elementwise: a bool tensor.", by_order=False)
lt = _comparison("lt", "less", "x < y, elementwise: a bool tensor.")
le = _comparison("le", "less_equal", "x ≤ y, elementwise: a bool tensor.")
gt = _comparison("gt", "greater", "x > y, elementwise: a bool tensor.")
ge = _comparison("ge", "greater_equal", "x ≥ y, elementwise: a bool tensor.")


def _truth(name: str, ufunc: str, doc: str, arity: int, integers: bool = False):
    def unary(be, x):
        return getattr(be.xp, ufunc)(x)

    def binary(be, x, y):
        if integers:
            x, y = promoted(x, y)
        return getattr(be.xp, ufunc)(x, y)

    forward = unary if arity == 1 else binary
    forward.__name__ = forward.__qualname__ = name
    forward.__doc__ = doc
    return pointwise()(forward)


logical_and = _truth("logical_and", "logical_and", "Both true.", 2)
logical_or = _truth("logical_or", "logical_or", "Either true.", 2)
logical_xor = _truth("logical_xor", "logical_xor", "Exactly one true.", 2)
logical_not = _truth("logical_not", "logical_not", "False, or zero.", 1)
bitwise_and = _truth("bitwise_and", "bitwise_and", "x & y", 2, integers=True)
bitwise_or = _truth("bitwise_or", "bitwise_or", "x | y", 2, integers=True)
bitwise_xor = _truth("bitwise_xor", "bitwise_xor", "x ^ y", 2, integers=True)
bitwise_not = _truth("bitwise_not", "invert", "~x", 1)
isnan = _truth("isnan", "isnan", "Whether each element is not a number.", 1)
isinf = _truth("isinf", "isinf", "Whether each element is +∞ or −∞.", 1)
isfinite = _truth("isfinite", "isfinite", "Whether each element is finite.", 1)
