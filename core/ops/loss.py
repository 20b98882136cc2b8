"""Losses that need more care, or less work, than their formula in simpler ops."""

from __future__ import annotations

import numpy as np

from core import backend
from core.errors import GraphError
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
    return xp.where(a <= delta, x * x * 0.5, (a - 0.5 * delta) * delta)


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
