"""Batch normalisation, and what it shares with instance normalisation."""

from __future__ import annotations

from typing import Any

from core._tensor import Tensor
from core.creation import empty, ones, tensor, zeros
from core.errors import ShapeError
from core.nn import init
from core.nn.functional.norm import _batch_norm
from core.nn.modules.lazy import LazyModuleMixin, UninitializedBuffer, UninitializedParameter
from core.nn.modules.module import Module
from core.nn.parameter import Parameter
from core.ops.norm import standardize


class _NormBase(Module):
    """Weights and running statistics of each channel: `weight` of ones, `bias` of zeros, `running_mean`, `running_var`.

    `num_batches_tracked` counts the batches; with momentum None the running statistics are the average over them.
    """

    _version = 2
    ranks: tuple[int, ...]  # how many dimensions an input may have

    def __init__(
        self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1, affine: bool = True,
            track_running_stats: bool = True,
        device: Any = None, dtype: Any = None, *, bias: bool = True,
    ):  # fmt: skip
        super().__init__()
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.affine, self.track_running_stats = affine, track_running_stats
        for name, there in (("weight", affine), ("bias", affine and bias)):
            made = Parameter(empty(num_features, device=device, dtype=dtype)) if there else None
            self.register_parameter(name, made)
        if track_running_stats:
            self.register_buffer("running_mean", zeros(num_features, device=device, dtype=dtype))
            self.register_buffer("running_var", ones(num_features, device=device, dtype=dtype))
            self.register_buffer("num_batches_tracked", tensor(0, device=device))
        else:
            for name in ("running_mean", "running_var", "num_batches_tracked"):
                self.register_buffer(name, None)
        self.reset_parameters()

    def reset_running_stats(self) -> None:
        """Forget the batches seen so far."""
        if self.track_running_stats:
            self.running_mean.zero_()
            self.running_var.fill_(1)
            self.num_batches_tracked.zero_()

    def reset_parameters(self) -> None:
        """Weights of one, biases of zero, no batches seen."""
        self.reset_running_stats()
        if self.affine:
            init.ones_(self.weight)
            if self.bias is not None:
                init.zeros_(self.bias)

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() not in self.ranks:
            raise ShapeError(
                f"{type(self).__name__}: expected {' or '.join(f'{r}D' for r in self.ranks)} input "
                f"(got {input.dim()}D input)"
            )

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"bias={self.bias is not None}, track_running_stats={self.track_running_stats}"
        )

    def _upgrade_state_dict(self, state_dict: Any, prefix: str, version: int | None) -> None:
        # before version 2 nobody counted the batches
        key = prefix + "num_batches_tracked"
        if (version is None or version < 2) and self.track_running_stats and key not in state_dict:
            counted = self.num_batches_tracked
            state_dict[key] = tensor(0) if counted is None else counted


class _BatchNorm(_NormBase):
    def forward(self, input: Tensor) -> Tensor:
        return self._normalised(input)

    def _by_batch(self) -> bool:
        """Whether by the moments of the batch, not the running ones."""
        return self.training or (self.running_mean is None and self.running_var is None)

    def _normalised(self, input: Tensor, op: Any = standardize) -> Tensor:
        """`forward`; `op` normalises where that is by the batch."""
        self._check_input_dim(input)
        momentum = 0.0 if self.momentum is None else self.momentum
        if self.training and self.track_running_stats and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if self.momentum is None:
                momentum = 1.0 / float(self.num_batches_tracked)
        tracked = not self.training or self.track_running_stats
        return _batch_norm(
            input, self.running_mean if tracked else None, self.running_var if tracked else None, self.weight,
            self.bias, self._by_batch(), momentum, self.eps, op,
        )  # fmt: skip


class BatchNorm1d(_BatchNorm):
    """(x − mean) / √(var + eps) · weight + bias for each channel of (N, C) or (N, C, L). Ioffe & Szegedy 2015."""

    ranks = (2, 3)


class BatchNorm2d(_BatchNorm):
    """(x − mean) / √(var + eps) · weight + bias for each channel of (N, C, H, W). Ioffe & Szegedy 2015."""

    ranks = (4,)


class BatchNorm3d(_BatchNorm):
    """(x − mean) / √(var + eps) · weight + bias for each channel of (N, C, D, H, W). Ioffe & Szegedy 2015."""

    ranks = (5,)


class _LazyNormBase(LazyModuleMixin, _NormBase):
    """Takes the number of channels from the first input."""

    def __init__(
        self, eps: float = 1e-5, momentum: float | None = 0.1, affine: bool = True, track_running_stats: bool = True,
            device: Any = None,
        dtype: Any = None, *, bias: bool = True,
    ):  # fmt: skip
        super().__init__(0, eps, momentum, False, False, device, dtype)
        self.affine, self.track_running_stats = affine, track_running_stats
        if affine:
            self.weight = UninitializedParameter(device=device, dtype=dtype)
            self.bias = UninitializedParameter(device=device, dtype=dtype) if bias else None
        if track_running_stats:
            self.running_mean = UninitializedBuffer(device=device, dtype=dtype)
            self.running_var = UninitializedBuffer(device=device, dtype=dtype)
            self.num_batches_tracked = tensor(0, device=device)

    def reset_parameters(self) -> None:
        if not self.has_uninitialized_params() and self.num_features:
            super().reset_parameters()

    def initialize_parameters(self, input: Tensor) -> None:
        """Make the weights for the channels of this input."""
        if self.has_uninitialized_params():
            self.num_features = input._a.shape[1]
            for t in (self.weight, self.bias, self.running_mean, self.running_var):
                if t is not None:
                    t.materialize((self.num_features,))
            self.reset_parameters()


class LazyBatchNorm1d(_LazyNormBase, _BatchNorm):
    """`BatchNorm1d` that takes num_features from its first input."""

    cls_to_become = BatchNorm1d
    ranks = BatchNorm1d.ranks


class LazyBatchNorm2d(_LazyNormBase, _BatchNorm):
    """`BatchNorm2d` that takes num_features from its first input."""

    cls_to_become = BatchNorm2d
    ranks = BatchNorm2d.ranks


class LazyBatchNorm3d(_LazyNormBase, _BatchNorm):
    """`BatchNorm3d` that takes num_features from its first input."""

    cls_to_become = BatchNorm3d
    ranks = BatchNorm3d.ranks
