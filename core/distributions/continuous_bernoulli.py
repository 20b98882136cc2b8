"""The continuous Bernoulli distribution."""

from __future__ import annotations

import math
from typing import Any

import core
import core.nn.functional as F
from core._tensor import Tensor
from core.distributions import constraints
from core.distributions.exp_family import ExponentialFamily
from core.distributions.utils import broadcast_all, clamp_probs, lazy_property, logits_to_probs, one_of, probs_to_logits


class ContinuousBernoulli(ExponentialFamily):
    """On [0, 1], the density in proportion to pˣ(1 − p)^(1−x). Loaiza-Ganem & Cunningham 2019. Within `lims` p counts as ½ nearly, and
    series are used."""

    arg_constraints = {"probs": constraints.unit_interval, "logits": constraints.real}
    support = constraints.unit_interval
    has_rsample = True

    def __init__(
        self, probs: Any = None, logits: Any = None, lims: Any = (0.499, 0.501), validate_args: bool | None = None
    ):
        (given,) = broadcast_all(one_of("ContinuousBernoulli", probs, logits))
        self.__dict__["probs" if logits is None else "logits"] = clamp_probs(given) if logits is None else given
        self._lims = lims
        super().__init__(given.shape, (), validate_args)

    @lazy_property
    def probs(self) -> Tensor:
        """The shape, not the mean."""
        return clamp_probs(logits_to_probs(self.logits, is_binary=True))

    @lazy_property
    def logits(self) -> Tensor:
        """ln p/(1 − p)"""
        return probs_to_logits(self.probs, is_binary=True)

    def _outside(self) -> Tensor:
        return (self.probs <= self._lims[0]) | (self.probs > self._lims[1])

    def _cut(self) -> Tensor:
        return core.where(self._outside(), self.probs, self._lims[0])

    def _log_norm(self) -> Tensor:
        p = self._cut()
        far = core.log(core.abs(core.log1p(-p) - core.log(p))) - core.log(core.abs(1 - 2 * p))
        x = (self.probs - 0.5).pow(2)
        return core.where(self._outside(), far, math.log(2.0) + (4.0 / 3.0 + 104.0 / 45.0 * x) * x)

    @property
    def mean(self) -> Tensor:
        p, x = self._cut(), self.probs - 0.5
        far = p / (2.0 * p - 1.0) + 1.0 / (core.log1p(-p) - core.log(p))
        return core.where(self._outside(), far, 0.5 + (1.0 / 3.0 + 16.0 / 45.0 * x.pow(2)) * x)

    @property
    def variance(self) -> Tensor:
        p, x = self._cut(), (self.probs - 0.5).pow(2)
        far = p * (p - 1.0) / (1.0 - 2.0 * p).pow(2) + 1.0 / (core.log1p(-p) - core.log(p)).pow(2)
        return core.where(self._outside(), far, 1.0 / 12.0 - (1.0 / 15.0 - 128.0 / 945.0 * x) * x)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        u = core.rand(self._extended_shape(sample_shape), dtype=self.probs.dtype, device=self.probs.device)
        return self.icdf(u)

    def log_prob(self, value: Tensor) -> Tensor:
        self._validate_sample(value)
        logits, value = broadcast_all(self.logits, value)
        return -F.binary_cross_entropy_with_logits(logits, value, reduction="none") + self._log_norm()

    def cdf(self, value: Tensor) -> Tensor:
        self._validate_sample(value)
        p = self._cut()
        far = (p.pow(value) * (1.0 - p).pow(1.0 - value) + p - 1.0) / (2.0 * p - 1.0)
        y = core.where(self._outside(), far, value)
        return core.where(value <= 0.0, 0.0, core.where(value >= 1.0, 1.0, y))

    def icdf(self, value: Tensor) -> Tensor:
        p = self._cut()
        far = (core.log1p(-p + value * (2.0 * p - 1.0)) - core.log1p(-p)) / (core.log(p) - core.log1p(-p))
        return core.where(self._outside(), far, value)

    def entropy(self) -> Tensor:
        p0, p1 = core.log1p(-self.probs), core.log(self.probs)
        return self.mean * (p0 - p1) - self._log_norm() - p0
