"""SyncBatchNorm: batch normalisation by the statistics of all ranks' batches together.

One all-reduce in forward (count, sum, sum of squares, in float64) and one in backward (Σg, Σg·x̂), so that training on
parts of a batch equals training on the whole batch. Ranks may have batches of different lengths, even of none.
In `ddp.Lockstep` the shards take the place of the ranks, and the sums are those of its tree: see `ddp.lockstep.phases`.
Not here: ranks that leave early (`join`): the layer has no shadow of its own.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from core import backend
from core._tensor import Tensor, wrap
from core.autograd import Function
from core.engine import mode
from core.errors import ArgumentError, GraphError, ShapeError
from core.nn.modules.batchnorm import _BatchNorm
from core.nn.modules.module import Module
from ddp import distributed
from ddp.group import ProcessGroup


class _StandIn(threading.local):
    group: Any = None


stand_in = _StandIn()  # of this thread: who answers in place of the process group (`ddp.lockstep.phases`)


class SyncBatchNorm(_BatchNorm):
    """(x − mean) / √(var + eps) · weight + bias for each channel of (N, C, *), mean and variance being those of all ranks' batches."""

    def __init__(
        self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1, affine: bool = True,
        track_running_stats: bool = True, process_group: Any = None, device: Any = None, dtype: Any = None,
    ):  # fmt: skip
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype)
        self.process_group = process_group

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ShapeError(f"SyncBatchNorm: expected at least 2D input (got {input.dim()}D input)")

    def forward(self, input: Tensor) -> Tensor:
        by_batch = self.training or self.running_mean is None
        group = stand_in.group
        if group is None and distributed.is_initialized():
            group = distributed._group(self.process_group)
        if not by_batch or group is None or group.size == 1:
            return super().forward(input)
        self._check_input_dim(input)
        mean, var, n = _moments(input, group)
        if n <= 1:
            raise ArgumentError(
                f"SyncBatchNorm: Expected more than 1 value per channel when training, got {n} on {group.size} ranks"
            )
        if self.training and self.track_running_stats:
            self.num_batches_tracked.add_(1)
            momentum = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
            for running, value in ((self.running_mean, mean), (self.running_var, var * (n / (n - 1)))):
                a = running._a
                a *= 1 - momentum
                a += (value * momentum).astype(a.dtype)
                running._bump()
        return _Normalise.apply(input, self.weight, self.bias, mean, (var + self.eps) ** -0.5, n, group)

    @classmethod
    def convert_sync_batchnorm(cls, module: Module, process_group: Any = None) -> Module:
        """The module with each BatchNorm layer replaced by a SyncBatchNorm that has the same parameters and buffers."""
        result = module
        if isinstance(module, _BatchNorm):
            result = cls(
                module.num_features,
                module.eps,
                module.momentum,
                module.affine,
                module.track_running_stats,
                process_group,
            )
            result._parameters.update(module._parameters)
            result._buffers.update(module._buffers)
            result.training = module.training
        for name, child in list(module.named_children()):
            result.add_module(name, cls.convert_sync_batchnorm(child, process_group))
        return result


convert_sync_batchnorm = SyncBatchNorm.convert_sync_batchnorm


def _axes(a: Any) -> tuple[int, ...]:
    return (0, *range(2, a.ndim))


def _moments(x: Tensor, group: ProcessGroup) -> tuple[Any, Any, int]:
    """Mean and variance of each channel (C,) in float64 over all ranks, and how many values each has."""
    a = x._a
    be, axes, c = backend.of(a), _axes(a), a.shape[1]
    n = a.size // c if c else 0
    total = a.sum(axis=axes, dtype=np.float64)
    # squares of what is left without the local mean: no digits are lost where the mean is large
    centred = a - (total / max(n, 1)).astype(a.dtype).reshape(1, c, *(1,) * (a.ndim - 2))
    rest = centred.sum(axis=axes, dtype=np.float64)
    spread = (centred * centred).sum(axis=axes, dtype=np.float64) - rest * rest / max(n, 1)
    sums = be.to_numpy(be.xp.stack([total, spread + total * total / max(n, 1)]))
    t = wrap(np.concatenate([[float(n)], sums.reshape(-1)]))
    group.all_reduce(t, "sum")
    count = round(t._a[0])
    first, second = t._a[1 : c + 1], t._a[c + 1 :]
    mean = first / max(count, 1)
    var = np.maximum(second / max(count, 1) - mean * mean, 0)
    index = be.index_of(a)
    return be.from_numpy(mean, index), be.from_numpy(var, index), count


class _Normalise(Function):
    """x̂ · weight + bias, with x̂ = (x − mean) · rstd; mean and rstd (C,) depend on all ranks' x."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Any, bias: Any, mean: Any, rstd: Any, n: int, group: ProcessGroup
    ) -> Tensor:
        a = x._a
        ctx.save_for_backward(x, weight)
        ctx.mean, ctx.rstd, ctx.n, ctx.group = (mean.astype(a.dtype), rstd.astype(a.dtype), n, group)
        y = (a - _channels(ctx.mean, a)) * _channels(ctx.rstd, a)
        if weight is not None:
            y = y * _channels(weight._a, a)
        if bias is not None:
            y = y + _channels(bias._a, a)
        return wrap(y)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        """dx = w·rstd·(g − mean of g − x̂·mean of g·x̂), the means over all ranks."""
        if mode.grad:
            raise GraphError(
                "SyncBatchNorm: expected plain gradients, got create_graph=True; use BatchNorm for gradients of gradients"
            )
        x, weight = ctx.saved_tensors
        g, a = grads[0]._a, x._a
        be, axes, c = backend.of(a), _axes(a), a.shape[1]
        hat = (a - _channels(ctx.mean, a)) * _channels(ctx.rstd, a)
        sum_g, sum_gx = g.sum(axis=axes, dtype=np.float64), (g * hat).sum(axis=axes, dtype=np.float64)
        t = wrap(be.to_numpy(be.xp.stack([sum_g, sum_gx])).reshape(-1).copy())
        ctx.group.all_reduce(t, "sum")
        means = be.from_numpy((t._a / ctx.n).astype(a.dtype), be.index_of(a))
        scale = ctx.rstd if weight is None else ctx.rstd * weight._a
        dx = (g - _channels(means[:c], a) - hat * _channels(means[c:], a)) * _channels(scale, a)
        needs_weight, needs_bias = ctx.needs_input_grad[1:3]
        dw = wrap(sum_gx.astype(a.dtype)) if needs_weight else None
        db = wrap(sum_g.astype(a.dtype)) if needs_bias else None
        return wrap(dx), dw, db, None, None, None, None


def _channels(v: Any, like: Any) -> Any:
    """(C,) -> (1, C, 1, …)"""
    return v.reshape(1, -1, *(1,) * (like.ndim - 2))
