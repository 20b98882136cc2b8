"""The Dirichlet distribution."""

from __future__ import annotations

from typing import Any

import core
from core._tensor import Tensor, wrap
from core.autograd.function import Function
from core.distributions import constraints
from core.distributions.exp_family import ExponentialFamily
from core.distributions.implicit import beta_slope
from core.errors import ArgumentError
from core.functions.sampling import standard_gamma_draws


class _Draw(Function):
    @staticmethod
    def forward(ctx: Any, concentration: Tensor) -> Tensor:
        a = concentration._host()
        draws = standard_gamma_draws(a)
        x = wrap((draws / draws.sum(-1, keepdims=True)).astype(a.dtype)).to(concentration.device)
        ctx.save_for_backward(concentration, x)
        return x

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        a, x = ctx.saved_tensors
        total = a.sum(-1, keepdim=True)
        # element i is beta(αᵢ, rest); the others keep their proportions
        slope = beta_slope(a._host(), (total - a)._host(), x._host()) / (1 - x._host().clip(0, 1 - 1e-7))
        return wrap(slope).to(g.dtype).to(g.device) * (g - (x * g).sum(-1, keepdim=True))


class Dirichlet(ExponentialFamily):
    """Shares of 1: (*, K) with `concentration` (*, K)."""

    arg_constraints = {"concentration": constraints.independent(constraints.positive, 1)}
    support = constraints.simplex
    has_rsample = True

    def __init__(self, concentration: Tensor, validate_args: bool | None = None):
        if concentration.dim() < 1:
            raise ArgumentError("`concentration` parameter must be at least one-dimensional.")
        self.concentration = concentration
        super().__init__(concentration.shape[:-1], concentration.shape[-1:], validate_args)

    @property
    def _total(self) -> Tensor:
        return self.concentration.sum(-1, keepdim=True)

    @property
    def mean(self) -> Tensor:
        return self.concentration / self._total

    @property
    def mode(self) -> Tensor:
        a = (self.concentration - 1).clamp(min=0.0)
        flat = (self.concentration < 1).all(-1, keepdim=True)
        corner = core.zeros_like(a).scatter(-1, self.concentration.argmax(-1, keepdim=True), 1.0)
        return core.where(flat, corner, a / a.sum(-1, keepdim=True))

    @property
    def variance(self) -> Tensor:
        a, total = self.concentration, self._total
        return a * (total - a) / (total.pow(2) * (total + 1))

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return _Draw.apply(self.concentration.expand(self._extended_shape(sample_shape)))

    def log_prob(self, value: Tensor) -> Tensor:
        self._validate_sample(value)
        a = self.concentration
        return core.xlogy(a - 1.0, value).sum(-1) + core.lgamma(a.sum(-1)) - core.lgamma(a).sum(-1)

    def entropy(self) -> Tensor:
        a, k = self.concentration, self.concentration.size(-1)
        total = a.sum(-1)
        spread = core.lgamma(a).sum(-1) - core.lgamma(total) - (k - total) * core.digamma(total)
        return spread - ((a - 1.0) * core.digamma(a)).sum(-1)
