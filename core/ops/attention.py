"""Scaled dot-product attention. The probabilities are kept for the gradient: memory grows with L·S."""

from __future__ import annotations

from typing import Any

from core import backend
from core._tensor import wrap
from core.ops.fused import joint
from core.ops.op import graph as F
from core.ops.op import op


def _attention(q: Any, k: Any, v: Any, mask: Any = None, drop: Any = None, *, causal: bool, scale: float) -> Any:
    s = F.matmul(q * scale, F.transpose(k, dim0=-2, dim1=-1))
    if mask is not None:
        s = F.where(mask, s, float("-inf")) if mask._a.dtype.kind == "b" else s + mask
    if causal:
        xp = backend.of(s._a).xp
        s = F.where(wrap(xp.tri(s._a.shape[-2], s._a.shape[-1], dtype=bool)), s, float("-inf"))
    seen = s._a.max(axis=-1, keepdims=True) > float("-inf")
    p = F.where(wrap(seen), F.softmax(F.where(wrap(seen), s, 0.0), dim=-1), 0.0)
    return F.matmul(p if drop is None else p * drop, v)


@joint(_attention)
def _attention_grad(be, g, xs, p, causal, scale):
    q, k, v, mask, drop = xs
    return *be.attention_grad(g, q, k, v, drop, p, scale), None, None


@op(xs=_attention_grad, aux=("p",))
def attention(be, *xs, causal=False, scale):
    """softmax(q kᵀ·scale + mask) v: [q (*, L, E), k (*, S, E), v (*, S, V), mask, drop] -> (*, L, V). Vaswani et al.
    2017.

    mask (*, L, S) of booleans (who is seen) or numbers to add, drop of zeros and 1/(1 − p) to multiply probabilities
    with; either may be None, and neither gets a gradient. `causal`: query l sees keys 0 … l.
    """
    return be.attention(*xs, causal, scale)
