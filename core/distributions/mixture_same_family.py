"""Mixtures of distributions of one family."""

from __future__ import annotations

from typing import Any

import core
from core._tensor import Tensor
from core.distributions.categorical import Categorical
from core.distributions.distribution import Distribution
from core.errors import ArgumentError


class MixtureSameFamily(Distribution):
    """One of the last batch dimension's K components, drawn by a Categorical over K."""

    def __init__(
        self, mixture_distribution: Categorical, component_distribution: Distribution, validate_args: bool | None = None
    ):
        mixture, components = mixture_distribution, component_distribution
        if not isinstance(mixture, Categorical) or not isinstance(components, Distribution):
            raise ArgumentError("MixtureSameFamily: expected a Categorical and a Distribution of components")
        k = mixture.param_shape[-1]
        if not components.batch_shape or components.batch_shape[-1] != k:
            raise ArgumentError(
                f"MixtureSameFamily: expected {k} components in the last batch dimension, got {tuple(components.batch_shape)}"
            )
        self._mixture_distribution, self._component_distribution = mixture, components
        self._num_component, self._event_ndims = k, len(components.event_shape)
        super().__init__(components.batch_shape[:-1], components.event_shape, validate_args)

    mixture_distribution = property(lambda self: self._mixture_distribution)
    component_distribution = property(lambda self: self._component_distribution)
    has_rsample = False

    @property
    def support(self) -> Any:  # type: ignore[override]
        return self._component_distribution.support

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        components = self._component_distribution.expand((*batch_shape, self._num_component))
        return MixtureSameFamily(self._mixture_distribution.expand(batch_shape), components, self._validate_args)

    def _weighed(self, x: Tensor) -> Tensor:
        probs = self._mixture_distribution.probs
        probs = probs.reshape(*probs.shape, *(1,) * self._event_ndims)
        return (probs * x).sum(-1 - self._event_ndims)

    @property
    def mean(self) -> Tensor:
        return self._weighed(self._component_distribution.mean)

    @property
    def variance(self) -> Tensor:
        means = self._component_distribution.mean
        off = means - self.mean.unsqueeze(-1 - self._event_ndims)
        return self._weighed(self._component_distribution.variance) + self._weighed(off.pow(2))

    def _each(self, x: Tensor) -> Tensor:
        return x.unsqueeze(-1 - self._event_ndims)

    def cdf(self, value: Tensor) -> Tensor:
        return (self._component_distribution.cdf(self._each(value)) * self._mixture_distribution.probs).sum(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        self._validate_sample(value)
        each = self._component_distribution.log_prob(self._each(value))
        return core.logsumexp(each + core.log_softmax(self._mixture_distribution.logits, -1), -1)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        with core.no_grad():
            at = len(sample_shape) + len(self._batch_shape)
            which = self._mixture_distribution.sample(sample_shape)
            which = which.reshape(*which.shape, 1, *(1,) * self._event_ndims)
            drawn = self._component_distribution.sample(sample_shape)
            which = which.expand(*drawn.shape[:at], 1, *self._event_shape)
            return core.gather(drawn, at, which).squeeze(at)

    def __repr__(self) -> str:
        return f"MixtureSameFamily(\n  {self._mixture_distribution},\n  {self._component_distribution})"
