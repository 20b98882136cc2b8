"""Distributions of transformed values."""

from __future__ import annotations

from typing import Any

import core
from core._tensor import Tensor
from core.distributions import constraints
from core.distributions.distribution import Distribution
from core.distributions.independent import Independent
from core.distributions.transforms import ComposeTransform, Transform
from core.distributions.utils import sum_rightmost
from core.errors import ArgumentError


class TransformedDistribution(Distribution):
    """The distribution of t(x), x of `base_distribution`, t the `transforms` one after the other."""

    def __init__(self, base_distribution: Distribution, transforms: Any, validate_args: bool | None = None):
        self.transforms = [transforms] if isinstance(transforms, Transform) else list(transforms)
        if not all(isinstance(t, Transform) for t in self.transforms):
            raise ArgumentError(f"TransformedDistribution: expected a Transform or a list of them, got {transforms!r}")
        whole = ComposeTransform(self.transforms)
        base = base_distribution
        shape = base.batch_shape + base.event_shape
        if len(shape) < whole.domain.event_dim:
            raise ArgumentError(
                f"TransformedDistribution: base_distribution needs to have shape with size at least {whole.domain.event_dim}, "
                f"got {tuple(shape)}"
            )
        target = whole.forward_shape(shape)
        base_shape = whole.inverse_shape(target)
        if base_shape != shape:
            base = base.expand(base_shape[: len(base_shape) - len(base.event_shape)])
        more = whole.domain.event_dim - len(base.event_shape)
        if more > 0:
            base = Independent(base, more)
        self.base_dist = base
        events = whole.codomain.event_dim + max(len(base.event_shape) - whole.domain.event_dim, 0)
        cut = len(target) - events
        super().__init__(target[:cut], target[cut:], validate_args)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        return self.base_dist.has_rsample

    @property
    def support(self) -> Any:  # type: ignore[override]
        region = self.transforms[-1].codomain if self.transforms else self.base_dist.support
        more = len(self.event_shape) - region.event_dim
        return constraints.independent(region, more) if more > 0 else region

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        new = object.__new__(type(self))
        new.__dict__.update(self.__dict__)
        shape = ComposeTransform(self.transforms).inverse_shape((*batch_shape, *self._event_shape))
        new.base_dist = self.base_dist.expand(shape[: len(shape) - len(self.base_dist.event_shape)])
        new._batch_shape = type(self._batch_shape)(batch_shape)
        return new

    def sample(self, sample_shape: Any = ()) -> Tensor:
        with core.no_grad():
            x = self.base_dist.sample(sample_shape)
            for t in self.transforms:
                x = t(x)
        return x

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        x = self.base_dist.rsample(sample_shape)
        for t in self.transforms:
            x = t(x)
        return x

    def log_prob(self, value: Tensor) -> Tensor:
        self._validate_sample(value)
        total: Any = 0.0
        n, y = len(self.event_shape), value
        for t in reversed(self.transforms):
            x = t.inv(y)
            n += t.domain.event_dim - t.codomain.event_dim
            total = total - sum_rightmost(t.log_abs_det_jacobian(x, y), n - t.domain.event_dim)
            y = x
        return total + sum_rightmost(self.base_dist.log_prob(y), n - len(self.base_dist.event_shape))

    def _signed(self, value: Tensor) -> Tensor:
        """1 − value where the transforms reverse order."""
        sign: Any = 1
        for t in self.transforms:
            sign = sign * t.sign
        return value if isinstance(sign, int) and sign == 1 else sign * (value - 0.5) + 0.5

    def cdf(self, value: Tensor) -> Tensor:
        self._validate_sample(value)
        for t in reversed(self.transforms):
            value = t.inv(value)
        return self._signed(self.base_dist.cdf(value))

    def icdf(self, value: Tensor) -> Tensor:
        value = self.base_dist.icdf(self._signed(value))
        for t in self.transforms:
            value = t(value)
        return value
