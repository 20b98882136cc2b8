"""What the halves of distributions that are symmetric around 0 share."""

from __future__ import annotations

import math
from typing import Any

import core
from core._tensor import Tensor
from core.distributions import constraints
from core.distributions.transformed_distribution import TransformedDistribution
from core.distributions.transforms import AbsTransform


class Half(TransformedDistribution):
    """|x| of numbers x from a base with location 0 and a `scale`."""

    arg_constraints = {"scale": constraints.positive}
    support = constraints.nonnegative  # type: ignore[assignment]

    def __init__(self, base: Any, validate_args: bool | None):
        super().__init__(base, AbsTransform(), validate_args)

    @property
    def scale(self) -> Tensor:
        return self.base_dist.scale  # type: ignore[attr-defined]

    @property
    def mode(self) -> Tensor:
        return core.zeros_like(self.scale)

    def cdf(self, value: Tensor) -> Tensor:
        self._validate_sample(value)
        return 2 * self.base_dist.cdf(value) - 1

    def icdf(self, value: Tensor) -> Tensor:
        return self.base_dist.icdf((value + 1) / 2)

    def entropy(self) -> Tensor:
        return self.base_dist.entropy() - math.log(2)
