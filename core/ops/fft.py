"""Fourier transforms over any dimensions. NumPy's pocketfft computes them on the host; arrays of a device travel there.

The transforms are linear: the gradient is the adjoint, which is the transform the other way with the other normalisation.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from core import dtypes
from core.errors import ArgumentError
from core.ops.op import op

_ADJOINT_NORM = {"backward": "forward", "forward": "backward", "ortho": "ortho"}


def _on_host(be: Any, f: Any, x: Any) -> Any:
    return be.from_numpy(np.asarray(f(be.to_numpy(x))), be.index_of(x))


def check_norm(norm: Any) -> str:
    """ "backward" (the default), "forward" or "ortho"."""
    norm = "backward" if norm is None else norm
    if norm not in _ADJOINT_NORM:
        raise ArgumentError(f"fft: expected norm 'backward', 'forward' or 'ortho', got {norm!r}")
    return norm


@op(x=lambda F, g, dims, inverse, norm: F.dft(g, dims=dims, inverse=not inverse, norm=_ADJOINT_NORM[norm]))
def dft(be, x, *, dims, inverse=False, norm="backward"):
    """The discrete Fourier transform of complex x over dimensions, or its inverse."""
    transform = np.fft.ifftn if inverse else np.fft.fftn
    return _on_host(be, lambda x: transform(x, axes=dims, norm=norm), x) if dims else be.xp.array(x)


def _half(F, g, dim, norm):
    """The real transform of real g along one dimension: the first half of the complex one."""
    n = g.shape[dim]
    y = F.dft(F.complex(g, g * 0), dims=(dim,), norm=norm)
    return F.narrow(y, dim=dim, start=0, length=n // 2 + 1)


def _hermitian_dx(F, g, n, dim, norm):
    # every element but the first (and, for even n, the last) stands for two
    y = _half(F, g, dim, _ADJOINT_NORM[norm])
    m = n // 2 + 1
    pairs = m - 1 - (n % 2 == 0)
    parts = [F.narrow(y, dim=dim, start=0, length=1), F.narrow(y, dim=dim, start=1, length=max(pairs, 0)) * 2]
    if n % 2 == 0 and m > 1:
        parts.append(F.narrow(y, dim=dim, start=m - 1, length=1))
    return F.cat(parts, dim=dim)


@op(x=_hermitian_dx)
def hermitian_dft(be, x, *, n, dim, norm="backward"):
    """The inverse transform of half of a Hermitian signal, n // 2 + 1 long along `dim`: n real numbers. Public as `fft.irfft`."""
    return _on_host(be, lambda x: np.fft.irfft(x, n, axis=dim, norm=norm).astype(dtypes.of(x.dtype).to_real().numpy), x)
