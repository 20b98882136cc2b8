"""torch.signal.windows: weights of M samples, symmetric, or with sym=False as one period. Harris 1978; Nuttall 1981."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from core import dtypes
from core._tensor import Tensor
from core.creation import placed
from core.errors import ArgumentError

__all__ = [
    "bartlett", "blackman", "cosine", "exponential", "gaussian", "general_cosine", "general_hamming", "hamming", "hann", "kaiser",
    "nuttall",
]  # fmt: skip


def _made(
    M: int, f: Callable[[np.ndarray, int], Any], sym: bool, dtype: Any, device: Any, requires_grad: bool, where: str
) -> Tensor:
    """f(sample numbers, last sample number of the symmetric window)."""
    if M < 0:
        raise ArgumentError(f"{where}: expected a non-negative number of samples, got {M}")
    d = dtypes.default_numpy() if dtype is None else dtypes.as_numpy(dtype)
    n = M - 1 if sym else M
    values = f(np.arange(M, dtype=np.float64), n) if M > 1 else np.ones(M)
    return placed(np.asarray(values).astype(d), device, requires_grad)


def general_cosine(
    M: int, *, a: Any, sym: bool = True, dtype: Any = None, layout: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:  # fmt: skip
    """Σ (−1)ⁱ aᵢ cos(2πi·k/n)"""
    terms = list(a)

    def f(k: np.ndarray, n: int) -> Any:
        return sum((-1) ** i * c * np.cos(2 * np.pi * i * k / n) for i, c in enumerate(terms))

    return _made(M, f, sym, dtype, device, requires_grad, "general_cosine")


def general_hamming(M: int, *, alpha: float = 0.54, sym: bool = True, **options: Any) -> Tensor:
    """α − (1 − α) cos(2πk/n)"""
    return general_cosine(M, a=[alpha, 1 - alpha], sym=sym, **options)


def hamming(M: int, *, sym: bool = True, **options: Any) -> Tensor:
    """`general_hamming` with α = 0.54."""
    return general_hamming(M, sym=sym, **options)


def hann(M: int, *, sym: bool = True, **options: Any) -> Tensor:
    """`general_hamming` with α = 0.5."""
    return general_hamming(M, alpha=0.5, sym=sym, **options)


def blackman(M: int, *, sym: bool = True, **options: Any) -> Tensor:
    """`general_cosine` of 0.42, 0.5, 0.08."""
    return general_cosine(M, a=[0.42, 0.5, 0.08], sym=sym, **options)


def nuttall(M: int, *, sym: bool = True, **options: Any) -> Tensor:
    """`general_cosine` of four terms, by Nuttall."""
    return general_cosine(M, a=[0.3635819, 0.4891775, 0.1365995, 0.0106411], sym=sym, **options)


def bartlett(
    M: int, *, sym: bool = True, dtype: Any = None, layout: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """A triangle."""
    return _made(M, lambda k, n: 1 - np.abs(2 * k / n - 1), sym, dtype, device, requires_grad, "bartlett")


def cosine(
    M: int, *, sym: bool = True, dtype: Any = None, layout: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """Half a period of a sine, its ends left out."""
    return _made(M, lambda k, n: np.sin(np.pi * (k + 0.5) / (n + 1)), sym, dtype, device, requires_grad, "cosine")


def exponential(
    M: int, *, center: float | None = None, tau: float = 1.0, sym: bool = True, dtype: Any = None, layout: Any = None,
    device: Any = None, requires_grad: bool = False,
) -> Tensor:  # fmt: skip
    """e^(−|k − center|/τ), the center in the middle if not given."""
    if tau <= 0 or (sym and center is not None):
        raise ArgumentError(f"exponential: expected tau > 0, and center None for sym=True, got {tau} and {center}")
    middle = lambda n: n / 2 if center is None else center
    return _made(M, lambda k, n: np.exp(-np.abs(k - middle(n)) / tau), sym, dtype, device, requires_grad, "exponential")


def gaussian(
    M: int, *, std: float = 1.0, sym: bool = True, dtype: Any = None, layout: Any = None, device: Any = None,
    requires_grad: bool = False,
) -> Tensor:  # fmt: skip
    """e^(−((k − n/2)/std)²/2)"""
    if std <= 0:
        raise ArgumentError(f"gaussian: expected std > 0, got {std}")
    return _made(M, lambda k, n: np.exp(-(((k - n / 2) / std) ** 2) / 2), sym, dtype, device, requires_grad, "gaussian")


def kaiser(
    M: int, *, beta: float = 12.0, sym: bool = True, dtype: Any = None, layout: Any = None, device: Any = None,
    requires_grad: bool = False,
) -> Tensor:  # fmt: skip
    """I₀(β√(1 − (2k/n − 1)²)) / I₀(β)"""
    if beta < 0:
        raise ArgumentError(f"kaiser: expected beta >= 0, got {beta}")

    def f(k: np.ndarray, n: int) -> Any:
        return np.i0(beta * np.sqrt(np.maximum(0, 1 - (2 * k / n - 1) ** 2))) / np.i0(beta)

    return _made(M, f, sym, dtype, device, requires_grad, "kaiser")
