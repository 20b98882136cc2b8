"""Losses as functions."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from core._tensor import Tensor
from core.errors import ArgumentError, DTypeError, ShapeError
from core.nn.functional._arguments import reduced
from core.ops import index as _index
from core.ops import nn as _nn
from core.ops import pointwise as _pw
from core.ops import reduce as _reduce

__all__ = ["cross_entropy", "l1_loss", "mse_loss", "nll_loss"]


def _same_shape(input: Tensor, target: Tensor, where: str) -> None:
    """torch only warns here; a loss between shapes that differ is almost always a mistake, but it broadcasts, so it is allowed."""
    if input._a.shape != target._a.shape:
        try:
            np.broadcast_shapes(input._a.shape, target._a.shape)
        except ValueError:
            raise ShapeError(
                f"{where}: expected input and target of equal shapes, got {tuple(input.shape)} and {tuple(target.shape)}"
            ) from None
        warnings.warn(
            f"{where}: using a target size {tuple(target.shape)} that is different to the input size {tuple(input.shape)}; "
            "this will likely lead to incorrect results due to broadcasting",
            stacklevel=3,
        )


def mse_loss(
    input: Tensor,
    target: Tensor,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
    weight: Any = None,
) -> Tensor:
    """(x − y)²"""
    _same_shape(input, target, "mse_loss")
    loss = _pw.square(input - target)
    return reduced(loss if weight is None else loss * weight, reduction, "mse_loss")


def l1_loss(
    input: Tensor, target: Tensor, size_average: Any = None, reduce: Any = None, reduction: str = "mean"
) -> Tensor:
    """|x − y|"""
    _same_shape(input, target, "l1_loss")
    return reduced(_pw.abs(input - target), reduction, "l1_loss")


def nll_loss(
    input: Tensor, target: Tensor, weight: Any = None, size_average: Any = None, ignore_index: int = -100, reduce: Any = None,
    reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """−weight[target] · input[target]: input (N, C, *) of log-probabilities or (C), target (N, *) or () of classes"""
    return _nn.nll_loss(input, target, weight, ignore_index=ignore_index, reduction=reduction)


def cross_entropy(
    input: Tensor, target: Tensor, weight: Any = None, size_average: Any = None, ignore_index: int = -100, reduce: Any = None,
    reduction: str = "mean", label_smoothing: float = 0.0,
) -> Tensor:  # fmt: skip
    """−ln softmax(input)[target]: input (N, C, *) of logits or (C); target (N, *) of classes, or probabilities of input's shape."""
    dim = 1 if input._a.ndim > 1 else 0
    if input._a.ndim == 0:
        raise ShapeError("cross_entropy: expected input (N, C, *) or (C), got a 0-d tensor")
    if not 0.0 <= label_smoothing <= 1.0:
        raise ArgumentError(f"cross_entropy: expected label_smoothing between 0 and 1, got {label_smoothing}")
    if target._a.dtype.kind in "fV":
        if target._a.shape != input._a.shape:
            raise DTypeError(
                f"cross_entropy: expected class indices of an integer dtype, or probabilities of shape {tuple(input.shape)}; "
                f"got {target.dtype} of shape {tuple(target.shape)}"
            )
        return _cross_entropy_probabilities(input, target, weight, reduction, label_smoothing, dim)
    logp = _nn.log_softmax(input, dim=dim)
    loss = _nn.nll_loss(logp, target, weight, ignore_index=ignore_index, reduction=reduction)
    if label_smoothing == 0.0:
        return loss
    keep = _pw.ne(target, ignore_index)
    weighted = logp if weight is None else logp * weight.reshape([-1 if i == dim else 1 for i in range(logp._a.ndim)])
    smooth = _pw.masked_fill(-_reduce.sum(weighted, dim=dim), _pw.logical_not(keep), 0.0)
    if reduction == "sum":
        smooth = _reduce.sum(smooth)
    elif reduction == "mean":
        safe = _pw.where(keep, target, 0)
        total = _reduce.sum(
            keep.to(logp.dtype)
            if weight is None
            else _index.index_select(weight, safe.reshape(-1), dim=0) * keep.reshape(-1)
        )
        smooth = _reduce.sum(smooth) / total
    classes = input._a.shape[dim]
    return loss * (1 - label_smoothing) + smooth * (label_smoothing / classes)


def _cross_entropy_probabilities(
    input: Tensor, target: Tensor, weight: Any, reduction: str, label_smoothing: float, dim: int
) -> Tensor:
    if label_smoothing:
        target = target * (1 - label_smoothing) + label_smoothing / input._a.shape[dim]
    logp = _nn.log_softmax(input, dim=dim)
    if weight is not None:
        logp = logp * weight.reshape([-1 if i == dim else 1 for i in range(logp._a.ndim)])
    loss = -_reduce.sum(logp * target, dim=dim)
    if reduction == "mean":
        return _reduce.sum(loss) / max(1, input._a.size // input._a.shape[dim])
    return reduced(loss, reduction, "cross_entropy")
