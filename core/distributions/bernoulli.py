"""The Bernoulli distribution."""

from __future__ import annotations

from typing import Any

import core
import core.nn.functional as F
from core._tensor import Tensor
from core.distributions.distribution import Distribution, broadcast_all
from core.errors import ArgumentError


class Bernoulli(Distribution):
    """1 with probability `probs`, or the sigmoid of `logits`; else 0."""

    def __init__(self, probs: Any = None, logits: Any = None, validate_args: bool | None = None):
        if (probs is None) == (logits is None):
            raise ArgumentError("Bernoulli: expected either probs or logits, got both or neither")
        if probs is not None:
            (self.probs,) = broadcast_all(probs)
            eps = core.finfo(self.probs.dtype).eps
            p = self.probs.clamp(eps, 1 - eps)
            self.logits = p.log() - (-p).log1p()
        else:
            (self.logits,) = broadcast_all(logits)
            self.probs = self.logits.sigmoid()
        super().__init__(self.probs.shape, (), validate_args)
        self._check("probs", "from 0 to 1", (self.probs >= 0) & (self.probs <= 1), self.probs)

    @property
    def mean(self) -> Tensor:
        return self.probs

    @property
    def variance(self) -> Tensor:
        return self.probs * (1 - self.probs)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        with core.no_grad():
            return core.bernoulli(self.probs.expand(self._extended_shape(sample_shape)))

    def log_prob(self, value: Tensor) -> Tensor:
        logits, value = core.broadcast_tensors(self.logits, value)
        return -F.binary_cross_entropy_with_logits(logits, value, reduction="none")

    def entropy(self) -> Tensor:
        return F.binary_cross_entropy_with_logits(self.logits, self.probs, reduction="none")
