"""torch.fft: discrete Fourier transforms of one, two and more dimensions, of complex and real signals; torch.stft, of short
pieces."""

from __future__ import annotations

from typing import Any

import numpy as np

from core import dtypes
from core._tensor import Tensor, _dim
from core.creation import placed
from core.errors import ArgumentError, ShapeError
from core.ops import complex_parts as _complex
from core.ops import index as _index
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


# -- short pieces, public as torch.stft and torch.istft ------------------------------------------------------------------


def _window(x: Tensor, window: Tensor | None, n_fft: int, win_length: int | None, where: str) -> Tensor:
    """The window, in the middle of n_fft elements."""
    length = n_fft if win_length is None else win_length
    if not 0 < length <= n_fft:
        raise ArgumentError(f"{where}: expected 0 < win_length <= n_fft = {n_fft}, got {length}")
    if window is None:
        window = placed(np.ones(length, dtypes.of(x._a.dtype).to_real().numpy), x.device, False)
    if window._a.shape != (length,):
        raise ShapeError(f"{where}: expected a 1D window tensor of {length} elements, got shape {tuple(window.shape)}")
    before = (n_fft - length) // 2
    return _shape.constant_pad(window, pad=(before, n_fft - length - before)) if length < n_fft else window


def _padded(x: Tensor, n: int, mode: str) -> Tensor:
    """(B, L) -> (B, L + 2n)"""
    length = x._a.shape[1]
    if mode == "constant":
        return _shape.constant_pad(x, pad=(n, n))
    if mode not in ("reflect", "replicate", "circular") or (mode == "reflect" and n >= length):
        raise ArgumentError(
            f"stft: expected pad_mode 'constant', 'replicate', 'circular', or 'reflect' with fewer than the signal's {length} "
            f"elements to pad, got {mode!r} and {n}"
        )
    at = np.arange(-n, length + n)
    if mode == "reflect":
        at = np.abs(at)
        at = np.where(at >= length, 2 * (length - 1) - at, at)
    at = np.clip(at, 0, length - 1) if mode == "replicate" else at % length
    return _index.index_select(x, placed(at, x.device, False), dim=1)


def stft(
    x: Tensor, n_fft: int, hop_length: int | None = None, win_length: int | None = None, window: Tensor | None = None,
    center: bool = True, pad_mode: str = "reflect", normalized: bool = False, onesided: bool | None = None,
    return_complex: bool | None = None, align_to_window: bool | None = None,
) -> Tensor:  # fmt: skip
    """(L) or (B, L) -> (N, T) or (B, N, T): transforms of T pieces of n_fft elements, hop_length apart (n_fft // 4).

    N is n_fft // 2 + 1 for `onesided` (the default for a real signal), else n_fft. `center`: the signal is padded by n_fft // 2 on
    both sides, so that piece t is around element t·hop_length. `normalized`: divided by √n_fft. Without `return_complex` an error, as
    in torch; pass True.
    """
    real = not x.is_complex() and not (window is not None and window.is_complex())
    if return_complex is None and real:
        raise ArgumentError(
            "stft requires the return_complex parameter be given for real inputs; pass return_complex=True"
        )
    if x._a.ndim not in (1, 2):
        raise ShapeError(f"stft: expected a signal (L) or (B, L), got shape {tuple(x.shape)}")
    hop = n_fft // 4 if hop_length is None else hop_length
    onesided = real if onesided is None else onesided
    y = x if x._a.ndim == 2 else _shape.unsqueeze(x, dim=0)
    y = _padded(y, n_fft // 2, pad_mode) if center else y
    if hop < 1 or not 0 < n_fft <= y._a.shape[1]:
        raise ArgumentError(f"stft: expected 0 < n_fft <= {y._a.shape[1]} and hop_length > 0, got {n_fft} and {hop}")
    pieces = _shape.windows(y, dim=1, size=n_fft, step=hop)  # (B, T, n_fft)
    pieces = _pw.mul(pieces, _window(x, window, n_fft, win_length, "stft"))
    transform = rfft if onesided else fft
    y = _shape.transpose(transform(pieces, norm="ortho" if normalized else None), dim0=1, dim1=2)
    y = y if x._a.ndim == 2 else _shape.squeeze(y, dim=0)
    return y if return_complex or not real else _complex.view_as_real(y)


def istft(
    x: Tensor, n_fft: int, hop_length: int | None = None, win_length: int | None = None, window: Tensor | None = None,
    center: bool = True, normalized: bool = False, onesided: bool | None = None, length: int | None = None,
    return_complex: bool = False,
) -> Tensor:  # fmt: skip
    """The inverse of `stft`: pieces overlap and add, divided by the sum of squared windows. Griffin & Lim 1984."""
    if not x.is_complex() or x._a.ndim not in (2, 3):
        raise ShapeError(f"istft: expected complex (N, T) or (B, N, T), got {x.dtype} of shape {tuple(x.shape)}")
    hop = n_fft // 4 if hop_length is None else hop_length
    onesided = (x._a.shape[-2] != n_fft) if onesided is None else onesided
    if x._a.shape[-2] != (n_fft // 2 + 1 if onesided else n_fft):
        raise ShapeError(f"istft: expected {n_fft // 2 + 1 if onesided else n_fft} frequencies, got {x._a.shape[-2]}")
    y = x if x._a.ndim == 3 else _shape.unsqueeze(x, dim=0)
    y = _shape.transpose(y, dim0=1, dim1=2)  # (B, T, N)
    norm = "ortho" if normalized else None
    if return_complex:
        if onesided:
            raise ArgumentError("istft: expected onesided=False for a complex signal, got True")
        pieces = ifft(y, n_fft, norm=norm)
    else:
        pieces = irfft(y if onesided else y[..., : n_fft // 2 + 1], n_fft, norm=norm)
    w = _window(x, window, n_fft, win_length, "istft")
    count, whole = pieces._a.shape[1], n_fft + hop * (pieces._a.shape[1] - 1)
    lead = pieces._a.shape[0]
    summed = _shape.windows_put(_pw.mul(pieces, w), x_shape=(lead, whole), dim=1, size=n_fft, step=hop)
    squares = _pw.mul(_shape.expand(_pw.square(w), shape=(count, n_fft)), 1)
    envelope = _shape.windows_put(squares, x_shape=(whole,), dim=0, size=n_fft, step=hop)
    start = n_fft // 2 if center else 0
    end = start + length if length is not None else whole - start
    summed, envelope = summed[:, start:end], envelope[start:end]
    if envelope._a.size and float(abs(envelope._a).min()) <= 1e-11:
        raise ArgumentError(
            "istft: window overlap add min: expected windows that cover every element, got a sum of squares of 0"
        )
    y = _pw.div(summed, envelope)
    if length is not None and y._a.shape[1] < length:
        y = _shape.constant_pad(y, pad=(0, length - y._a.shape[1]))
    return y if x._a.ndim == 3 else _shape.squeeze(y, dim=0)
