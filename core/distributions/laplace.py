"""The Laplace distribution."""

from __future__ import annotations

from typing import Any

import core
from core._tensor import Tensor
from core.distributions.location_scale import LocationScale


class Laplace(LocationScale):
    """e^(−|x − loc|/scale) / (2·scale)"""

    @property
    def variance(self) -> Tensor:
        return 2 * self.scale.pow(2)

    @property
    def stddev(self) -> Tensor:
        return (2**0.5) * self.scale

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        u = self.loc.new_empty(self._extended_shape(sample_shape)).uniform_(core.finfo(self.loc.dtype).eps - 1, 1)
        return self.loc - self.scale * u.sign() * core.log1p(-u.abs())

    def log_prob(self, value: Tensor) -> Tensor:
        self._validate_sample(value)
        return -core.log(2 * self.scale) - core.abs(value - self.loc) / self.scale

    def cdf(self, value: Tensor) -> Tensor:
        self._validate_sample(value)
        return 0.5 - 0.5 * (value - self.loc).sign() * core.expm1(-(value - self.loc).abs() / self.scale)

    def icdf(self, value: Tensor) -> Tensor:
        term = value - 0.5
        return self.loc - self.scale * term.sign() * core.log1p(-2 * term.abs())

    def entropy(self) -> Tensor:
        return 1 + core.log(2 * self.scale)
