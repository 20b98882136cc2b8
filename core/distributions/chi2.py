"""The χ² distribution."""

from __future__ import annotations

from typing import Any

from core._tensor import Tensor
from core.distributions import constraints
from core.distributions.gamma import Gamma


class Chi2(Gamma):
    """The sum of `df` squares of standard normal numbers."""

    arg_constraints = {"df": constraints.positive}

    def __init__(self, df: Any, validate_args: bool | None = None):
        super().__init__(0.5 * df, 0.5, validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        return Chi2(self.df.expand(batch_shape), self._validate_args)

    @property
    def df(self) -> Tensor:
        return self.concentration * 2
