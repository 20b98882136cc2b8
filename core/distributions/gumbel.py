"""The Gumbel distribution."""

from __future__ import annotations

import math
from typing import Any

import core
from core._tensor import Tensor
from core.distributions import constraints
from core.distributions.transformed_distribution import TransformedDistribution
from core.distributions.transforms import AffineTransform, ExpTransform
from core.distributions.uniform import Uniform
from core.distributions.utils import broadcast_all

EULER = 0.57721566490153286060


class Gumbel(TransformedDistribution):
    """The limit of maxima: −ln(−ln u)·scale + loc of uniform u."""

    arg_constraints = {"loc": constraints.real, "scale": constraints.positive}
    support = constraints.real  # type: ignore[assignment]

    def __init__(self, loc: Any, scale: Any, validate_args: bool | None = None):
        self.loc, self.scale = broadcast_all(loc, scale)
        f = core.finfo(self.loc.dtype)
        base = Uniform(core.full_like(self.loc, f.tiny), core.full_like(self.loc, 1 - f.eps), validate_args)
        steps = [
            ExpTransform().inv, AffineTransform(0, -core.ones_like(self.scale)), ExpTransform().inv, AffineTransform(self.loc, -self.scale),
        ]  # fmt: skip
        super().__init__(base, steps, validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        return Gumbel(self.loc.expand(batch_shape), self.scale.expand(batch_shape), self._validate_args)

    @property
    def mean(self) -> Tensor:
        return self.loc + self.scale * EULER

    @property
    def mode(self) -> Tensor:
        return self.loc

    @property
    def stddev(self) -> Tensor:
        return (math.pi / math.sqrt(6)) * self.scale

    @property
    def variance(self) -> Tensor:
        return self.stddev.pow(2)

    def log_prob(self, value: Tensor) -> Tensor:
        self._validate_sample(value)
        y = (self.loc - value) / self.scale
        return (y - y.exp()) - self.scale.log()

    def entropy(self) -> Tensor:
        return self.scale.log() + (1 + EULER)
