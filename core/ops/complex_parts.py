"""Complex numbers: their parts, and making them of parts. The gradient of a real loss for z is ∂/∂Re z + i ∂/∂Im z, as in torch."""

from __future__ import annotations

import math

from core import dtypes
from core.errors import DTypeError, ShapeError
from core.ops.op import op, pointwise


def _complex_only(x, where):
    if x.dtype.kind != "c":
        raise DTypeError(f"{where}: expected complex numbers, got {dtypes.of(x.dtype)}")


@op(view=True, x=lambda F, g: F.complex(g, g * 0))
def real_part(be, x):
    """Re z, in z's memory. Public as `real`."""
    _complex_only(x, "real")
    return x.real


@op(view=True, x=lambda F, g: F.complex(g * 0, g))
def imag(be, x):
    """Im z, in z's memory."""
    _complex_only(x, "imag")
    return x.imag


@pointwise(x=lambda F, g: F.real_part(g), y=lambda F, g: F.imag(g), names=("real", "imag"))
def complex(be, x, y):
    """x + iy of real x and y."""
    if x.dtype != y.dtype or x.dtype.kind != "f" or x.dtype.itemsize == 2:
        raise DTypeError(
            f"complex: expected two float32 or two float64 tensors, got {dtypes.of(x.dtype)} and {dtypes.of(y.dtype)}"
        )
    z = be.xp.empty((x + y).shape, dtype=dtypes.of(x.dtype).to_complex().numpy)
    z.real[...] = x
    z.imag[...] = y
    return z


@op(view=True, x=lambda F, g: F.complex(g[..., 0], g[..., 1]))
def view_as_real(be, x):
    """(*) complex -> (*, 2) real: real and imaginary parts, in the same memory."""
    _complex_only(x, "view_as_real")
    return be.xp.lib.stride_tricks.as_strided(x.real, (*x.shape, 2), (*x.strides, x.itemsize // 2))


@op(view=True, x=lambda F, g: F.stack([F.real_part(g), F.imag(g)], dim=-1))
def view_as_complex(be, x):
    """(*, 2) real -> (*) complex, in the same memory."""
    if not x.ndim or x.shape[-1] != 2 or x.strides[-1] != x.itemsize:
        raise ShapeError(
            f"view_as_complex: expected a last dimension of 2 with stride 1, got shape {tuple(x.shape)}; use contiguous()"
        )
    return x.view(dtypes.of(x.dtype).to_complex().numpy)[..., 0]


def _angle_dx(F, g, x):
    if getattr(x, "_a", x).dtype.kind != "c":
        return g * 0
    return F.div(x * g, F.square(F.abs(x))) * 1j


@pointwise(x=_angle_dx)
def angle(be, x):
    """The argument of a complex number; 0 or π for a real one."""
    x = x.astype(dtypes.default_numpy()) if dtypes.category(x.dtype) < dtypes.FLOATING else x
    return (
        be.xp.arctan2(x.imag, x.real)
        if x.dtype.kind == "c"
        else be.xp.where(x < 0, x.dtype.type(math.pi), be.xp.where(x == x, 0, x)).astype(x.dtype)
    )
