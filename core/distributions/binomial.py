"""The binomial distribution."""

from __future__ import annotations

from typing import Any

import core
from core._tensor import Tensor
from core.distributions import constraints
from core.distributions.distribution import Distribution
from core.distributions.utils import SuccessProbability, broadcast_all, one_of
from core.errors import ArgumentError


class Binomial(SuccessProbability, Distribution):
    """How many of `total_count` trials succeed, each with probability `probs`, or the sigmoid of `logits`."""

    arg_constraints = {
        "total_count": constraints.nonnegative_integer,
        "probs": constraints.unit_interval,
        "logits": constraints.real,
    }
    has_enumerate_support = True

    def __init__(self, total_count: Any = 1, probs: Any = None, logits: Any = None, validate_args: bool | None = None):
        given = one_of("Binomial", probs, logits)
        total, given = broadcast_all(total_count, given)
        self.total_count = total.to(given.dtype)
        self.__dict__["probs" if logits is None else "logits"] = given
        super().__init__(given.shape, (), validate_args)

    @property
    def support(self) -> Any:  # type: ignore[override]
        return constraints.integer_interval(0, self.total_count)

    @property
    def param_shape(self) -> Any:
        return self._batch_shape

    @property
    def mean(self) -> Tensor:
        return self.total_count * self.probs

    @property
    def mode(self) -> Tensor:
        return ((self.total_count + 1) * self.probs).floor().clamp(max=self.total_count)

    @property
    def variance(self) -> Tensor:
        return self.total_count * self.probs * (1 - self.probs)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        shape = self._extended_shape(sample_shape)
        with core.no_grad():
            return core.binomial(self.total_count.expand(shape), self.probs.expand(shape))

    def log_prob(self, value: Tensor) -> Tensor:
        self._validate_sample(value)
        n, x = self.total_count, self.logits
        ways = core.lgamma(n + 1) - core.lgamma(value + 1) - core.lgamma(n - value + 1)
        # n ln(1 + eˣ), without overflow
        return value * x + ways - n * (x.clamp(min=0) + core.log1p(core.exp(-x.abs())))

    def entropy(self) -> Tensor:
        if not bool((self.total_count == self.total_count.max()).all()):
            raise NotImplementedError("Inhomogeneous total count not supported by `entropy`.")
        y = self.log_prob(self.enumerate_support(False))
        return -(core.exp(y) * y).sum(0)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        n = int(self.total_count.max())
        if not bool((self.total_count == n).all()):
            raise ArgumentError("Binomial.enumerate_support: expected one total_count, got several")
        values = core.arange(1 + n, dtype=self.total_count.dtype).reshape(-1, *(1,) * len(self._batch_shape))
        return values.expand(-1, *self._batch_shape) if expand else values
