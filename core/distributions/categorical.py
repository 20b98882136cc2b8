"""The categorical distribution."""

from __future__ import annotations

from typing import Any

import core
from core._tensor import Tensor
from core.distributions.distribution import Distribution
from core.errors import ArgumentError


class Categorical(Distribution):
    """0 … K−1 in proportion to `probs` (*, K), or to the exponentials of `logits` (*, K)."""

    def __init__(self, probs: Any = None, logits: Any = None, validate_args: bool | None = None):
        if (probs is None) == (logits is None):
            raise ArgumentError("Categorical: expected either probs or logits, got both or neither")
        given = probs if probs is not None else logits
        if given.dim() < 1:
            raise ArgumentError("Categorical: expected parameters of at least one dimension, got a 0-d tensor")
        if probs is not None:
            self.probs = probs / probs.sum(-1, keepdim=True)
            eps = core.finfo(probs.dtype).eps
            self.logits = self.probs.clamp(eps, 1 - eps).log()
        else:
            self.logits = logits - logits.logsumexp(-1, keepdim=True)
            self.probs = self.logits.softmax(-1)
        self._num_events = given.size(-1)
        super().__init__(given.shape[:-1], (), validate_args)
        self._check("probs", ">= 0", self.probs >= 0, self.probs)

    @property
    def param_shape(self) -> Any:
        return self.probs.shape

    def sample(self, sample_shape: Any = ()) -> Tensor:
        n = 1
        for length in sample_shape:
            n *= length
        with core.no_grad():
            drawn = core.multinomial(self.probs.reshape(-1, self._num_events), n, True).t()
        return drawn.reshape(self._extended_shape(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        value = value.long().unsqueeze(-1)
        shape = core.broadcast_tensors(value, self.logits[..., :1])[0].shape[:-1]
        logits = self.logits.expand(*shape, self._num_events)
        return logits.gather(-1, value.expand(*shape, 1)).squeeze(-1)

    def entropy(self) -> Tensor:
        least = core.finfo(self.logits.dtype).min
        return -(self.logits.clamp(least) * self.probs).sum(-1)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """All values, along a new first dimension."""
        values = core.arange(self._num_events).reshape(-1, *(1,) * len(self._batch_shape))
        return values.expand(-1, *self._batch_shape) if expand else values
