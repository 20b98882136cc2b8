"""The negative binomial distribution."""

from __future__ import annotations

from typing import Any

import core
import core.nn.functional as F
from core._tensor import Tensor
from core.distributions import constraints
from core.distributions.distribution import Distribution
from core.distributions.gamma import Gamma
from core.distributions.utils import SuccessProbability, broadcast_all, one_of


class NegativeBinomial(SuccessProbability, Distribution):
    """How many trials succeed, each with probability `probs`, before `total_count` have failed."""

    arg_constraints = {
        "total_count": constraints.greater_than_eq(0), "probs": constraints.half_open_interval(0.0, 1.0), "logits": constraints.real,
    }  # fmt: skip
    support = constraints.nonnegative_integer

    def __init__(self, total_count: Any, probs: Any = None, logits: Any = None, validate_args: bool | None = None):
        total, given = broadcast_all(total_count, one_of("NegativeBinomial", probs, logits))
        self.total_count = total.to(given.dtype)
        self.__dict__["probs" if logits is None else "logits"] = given
        super().__init__(given.shape, (), validate_args)

    @property
    def mean(self) -> Tensor:
        return self.total_count * core.exp(self.logits)

    @property
    def mode(self) -> Tensor:
        return ((self.total_count - 1) * self.logits.exp()).floor().clamp(min=0.0)

    @property
    def variance(self) -> Tensor:
        return self.mean / core.sigmoid(-self.logits)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        with core.no_grad():
            rate = Gamma(self.total_count, core.exp(-self.logits), validate_args=False).sample(sample_shape)
            return core.poisson(rate)

    def log_prob(self, value: Tensor) -> Tensor:
        self._validate_sample(value)
        n = self.total_count
        unnormalized = n * F.logsigmoid(-self.logits) + value * F.logsigmoid(self.logits)
        ways = -core.lgamma(n + value) + core.lgamma(1.0 + value) + core.lgamma(n)
        return unnormalized - core.where(n + value == 0.0, 0.0, ways)
