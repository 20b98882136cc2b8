"""Parametrizations of weights: direction and length apart, the largest singular value 1, orthogonal."""

from __future__ import annotations

from core import linalg, rng
from core._tensor import Tensor, _grad_mode
from core.errors import ArgumentError
from core.nn.functional.norm import normalize
from core.nn.modules.module import Module
from core.nn.utils import parametrize
from core.ops import linalg as _linalg
from core.ops import pointwise as _pw
from core.ops import reduce as _reduce
from core.ops import shape as _shape

__all__ = ["orthogonal", "spectral_norm", "weight_norm"]


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


class _Orthogonal(Module):
    """An orthogonal matrix (a unitary one, if complex) of an unconstrained one, times the buffer `base` if there is one."""

    def __init__(self, weight: Tensor, map_name: str, use_trivialization: bool):
        super().__init__()
        if weight.is_complex() and map_name == "householder":
            raise ArgumentError("orthogonal: The householder parametrization does not support complex tensors.")
        self.shape, self.map_name = weight.shape, map_name
        if use_trivialization:
            self.register_buffer("base", None)

    def forward(self, x: Tensor) -> Tensor:
        n, k = x._a.shape[-2:]
        wide = n < k
        x = x.mT if wide else x
        n, k = max(n, k), min(n, k)
        if self.map_name == "householder":
            low = x.tril(diagonal=-1)
            tau = 2.0 / (1.0 + _reduce.sum(low * low, dim=-2))
            q = linalg.householder_product(low, tau)
            q = q * x.diagonal(dim1=-2, dim2=-1).int().unsqueeze(-2)  # the signs that `right_inverse` put there
        else:
            low = x.tril()
            if n != k:
                low = _shape.cat([low, low.new_zeros((*low.shape[:-2], n, n - k))], dim=-1)
            skew = low - low.mH
            if self.map_name == "matrix_exp":
                q = linalg.matrix_exp(skew)
            else:  # Cayley: (1 + A/2) (1 − A/2)⁻¹
                eye = linalg.matrix_power(skew, 0)
                q = linalg.solve(eye - skew * 0.5, eye + skew * 0.5)
            q = q[..., :k] if n != k else q
        if hasattr(self, "base"):
            q = _linalg.matmul(self.base, q)
        return q.mT if wide else q

    def right_inverse(self, q: Tensor) -> Tensor:
        if q.shape != self.shape:
            raise ArgumentError(f"orthogonal: Expected a matrix or batch of matrices of shape {self.shape}. Got {q.shape}.")
        n, k = q._a.shape[-2:]
        wide = n < k
        q = q.mT if wide else q
        n, k = max(n, k), min(n, k)
        if not hasattr(self, "base"):
            if self.map_name != "householder":
                raise NotImplementedError("orthogonal: assigning needs use_trivialization=True for matrix_exp and cayley")
            a, tau = linalg.geqrf(q)
            sign = _pw.sign(a.diagonal(dim1=-2, dim2=-1))
            sign = _pw.where(_pw.eq(tau, 0), -1.0 * sign, sign)
            a = _shape.diagonal_put(a, sign, dim1=-2, dim2=-1)
            return a.mT if wide else a
        # columns are added that complete the basis
        more = rng.randn(*q.shape[:-2], n, n - k, dtype=q.dtype, device=q.device)
        self.base = _nearest_orthogonal(_shape.cat([q, more], dim=-1) if n != k else q)
        start = q.new_zeros(q.shape)  # −1: what every map takes to 1
        start = _shape.diagonal_put(start, start.diagonal(dim1=-2, dim2=-1) - 1, dim1=-2, dim2=-1)
        return start.mT if wide else start


def _nearest_orthogonal(x: Tensor) -> Tensor:
    """Q of QR, with the signs that leave an orthogonal matrix as it is."""
    q, r = linalg.qr(x)
    d = r.diagonal(dim1=-2, dim2=-1)
    return q * _pw.sgn(d).unsqueeze(-2)


def orthogonal(
    module: Module, name: str = "weight", orthogonal_map: str | None = None, *, use_trivialization: bool = True
) -> Module:
    """weight = an orthogonal matrix, or one with orthonormal rows or columns. Lezcano-Casado 2019.

    `orthogonal_map`: "matrix_exp", "cayley" or "householder"; by default the first for square and complex weights, else the last.
    With `use_trivialization` the map starts at the present weight, and any orthogonal weight may be assigned.
    """
    weight = getattr(module, name)
    if not isinstance(weight, Tensor):
        raise ArgumentError(f"Module '{module}' has no parameter or buffer with name '{name}'")
    if weight.dim() < 2:
        raise ArgumentError(f"Expected a matrix or batch of matrices. Got a tensor of {weight.dim()} dimensions.")
    if orthogonal_map is None:
        square = weight._a.shape[-2] == weight._a.shape[-1]
        orthogonal_map = "matrix_exp" if square or weight.is_complex() else "householder"
    if orthogonal_map not in ("matrix_exp", "cayley", "householder"):
        raise ArgumentError(
            f'orthogonal_map has to be one of "matrix_exp", "cayley", "householder". Got: {orthogonal_map}'
        )
    made = _Orthogonal(weight, orthogonal_map, use_trivialization)
    return parametrize.register_parametrization(module, name, made, unsafe=True)
