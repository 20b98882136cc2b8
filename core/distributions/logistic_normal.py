"""The logistic normal distribution."""

from __future__ import annotations

from typing import Any

from core.distributions import constraints
from core.distributions.normal import Normal
from core.distributions.transformed_distribution import TransformedDistribution
from core.distributions.transforms import StickBreakingTransform


class LogisticNormal(TransformedDistribution):
    """Shares of 1 that stick breaking makes of normal numbers: (*, n) parameters, (*, n + 1) values."""

    arg_constraints = {"loc": constraints.real, "scale": constraints.positive}
    support = constraints.simplex  # type: ignore[assignment]

    def __init__(self, loc: Any, scale: Any, validate_args: bool | None = None):
        base = Normal(loc, scale, validate_args)
        base = base if base.batch_shape else base.expand([1])
        super().__init__(base, StickBreakingTransform(), validate_args)

    loc = property(lambda self: self.base_dist.base_dist.loc)
    scale = property(lambda self: self.base_dist.base_dist.scale)
