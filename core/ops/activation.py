"""Activations: elementwise functions with parameters. In-place forms keep the output, so their rules read it where
they can. A number times bfloat16 is float32 to NumPy, so results are cast back.
"""

from __future__ import annotations

import math

import numpy as np

from core.ops.op import graph, op, pointwise


@pointwise(x=lambda F, g, out, negative_slope: F.where(F.gt(out, 0), g, g * negative_slope))
def leaky_relu(be, x, *, negative_slope=0.01):
    """x if x > 0, else negative_slope·x. The slope must not be negative where it is written in place."""
    return be.xp.where(x > 0, x, x * negative_slope).astype(x.dtype, copy=False)


@pointwise(
    x=lambda F, g, x, w: F.where(F.gt(x, 0), g, g * w),
    w=lambda F, g, x: F.where(F.gt(x, 0), 0.0, g * x),
)
def prelu(be, x, w):
    """x if x > 0, else w·x; w broadcasts against x. He et al. 2015."""
    return be.xp.where(x > 0, x, x * w)


def _elu_dx(F, g, out, alpha, scale, input_scale):
    # for x ≤ 0: scale·alpha·input_scale·e^(input_scale·x), which is input_scale·(out + scale·alpha)
    return F.where(F.gt(out, 0), g * scale, g * ((out + scale * alpha) * input_scale))


@pointwise(x=_elu_dx)
def elu(be, x, *, alpha=1.0, scale=1.0, input_scale=1.0):
    """scale·x if x > 0, else scale·alpha·(e^(input_scale·x) − 1). ELU, CELU and SELU are cases of it."""
    xp = be.xp
    return xp.where(x > 0, x * scale, xp.expm1(xp.minimum(x, 0) * input_scale) * (scale * alpha)).astype(
        x.dtype, copy=False
    )


@pointwise(x=lambda F, g, x: g * (F.exp(x * x * -0.5) * (1 / math.sqrt(2 * math.pi))))
def normal_cdf(be, x):
    """Φ(x) = (1 + erf(x/√2)) / 2"""
    y = be.erf(x * math.sqrt(0.5))
    y += 1
    y *= 0.5
    return y.astype(x.dtype, copy=False)


def _gelu_slope(F, x, approximate):
    """d gelu / dx"""
    if approximate == "none":
        return F.normal_cdf(x) + x * F.exp(x * x * -0.5) * (1 / math.sqrt(2 * math.pi))
    t = F.tanh((x * x * x * 0.044715 + x) * math.sqrt(2 / math.pi))
    return (t + 1) * 0.5 + x * (1 - t * t) * (x * x * (3 * 0.044715) + 1) * math.sqrt(0.5 / math.pi)


def _gelu_dx(F, g, x, approximate):
    if F is graph:
        return g * _gelu_slope(F, x, approximate)
    return F.gelu_grad(g, x, approximate=approximate)


@pointwise(x=_gelu_dx, narrow=True)
def gelu(be, x, *, approximate="none"):
    """x·Φ(x), or with approximate="tanh" x/2·(1 + tanh(√(2/π)·(x + 0.044715·x³))). Hendrycks & Gimpel 2016."""
    return be.gelu(x, approximate).astype(x.dtype, copy=False)


@op()
def gelu_grad(be, g, x, *, approximate):
    """The gradient of `gelu`; where a graph of it is wanted, `gelu` differentiates its formula instead."""
    return be.gelu_grad(g, x, approximate)


def _silu_dx(F, g, x):
    s = F.sigmoid(x)
    return g * (s * (x * (1 - s) + 1))


@pointwise(x=_silu_dx)
def silu(be, x):
    """x·σ(x), also called swish."""
    with np.errstate(over="ignore"):
        return x / (be.xp.exp(-x) + 1)


def _mish_dx(F, g, x):
    t = F.tanh(F.softplus(x))
    return g * (t + x * (1 - t * t) * F.sigmoid(x))


@pointwise(x=_mish_dx)
def mish(be, x):
    """x·tanh(ln(1 + eˣ)). Misra 2019."""
    return x * be.xp.tanh(be.xp.logaddexp(x, x.dtype.type(0)))


@pointwise(x=lambda F, g, x, beta, threshold: F.where(F.gt(x * beta, threshold), g, g * F.sigmoid(x * beta)))
def softplus(be, x, *, beta=1.0, threshold=20.0):
    """ln(1 + e^(beta·x)) / beta; x itself where beta·x is beyond the threshold."""
    z = x * beta
    return be.xp.where(z > threshold, x, be.xp.logaddexp(z, z.dtype.type(0)) * (1 / beta)).astype(x.dtype, copy=False)


@pointwise(x=lambda F, g, x: g * F.sigmoid(x * -1))
def logsigmoid(be, x):
    """ln σ(x) = −ln(1 + e⁻ˣ)"""
    return -be.xp.logaddexp(-x, x.dtype.type(0))


@pointwise(x=lambda F, g, out, lo, hi: F.where(F.mul(F.gt(out, lo), F.lt(out, hi)), g, 0.0))
def hardtanh(be, x, *, lo=-1.0, hi=1.0):
    """x held between lo and hi; unlike that of `clamp`, the gradient at the bounds is zero."""
    return be.xp.clip(x, lo, hi).astype(x.dtype, copy=False)


@pointwise(x=lambda F, g, x: F.where(F.le(F.abs(x), 3), g * (x * (1 / 3) + 0.5), F.where(F.lt(x, -3), 0.0, g)))
def hardswish(be, x):
    """x·clip(x + 3, 0, 6) / 6. Howard et al. 2019."""
    return (x * be.xp.clip(x + 3, 0, 6) * (1 / 6)).astype(x.dtype, copy=False)


@pointwise(x=lambda F, g, x: F.where(F.lt(F.abs(x), 3), g * (1 / 6), 0.0))
def hardsigmoid(be, x):
    """clip(x + 3, 0, 6) / 6"""
    return (be.xp.clip(x + 3, 0, 6) * (1 / 6)).astype(x.dtype, copy=False)


@pointwise(x=lambda F, g, out: F.where(F.eq(out, 0), 0.0, g))
def softshrink(be, x, *, lambd=0.5):
    """x moved by lambd towards zero; zero within ±lambd."""
    return (x - be.xp.clip(x, -lambd, lambd)).astype(x.dtype, copy=False)


@pointwise(x=lambda F, g, x, lambd: F.where(F.le(F.abs(x), lambd), 0.0, g))
def hardshrink(be, x, *, lambd=0.5):
    """x outside of ±lambd, else zero."""
    return be.xp.where(be.xp.abs(x) <= lambd, x.dtype.type(0), x)


@pointwise(x=lambda F, g, x, threshold: F.where(F.gt(x, threshold), g, 0.0))
def threshold(be, x, *, threshold, value):
    """x if x > threshold, else value."""
    return be.xp.where(x > threshold, x, x.dtype.type(value))
