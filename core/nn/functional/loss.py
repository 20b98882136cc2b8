"""Losses as functions. `reduction` is "mean", "sum" or "none"; `size_average` and `reduce` are its older spelling."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from core import backend
from core._tensor import Tensor, wrap
from core.engine import mode
from core.errors import ArgumentError, DTypeError, ShapeError
from core.nn.functional._arguments import reduced, reduction_of
from core.nn.functional.activation import logsigmoid
from core.nn.functional.norm import pairwise_distance
from core.ops import index as _index
from core.ops import loss as _loss
from core.ops import nn as _nn
from core.ops import pointwise as _pw
from core.ops import reduce as _reduce

__all__ = [
    "binary_cross_entropy", "binary_cross_entropy_with_logits", "cosine_embedding_loss", "cross_entropy", "ctc_loss",
    "gaussian_nll_loss",
    "hinge_embedding_loss", "huber_loss", "kl_div", "l1_loss", "margin_ranking_loss", "mse_loss", "multi_margin_loss",
    "multilabel_margin_loss", "multilabel_soft_margin_loss", "nll_loss", "poisson_nll_loss", "smooth_l1_loss",
    "soft_margin_loss",
    "triplet_margin_loss", "triplet_margin_with_distance_loss",
]  # fmt: skip

_PRECISE = (np.dtype(np.float32), np.dtype(np.float64))  # dtypes in which a sum needs no wider one


def _same_shape(input: Tensor, target: Tensor, where: str) -> None:
    """torch only warns here; a loss between shapes that differ is almost always a mistake, but it broadcasts, so it is
    allowed.
    """
    if input._a.shape != target._a.shape:
        _broadcast(input, target, where)
        warnings.warn(
            f"{where}: using a target size {tuple(target.shape)} that is different to the input size "
            f"{tuple(input.shape)}; "
            "this will likely lead to incorrect results due to broadcasting",
            stacklevel=3,
        )


def _broadcast(input: Tensor, target: Tensor, where: str) -> None:
    try:
        np.broadcast_shapes(input._a.shape, target._a.shape)
    except ValueError:
        raise ShapeError(
            f"{where}: expected input and target of equal shapes, got {tuple(input.shape)} and {tuple(target.shape)}"
        ) from None


def _equal_shapes(input: Tensor, target: Tensor, where: str) -> None:
    if input._a.shape != target._a.shape:
        raise ShapeError(
            f"{where}: expected target and input of the same size, got {tuple(target.shape)} and {tuple(input.shape)}"
        )


# -- regression
# ----------------------------------------------------------------------------------------------------------


def mse_loss(
    input: Tensor, target: Tensor, size_average: Any = None, reduce: Any = None, reduction: str = "mean",
    weight: Any = None
) -> Tensor:  # fmt: skip
    """(x − y)², times `weight`; the mean is then over the sum of the weights"""
    _same_shape(input, target, "mse_loss")
    reduction = reduction_of(size_average, reduce, reduction)
    x, y = input._a, target._a
    if weight is None and x.dtype is y.dtype in _PRECISE and x.shape == y.shape and x.size and reduction in ("mean", "sum"):
        return _loss.squared_error(input, target, mean=reduction == "mean")
    return _weighted(_pw.square(input - target), weight, reduction, "mse_loss")


def _weighted(loss: Tensor, weight: Any, reduction: str, where: str) -> Tensor:
    if weight is None:
        return reduced(loss, reduction, where)
    if weight._a.shape != loss._a.shape:
        raise ShapeError(f"{where}: expected weight of the input's size {tuple(loss.shape)}, got {tuple(weight.shape)}")
    if reduction == "mean":
        return _reduce.sum(loss * weight) / _reduce.sum(weight)
    return reduced(loss * weight, reduction, where)


def l1_loss(
    input: Tensor, target: Tensor, size_average: Any = None, reduce: Any = None, reduction: str = "mean",
    weight: Any = None
) -> Tensor:  # fmt: skip
    """|x − y|, times `weight`; the mean is then over the sum of the weights"""
    _same_shape(input, target, "l1_loss")
    reduction = reduction_of(size_average, reduce, reduction)
    return _weighted(_pw.abs(input - target), weight, reduction, "l1_loss")


def smooth_l1_loss(
    input: Tensor, target: Tensor, size_average: Any = None, reduce: Any = None, reduction: str = "mean",
    beta: float = 1.0
) -> Tensor:  # fmt: skip
    """d²/(2·beta) where d = |x − y| < beta, else d − beta/2. Girshick 2015."""
    _same_shape(input, target, "smooth_l1_loss")
    if beta < 0:
        raise ArgumentError(f"smooth_l1_loss: expected beta >= 0, got {beta}")
    d = input - target
    loss = _pw.abs(d) if beta == 0 else _loss.huber(d, delta=float(beta)) / beta
    return reduced(loss, reduction_of(size_average, reduce, reduction), "smooth_l1_loss")


def huber_loss(
    input: Tensor, target: Tensor, reduction: str = "mean", delta: float = 1.0, weight: Any = None
) -> Tensor:
    """d²/2 where d = |x − y| ≤ delta, else delta·(d − delta/2), times `weight`. Huber 1964."""
    _same_shape(input, target, "huber_loss")
    if delta <= 0:
        raise ArgumentError(f"huber_loss: expected delta > 0, got {delta}")
    loss = _loss.huber(input - target, delta=float(delta))
    return reduced(loss if weight is None else loss * weight, reduction, "huber_loss")


def poisson_nll_loss(
    input: Tensor, target: Tensor, log_input: bool = True, full: bool = False, size_average: Any = None,
    eps: float = 1e-8,
    reduce: Any = None, reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """eˣ − y·x, or x − y·ln(x + eps) without `log_input`; `full` adds Stirling's y·ln y − y + ln(2πy)/2 where y > 1"""
    _broadcast(input, target, "poisson_nll_loss")
    loss = _pw.exp(input) - target * input if log_input else input - target * _pw.log(input + eps)
    if full:
        safe = _pw.clamp(target, 1.0)
        stirling = target * _pw.log(safe) - target + _pw.log(safe * (2 * math.pi)) * 0.5
        loss = loss + _pw.where(_pw.gt(target, 1), stirling, 0.0)
    return reduced(loss, reduction_of(size_average, reduce, reduction), "poisson_nll_loss")


def gaussian_nll_loss(
    input: Tensor, target: Tensor, var: Any, full: bool = False, eps: float = 1e-6, reduction: str = "mean"
) -> Tensor:
    """(ln v + (x − y)²/v) / 2 with v = max(var, eps); `full` adds ln(2π)/2. Nix & Weigend 1994."""
    if not isinstance(var, Tensor):
        if var < 0:
            raise ArgumentError(f"gaussian_nll_loss: var has negative entry/entries: expected var >= 0, got {var}")
        var = wrap(backend.of(input._a).xp.full(input._a.shape, var, dtype=input._a.dtype))
    elif var._a.shape != input._a.shape:
        if input._a.shape[:-1] == var._a.shape:  # one variance for each sample
            var = var.unsqueeze(-1)
        elif not (input._a.shape[:-1] == var._a.shape[:-1] and var._a.shape[-1] == 1):
            raise ShapeError(
                f"gaussian_nll_loss: var is of incorrect size: expected {tuple(input.shape)}, without the last "
                f"dimension or with it "
                f"as 1, got {tuple(var.shape)}"
            )
    if backend.of(var._a).device_type == "cpu" and bool((var._a < 0).any()):
        raise ArgumentError("gaussian_nll_loss: var has negative entry/entries: expected var >= 0")
    # the bound is no part of the graph: a variance below it still learns
    held = var + (_pw.clamp(var.detach(), eps) - var.detach())
    loss = (_pw.log(held) + _pw.square(input - target) / held) * 0.5
    if full:
        loss = loss + 0.5 * math.log(2 * math.pi)
    return reduced(loss, reduction, "gaussian_nll_loss")


# -- probabilities of two classes
# ----------------------------------------------------------------------------------------


def binary_cross_entropy(
    input: Tensor, target: Tensor, weight: Any = None, size_average: Any = None, reduce: Any = None,
    reduction: str = "mean"
) -> Tensor:  # fmt: skip
    """−y·ln x − (1 − y)·ln(1 − x) of probabilities x; the logarithms are held above −100"""
    _equal_shapes(input, target, "binary_cross_entropy")
    loss = _loss.bce(input, target)
    loss = loss if weight is None else loss * weight
    return reduced(loss, reduction_of(size_average, reduce, reduction), "binary_cross_entropy")


def binary_cross_entropy_with_logits(
    input: Tensor, target: Tensor, weight: Any = None, size_average: Any = None, reduce: Any = None,
    reduction: str = "mean",
    pos_weight: Any = None,
) -> Tensor:  # fmt: skip
    """−p·y·ln σ(x) − (1 − y)·ln(1 − σ(x)) of logits x, with p = `pos_weight`"""
    _equal_shapes(input, target, "binary_cross_entropy_with_logits")
    if pos_weight is None:
        loss = _loss.bce_with_logits(input, target)
    else:  # −ln σ(x) = softplus(−x), and −ln(1 − σ(x)) is x more
        loss = (1 - target) * input - ((pos_weight - 1) * target + 1) * logsigmoid(input)
    loss = loss if weight is None else loss * weight
    return reduced(loss, reduction_of(size_average, reduce, reduction), "binary_cross_entropy_with_logits")


def soft_margin_loss(
    input: Tensor, target: Tensor, size_average: Any = None, reduce: Any = None, reduction: str = "mean"
) -> Tensor:
    """ln(1 + e^(−y·x)), y of −1 and 1"""
    _broadcast(input, target, "soft_margin_loss")
    loss = logsigmoid(input * target) * -1
    return reduced(loss, reduction_of(size_average, reduce, reduction), "soft_margin_loss")


def multilabel_soft_margin_loss(
    input: Tensor, target: Tensor, weight: Any = None, size_average: Any = None, reduce: Any = None,
    reduction: str = "mean"
) -> Tensor:  # fmt: skip
    """(N, C), (N, C) of 0 and 1: the mean over classes of −y·ln σ(x) − (1 − y)·ln σ(−x)"""
    loss = (target * logsigmoid(input) + (1 - target) * logsigmoid(-input)) * -1
    loss = loss if weight is None else loss * weight
    loss = _reduce.mean(loss, dim=input.dim() - 1)
    return reduced(loss, reduction_of(size_average, reduce, reduction), "multilabel_soft_margin_loss")


def kl_div(
    input: Tensor, target: Tensor, size_average: Any = None, reduce: Any = None, reduction: str = "mean",
    log_target: bool = False
) -> Tensor:  # fmt: skip
    """y·(ln y − x) of log-probabilities x; `batchmean` divides the sum by N, which is the divergence"""
    reduction = reduction_of(size_average, reduce, reduction)
    if log_target:
        loss = _pw.exp(target) * (target - input)
    else:  # 0·ln 0 is 0
        loss = target * (_pw.log(_pw.where(_pw.eq(target, 0), 1.0, target)) - input)
    if reduction == "batchmean":
        return _reduce.sum(loss) / (input._a.shape[0] if input.dim() else 1)
    if reduction == "mean":
        warnings.warn(
            "reduction: 'mean' divides the total loss by both the batch size and the support size. "
            "'batchmean' divides only by the batch size, and aligns with the KL div math definition. "
            "'mean' will be changed to behave the same as 'batchmean' in the next major release.",
            stacklevel=2,
        )
    return reduced(loss, reduction, "kl_div")


# -- margins
# -------------------------------------------------------------------------------------------------------------


def hinge_embedding_loss(
    input: Tensor, target: Tensor, margin: float = 1.0, size_average: Any = None, reduce: Any = None,
    reduction: str = "mean"
) -> Tensor:  # fmt: skip
    """x where y = 1, max(0, margin − x) where y = −1"""
    _broadcast(input, target, "hinge_embedding_loss")
    unlike = _pw.where(_pw.ne(target, 1), _pw.relu(margin - input), 0.0)
    loss = unlike + _pw.where(_pw.ne(target, -1), input, 0.0)
    return reduced(loss, reduction_of(size_average, reduce, reduction), "hinge_embedding_loss")


def margin_ranking_loss(
    input1: Tensor, input2: Tensor, target: Tensor, margin: float = 0, size_average: Any = None, reduce: Any = None,
    reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """max(0, −y·(x₁ − x₂) + margin)"""
    if not input1.dim() == input2.dim() == target.dim():
        raise ShapeError(
            "margin_ranking_loss : All input tensors should have same dimension but got sizes: "
            f"input1: {input1.size()}, input2: {input2.size()}, target: {target.size()}"
        )
    loss = _pw.relu(target * (input1 - input2) * -1 + margin)
    return reduced(loss, reduction_of(size_average, reduce, reduction), "margin_ranking_loss")


def cosine_embedding_loss(
    input1: Tensor, input2: Tensor, target: Tensor, margin: float = 0, size_average: Any = None, reduce: Any = None,
    reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """1 − cos(x₁, x₂) where y = 1, max(0, cos(x₁, x₂) − margin) where y = −1; (N, D) or (D)"""
    if target.dim() > 1 or input1.dim() != target.dim() + 1 or input2.dim() != input1.dim():
        raise ShapeError(
            f"cosine_embedding_loss: expected inputs (N, D) and target (N), or (D) and (), got {tuple(input1.shape)}, "
            f"{tuple(input2.shape)} and {tuple(target.shape)}"
        )
    # torch's epsilon is added to the squared lengths here
    eps = 1e-12
    dot = _reduce.sum(input1 * input2, dim=-1)
    sq1, sq2 = (_reduce.sum(x * x, dim=-1) + eps for x in (input1, input2))
    cos = dot / _pw.sqrt(sq1 * sq2)
    loss = _pw.where(_pw.eq(target, 1), 1 - cos, 0.0) + _pw.where(_pw.eq(target, -1), _pw.relu(cos - margin), 0.0)
    return reduced(loss, reduction_of(size_average, reduce, reduction), "cosine_embedding_loss")


def triplet_margin_loss(
    anchor: Tensor, positive: Tensor, negative: Tensor, margin: float = 1.0, p: float = 2, eps: float = 1e-6,
    swap: bool = False,
    size_average: Any = None, reduce: Any = None, reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """max(0, ‖a − p‖ − ‖a − n‖ + margin); `swap` takes the smaller of ‖a − n‖ and ‖p − n‖. Balntas et al. 2016."""
    return triplet_margin_with_distance_loss(
        anchor, positive, negative, distance_function=lambda x, y: pairwise_distance(x, y, p, eps), margin=margin,
        swap=swap,
        reduction=reduction_of(size_average, reduce, reduction),
    )  # fmt: skip


def triplet_margin_with_distance_loss(
    anchor: Tensor, positive: Tensor, negative: Tensor, *, distance_function: Callable[..., Any] | None = None,
    margin: float = 1.0,
    swap: bool = False, reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """`triplet_margin_loss` with another distance"""
    if margin <= 0:
        raise ArgumentError(f"triplet_margin_loss: expected margin to be greater than 0, got {margin}")
    if not anchor.dim() == positive.dim() == negative.dim():
        raise ShapeError(
            "triplet_margin_loss: the anchor, positive, and negative tensors are expected to have the same number of "
            "dimensions, but "
            f"got: anchor {anchor.dim()}D, positive {positive.dim()}D, and negative {negative.dim()}D inputs"
        )
    distance = pairwise_distance if distance_function is None else distance_function
    to_positive, to_negative = distance(anchor, positive), distance(anchor, negative)
    if swap:
        to_negative = _pw.minimum(to_negative, distance(positive, negative))
    return reduced(_pw.relu(to_positive - to_negative + margin), reduction, "triplet_margin_loss")


def _rows(input: Tensor, target: Tensor, ndim: int, where: str) -> tuple[Tensor, Tensor]:
    """Input (N, C) and target of `ndim` dimensions, from what may be one sample."""
    x, y = (input.unsqueeze(0), target.reshape(1, *target._a.shape)) if input.dim() == 1 else (input, target)
    if ndim == 1:
        y = y.reshape(-1)
    if x.dim() != 2 or y._a.shape != (x._a.shape if ndim == 2 else x._a.shape[:1]):
        raise ShapeError(
            f"{where}: expected input (N, C) or (C), got {tuple(input.shape)} with target {tuple(target.shape)}")
    return x, y


def multi_margin_loss(
    input: Tensor, target: Tensor, p: int = 1, margin: float = 1.0, weight: Any = None, size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """Σᵢ max(0, margin − x[y] + xᵢ)ᵖ / C over the classes i other than y, times weight[y]: (N, C), (N)"""
    if p not in (1, 2):
        raise ArgumentError(f"multi_margin_loss: only p == 1 and p == 2 supported, got {p}")
    x, y = _rows(input, target, 1, "multi_margin_loss")
    column = y.unsqueeze(1)
    loss = _pw.relu(x - _index.gather(x, column, dim=1) + margin)
    loss = loss if p == 1 else _pw.square(loss)
    if weight is not None:
        loss = loss * _index.index_select(weight, y, dim=0).unsqueeze(1)
    others = _index.scatter(_pw.ne(x, x).to(x.dtype) * 0 + 1, column, 0.0, dim=1)
    loss = _reduce.sum(loss * others, dim=1) / x._a.shape[1]
    loss = loss if input.dim() > 1 else loss.reshape(())
    return reduced(loss, reduction_of(size_average, reduce, reduction), "multi_margin_loss")


def multilabel_margin_loss(
    input: Tensor, target: Tensor, size_average: Any = None, reduce: Any = None, reduction: str = "mean"
) -> Tensor:
    """Σ max(0, 1 − (x[y] − xᵢ)) / C over the target classes y, which end at the first −1, and all other classes i: (N,
    C), (N, C)
    """
    x, y = _rows(input, target, 2, "multilabel_margin_loss")
    a = y._a
    xp = backend.of(a).xp
    listed = xp.cumsum(a < 0, axis=1) == 0
    classes = x._a.shape[1]
    is_target = xp.zeros((a.shape[0], classes + 1), dtype=bool)
    rows = xp.arange(a.shape[0])[:, None]
    is_target[rows, xp.where(listed, a, classes)] = True
    pairs = wrap(listed[:, :, None] & ~is_target[:, None, :classes])
    chosen = _index.gather(x, wrap(xp.where(listed, a, 0)), dim=1)
    hinge = _pw.relu(1 - chosen.unsqueeze(2) + x.unsqueeze(1))
    loss = _reduce.sum(_pw.where(pairs, hinge, 0.0), dim=(1, 2)) / classes
    loss = loss if input.dim() > 1 else loss.reshape(())
    return reduced(loss, reduction_of(size_average, reduce, reduction), "multilabel_margin_loss")


# -- sequences
# -----------------------------------------------------------------------------------------------------------


def ctc_loss(
    log_probs: Tensor, targets: Tensor, input_lengths: Any, target_lengths: Any, blank: int = 0,
    reduction: str = "mean",
    zero_infinity: bool = False,
) -> Tensor:  # fmt: skip
    """−ln of the probability of each target over all alignments: log_probs (T, N, C) or (T, C), targets (N, S) or
    concatenated.

    `mean` divides each loss by its target's length first. Graves et al. 2006.
    """
    single = log_probs.dim() == 2
    x = log_probs.unsqueeze(1) if single else log_probs
    frames, lengths = (np.asarray(_host(n)).reshape(-1).astype(np.int64) for n in (input_lengths, target_lengths))
    n = x._a.shape[1]
    if frames.shape != (n,) or lengths.shape != (n,):
        raise ShapeError(
            f"ctc_loss: expected {n} input_lengths and target_lengths, got {frames.size} and {lengths.size}")
    if n and (frames.min() < 0 or frames.max() > x._a.shape[0]):
        raise ShapeError(
            f"ctc_loss: expected input_lengths to have value at most {x._a.shape[0]}, got {frames.tolist()}"
        )
    if not 0 <= blank < x._a.shape[2]:
        raise ArgumentError(f"ctc_loss: expected blank from 0 to {x._a.shape[2] - 1}, got {blank}")
    be = backend.of(x._a)
    path = be.from_numpy(_blanked(targets._host(), lengths, blank))
    loss = _loss.ctc(x, wrap(path), wrap(be.from_numpy(frames)), wrap(be.from_numpy(2 * lengths + 1)))
    if zero_infinity:
        loss = _pw.where(_pw.isinf(loss), 0.0, loss)
    if reduction == "mean":
        return _reduce.mean(loss / wrap(be.from_numpy(np.maximum(lengths, 1).astype(x._a.dtype))))
    return reduced(loss.reshape(()) if single else loss, reduction, "ctc_loss")


def _host(lengths: Any) -> Any:
    return lengths._host() if isinstance(lengths, Tensor) else lengths


def _blanked(targets: np.ndarray, lengths: np.ndarray, blank: int) -> np.ndarray:
    """(N, 2·max + 1): each target with a blank before, between and after its labels, and blanks to the end."""
    path = np.full((len(lengths), 2 * int(lengths.max(initial=0)) + 1), blank, dtype=np.int64)
    start = 0
    for row, length in enumerate(lengths.tolist()):
        one = targets[row, :length] if targets.ndim == 2 else targets[start : start + length]
        path[row, 1 : 2 * length : 2] = one
        start += length
    return path


# -- classes
# -------------------------------------------------------------------------------------------------------------


def nll_loss(
    input: Tensor, target: Tensor, weight: Any = None, size_average: Any = None, ignore_index: int = -100,
    reduce: Any = None,
    reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """−weight[target] · input[target]: input (N, C, *) of log-probabilities or (C), target (N, *) or () of classes"""
    reduction = reduction_of(size_average, reduce, reduction)
    return _nn.nll_loss(input, target, weight, ignore_index=ignore_index, reduction=reduction)


def cross_entropy(
    input: Tensor, target: Tensor, weight: Any = None, size_average: Any = None, ignore_index: int = -100,
    reduce: Any = None,
    reduction: str = "mean", label_smoothing: float = 0.0,
) -> Tensor:  # fmt: skip
    """−ln softmax(input)[target]: input (N, C, *) of logits or (C); target (N, *) of classes, or probabilities of
    input's shape.
    """
    reduction = reduction_of(size_average, reduce, reduction)
    dim = 1 if input._a.ndim > 1 else 0
    if input._a.ndim == 0:
        raise ShapeError("cross_entropy: expected input (N, C, *) or (C), got a 0-d tensor")
    if not 0.0 <= label_smoothing <= 1.0:
        raise ArgumentError(f"cross_entropy: expected label_smoothing between 0 and 1, got {label_smoothing}")
    if target._a.dtype.kind in "fV":
        if target._a.shape != input._a.shape:
            raise DTypeError(
                f"cross_entropy: expected class indices of an integer dtype, or probabilities of shape "
                f"{tuple(input.shape)}; "
                f"got {target.dtype} of shape {tuple(target.shape)}"
            )
        return _cross_entropy_probabilities(input, target, weight, reduction, label_smoothing, dim)
    if input._a.ndim == 2 and label_smoothing == 0.0 and backend.of(input._a).fuses_cross_entropy:
        wide = mode.state.autocast is not None
        return _loss.cross_entropy_rows.apply(
            (input, target, weight), {"ignore_index": ignore_index, "reduction": reduction, "wide": wide}
        )
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
