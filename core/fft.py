"""torch.fft: discrete Fourier transforms of one, two and more dimensions, of complex and real signals."""

from __future__ import annotations

from typing import Any

import numpy as np

from core import dtypes
from core._tensor import Tensor, _dim
from core.creation import placed
from core.errors import ArgumentError, ShapeError
from core.ops import complex_parts as _complex
from core.ops import pointwise as _pw
from core.ops import shape as _shape
from core.ops.fft import check_norm, dft, hermitian_dft

__all__ = [
    "fft", "fft2", "fftfreq", "fftn", "fftshift", "hfft", "ifft", "ifft2", "ifftn", "ifftshift", "ihfft", "irfft", "irfft2", "irfftn",
    "rfft",
    "rfft2", "rfftfreq", "rfftn",
]  # fmt: skip


def _as_complex(x: Tensor) -> Tensor:
    if x.is_complex():
        return x
    x = x if x.is_floating_point() else x.to(dtypes.get_default_dtype())
    if x.dtype.itemsize == 2:
        raise ArgumentError(f"fft: expected float32, float64 or complex numbers, got {x.dtype}; use x.float()")
    return _complex.complex(x, _pw.mul(x, 0))


def _sized(x: Tensor, n: int | None, dim: int) -> Tensor:
    """x cut, or filled with zeros, to n elements along a dimension."""
    d = _dim(dim, x._a.ndim, "fft")
    missing = 0 if n is None else n - x._a.shape[d]
    if n is not None and n < 1:
        raise ShapeError(f"fft: expected n >= 1, got {n}")
    return _shape.constant_pad(x, pad=(0, 0) * (x._a.ndim - 1 - d) + (0, missing)) if missing else x


def _dims(x: Tensor, s: Any, dim: Any) -> tuple[int, ...]:
    if dim is None:
        dim = range(x._a.ndim) if s is None else range(-len(s), 0)
    return tuple(_dim(d, x._a.ndim, "fft") for d in dim)


def _transform(x: Tensor, s: Any, dims: tuple[int, ...], norm: Any, inverse: bool) -> Tensor:
    x = _as_complex(x)
    for d, n in zip(dims, s or ()):
        x = _sized(x, None if n == -1 else n, d)
    return dft(x, dims=dims, inverse=inverse, norm=check_norm(norm))


# -- complex to complex --------------------------------------------------------------------------------------------------


def fft(x: Tensor, n: int | None = None, dim: int = -1, norm: Any = None) -> Tensor:
    """Σ x_j e^(−2πi jk/n) along one dimension."""
    return _transform(x, [-1 if n is None else n], _dims(x, None, (dim,)), norm, False)


def ifft(x: Tensor, n: int | None = None, dim: int = -1, norm: Any = None) -> Tensor:
    """The inverse of `fft`."""
    return _transform(x, [-1 if n is None else n], _dims(x, None, (dim,)), norm, True)


def fftn(x: Tensor, s: Any = None, dim: Any = None, norm: Any = None) -> Tensor:
    """`fft` along several dimensions, by default all."""
    return _transform(x, s, _dims(x, s, dim), norm, False)


def ifftn(x: Tensor, s: Any = None, dim: Any = None, norm: Any = None) -> Tensor:
    """The inverse of `fftn`."""
    return _transform(x, s, _dims(x, s, dim), norm, True)


def fft2(x: Tensor, s: Any = None, dim: Any = (-2, -1), norm: Any = None) -> Tensor:
    """`fft` along the last two dimensions."""
    return fftn(x, s, dim, norm)


def ifft2(x: Tensor, s: Any = None, dim: Any = (-2, -1), norm: Any = None) -> Tensor:
    """The inverse of `fft2`."""
    return ifftn(x, s, dim, norm)


# -- real to complex and back ------------------------------------------------------------------------------------------------


def rfftn(x: Tensor, s: Any = None, dim: Any = None, norm: Any = None) -> Tensor:
    """`fftn` of a real signal: half of the last dimension, n // 2 + 1 elements, says all."""
    if x.is_complex():
        raise ArgumentError(f"rfft: expected a real signal, got {x.dtype}; use fft")
    dims = _dims(x, s, dim)
    y = _transform(x, s, dims, norm, False)
    return _pw.clone(_shape.narrow(y, dim=dims[-1], start=0, length=y._a.shape[dims[-1]] // 2 + 1))


def irfftn(x: Tensor, s: Any = None, dim: Any = None, norm: Any = None) -> Tensor:
    """The inverse of `rfftn`: a real signal whose last dimension has s[-1] elements, by default 2·(half − 1)."""
    dims = _dims(x, s, dim)
    n = s[-1] if s is not None and s[-1] != -1 else 2 * (x._a.shape[dims[-1]] - 1)
    if n < 1:
        raise ShapeError(f"irfft: expected at least one real element, got n = {n}")
    y = _transform(x, None if s is None else s[:-1], dims[:-1], norm, True)
    return hermitian_dft(_sized(y, n // 2 + 1, dims[-1]), n=n, dim=dims[-1], norm=check_norm(norm))


def rfft(x: Tensor, n: int | None = None, dim: int = -1, norm: Any = None) -> Tensor:
    """`fft` of a real signal: its first n // 2 + 1 elements."""
    return rfftn(x, None if n is None else [n], (dim,), norm)


def irfft(x: Tensor, n: int | None = None, dim: int = -1, norm: Any = None) -> Tensor:
    """The inverse of `rfft`."""
    return irfftn(x, None if n is None else [n], (dim,), norm)


def rfft2(x: Tensor, s: Any = None, dim: Any = (-2, -1), norm: Any = None) -> Tensor:
    """`rfft` along the last two dimensions."""
    return rfftn(x, s, dim, norm)


def irfft2(x: Tensor, s: Any = None, dim: Any = (-2, -1), norm: Any = None) -> Tensor:
    """The inverse of `rfft2`."""
    return irfftn(x, s, dim, norm)


_OTHER = {None: "forward", "backward": "forward", "forward": "backward", "ortho": "ortho"}


def hfft(x: Tensor, n: int | None = None, dim: int = -1, norm: Any = None) -> Tensor:
    """`fft` of half of a Hermitian signal: real."""
    return irfft(_pw.conj(_as_complex(x)), n, dim, _OTHER[norm])


def ihfft(x: Tensor, n: int | None = None, dim: int = -1, norm: Any = None) -> Tensor:
    """The inverse of `hfft`."""
    return _pw.conj(rfft(x, n, dim, _OTHER[norm]))


# -- frequencies ---------------------------------------------------------------------------------------------------------


def fftfreq(n: int, d: float = 1.0, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """The frequencies of the elements of `fft`, for samples d apart."""
    return placed(
        np.fft.fftfreq(n, d).astype(dtypes.as_numpy(dtype or dtypes.get_default_dtype())), device, requires_grad
    )


def rfftfreq(n: int, d: float = 1.0, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """The frequencies of the elements of `rfft`."""
    return placed(
        np.fft.rfftfreq(n, d).astype(dtypes.as_numpy(dtype or dtypes.get_default_dtype())), device, requires_grad
    )


def fftshift(x: Tensor, dim: Any = None) -> Tensor:
    """Frequency 0 moved to the middle."""
    dims = _dims(x, None, (dim,) if isinstance(dim, int) else dim)
    return _shape.roll(x, shifts=tuple(x._a.shape[d] // 2 for d in dims), dims=dims)


def ifftshift(x: Tensor, dim: Any = None) -> Tensor:
    """The inverse of `fftshift`."""
    dims = _dims(x, None, (dim,) if isinstance(dim, int) else dim)
    return _shape.roll(x, shifts=tuple(-(x._a.shape[d] // 2) for d in dims), dims=dims)
