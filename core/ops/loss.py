"""Losses that need more care, or less work, than their formula in simpler ops."""

from __future__ import annotations

import math

import numpy as np

from core import backend, dtypes
from core.errors import ArgumentError, DTypeError, GraphError, ShapeError
from core.ops.op import graph, op, pointwise


@pointwise(
    x=lambda F, g, x, y: g * (F.sigmoid(x) - y),
    y=lambda F, g, x: g * x * -1,
    names=("input", "target"),
)
def bce_with_logits(be, x, y):
    """−y·ln σ(x) − (1 − y)·ln(1 − σ(x)) = max(x, 0) − x·y + ln(1 + e^−|x|): logits x, targets y from 0 to 1."""
    xp = be.xp
    return xp.maximum(x, 0) - x * y + xp.log1p(xp.exp(-xp.abs(x)))


@pointwise(
    x=lambda F, g, x, y: g * F.div(x - y, F.clamp(x * (1 - x), 1e-12, None)),
    y=lambda F, g, x: g * (F.log(1 - x) - F.log(x)),
    names=("input", "target"),
)
def bce(be, x, y):
    """−y·ln x − (1 − y)·ln(1 − x): probabilities x; the logarithms are held above −100, their slope below 1e12, as in
    torch.
    """
    xp = be.xp
    with np.errstate(divide="ignore"):
        return (y - 1) * xp.maximum(xp.log1p(-x), -100) - y * xp.maximum(xp.log(x), -100)


@pointwise(
    x=lambda F, g, x, delta: F.where(F.le(F.abs(x), delta), g * x, g * F.sgn(x) * delta),
)
def huber(be, x, *, delta):
    """x²/2 within ±delta, delta·(|x| − delta/2) beyond. Huber 1964."""
    xp = be.xp
    a = xp.abs(x)
    return xp.where(a <= delta, x * x * 0.5, (a - 0.5 * delta) * delta).astype(x.dtype, copy=False)


def _ctc_dx(F, g, x, path, frames, lengths, out, alpha):
    if F is graph:
        raise GraphError(
            "ctc_loss: expected to be differentiated once, got create_graph=True; it has no second derivative")
    return backend.of(g).ctc_grad(g, out, x, path, frames, lengths, alpha)


@op(x=_ctc_dx, aux=("alpha",))
def ctc(be, x, path, frames, lengths):
    """−ln of the probability of a path (N): log-probabilities x (T, N, C), paths (N, P) of labels between blanks, how
    many frames of x and how many positions of the path each sample has. The gradient supposes that x is a log_softmax,
    as torch's does.
    """
    return be.ctc(x, path, frames, lengths)


def _squared_error_dx(F, g, x, y, x_shape, mean):
    scale = g * (2 / math.prod(x_shape) if mean else 2)
    if F is graph:
        return (x - y) * scale
    dx = x - y
    dx *= scale
    return dx


@op(x=_squared_error_dx, y=lambda F, g, x, y, x_shape, mean: _squared_error_dx(F, -g, x, y, x_shape, mean))
def squared_error(be, x, y, *, mean):
    """Σ (x − y)² of two of one shape and dtype, or its mean"""
    total = be.square_sum(x - y)
    return total / x.size if mean else total


# -- cross-entropy in one pass over the logits -------------------------------------------------------------------------


def _cross_entropy_dx(F, g, x, target, w, lse, total, ignore_index, reduction):
    return backend.of(x).cross_entropy_grad(g, x, target, w, lse, total if reduction == "mean" else None, ignore_index)


def _cross_entropy_plainly(x, target, w=None, *, ignore_index, reduction, wide):
    x = graph.cast(x, dtype=dtypes.float32) if wide and x._a.dtype.itemsize == 2 else x
    return graph.nll_loss(graph.log_softmax(x, dim=1), target, w, ignore_index=ignore_index, reduction=reduction)


@op(x=_cross_entropy_dx, aux=("lse", "total"), composite=_cross_entropy_plainly, names=("input", "target", "weight"))
def cross_entropy_rows(be, x, target, w=None, *, ignore_index=-100, reduction="mean", wide=False):
    """−w[t]·ln softmax(x)[t]: logits (N, C), classes (N). Of the probabilities nothing is kept but ln Σ eˣ of each row.

    Where the backend does not look at values (a GPU), a target that is no class gives NaN. `wide`: the loss of two-byte logits is
    float32.
    """
    if x.ndim != 2 or target.shape != x.shape[:1]:
        raise ShapeError(
            f"cross_entropy: expected target of shape {x.shape[:1]} for input {tuple(x.shape)}, got {tuple(target.shape)}"
        )
    if target.dtype.kind not in "iu":
        raise DTypeError(
            f"cross_entropy: expected class indices of an integer dtype, got {dtypes.of(target.dtype)}; use target.long()"
        )
    if w is not None and w.shape != x.shape[1:]:
        raise ShapeError(
            f"cross_entropy: weight tensor should be defined for all classes: expected shape {tuple(x.shape[1:])}, got {tuple(w.shape)}"
        )
    if reduction not in ("none", "mean", "sum"):
        raise ArgumentError(f"cross_entropy: expected reduction 'none', 'mean' or 'sum', got {reduction!r}")
    loss, lse, count = be.cross_entropy(x, target, w, ignore_index)
    total = lse
    if reduction != "none":
        loss, total = be.cross_entropy_total(loss, x, target, w, ignore_index, reduction == "mean", count)
    return loss if wide or loss.dtype == x.dtype else loss.astype(x.dtype), lse, total
