"""The Kumaraswamy distribution."""

from __future__ import annotations

from typing import Any

import core
from core._tensor import Tensor
from core.distributions import constraints
from core.distributions.gumbel import EULER
from core.distributions.transformed_distribution import TransformedDistribution
from core.distributions.transforms import AffineTransform, PowerTransform
from core.distributions.uniform import Uniform
from core.distributions.utils import broadcast_all


def _moment(a: Tensor, b: Tensor, n: int) -> Tensor:
    """E xⁿ"""
    k = 1 + n / a
    return core.exp(b.log() + core.lgamma(k) + core.lgamma(b) - core.lgamma(k + b))


class Kumaraswamy(TransformedDistribution):
    """Like beta, but with a closed form: (1 − u^(1/b))^(1/a) of uniform u, a and b the concentrations 1 and 0."""

    arg_constraints = {"concentration1": constraints.positive, "concentration0": constraints.positive}
    support = constraints.unit_interval  # type: ignore[assignment]

    def __init__(self, concentration1: Any, concentration0: Any, validate_args: bool | None = None):
        self.concentration1, self.concentration0 = a, b = broadcast_all(concentration1, concentration0)
        base = Uniform(core.full_like(b, 0), core.full_like(b, 1), validate_args)
        one = core.ones_like(b)
        steps = [PowerTransform(b.reciprocal()), AffineTransform(one, -one), PowerTransform(a.reciprocal())]
        super().__init__(base, steps, validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        a, b = self.concentration1.expand(batch_shape), self.concentration0.expand(batch_shape)
        return Kumaraswamy(a, b, self._validate_args)

    @property
    def mean(self) -> Tensor:
        return _moment(self.concentration1, self.concentration0, 1)

    @property
    def mode(self) -> Tensor:
        a, b = self.concentration1, self.concentration0
        at = a.reciprocal() * (-b).log1p() - a.reciprocal() * (-a * b).log1p()
        at = core.where(core.logical_or(a < 1, b < 1), core.nan, at)
        return at.exp()

    @property
    def variance(self) -> Tensor:
        return _moment(self.concentration1, self.concentration0, 2) - self.mean.pow(2)

    def entropy(self) -> Tensor:
        a, b = self.concentration1, self.concentration0
        return 1 - 1 / b + (1 - 1 / a) * (core.digamma(b + 1) + EULER) - core.log(a) - core.log(b)
