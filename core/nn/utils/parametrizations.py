"""Parametrizations of weights: direction and length apart, the largest singular value 1."""

from __future__ import annotations

from core import rng
from core._tensor import Tensor, _grad_mode
from core.errors import ArgumentError
from core.nn.functional.norm import normalize
from core.nn.modules.module import Module
from core.nn.utils import parametrize
from core.ops import linalg as _linalg
from core.ops import pointwise as _pw
from core.ops import reduce as _reduce

__all__ = ["spectral_norm", "weight_norm"]


def norm_except(v: Tensor, dim: int | None) -> Tensor:
    """The norms of the slices along `dim`, with the other dimensions as 1; −1 or None: the norm of all"""
    if dim is None or dim == -1:
        return _pw.sqrt(_reduce.sum(_pw.square(v)))
    others = tuple(i for i in range(v.dim()) if i != dim % v.dim())
    return _pw.sqrt(_reduce.sum(_pw.square(v), dim=others, keepdim=True)) if others else _pw.abs(v)


class _WeightNorm(Module):
    """g·v/‖v‖"""

    def __init__(self, dim: int | None = 0):
        super().__init__()
        self.dim = -1 if dim is None else dim

    def forward(self, weight_g: Tensor, weight_v: Tensor) -> Tensor:
        return weight_v * (weight_g / norm_except(weight_v, self.dim))

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        return norm_except(weight, self.dim), weight


def weight_norm(module: Module, name: str = "weight", dim: int = 0) -> Module:
    """weight = g·v/‖v‖ with length g (`original0`) and direction v (`original1`). Salimans & Kingma 2016."""
    return parametrize.register_parametrization(module, name, _WeightNorm(dim), unsafe=True)


def rows_of(weight: Tensor, dim: int) -> Tensor:
    """The weight as a matrix whose rows run along `dim`"""
    w = weight if dim == 0 else weight.permute(dim, *(i for i in range(weight.dim()) if i != dim))
    return w.reshape(w._a.shape[0], -1)


class _SpectralNorm(Module):
    """W/σ(W), the largest singular value by power iteration. Its vectors are the buffers `_u` and `_v`."""

    def __init__(self, weight: Tensor, n_power_iterations: int = 1, dim: int = 0, eps: float = 1e-12):
        super().__init__()
        if weight.dim() == 0 or n_power_iterations <= 0:
            raise ArgumentError(
                f"spectral_norm: expected a weight with dimensions and n_power_iterations to be positive, got "
                f"{weight.dim()} and "
                f"{n_power_iterations}"
            )
        self.dim, self.eps, self.n_power_iterations = dim, eps, n_power_iterations
        if weight.dim() > 1:
            m = rows_of(weight.detach(), dim)
            h, w = m._a.shape
            self.register_buffer("_u", normalize(rng.randn(h, dtype=m.dtype, device=m.device), dim=0, eps=eps))
            self.register_buffer("_v", normalize(rng.randn(w, dtype=m.dtype, device=m.device), dim=0, eps=eps))
            self._power_method(m, 15)

    def _power_method(self, m: Tensor, n: int) -> None:
        with _grad_mode(False):
            for _ in range(n):
                self._u.copy_(normalize(_linalg.matmul(m, self._v), dim=0, eps=self.eps))
                self._v.copy_(normalize(_linalg.matmul(m.t(), self._u), dim=0, eps=self.eps))

    def forward(self, weight: Tensor) -> Tensor:
        if weight.dim() == 1:
            return normalize(weight, dim=0, eps=self.eps)
        m = rows_of(weight, self.dim)
        if self.training:
            self._power_method(m.detach(), self.n_power_iterations)
        # copies: the next iteration writes into the buffers, and the graph still needs these
        u, v = self._u.clone(), self._v.clone()
        return weight / _reduce.sum(u * _linalg.matmul(m, v))

    def right_inverse(self, value: Tensor) -> Tensor:
        return value


def spectral_norm(
    module: Module, name: str = "weight", n_power_iterations: int = 1, eps: float = 1e-12, dim: int | None = None
) -> Module:
    """weight = W/σ(W), so that the largest singular value is 1. Miyato et al. 2018."""
    weight = getattr(module, name)
    if dim is None:
        dim = 1 if type(module).__name__.startswith("ConvTranspose") else 0
    return parametrize.register_parametrization(module, name, _SpectralNorm(weight, n_power_iterations, dim, eps))
