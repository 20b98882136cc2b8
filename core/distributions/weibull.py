"""The Weibull distribution."""

from __future__ import annotations

from typing import Any

import core
from core._tensor import Tensor
from core.distributions import constraints
from core.distributions.exponential import Exponential
from core.distributions.gumbel import EULER
from core.distributions.transformed_distribution import TransformedDistribution
from core.distributions.transforms import AffineTransform, PowerTransform
from core.distributions.utils import broadcast_all


class Weibull(TransformedDistribution):
    """scale·x^(1/concentration) of exponential x."""

    arg_constraints = {"scale": constraints.positive, "concentration": constraints.positive}
    support = constraints.positive  # type: ignore[assignment]

    def __init__(self, scale: Any, concentration: Any, validate_args: bool | None = None):
        self.scale, self.concentration = broadcast_all(scale, concentration)
        self.concentration_reciprocal = self.concentration.reciprocal()
        base = Exponential(core.ones_like(self.scale), validate_args)
        super().__init__(
            base, [PowerTransform(self.concentration_reciprocal), AffineTransform(0, self.scale)], validate_args
        )

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        return Weibull(self.scale.expand(batch_shape), self.concentration.expand(batch_shape), self._validate_args)

    @property
    def mean(self) -> Tensor:
        return self.scale * core.exp(core.lgamma(1 + self.concentration_reciprocal))

    @property
    def mode(self) -> Tensor:
        return self.scale * ((self.concentration - 1) / self.concentration) ** self.concentration_reciprocal

    @property
    def variance(self) -> Tensor:
        k = self.concentration_reciprocal
        return self.scale.pow(2) * (core.exp(core.lgamma(1 + 2 * k)) - core.exp(2 * core.lgamma(1 + k)))

    def entropy(self) -> Tensor:
        k = self.concentration_reciprocal
        return EULER * (1 - k) + core.log(self.scale * k) + 1
