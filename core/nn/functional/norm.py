"""Normalisation as functions."""

from __future__ import annotations

import math
from typing import Any

from core import backend
from core._tensor import Tensor, wrap
from core.engine import mode
from core.errors import ArgumentError, ShapeError
from core.functions import norm as _norm
from core.nn.functional._arguments import tuple_of
from core.ops import nn as _nn
from core.ops import norm as _ops
from core.ops import pointwise as _pw
from core.ops import reduce as _reduce
from core.ops import shape as _shape

__all__ = [
    "batch_norm", "cosine_similarity", "group_norm", "instance_norm", "layer_norm", "local_response_norm", "normalize",
    "pairwise_distance",
    "pdist", "rms_norm",
]  # fmt: skip


def _per_channel(x: Tensor | None, input: Tensor, where: str) -> Any:
    """(C) -> what broadcasts against (N, C, *): (1, C, 1, …), and against (N, C) itself"""
    if x is None:
        return None
    c = input.shape[1]
    if x._a.shape != (c,):
        raise ShapeError(f"{where}: expected weights and statistics of shape ({c},), got {tuple(x.shape)}")
    return x if input.ndim == 2 else x.reshape(1, c, *(1,) * (input.ndim - 2))


def batch_norm(
    input: Tensor, running_mean: Tensor | None, running_var: Tensor | None, weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False, momentum: float = 0.1, eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    """(x − mean) / √(var + eps) · weight + bias for each channel of (N, C, *).

    While training, mean and variance are the batch's and the running ones move towards them: running ← (1 −
    momentum)·running + momentum·batch, with the unbiased variance. Else they are the running ones. Ioffe & Szegedy
    2015.
    """
    return _batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)


def _batch_norm(
    input: Tensor, running_mean: Tensor | None, running_var: Tensor | None, weight: Tensor | None, bias: Tensor | None,
    training: bool, momentum: float, eps: float, op: Any = _ops.standardize,
) -> Tensor:  # fmt: skip
    """`batch_norm`; `op` normalises while training."""
    if input.ndim < 2:
        raise ShapeError(f"batch_norm: expected input (N, C, *), got shape {tuple(input.shape)}")
    w, b = (_per_channel(p, input, "batch_norm") for p in (weight, bias))
    axes = (0, *range(2, input.ndim))
    n = math.prod(input.shape[a] for a in axes)
    if not training:
        if running_mean is None or running_var is None:
            raise ArgumentError("batch_norm: expected running_mean and running_var to be defined when training=False")
        mean, var = _per_channel(running_mean, input, "batch_norm"), _per_channel(running_var, input, "batch_norm")
        if not (mode.grad and any(t is not None and t._requires_grad for t in (input, w, b))):
            return _ops.standardize([input, w, b], axes=axes, eps=eps, moments=(mean._a, var._a))
        scale = _pw.rsqrt(var + eps)
        scale = scale if w is None else scale * w
        shift = mean * scale * -1 if b is None else b - mean * scale
        return (input * scale + shift).to(input.dtype)
    if n == 1:
        raise ArgumentError(
            f"batch_norm: expected more than 1 value per channel when training, got input size {input.shape}"
        )
    if running_mean is None or running_var is None:
        return op([input, w, b], axes=axes, eps=eps)
    _per_channel(running_mean, input, "batch_norm")

    def follow(mean: Any, var: Any) -> None:
        _follow(running_mean, mean.reshape(-1), momentum)
        _follow(running_var, var.reshape(-1) * (n / (n - 1)), momentum)

    return op([input, w, b], axes=axes, eps=eps, follow=follow)


def _follow(running: Tensor, batch: Any, momentum: float) -> None:
    """running ← (1 − momentum)·running + momentum·batch"""
    running._a *= 1 - momentum
    running._a += (batch * momentum).astype(running._a.dtype, copy=False)
    running._bump()


def instance_norm(
    input: Tensor, running_mean: Tensor | None = None, running_var: Tensor | None = None, weight: Tensor | None = None,
    bias: Tensor | None = None, use_input_stats: bool = True, momentum: float = 0.1, eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    """Like `batch_norm`, with the moments of each channel of each sample. Ulyanov et al. 2016."""
    if not use_input_stats:
        return batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    axes = tuple(range(2, input._a.ndim))
    n = math.prod(input._a.shape[2:])
    if n == 1:
        raise ArgumentError(
            f"instance_norm: expected more than 1 spatial element when training, got input size {input.shape}"
        )
    w, b = (_per_channel(p, input, "instance_norm") for p in (weight, bias))
    moments = None
    if running_mean is not None and running_var is not None:
        moments = backend.of(input._a).moments(input._a, axes)
        _follow(running_mean, moments[0].mean(axis=0).reshape(-1), momentum)
        _follow(running_var, moments[1].mean(axis=0).reshape(-1) * (n / (n - 1)), momentum)
    return _ops.standardize([input, w, b], axes=axes, eps=eps, moments=moments)


def layer_norm(
    input: Tensor, normalized_shape: Any, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """(x − mean) / √(var + eps) · weight + bias over the last dimensions, those of `normalized_shape`. Ba et al. 2016.
    """
    return _ops.standardize(
        [input, weight, bias], axes=_last(input, normalized_shape, (weight, bias), "layer_norm"), eps=eps
    )


def rms_norm(input: Tensor, normalized_shape: Any, weight: Tensor | None = None, eps: float | None = None) -> Tensor:
    """x / √(mean(x²) + eps) · weight over the last dimensions; eps is the dtype's own by default. Zhang & Sennrich
    2019.
    """
    axes = _last(input, normalized_shape, (weight,), "rms_norm")
    if eps is None:
        a = input._a
        eps = float(backend.of(a).xp.finfo(a.dtype).eps) if a.dtype.kind == "f" else 2.0**-7  # bfloat16
    return _ops.rms_norm([input, weight], axes=axes, eps=eps)


def _last(input: Tensor, normalized_shape: Any, affine: Any, where: str) -> tuple[int, ...]:
    """The axes of `normalized_shape`, which must be the last lengths of the input and the shape of the weights."""
    shape = tuple_of(normalized_shape, 1, where) if isinstance(normalized_shape, int) else tuple(normalized_shape)
    ndim = input._a.ndim
    if not shape or input._a.shape[ndim - len(shape) :] != shape:
        raise ShapeError(
            f"{where}: given normalized_shape={list(shape)}, expected input with shape [*, "
            f"{', '.join(map(str, shape))}], "
            f"got input of size {tuple(input.shape)}"
        )
    for p in affine:
        if p is not None and p._a.shape != shape:
            raise ShapeError(f"{where}: expected weight and bias of shape {shape}, got {tuple(p.shape)}")
    return tuple(range(ndim - len(shape), ndim))


def group_norm(
    input: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """Like `layer_norm` over each of `num_groups` groups of the channels of (N, C, *). Wu & He 2018."""
    shape = input._a.shape
    if len(shape) < 2 or num_groups < 1 or shape[1] % num_groups:
        raise ShapeError(
            f"group_norm: expected number of channels in input to be divisible by num_groups {num_groups}, "
            f"got input of shape {tuple(shape)}"
        )
    n, c = shape[:2]
    grouped = (n, num_groups, c // num_groups, *shape[2:])
    one = (1, num_groups, c // num_groups, *(1,) * (len(shape) - 2))
    w, b = (None if p is None else _per_channel(p, input, "group_norm").reshape(one) for p in (weight,
        bias))
    y = _ops.standardize([input.reshape(grouped), w, b], axes=tuple(range(2, len(grouped))), eps=eps)
    return y.reshape(shape)


def local_response_norm(
    input: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Tensor:
    """x / (k + alpha·mean(x²))^beta, the mean over `size` neighbouring channels. Krizhevsky et al. 2012."""
    if input._a.ndim < 3:
        raise ShapeError(
            f"local_response_norm: expected 3D or higher dimensionality input, got {input._a.ndim} dimensions")
    n, c, *rest = input._a.shape
    squares = _pw.square(input).reshape(n, 1, c, -1)
    squares = _shape.constant_pad(squares, pad=(0, 0, size // 2, (size - 1) // 2), value=0.0)
    sums = _nn.sum_pool(squares, k=(size, 1), stride=(1, 1), padding=(0, 0))
    return input / _pw.pow(sums.reshape(n, c, *rest) * (alpha / size) + k, beta)


# -- vectors and distances
# -----------------------------------------------------------------------------------------------


def normalize(input: Tensor, p: float = 2.0, dim: Any = 1, eps: float = 1e-12, out: Any = None) -> Tensor:
    """x / max(‖x‖ₚ, eps), the norm along `dim`"""
    y = input / _pw.clamp(_norm(input, p, dim, True), eps)
    return y if out is None else out.copy_(y)


def cosine_similarity(x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    """x₁·x₂ / (max(‖x₁‖, eps)·max(‖x₂‖, eps)) along `dim`; the two broadcast"""
    sq1 = _reduce.sum(x1 * x1, dim=dim, keepdim=True)
    sq2 = _reduce.sum(x2 * x2, dim=dim, keepdim=True)
    # the bound is on the squares: the gradient of √ at zero is not finite
    unit1, unit2 = (x / _pw.sqrt(_pw.clamp(s, eps * eps)) for x, s in ((x1, sq1), (x2, sq2)))
    return _reduce.sum(unit1 * unit2, dim=dim)


def pairwise_distance(x1: Tensor, x2: Tensor, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False) -> Tensor:
    """‖x₁ − x₂ + eps‖ₚ along the last dimension"""
    return _norm(x1 - x2 + eps, p, -1, keepdim)


def pdist(input: Tensor, p: float = 2.0) -> Tensor:
    """(N, M) -> (N·(N − 1)/2): the p-norm distances between rows i < j"""
    if input._a.ndim != 2:
        raise ShapeError(f"pdist: expected a matrix, got shape {tuple(input.shape)}")
    xp = backend.of(input._a).xp
    i, j = (wrap(a) for a in xp.triu_indices(input._a.shape[0], 1))
    return _norm(input.index_select(0, i) - input.index_select(0, j), p, -1)
