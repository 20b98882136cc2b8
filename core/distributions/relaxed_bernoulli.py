"""Smooth relaxations of the Bernoulli distribution."""

from __future__ import annotations

from typing import Any

import core
from core._tensor import Tensor
from core.distributions import constraints
from core.distributions.distribution import Distribution
from core.distributions.transformed_distribution import TransformedDistribution
from core.distributions.transforms import SigmoidTransform
from core.distributions.utils import SuccessProbability, broadcast_all, clamp_probs, one_of


class LogitRelaxedBernoulli(SuccessProbability, Distribution):
    """The logits of `RelaxedBernoulli`. Maddison et al. 2017."""

    arg_constraints = {"probs": constraints.unit_interval, "logits": constraints.real}
    support = constraints.real
    has_rsample = True

    def __init__(self, temperature: Any, probs: Any = None, logits: Any = None, validate_args: bool | None = None):
        self.temperature = temperature
        (given,) = broadcast_all(one_of("LogitRelaxedBernoulli", probs, logits))
        self.__dict__["probs" if logits is None else "logits"] = given
        super().__init__(given.shape, (), validate_args)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        shape = self._extended_shape(sample_shape)
        p = clamp_probs(self.probs.expand(shape))
        u = clamp_probs(core.rand(shape, dtype=p.dtype, device=p.device))
        return (u.log() - (-u).log1p() + p.log() - (-p).log1p()) / self.temperature

    def log_prob(self, value: Tensor) -> Tensor:
        self._validate_sample(value)
        logits, value = broadcast_all(self.logits, value)
        y = logits - value.mul(self.temperature)
        t = core.as_tensor(self.temperature, dtype=y.dtype)
        return t.log() + y - 2 * y.exp().log1p()


class RelaxedBernoulli(TransformedDistribution):
    """In (0, 1), nearer to 0 and 1 the lower the temperature. Maddison et al. 2017, Jang et al. 2017."""

    arg_constraints = {"probs": constraints.unit_interval, "logits": constraints.real}
    support = constraints.unit_interval  # type: ignore[assignment]

    def __init__(self, temperature: Any, probs: Any = None, logits: Any = None, validate_args: bool | None = None):
        base = LogitRelaxedBernoulli(temperature, probs, logits, validate_args)
        super().__init__(base, SigmoidTransform(), validate_args)

    temperature = property(lambda self: self.base_dist.temperature)
    probs = property(lambda self: self.base_dist.probs)
    logits = property(lambda self: self.base_dist.logits)
