"""Attention as functions."""

from __future__ import annotations

import math
from typing import Any

from core._tensor import Tensor
from core.creation import zeros
from core.errors import ArgumentError, DTypeError, ShapeError
from core.nn.functional.activation import softmax
from core.nn.functional.dropout import _check, dropout, dropped
from core.ops import attention as _ops
from core.ops import linalg as _linalg
from core.ops import pointwise as _pw
from core.ops import reduce as _reduce
from core.ops import shape as _shape

__all__ = ["multi_head_attention_forward", "scaled_dot_product_attention"]


def scaled_dot_product_attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None, enable_gqa: bool = False,
) -> Tensor:  # fmt: skip
    """softmax(q kᵀ·scale + mask) v: (*, L, E), (*, S, E), (*, S, V) -> (*, L, V); scale is 1/√E by default.

    A bool mask is true where a query sees a key, another one is added. `enable_gqa`: several query heads (dimension
    −3) share a key head.
    """
    _check(dropout_p, "scaled_dot_product_attention")
    if min(query.dim(), key.dim(), value.dim()) < 2:
        raise ShapeError(
            f"scaled_dot_product_attention: expected query, key and value of at least 2 dimensions, got "
            f"{tuple(query.shape)}, "
            f"{tuple(key.shape)} and {tuple(value.shape)}"
        )
    if not query.dtype == key.dtype == value.dtype:
        raise DTypeError(
            "scaled_dot_product_attention: expected query, key, and value to have the same dtype, "
            f"but got {query.dtype}, {key.dtype} and {value.dtype}"
        )
    if query._a.shape[-1] != key._a.shape[-1] or key._a.shape[-2] != value._a.shape[-2]:
        raise ShapeError(
            f"scaled_dot_product_attention: expected (*, L, E), (*, S, E), (*, S, V), got {tuple(query.shape)}, "
            f"{tuple(key.shape)} "
            f"and {tuple(value.shape)}"
        )
    if attn_mask is not None:
        if is_causal:
            raise ArgumentError("scaled_dot_product_attention: explicit attn_mask should not be set when is_causal=True")
        if (attn_mask.dtype.is_floating_point and attn_mask.dtype != query.dtype) or attn_mask._a.dtype.kind in "iu":
            raise DTypeError(
                "scaled_dot_product_attention: expected attn_mask dtype to be bool or to match query dtype, "
                f"but got attn_mask.dtype: {attn_mask.dtype} and query.dtype: {query.dtype}"
            )
    if enable_gqa:
        key, value = (_repeated(x, query._a.shape[-3], "scaled_dot_product_attention") for x in (key, value))
    scale = 1 / math.sqrt(query._a.shape[-1]) if scale is None else scale
    drop = None
    if dropout_p:
        lead = [_pw.mul(x.detach()[..., :1, :1], 1)._a.shape[:-2] for x in (query, key)]
        shape = (*max(lead, key=math.prod), query._a.shape[-2], key._a.shape[-2])
        drop = dropped(shape, dropout_p, query)
    if attn_mask is not None and attn_mask.requires_grad:  # a learned bias: the fused op has no gradient for it
        return _ops._attention(query, key, value, attn_mask, drop, causal=is_causal, scale=scale)
    return _ops.attention([query, key, value, attn_mask, drop], causal=is_causal, scale=scale)


def _repeated(x: Tensor, heads: int, where: str) -> Tensor:
    """(*, H, S, E) -> (*, heads, S, E): each head heads/H times, side by side"""
    *lead, h, s, e = x._a.shape
    if h == heads:
        return x
    if heads % h:
        raise ShapeError(f"{where}: expected query heads divisible by key and value heads, got {heads} and {h}")
    return x.unsqueeze(-3).expand(*lead, h, heads // h, s, e).reshape(*lead, heads, s, e)


def _as_float_mask(mask: Tensor | None, query: Tensor, name: str) -> Tensor | None:
    """A bool mask, true for what is NOT seen, as numbers to add."""
    if mask is None or mask.dtype.is_floating_point:
        return mask
    if mask._a.dtype.kind != "b":
        raise DTypeError(f"only bool and floating types of {name} are supported, got {mask.dtype}")
    return _pw.masked_fill(zeros(*mask._a.shape, dtype=query.dtype, device=query.device), mask, float("-inf"))


def _projected(query: Tensor, key: Tensor, value: Tensor, w: Tensor, b: Any) -> list[Tensor]:
    """q, k and v by one weight (3E, E): one product where they are the same tensor."""
    e = w._a.shape[1]
    if query is key is value:
        return list(_shape.split_with_sizes(_linear(query, w, b), split_sizes=(e, e, e), dim=-1))
    ws = w.chunk(3)
    bs = [None] * 3 if b is None else b.chunk(3)
    return [_linear(x, wx, bx) for x, wx, bx in zip((query, key, value), ws, bs)]


def _linear(x: Tensor, w: Tensor, b: Any) -> Tensor:
    """`linear` of (L, N, E), which may be a batch-first tensor transposed: one product over its rows, without a copy."""
    turned = x._a.ndim == 3 and not x._a.flags.c_contiguous
    return _linalg.linear(x.transpose(0, 1), w, b).transpose(0, 1) if turned else _linalg.linear(x, w, b)


def _joined(mask: Tensor | None, padding: Tensor | None, n: int, heads: int) -> Tensor | None:
    """What is to be added to the scores (N, heads, L, S), from masks (1 or N·heads, L, S) and (N, S)."""
    if mask is not None:
        mask = mask.unsqueeze(0) if mask._a.shape[0] == 1 else mask.reshape(n, heads, *mask._a.shape[1:])
    if padding is None:
        return mask
    padding = padding.reshape(n, 1, 1, -1)
    return padding if mask is None else mask + padding


def multi_head_attention_forward(
    query: Tensor, key: Tensor, value: Tensor, embed_dim_to_check: int, num_heads: int, in_proj_weight: Any,
    in_proj_bias: Any,
    bias_k: Any, bias_v: Any, add_zero_attn: bool, dropout_p: float, out_proj_weight: Tensor, out_proj_bias: Any,
    training: bool = True,
    key_padding_mask: Any = None, need_weights: bool = True, attn_mask: Any = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: Any = None, k_proj_weight: Any = None, v_proj_weight: Any = None, static_k: Any = None,
    static_v: Any = None,
    average_attn_weights: bool = True, is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """What `nn.MultiheadAttention` computes: (L, N, E), (S, N, *), (S, N, *) -> (L, N, E) and the weights (N, L, S) or
    None.

    Bool masks are true for keys that are not seen. N may be missing. Vaswani et al. 2017.
    """
    where = "multi_head_attention_forward"
    if query.dim() not in (2, 3) or not query.dim() == key.dim() == value.dim():
        raise ShapeError(
            f"{where}: expected query, key and value of 3 dimensions, or 2 without a batch, got {tuple(query.shape)}, "
            f"{tuple(key.shape)} and {tuple(value.shape)}"
        )
    single = query.dim() == 2
    if single:
        same = query is key, key is value
        query = query.unsqueeze(1)
        key = query if same[0] else key.unsqueeze(1)
        value = key if same[1] else value.unsqueeze(1)
        key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
    length, n, e = query._a.shape
    keys, heads = key._a.shape[0], num_heads
    if e != embed_dim_to_check:
        raise ShapeError(f"{where}: was expecting embedding dimension of {embed_dim_to_check}, but got {e}")
    if key._a.shape[:2] != value._a.shape[:2]:
        raise ShapeError(
            f"{where}: key's sequence and batch dims {tuple(key.shape[:2])} do not match value's "
            f"{tuple(value.shape[:2])}"
        )
    if is_causal and attn_mask is None:
        raise ArgumentError("Need attn_mask if specifying the is_causal hint.")
    attn_mask = _as_float_mask(attn_mask, query, "attn_mask")
    key_padding_mask = _as_float_mask(key_padding_mask, query, "key_padding_mask")
    if attn_mask is not None:
        expected = (length, keys) if attn_mask.dim() == 2 else (n * heads, length, keys)
        if attn_mask._a.shape != expected:
            raise ShapeError(f"{where}: expected attn_mask of shape {expected}, got {tuple(attn_mask.shape)}")
        attn_mask = attn_mask.unsqueeze(0) if attn_mask.dim() == 2 else attn_mask
    if key_padding_mask is not None and key_padding_mask._a.shape != (n, keys):
        raise ShapeError(f"{where}: expected key_padding_mask of shape {(n, keys)}, got {tuple(key_padding_mask.shape)}")

    if use_separate_proj_weight:
        bs = [None] * 3 if in_proj_bias is None else in_proj_bias.chunk(3)
        ws = (q_proj_weight, k_proj_weight, v_proj_weight)
        q, k, v = (_linear(x, w, b) for x, w, b in zip((query, key, value), ws, bs))
    else:
        q, k, v = _projected(query, key, value, in_proj_weight, in_proj_bias)

    extra = 0  # keys that are added behind the others, and that nothing masks
    if bias_k is not None and bias_v is not None:
        k = _shape.cat([k, bias_k.expand(1, n, e)], dim=0)
        v = _shape.cat([v, bias_v.expand(1, n, e)], dim=0)
        extra += 1
    if not (need_weights or extra or add_zero_attn or static_k is not None or static_v is not None):
        q, k, v = (x.reshape(x._a.shape[0], n, heads, e // heads).permute(1, 2, 0, 3) for x in (q, k, v))
        mask = _joined(attn_mask, key_padding_mask, n, heads)
        y = scaled_dot_product_attention(q, k, v, mask, dropout_p if training else 0.0)
        y = _linear(y.permute(2, 0, 1, 3).reshape(length, n, e), out_proj_weight, out_proj_bias)
        return y.squeeze(1) if single else y, None
    # (S, N, E) -> (N·heads, S, d)
    q, k, v = (x.reshape(-1, n * heads, e // heads).transpose(0, 1) for x in (q, k, v))
    k, v = (k if static_k is None else static_k), (v if static_v is None else static_v)
    if add_zero_attn:
        nothing = zeros(n * heads, 1, e // heads, dtype=k.dtype, device=k.device)
        k, v = _shape.cat([k, nothing], dim=1), _shape.cat([v, nothing], dim=1)
        extra += 1
    if extra:
        attn_mask, key_padding_mask = (
            None if m is None else _shape.constant_pad(m, pad=(0, extra), value=0.0) for m in (attn_mask,
            key_padding_mask)
        )
    keys = k._a.shape[1]
    mask = _joined(attn_mask, key_padding_mask, n, heads)
    dropout_p = dropout_p if training else 0.0

    if need_weights:
        scores = _linalg.matmul(q * math.sqrt(1.0 / (e // heads)), k.transpose(1, 2))
        if mask is not None:
            scores = (scores.reshape(n, heads, length, keys) + mask).reshape(n * heads, length, keys)
        weights = softmax(scores, dim=-1)
        weights = dropout(weights, dropout_p) if dropout_p else weights
        y = _linalg.matmul(weights, v)
    else:
        q, k, v = (x.reshape(n, heads, -1, e // heads) for x in (q, k, v))
        y = scaled_dot_product_attention(q, k, v, mask, dropout_p)
        y = y.reshape(n * heads, length, e // heads)
    y = _linear(y.transpose(0, 1).reshape(length, n, e), out_proj_weight, out_proj_bias)
    y = y.squeeze(1) if single else y
    if not need_weights:
        return y, None
    weights = weights.reshape(n, heads, length, keys)
    weights = _reduce.mean(weights, dim=1) if average_attn_weights else weights
    return y, (weights.squeeze(0) if single else weights)
