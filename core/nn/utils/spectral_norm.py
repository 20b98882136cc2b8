"""Spectral normalisation by a hook: the older form, with `weight_orig` and the buffers `weight_u` and `weight_v`.
Miyato et al. 2018.
"""

from __future__ import annotations

from typing import Any

from core import rng
from core._tensor import Tensor, _grad_mode
from core.errors import ArgumentError
from core.nn.functional.norm import normalize
from core.nn.modules.module import Module
from core.nn.parameter import Parameter
from core.nn.utils.parametrizations import rows_of
from core.ops import linalg as _linalg
from core.ops import reduce as _reduce


class SpectralNorm:
    """A forward pre-hook that computes the weight."""

    def __init__(self, name: str, n_power_iterations: int, dim: int, eps: float):
        self.name, self.n_power_iterations, self.dim, self.eps = name, n_power_iterations, dim, eps

    def compute_weight(self, module: Module, iterate: bool) -> Tensor:
        """W/σ(W), after a step of power iteration"""
        weight = getattr(module, self.name + "_orig")
        u, v = getattr(module, self.name + "_u"), getattr(module, self.name + "_v")
        m = rows_of(weight, self.dim)
        if iterate:
            with _grad_mode(False):
                w = m.detach()
                for _ in range(self.n_power_iterations):
                    v.copy_(normalize(_linalg.matmul(w.t(), u), dim=0, eps=self.eps))
                    u.copy_(normalize(_linalg.matmul(w, v), dim=0, eps=self.eps))
        u, v = u.clone(), v.clone()  # the next iteration writes into the buffers
        return weight / _reduce.sum(u * _linalg.matmul(m, v))

    def __call__(self, module: Module, inputs: Any) -> None:
        setattr(module, self.name, self.compute_weight(module, module.training))


def _hook_of(module: Module, name: str) -> tuple[int, SpectralNorm] | None:
    for key, hook in module._forward_pre_hooks.items():
        if isinstance(hook, SpectralNorm) and hook.name == name:
            return key, hook
    return None


def spectral_norm(
    module: Any, name: str = "weight", n_power_iterations: int = 1, eps: float = 1e-12, dim: int | None = None
) -> Any:
    """weight = W/σ(W), computed before each forward. Returns the module."""
    if n_power_iterations <= 0:
        raise ArgumentError(
            f"Expected n_power_iterations to be positive, but got n_power_iterations={n_power_iterations}")
    if _hook_of(module, name) is not None:
        raise ArgumentError(f"Cannot register two spectral_norm hooks on the same parameter {name}")
    if dim is None:
        dim = 1 if type(module).__name__.startswith("ConvTranspose") else 0
    weight = module._parameters[name]
    h, w = rows_of(weight.detach(), dim)._a.shape
    u, v = (normalize(rng.randn(k, dtype=weight.dtype, device=weight.device), dim=0, eps=eps) for k in (h, w))
    del module._parameters[name]
    module.register_parameter(name + "_orig", weight)
    setattr(module, name, weight.detach())
    module.register_buffer(name + "_u", u)
    module.register_buffer(name + "_v", v)
    module.register_forward_pre_hook(SpectralNorm(name, n_power_iterations, dim, eps))
    return module


def remove_spectral_norm(module: Any, name: str = "weight") -> Any:
    """Make the weight a parameter again. Returns the module."""
    found = _hook_of(module, name)
    if found is None:
        raise ArgumentError(f"spectral_norm of '{name}' not found in {module}")
    key, hook = found
    with _grad_mode(False):
        weight = hook.compute_weight(module, False)
    delattr(module, name)
    for suffix, room in (("_u", module._buffers), ("_v", module._buffers), ("_orig", module._parameters)):
        del room[name + suffix]
    del module._forward_pre_hooks[key]
    module.register_parameter(name, Parameter(weight.detach()))
    return module
