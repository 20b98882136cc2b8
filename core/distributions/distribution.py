"""What distributions share."""

from __future__ import annotations

from typing import Any

import core
from core._tensor import Size, Tensor
from core.errors import ArgumentError


def broadcast_all(*values: Any) -> list[Tensor]:
    """Numbers and tensors as tensors of one shape."""
    like = next((v for v in values if isinstance(v, Tensor)), core.zeros(()))
    tensors = [v if isinstance(v, Tensor) else core.full((), float(v), dtype=like.dtype, device=like.device) for v in values]
    return core.broadcast_tensors(*tensors)


class Distribution:
    """`batch_shape` independent distributions over values of `event_shape`.

    `sample(shape)` draws; `rsample(shape)` draws so that gradients pass; `log_prob(value)` is the logarithm of the density.
    """

    has_rsample = False

    def __init__(self, batch_shape: Any = (), event_shape: Any = (), validate_args: bool | None = None):
        self._batch_shape, self._event_shape = Size(batch_shape), Size(event_shape)
        self._validate_args = True if validate_args is None else validate_args

    @property
    def batch_shape(self) -> Size:
        return self._batch_shape

    @property
    def event_shape(self) -> Size:
        return self._event_shape

    @property
    def stddev(self) -> Tensor:
        return self.variance.sqrt()

    @property
    def mean(self) -> Tensor:
        raise NotImplementedError

    @property
    def variance(self) -> Tensor:
        raise NotImplementedError

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw, outside of the graph: (*sample_shape, *batch_shape, *event_shape)."""
        with core.no_grad():
            return self.rsample(sample_shape)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draw as a differentiable function of the parameters."""
        raise NotImplementedError

    def log_prob(self, value: Tensor) -> Tensor:
        """ln of the density or probability."""
        raise NotImplementedError

    def entropy(self) -> Tensor:
        """−E ln p"""
        raise NotImplementedError

    def _extended_shape(self, sample_shape: Any) -> tuple[int, ...]:
        return (*sample_shape, *self._batch_shape, *self._event_shape)

    def _check(self, name: str, rule: str, holds: Tensor, value: Tensor) -> None:
        if self._validate_args and not bool(holds.all()):
            raise ArgumentError(f"{type(self).__name__}: expected parameter {name} {rule}, got {value}")

    def __repr__(self) -> str:
        return f"{type(self).__name__}(batch_shape: {self._batch_shape}, event_shape: {self._event_shape})"
