"""The generalized Pareto distribution."""

from __future__ import annotations

import math
from typing import Any

import core
from core._tensor import Tensor
from core.distributions import constraints
from core.distributions.distribution import Distribution
from core.distributions.utils import broadcast_all


class GeneralizedPareto(Distribution):
    """Excesses over a threshold `loc`: 1 − (1 + ξ(x − loc)/scale)^(−1/ξ), ξ = `concentration`; exponential for ξ = 0."""

    arg_constraints = {"loc": constraints.real, "scale": constraints.positive, "concentration": constraints.real}
    has_rsample = True

    def __init__(self, loc: Any, scale: Any, concentration: Any, validate_args: bool | None = None):
        self.loc, self.scale, self.concentration = broadcast_all(loc, scale, concentration)
        super().__init__(self.loc.shape, (), validate_args)

    @property
    def support(self) -> Any:  # type: ignore[override]
        top = core.where(self.concentration < 0, self.loc - self.scale / self.concentration, math.inf)
        return constraints.interval(self.loc, top)

    def _flat(self) -> Tensor:
        return core.isclose(self.concentration, core.zeros_like(self.concentration))

    def _shape(self) -> Tensor:
        return core.where(self._flat(), 1.0, self.concentration)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return self.icdf(core.rand(self._extended_shape(sample_shape), dtype=self.loc.dtype, device=self.loc.device))

    def log_prob(self, value: Tensor) -> Tensor:
        self._validate_sample(value)
        z, k = (value - self.loc) / self.scale, self._shape()
        return -self.scale.log() + core.where(self._flat(), -z, -(1 + 1 / k) * core.log1p(k * z))

    def _log_survival(self, value: Tensor) -> Tensor:
        z, k = (value - self.loc) / self.scale, self._shape()
        return core.where(self._flat(), -z, -core.log1p(k * z) / k)

    def cdf(self, value: Tensor) -> Tensor:
        self._validate_sample(value)
        return -core.expm1(self._log_survival(value))

    def icdf(self, value: Tensor) -> Tensor:
        left, k = core.log1p(-value), self._shape()
        return self.loc + self.scale * core.where(self._flat(), -left, core.expm1(-k * left) / k)

    @property
    def mean(self) -> Tensor:
        k = self.concentration
        return core.where(k < 1, self.loc + self.scale / (1 - k), math.inf)

    @property
    def mode(self) -> Tensor:
        return self.loc

    @property
    def variance(self) -> Tensor:
        k = self.concentration
        return core.where(k < 0.5, self.scale**2 / ((1 - k) ** 2 * (1 - 2 * k)), math.inf)

    def entropy(self) -> Tensor:
        return self.scale.log() + self.concentration + 1
