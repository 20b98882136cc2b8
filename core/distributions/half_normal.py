"""The half-normal distribution."""

from __future__ import annotations

import math
from typing import Any

import core
from core._tensor import Tensor
from core.distributions.half import Half
from core.distributions.normal import Normal


class HalfNormal(Half):
    """|x| of normal x with mean 0 and standard deviation `scale`."""

    def __init__(self, scale: Any, validate_args: bool | None = None):
        super().__init__(Normal(0, scale, validate_args), validate_args)

    @property
    def mean(self) -> Tensor:
        return self.scale * math.sqrt(2 / math.pi)

    @property
    def variance(self) -> Tensor:
        return self.scale.pow(2) * (1 - 2 / math.pi)

    def log_prob(self, value: Tensor) -> Tensor:
        self._validate_sample(value)
        return core.where(value >= 0, self.base_dist.log_prob(value) + math.log(2), -math.inf)
