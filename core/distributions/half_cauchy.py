"""The half-Cauchy distribution."""

from __future__ import annotations

import math
from typing import Any

import core
from core._tensor import Tensor
from core.distributions.cauchy import Cauchy
from core.distributions.half import Half


class HalfCauchy(Half):
    """|x| of Cauchy numbers x around 0."""

    def __init__(self, scale: Any, validate_args: bool | None = None):
        super().__init__(Cauchy(0, scale, validate_args), validate_args)

    @property
    def mean(self) -> Tensor:
        return core.full_like(self.scale, math.inf)

    @property
    def variance(self) -> Tensor:
        return self.base_dist.variance

    def log_prob(self, value: Tensor) -> Tensor:
        self._validate_sample(value)
        value = core.as_tensor(value, dtype=self.scale.dtype, device=self.scale.device)
        y = math.log(2 / math.pi) - self.scale.log() - (value / self.scale).pow(2).log1p()
        return core.where(value >= 0, y, -math.inf)
