"""Which transform leads from all real numbers into a region: `biject_to` one to one, `transform_to` any, whichever is easier."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from core.distributions import transforms as t
from core.distributions.constraints import Constraint

__all__ = ["ConstraintRegistry", "biject_to", "transform_to"]


class ConstraintRegistry:
    """Name of a region -> what makes the transform of its bounds."""

    def __init__(self) -> None:
        self._known: dict[str, Callable[[Constraint], t.Transform]] = {}

    def register(self, constraint: Constraint, factory: Any = None) -> Any:
        """Add or replace one. Also as a decorator."""
        if factory is None:
            return lambda f: self.register(constraint, f)
        self._known[constraint.name] = factory
        return factory

    def __call__(self, constraint: Constraint) -> t.Transform:
        name = constraint.name
        if name not in self._known:
            raise NotImplementedError(f"biject_to, transform_to: expected one of {', '.join(self._known)}, got {name}")
        return self._known[name](constraint)


def _scaled(first: Callable[[], t.Transform]) -> Callable[[Constraint], t.Transform]:
    def make(c: Constraint) -> t.Transform:
        low, high = c.bounds
        if (low, high) == (0, 1) and not hasattr(low, "shape"):
            return first()
        return t.ComposeTransform([first(), t.AffineTransform(low, high - low)])

    return make


def _above(c: Constraint) -> t.Transform:
    (low,) = c.bounds
    if not hasattr(low, "shape") and low == 0:
        return t.ExpTransform()
    return t.ComposeTransform([t.ExpTransform(), t.AffineTransform(low, 1)])


def _made() -> ConstraintRegistry:
    registry = ConstraintRegistry()
    registry._known = {
        "real": lambda c: t.identity_transform,
        "independent(real, 1)": lambda c: t.IndependentTransform(t.identity_transform, 1),
        "greater_than": _above,
        "greater_than_eq": _above,
        "less_than": lambda c: t.ComposeTransform([t.ExpTransform(), t.AffineTransform(c.bounds[0], -1)]),
        "interval": _scaled(t.SigmoidTransform),
        "half_open_interval": _scaled(t.SigmoidTransform),
        "simplex": lambda c: t.StickBreakingTransform(),
        "lower_cholesky": lambda c: t.LowerCholeskyTransform(),
        "corr_cholesky": lambda c: t.CorrCholeskyTransform(),
        "positive_definite": lambda c: t.PositiveDefiniteTransform(),
        "positive_semidefinite": lambda c: t.PositiveDefiniteTransform(),
    }
    return registry


biject_to, transform_to = _made(), _made()
transform_to._known["simplex"] = lambda c: t.SoftmaxTransform()
