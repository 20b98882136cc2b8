"""What the families share that one shape has been moved and stretched into."""

from __future__ import annotations

from typing import Any

from core._tensor import Tensor
from core.distributions import constraints
from core.distributions.distribution import Distribution
from core.distributions.utils import broadcast_all


class LocationScale(Distribution):
    """loc + scale·z for real numbers z that are symmetric around 0 and most often near it."""

    arg_constraints = {"loc": constraints.real, "scale": constraints.positive}
    support = constraints.real
    has_rsample = True

    def __init__(self, loc: Any, scale: Any, validate_args: bool | None = None):
        self.loc, self.scale = broadcast_all(loc, scale)
        super().__init__(self.loc.shape, (), validate_args)

    @property
    def mean(self) -> Tensor:
        return self.loc

    @property
    def mode(self) -> Tensor:
        return self.loc
