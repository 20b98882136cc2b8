"""The gamma distribution."""

from __future__ import annotations

from typing import Any

import core
from core._tensor import Tensor, wrap
from core.autograd.function import Function
from core.distributions import constraints
from core.distributions.exp_family import ExponentialFamily
from core.distributions.implicit import gamma_slope
from core.distributions.utils import broadcast_all
from core.functions.sampling import standard_gamma_draws


class _StandardGamma(Function):
    """Gamma numbers of scale 1."""

    @staticmethod
    def forward(ctx: Any, alpha: Tensor) -> Tensor:
        draws = standard_gamma_draws(alpha._host()).astype(alpha._host().dtype)
        x = wrap(draws).clamp(min=core.finfo(alpha.dtype).tiny).to(alpha.device)
        ctx.save_for_backward(alpha, x)
        return x

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        alpha, x = ctx.saved_tensors
        return g * wrap(gamma_slope(alpha._host(), x._host())).to(g.dtype).to(g.device)


class Gamma(ExponentialFamily):
    """Shape `concentration`, scale 1/`rate`."""

    arg_constraints = {"concentration": constraints.positive, "rate": constraints.positive}
    support: Any = constraints.nonnegative
    has_rsample = True

    def __init__(self, concentration: Any, rate: Any, validate_args: bool | None = None):
        self.concentration, self.rate = broadcast_all(concentration, rate)
        super().__init__(self.concentration.shape, (), validate_args)

    @property
    def mean(self) -> Tensor:
        return self.concentration / self.rate

    @property
    def mode(self) -> Tensor:
        return ((self.concentration - 1) / self.rate).clamp(min=0)

    @property
    def variance(self) -> Tensor:
        return self.concentration / self.rate.pow(2)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        shape = self._extended_shape(sample_shape)
        x = _StandardGamma.apply(self.concentration.expand(shape)) / self.rate.expand(shape)
        return x.clamp(min=core.finfo(x.dtype).tiny)

    def log_prob(self, value: Tensor) -> Tensor:
        value = core.as_tensor(value, dtype=self.rate.dtype, device=self.rate.device)
        self._validate_sample(value)
        a, b = self.concentration, self.rate
        return core.xlogy(a, b) + core.xlogy(a - 1, value) - b * value - core.lgamma(a)

    def entropy(self) -> Tensor:
        a = self.concentration
        return a - self.rate.log() + core.lgamma(a) + (1.0 - a) * core.digamma(a)

    def cdf(self, value: Tensor) -> Tensor:
        self._validate_sample(value)
        return core.igamma(self.concentration, self.rate * value)
