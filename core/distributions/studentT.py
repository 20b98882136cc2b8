"""Student's t distribution."""

from __future__ import annotations

import math
from typing import Any

import core
from core._tensor import Tensor
from core.distributions import constraints
from core.distributions.chi2 import Chi2
from core.distributions.distribution import Distribution
from core.distributions.utils import broadcast_all, standard_normal


class StudentT(Distribution):
    """loc + scale·x/√(c/df), x standard normal and c from χ² of `df`."""

    arg_constraints = {"df": constraints.positive, "loc": constraints.real, "scale": constraints.positive}
    support = constraints.real
    has_rsample = True

    def __init__(self, df: Any, loc: Any = 0.0, scale: Any = 1.0, validate_args: bool | None = None):
        self.df, self.loc, self.scale = broadcast_all(df, loc, scale)
        self._chi2 = Chi2(self.df, validate_args)
        super().__init__(self.df.shape, (), validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        new = super().expand(batch_shape)
        new._chi2 = self._chi2.expand(batch_shape)
        return new

    @property
    def mean(self) -> Tensor:
        return core.where(self.df <= 1, math.nan, self.loc)

    @property
    def mode(self) -> Tensor:
        return self.loc

    @property
    def variance(self) -> Tensor:
        finite = self.scale.pow(2) * self.df / (self.df - 2)
        return core.where(self.df <= 1, math.nan, core.where(self.df <= 2, math.inf, finite))

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        x = standard_normal(self._extended_shape(sample_shape), self.df)
        return self.loc + self.scale * (x * core.rsqrt(self._chi2.rsample(sample_shape) / self.df))

    def log_prob(self, value: Tensor) -> Tensor:
        self._validate_sample(value)
        y = (value - self.loc) / self.scale
        z = self.scale.log() + 0.5 * self.df.log() + 0.5 * math.log(math.pi) + core.lgamma(0.5 * self.df)
        z = z - core.lgamma(0.5 * (self.df + 1.0))
        return -0.5 * (self.df + 1.0) * core.log1p(y**2.0 / self.df) - z

    def entropy(self) -> Tensor:
        beta = core.lgamma(0.5 * self.df) + math.lgamma(0.5) - core.lgamma(0.5 * (self.df + 1))
        slope = core.digamma(0.5 * (self.df + 1)) - core.digamma(0.5 * self.df)
        return self.scale.log() + 0.5 * (self.df + 1) * slope + 0.5 * self.df.log() + beta
