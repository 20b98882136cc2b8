"""Attention by cuDNN, with masks: the op `attention` as a whole, and its gradient. None where it is not cuDNN's case.

Masks become numbers that are added to the scores. Minus infinity is not among them: a row that sees nobody would be NaN to cuDNN, and is
zeros here. It gets a great negative number instead, beside which every other score vanishes; rows that see nobody are multiplied by zero,
and so are their gradients.

With dropout the plain kernels compute: cuDNN draws from a generator of its own, and masks here have the bits of `core.philox`.

What the gradient needs of the forward pass, the output and ln Σ e^score, travels in the place of the probabilities, as one flat float32
array; probabilities have two dimensions at least.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from core.backend.cuda import pointwise

_LOWEST = np.float32(-1e30)


def fused() -> dict[Any, Any]:
    """For `Backend.fused`."""
    return {"attention": _attention, ("attention", "xs"): _attention_grad}


def _attention(be: Any, q: Any, k: Any, v: Any, mask: Any, drop: Any, *, causal: bool, scale: float) -> Any:
    """(*, L, V) and what the gradient needs."""
    if be.dnn is None or drop is not None or not be.dnn.attends(q, k, v) or not _fits(mask, q, k):
        return None
    bias, seen = _bias(be, mask)
    found = be.dnn.attention(q, k, v, bias, causal, scale)
    if found is None:
        return None
    y, stats = found[0] if seen is None else _masked(be, found[0], seen), found[1]
    flat = be.xp.ascontiguousarray(y).reshape(-1).view(np.float32)
    return y, be.xp.concatenate([flat, stats.reshape(-1)])


def _attention_grad(be: Any, g: Any, xs: Any, p: Any, causal: bool, scale: float) -> Any:
    """(dq, dk, dv, None, None) where the forward pass was cuDNN's."""
    if p.ndim != 1:
        return None
    q, k, v, mask, _ = xs
    size = math.prod(q.shape) * q.itemsize // 4
    y, stats = p[:size].view(q.dtype).reshape(q.shape), p[size:].reshape(*q.shape[:3], 1)
    bias, seen = _bias(be, mask)
    found = be._dnn.attention_grad(g if seen is None else _masked(be, g, seen), q, k, v, y, stats, bias, causal, scale)
    if found is None:  # no plan back: once more with probabilities
        _, p = be.attention(q, k, v, mask, None, causal, scale)
        found = be.attention_grad(g, q, k, v, None, p, scale)
    return *found, None, None


def _fits(mask: Any, q: Any, k: Any) -> bool:
    """Whether the mask broadcasts to the scores (B, H, L, S), and has a number for every key."""
    if mask is None:
        return True
    full = (*q.shape[:3], k.shape[2])
    shape = (1,) * (4 - mask.ndim) + mask.shape
    return len(shape) == 4 and shape[3] == full[3] and all(n in (1, m) for n, m in zip(shape, full))


def _bias(be: Any, mask: Any) -> tuple[Any, Any]:
    """Of a mask: what is added to the scores, in float32, (B or 1, H or 1, L or 1, S), and the rows that see somebody (…, 1)."""
    if mask is None:
        return None, None
    xp = be.xp
    mask = xp.ascontiguousarray(mask).reshape((1,) * (4 - mask.ndim) + mask.shape)
    if mask.dtype.kind == "b":
        bias = xp.where(mask, np.float32(0), _LOWEST)
    else:
        bias = xp.maximum(mask.astype(np.float32), _LOWEST)
    return bias, (bias > _LOWEST).any(axis=-1, keepdims=True)


def _masked(be: Any, x: Any, seen: Any) -> Any:
    """x in the rows that are seen, else 0; lies as x does."""
    order = sorted(range(4), key=lambda d: -abs(x.strides[d]))
    turned = x.transpose(order), seen.astype(x.dtype).transpose(order)
    y = pointwise.run(be, "mul", turned)
    y = turned[0] * turned[1] if y is None else y
    return y.transpose(np.argsort(order).tolist())
