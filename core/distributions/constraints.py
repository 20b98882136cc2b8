"""Which values a parameter or a sample may have: `constraint.check(value)` is true where they hold, over the last `event_dim`
dimensions together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import core
from core._tensor import Tensor

__all__ = [
    "Constraint", "boolean", "corr_cholesky", "dependent", "dependent_property", "greater_than", "greater_than_eq", "half_open_interval",
    "independent", "integer_interval", "interval", "is_dependent", "less_than", "lower_cholesky", "lower_triangular", "multinomial",
    "nonnegative", "nonnegative_integer", "one_hot", "positive", "positive_definite", "positive_integer", "positive_semidefinite",
    "real", "real_vector", "simplex", "square", "symmetric", "unit_interval",
]  # fmt: skip


class Constraint:
    """A region of values. `name` and `bounds` say which; `biject_to` goes by them."""

    def __init__(
        self, name: str, holds: Callable[[Any], Any], event_dim: int = 0, is_discrete: bool = False, bounds: tuple[Any, ...] = ()
    ):  # fmt: skip
        self.name, self._holds, self.event_dim, self.is_discrete, self.bounds = (
            name,
            holds,
            event_dim,
            is_discrete,
            bounds,
        )

    def check(self, value: Tensor) -> Tensor:
        """Bool, one for each event."""
        return self._holds(value)

    def __repr__(self) -> str:
        return f"{self.name}({', '.join(map(str, self.bounds))})" if self.bounds else self.name


def _whole(v: Any) -> Any:
    return v % 1 == 0


def greater_than(lower_bound: Any) -> Constraint:
    """> lower_bound"""
    return Constraint("greater_than", lambda v: lower_bound < v, bounds=(lower_bound,))


def greater_than_eq(lower_bound: Any) -> Constraint:
    """≥ lower_bound"""
    return Constraint("greater_than_eq", lambda v: lower_bound <= v, bounds=(lower_bound,))


def less_than(upper_bound: Any) -> Constraint:
    """< upper_bound"""
    return Constraint("less_than", lambda v: v < upper_bound, bounds=(upper_bound,))


def interval(lower_bound: Any, upper_bound: Any) -> Constraint:
    """From lower_bound to upper_bound, both included."""
    return Constraint("interval", lambda v: (lower_bound <= v) & (v <= upper_bound), bounds=(lower_bound, upper_bound))


def half_open_interval(lower_bound: Any, upper_bound: Any) -> Constraint:
    """From lower_bound, included, to upper_bound, not included."""
    return Constraint(
        "half_open_interval", lambda v: (lower_bound <= v) & (v < upper_bound), bounds=(lower_bound, upper_bound)
    )


def integer_interval(lower_bound: Any, upper_bound: Any) -> Constraint:
    """Whole numbers from lower_bound to upper_bound, both included."""
    holds = lambda v: _whole(v) & (lower_bound <= v) & (v <= upper_bound)
    return Constraint("integer_interval", holds, is_discrete=True, bounds=(lower_bound, upper_bound))


def multinomial(upper_bound: Any) -> Constraint:
    """Vectors of counts that sum to at most upper_bound."""
    holds = lambda v: (v >= 0).all(-1) & (v.sum(-1) <= upper_bound)
    return Constraint("multinomial", holds, 1, True, (upper_bound,))


def independent(base_constraint: Constraint, reinterpreted_batch_ndims: int) -> Constraint:
    """base_constraint for all elements of the last dimensions together."""

    def holds(v: Tensor) -> Tensor:
        found = base_constraint.check(v)
        return found.reshape(*found.shape[: found.dim() - reinterpreted_batch_ndims], -1).all(-1)

    n = base_constraint.event_dim + reinterpreted_batch_ndims
    return Constraint(
        f"independent({base_constraint}, {reinterpreted_batch_ndims})", holds, n, base_constraint.is_discrete
    )


def _tril(v: Any) -> Any:
    return (v.tril() == v).flatten(-2).all(-1)


def _symmetric(v: Tensor) -> Tensor:
    return core.isclose(v, v.mT, atol=1e-6).flatten(-2).all(-1)


def _unit_rows(v: Tensor) -> Tensor:
    tolerance = core.finfo(v.dtype).eps * v.size(-1) * 10
    return ((v.pow(2).sum(-1) - 1).abs() < tolerance).all(-1)


real = Constraint("real", lambda v: v == v)
real_vector = independent(real, 1)
positive = greater_than(0.0)
nonnegative = greater_than_eq(0.0)
unit_interval = interval(0.0, 1.0)
boolean = Constraint("boolean", lambda v: (v == 0) | (v == 1), is_discrete=True)
one_hot = Constraint("one_hot", lambda v: ((v == 0) | (v == 1)).all(-1) & (v.sum(-1) == 1), 1, True)
nonnegative_integer = Constraint("nonnegative_integer", lambda v: _whole(v) & (v >= 0), is_discrete=True)
positive_integer = Constraint("positive_integer", lambda v: _whole(v) & (v >= 1), is_discrete=True)
simplex = Constraint("simplex", lambda v: (v >= 0).all(-1) & ((v.sum(-1) - 1).abs() < 1e-6), 1)
square = Constraint("square", lambda v: core.full(v.shape[:-2], v.shape[-1] == v.shape[-2], dtype=core.bool), 2)
symmetric = Constraint("symmetric", _symmetric, 2)
lower_triangular = Constraint("lower_triangular", _tril, 2)
lower_cholesky = Constraint("lower_cholesky", lambda v: _tril(v) & (v.diagonal(dim1=-2, dim2=-1) > 0).all(-1), 2)
corr_cholesky = Constraint("corr_cholesky", lambda v: lower_cholesky.check(v) & _unit_rows(v), 2)
positive_semidefinite = Constraint(
    "positive_semidefinite", lambda v: _symmetric(v) & (core.linalg.eigvalsh(v) >= 0).all(-1), 2
)
positive_definite = Constraint("positive_definite", lambda v: _symmetric(v) & (core.linalg.eigvalsh(v) > 0).all(-1), 2)


def _depends(v: Tensor) -> Tensor:
    raise NotImplementedError("constraints.dependent: its region depends on parameters; ask the distribution's support")


dependent = Constraint("dependent", _depends)


def dependent_property(fn: Any = None, *, is_discrete: Any = None, event_dim: Any = None) -> Any:
    """A property whose region depends on the distribution's parameters. A decorator, with or without options."""
    return property if fn is None else property(fn)


def is_dependent(constraint: Any) -> bool:
    """Whether the region is known only of an instance."""
    return constraint is dependent or isinstance(constraint, property)
