"""Normalisation. One op serves batch, layer, group and instance norm: they differ in the axes alone."""

from __future__ import annotations

from typing import Any

from core.errors import ShapeError
from core.ops.fused import joint
from core.ops.op import graph as F
from core.ops.op import op


def _standardized(x: Any, w: Any = None, b: Any = None, *, axes: Any, eps: float) -> Any:
    centred = x - F.mean(x, dim=axes, keepdim=True)
    y = centred * F.rsqrt(F.mean(centred * centred, dim=axes, keepdim=True) + eps)
    y = y if w is None else y * w
    return y if b is None else y + b


@joint(_standardized)
def _standardize_grad(be, g, xs, mean, rstd, axes, eps):
    return be.standardize_grad(g, *xs, mean, rstd, axes)


@op(xs=_standardize_grad, aux=("mean", "rstd"), orderly=True)
def standardize(be, *xs, axes, eps, moments=None, follow=None):
    """(x − mean) / √(variance + eps) · w + b: [x, w, b], the moments over `axes`; w and b broadcast against x, or are
    None.

    The variance is divided by n. `moments`: (mean, variance) where the caller has computed them already; `follow` is
    called with them where they are computed here. Ioffe & Szegedy 2015; Ba et al. 2016; Wu & He 2018; Ulyanov et al. 2016.
    """
    x, *affine = xs
    for a in affine:
        if a is not None and len(a.shape) > x.ndim:
            raise ShapeError(f"standardize: expected weights that broadcast to {tuple(x.shape)}, got {tuple(a.shape)}")
    if moments is not None:
        mean, var = moments
        rstd = 1 / be.xp.sqrt(var + eps)
        return be.standardize(x, *affine, mean, rstd, tuple(axes)), mean, rstd
    y, mean, var = be.normalize(x, *affine, tuple(axes), eps)
    if follow is not None:
        follow(mean, var)
    return y, mean, 1 / be.xp.sqrt(var + eps)


def _rms(x: Any, w: Any = None, *, axes: Any, eps: float) -> Any:
    y = x * F.rsqrt(F.mean(x * x, dim=axes, keepdim=True) + eps)
    return y if w is None else y * w


@joint(_rms)
def _rms_norm_grad(be, g, xs, rstd, axes, eps):
    return be.rms_norm_grad(g, *xs, rstd, axes)


@op(xs=_rms_norm_grad, aux=("rstd",))
def rms_norm(be, *xs, axes, eps):
    """x / √(mean(x²) + eps) · w: [x, w], the mean over the last `axes`; w may be None. Zhang & Sennrich 2019."""
    return be.rms_norm(*xs, tuple(axes), eps)
