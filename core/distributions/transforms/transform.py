"""What a transform is.

A member writes `_call`, `_inverse` and `log_abs_det_jacobian`. With `cache_size=1` the last pair (x, y) is kept, so that the inverse of
a value just computed is exact, as tanh's needs.
"""

from __future__ import annotations

from typing import Any

import core
from core._tensor import Tensor
from core.distributions import constraints
from core.errors import ArgumentError


class Transform:
    """y = t(x), x = t.inv(y)."""

    bijective = False
    domain: Any = constraints.real
    codomain: Any = constraints.real

    def __init__(self, cache_size: int = 0):
        if cache_size not in (0, 1):
            raise ArgumentError(f"{type(self).__name__}: expected cache_size 0 or 1, got {cache_size}")
        self._cache_size = cache_size
        self._cached: tuple[Any, Any] = (None, None)
        self._inv: _Inverse | None = None

    @property
    def inv(self) -> Any:
        """The inverse transform."""
        self._inv = self._inv or _Inverse(self)
        return self._inv

    @property
    def sign(self) -> int:
        """1 if it keeps order, −1 if it reverses it."""
        raise NotImplementedError

    @property
    def event_dim(self) -> int:
        """How many dimensions it acts on together."""
        return max(self.domain.event_dim, self.codomain.event_dim)

    def with_cache(self, cache_size: int = 1) -> Transform:
        """The same with a cache."""
        if self._cache_size == cache_size:
            return self
        new = object.__new__(type(self))
        new.__dict__.update(self.__dict__, _cache_size=cache_size, _cached=(None, None), _inv=None)
        return new

    def __call__(self, x: Tensor) -> Tensor:
        if self._cache_size and self._cached[0] is x:
            return self._cached[1]
        y = self._call(x)
        if self._cache_size:
            self._cached = x, y
        return y

    def _inv_call(self, y: Tensor) -> Tensor:
        if self._cache_size and self._cached[1] is y:
            return self._cached[0]
        x = self._inverse(y)
        if self._cache_size:
            self._cached = x, y
        return x

    def _call(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def _inverse(self, y: Tensor) -> Tensor:
        raise NotImplementedError

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """ln |det ∂y/∂x|, one for each event."""
        raise NotImplementedError

    def forward_shape(self, shape: Any) -> Any:
        """The shape of y for an x of this shape."""
        return shape

    def inverse_shape(self, shape: Any) -> Any:
        """The shape of x for a y of this shape."""
        return shape

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if type(self) is not type(other):
            return False
        mine, theirs = ({k: v for k, v in vars(t).items() if k[:4] not in ("_cac", "_inv")} for t in (self, other))
        return mine.keys() == theirs.keys() and all(_equal(mine[k], theirs[k]) for k in mine)

    __hash__ = object.__hash__

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


def _equal(a: Any, b: Any) -> bool:
    return (
        bool((core.as_tensor(a) == core.as_tensor(b)).all())
        if isinstance(a, Tensor) or isinstance(b, Tensor)
        else a == b
    )


class _Inverse(Transform):
    """A transform the other way round."""

    def __init__(self, transform: Transform):
        super().__init__(transform._cache_size)
        self._transform = transform
        self.bijective = transform.bijective

    domain = property(lambda self: self._transform.codomain)  # type: ignore[assignment]
    codomain = property(lambda self: self._transform.domain)  # type: ignore[assignment]
    inv = property(lambda self: self._transform)
    sign = property(lambda self: self._transform.sign)

    def with_cache(self, cache_size: int = 1) -> Transform:
        return self._transform.with_cache(cache_size).inv

    def __call__(self, x: Tensor) -> Tensor:
        return self._transform._inv_call(x)

    def _inv_call(self, y: Tensor) -> Tensor:
        return self._transform(y)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return -self._transform.log_abs_det_jacobian(y, x)

    def forward_shape(self, shape: Any) -> Any:
        return self._transform.inverse_shape(shape)

    def inverse_shape(self, shape: Any) -> Any:
        return self._transform.forward_shape(shape)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Inverse) and self._transform == other._transform

    __hash__ = object.__hash__

    def __repr__(self) -> str:
        return f"Inverse{self._transform!r}"
