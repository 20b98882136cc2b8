"""What distributions share."""

from __future__ import annotations

from typing import Any

import core
from core._tensor import Size, Tensor
from core.distributions.constraints import Constraint
from core.distributions.utils import broadcast_all
from core.errors import ArgumentError

__all__ = ["Distribution", "broadcast_all"]


class Distribution:
    """`batch_shape` independent distributions over values of `event_shape`.

    `sample(shape)` draws; `rsample(shape)` draws so that gradients pass; `log_prob(value)` is the logarithm of the density.
    A member names its parameters and their regions in `arg_constraints`, and the region of its values in `support`; both are
    checked unless `validate_args` is False.
    """

    has_rsample = False
    has_enumerate_support = False
    arg_constraints: Any = {}
    support: Any = None
    _checks_arguments = True

    def __init__(self, batch_shape: Any = (), event_shape: Any = (), validate_args: bool | None = None):
        self._batch_shape, self._event_shape = Size(batch_shape), Size(event_shape)
        self._validate_args = Distribution._checks_arguments if validate_args is None else validate_args
        if self._validate_args:
            for name, region in self.arg_constraints.items():
                value = self.__dict__.get(name)
                if isinstance(value, Tensor) and isinstance(region, Constraint) and not bool(region.check(value).all()):
                    raise ArgumentError(
                        f"{type(self).__name__}: expected parameter {name} ({type(value).__name__} of shape {tuple(value.shape)}) to "
                        f"satisfy the constraint {region}, got {value}"
                    )

    @staticmethod
    def set_default_validate_args(value: bool) -> None:
        """Whether distributions check their arguments unless told."""
        Distribution._checks_arguments = value

    @property
    def batch_shape(self) -> Size:
        return self._batch_shape

    @property
    def event_shape(self) -> Size:
        return self._event_shape

    @property
    def mean(self) -> Tensor:
        raise NotImplementedError

    @property
    def mode(self) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} does not implement mode")

    @property
    def variance(self) -> Tensor:
        raise NotImplementedError

    @property
    def stddev(self) -> Tensor:
        return self.variance.sqrt()

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw, outside of the graph: (*sample_shape, *batch_shape, *event_shape)."""
        with core.no_grad():
            return self.rsample(sample_shape)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draw as a differentiable function of the parameters."""
        raise NotImplementedError(
            f"{type(self).__name__} has no rsample: its samples do not depend smoothly on its parameters"
        )

    def sample_n(self, n: int) -> Tensor:
        """sample((n,))"""
        return self.sample((n,))

    def log_prob(self, value: Tensor) -> Tensor:
        """ln of the density or probability."""
        raise NotImplementedError

    def cdf(self, value: Tensor) -> Tensor:
        """The probability of at most `value`."""
        raise NotImplementedError

    def icdf(self, value: Tensor) -> Tensor:
        """The inverse of `cdf`."""
        raise NotImplementedError

    def entropy(self) -> Tensor:
        """−E ln p"""
        raise NotImplementedError

    def perplexity(self) -> Tensor:
        """e^entropy"""
        return core.exp(self.entropy())

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """All values, along a new first dimension."""
        raise NotImplementedError

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        """The same distribution with a larger batch, its parameters expanded, not copied."""
        new = object.__new__(type(self))
        new.__dict__.update(self.__dict__)
        new._batch_shape = Size(batch_shape)
        for name, region in self.arg_constraints.items():
            value = self.__dict__.get(name)
            if isinstance(value, Tensor):
                event = region.event_dim if isinstance(region, Constraint) else 0
                new.__dict__[name] = value.expand(*batch_shape, *value.shape[value.dim() - event :])
        return new

    def _extended_shape(self, sample_shape: Any = ()) -> Size:
        return Size((*sample_shape, *self._batch_shape, *self._event_shape))

    def _validate_sample(self, value: Any) -> None:
        """An error for a value of another shape or outside of the support."""
        if not self._validate_args:
            return
        if not isinstance(value, Tensor):
            raise ArgumentError(
                f"{type(self).__name__}: The value argument to log_prob must be a Tensor, got {type(value).__name__}"
            )
        n = len(self._event_shape)
        if value.shape[value.dim() - n :] != self._event_shape:
            raise ArgumentError(
                f"{type(self).__name__}: expected values whose last dimensions are {tuple(self._event_shape)}, got {tuple(value.shape)}"
            )
        for a, b in zip(reversed(value.shape), reversed(self._batch_shape + self._event_shape)):
            if a != 1 and b != 1 and a != b:
                raise ArgumentError(
                    f"{type(self).__name__}: Value is not broadcastable with batch_shape+event_shape: {tuple(value.shape)} vs "
                    f"{tuple(self._batch_shape + self._event_shape)}."
                )
        region = self.support
        if isinstance(region, Constraint) and not bool(region.check(value).all()):
            raise ArgumentError(f"{type(self).__name__}: expected values within the support {region}, got {value}")

    def __repr__(self) -> str:
        given = [k for k in self.arg_constraints if isinstance(self.__dict__.get(k), Tensor)]
        text = ", ".join(f"{k}: {v if v.numel() == 1 else v.shape}" for k in given for v in [self.__dict__[k]])
        return f"{type(self).__name__}({text})"
