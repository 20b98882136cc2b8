"""The geometric distribution."""

from __future__ import annotations

from typing import Any

import core
from core._tensor import Tensor
from core.distributions import constraints
from core.distributions.distribution import Distribution
from core.distributions.utils import SuccessProbability, broadcast_all, one_of
from core.errors import ArgumentError


class Geometric(SuccessProbability, Distribution):
    """How many trials fail before the first success, each of probability `probs`, or the sigmoid of `logits`."""

    arg_constraints = {"probs": constraints.unit_interval, "logits": constraints.real}
    support = constraints.nonnegative_integer

    def __init__(self, probs: Any = None, logits: Any = None, validate_args: bool | None = None):
        (given,) = broadcast_all(one_of("Geometric", probs, logits))
        self.__dict__["probs" if logits is None else "logits"] = given
        super().__init__(given.shape, (), validate_args)
        if self._validate_args and logits is None and not bool((given > 0).all()):
            raise ArgumentError(f"Geometric: expected parameter probs to be positive, got {given}")

    @property
    def mean(self) -> Tensor:
        return 1.0 / self.probs - 1.0

    @property
    def mode(self) -> Tensor:
        return core.zeros_like(self.probs)

    @property
    def variance(self) -> Tensor:
        return (1.0 / self.probs - 1.0) / self.probs

    def sample(self, sample_shape: Any = ()) -> Tensor:
        shape = self._extended_shape(sample_shape)
        with core.no_grad():
            u = self.probs.new_empty(shape).uniform_(core.finfo(self.probs.dtype).tiny, 1)
            return (u.log() / (-self.probs).log1p()).floor()

    def log_prob(self, value: Tensor) -> Tensor:
        self._validate_sample(value)
        value, p = broadcast_all(value, self.probs)
        p = core.where((p == 1) & (value == 0), 0.0, p)
        return value * (-p).log1p() + self.probs.log()

    def entropy(self) -> Tensor:
        p = self.probs
        return core.nn.functional.binary_cross_entropy_with_logits(self.logits, p, reduction="none") / p
