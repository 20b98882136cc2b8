"""Ops of neural networks: convolution, pooling, softmax, losses, dropout. Layers and torch's signatures are in
`core.nn`."""

from __future__ import annotations

from typing import Any

import numpy as np

from core import backend, dtypes
from core._tensor import _dim
from core.backend.base import conv_out_shape
from core.errors import ArgumentError, DTypeError, RangeError, ShapeError
from core.ops.op import graph, op

# -- convolution ---------------------------------------------------------------------------------------------------------
# Three bilinear ops; the gradients of each are the other two.


def check_conv(x: Any, w: Any, b: Any, stride: Any, padding: Any, dilation: Any, groups: int) -> None:
    n = w.ndim - 2
    if x.ndim != w.ndim:
        raise ShapeError(
            f"conv{n}d: expected input of {n + 2} dimensions (N, C, *) for weight {tuple(w.shape)}, got shape {tuple(x.shape)}"
        )
    if x.shape[1] != w.shape[1] * groups or w.shape[0] % groups:
        raise ShapeError(
            f"conv{n}d: expected input (N, {w.shape[1] * groups}, *) for weight {tuple(w.shape)} and groups {groups}, got {tuple(x.shape)}"
        )
    if b is not None and b.shape != w.shape[:1]:
        raise ShapeError(f"conv{n}d: expected bias ({w.shape[0]},) for weight {tuple(w.shape)}, got {tuple(b.shape)}")
    if x.dtype != w.dtype:
        raise DTypeError(
            f"conv{n}d: expected input and weight of one dtype, got {dtypes.of(x.dtype)} and {dtypes.of(w.dtype)}"
        )
    if min(stride) < 1 or min(dilation) < 1 or min(padding) < 0:
        raise ArgumentError(
            f"conv{n}d: expected stride, dilation >= 1 and padding >= 0, got {stride}, {dilation}, {padding}"
        )
    if min(conv_out_shape(x.shape[2:], w.shape[2:], stride, padding, dilation), default=1) < 1:
        raise ShapeError(
            f"conv{n}d: expected a padded input at least as large as the kernel {tuple(w.shape[2:])}, dilated by {dilation}, "
            f"got {tuple(x.shape[2:])} with padding {padding}"
        )


def _conv_bias_grad(F: Any, g: Any) -> Any:
    return F.sum(g, dim=(0, *range(2, g.ndim))) if F is graph else backend.of(g).sum_channels(g)


@op(
    x=lambda F, g, w, x_shape, stride, padding, dilation, groups: F.conv_input_grad(
        g, w, x_shape=x_shape, stride=stride, padding=padding, dilation=dilation, groups=groups
    ),
    w=lambda F, g, x, w_shape, stride, padding, dilation, groups: F.conv_weight_grad(
        g, x, w_shape=w_shape, stride=stride, padding=padding, dilation=dilation, groups=groups
    ),
    b=_conv_bias_grad,
    names=("input", "weight", "bias"),
    orderly=True,
)
def conv(be, x, w, b=None, *, stride, padding, dilation, groups):
    """Cross-correlation (N, C, *in), (K, C/groups, *k) -> (N, K, *out); the other arguments are tuples, one number a
    dimension."""
    check_conv(x, w, b, stride, padding, dilation, groups)
    return be.conv(x, w, b, stride, padding, dilation, groups)


@op(
    g=lambda F, gg, w, stride, padding, dilation, groups: F.conv(
        gg, w, None, stride=stride, padding=padding, dilation=dilation, groups=groups
    ),
    w=lambda F, gg, g, w_shape, stride, padding, dilation, groups: F.conv_weight_grad(
        g, gg, w_shape=w_shape, stride=stride, padding=padding, dilation=dilation, groups=groups
    ),
    orderly=True,
)
def conv_input_grad(be, g, w, *, x_shape, stride, padding, dilation, groups):
    """The gradient of `conv` for its input, which is also the transposed convolution."""
    return be.conv_input_grad(g, w, tuple(x_shape), stride, padding, dilation, groups)


@op(
    g=lambda F, gg, x, stride, padding, dilation, groups: F.conv(
        x, gg, None, stride=stride, padding=padding, dilation=dilation, groups=groups
    ),
    x=lambda F, gg, g, x_shape, stride, padding, dilation, groups: F.conv_input_grad(
        g, gg, x_shape=x_shape, stride=stride, padding=padding, dilation=dilation, groups=groups
    ),
    orderly=True,
)
def conv_weight_grad(be, g, x, *, w_shape, stride, padding, dilation, groups):
    """The gradient of `conv` for its weight."""
    return be.conv_weight_grad(g, x, tuple(w_shape), stride, padding, dilation, groups)


# -- pooling -------------------------------------------------------------------------------------------------------------


def pool_out_shape(size: Any, k: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool, where: str) -> tuple[int, ...]:
    """Like `conv_out_shape`, or rounded up; then the last window must still begin inside the input or its left
    padding."""
    if any(2 * p > n for p, n in zip(padding, k)):
        raise ArgumentError(
            f"{where}: pad should be at most half of effective kernel size: expected padding <= {k} / 2, got {padding}"
        )
    if min(stride) < 1:
        raise ArgumentError(f"{where}: expected stride >= 1, got {stride}")
    out = conv_out_shape(size, k, stride, padding, dilation)
    if ceil_mode:
        up = [-(-(i + 2 * p - d * (n - 1) - 1) // s) + 1 for i, n, s, p, d in zip(size, k, stride, padding, dilation)]
        out = tuple(o - 1 if (o - 1) * s >= i + p else o for o, s, i, p in zip(up, stride, size, padding))
    if min(out) < 1:
        raise ShapeError(
            f"{where}: expected an input that holds a window of {k}, got {tuple(size)}; the output would be {out}"
        )
    return out


@op(
    x=lambda F, g, won, x_shape, k, stride, padding, dilation: F.max_pool_grad(
        g, won, x_shape=x_shape, k=k, stride=stride, padding=padding, dilation=dilation
    ),
    aux=("won",),
    orderly=True,
)
def max_pool(be, x, *, k, stride, padding, dilation, ceil_mode=False):
    """The greatest of each window: (N, C, *in) -> (N, C, *out). Which input won is kept for the gradient."""
    out = pool_out_shape(x.shape[2:], k, stride, padding, dilation, ceil_mode, f"max_pool{len(k)}d")
    return be.max_pool(x, k, out, stride, padding, dilation)


@op()
def max_pool_index(be, x, *, k, stride, padding, dilation, ceil_mode=False):
    """Where `max_pool` found its maxima: positions in the flat (*in), int64."""
    xp = be.xp
    out = pool_out_shape(x.shape[2:], k, stride, padding, dilation, ceil_mode, f"max_pool{len(k)}d")
    _, won = be.max_pool(x, k, out, stride, padding, dilation)
    flat = xp.zeros(won.shape, dtype=xp.int64)
    offsets = xp.unravel_index(won.astype(xp.int64), k)
    for i, (offset, n) in enumerate(zip(offsets, x.shape[2:])):
        start = (xp.arange(out[i]) * stride[i] - padding[i]).reshape((-1,) + (1,) * (len(k) - 1 - i))
        flat = flat * n + start + offset * dilation[i]
    return flat


@op(
    g=lambda F, gg, won, k, stride, padding, dilation: F.max_pool_pick(
        gg, won, k=k, stride=stride, padding=padding, dilation=dilation
    ),
    orderly=True,
)
def max_pool_grad(be, g, won, *, x_shape, k, stride, padding, dilation):
    """The gradient of `max_pool`."""
    return be.max_pool_grad(g, won, tuple(x_shape), k, stride, padding, dilation)


@op(
    x=lambda F, g, won, x_shape, k, stride, padding, dilation: F.max_pool_grad(
        g, won, x_shape=x_shape, k=k, stride=stride, padding=padding, dilation=dilation
    )
)
def max_pool_pick(be, x, won, *, k, stride, padding, dilation):
    """x at the inputs that won: the gradient of `max_pool_grad`."""
    return be.max_pool_pick(x, won, k, stride, padding, dilation)


@op(
    x=lambda F, g, x_shape, k, stride, padding: F.sum_pool_grad(
        g, x_shape=x_shape, k=k, stride=stride, padding=padding
    ),
    orderly=True,
)
def sum_pool(be, x, *, k, stride, padding, ceil_mode=False):
    """The sum of each window, padding counted as zeros. Average pooling divides it."""
    out = pool_out_shape(x.shape[2:], k, stride, padding, (1,) * len(k), ceil_mode, f"avg_pool{len(k)}d")
    return be.sum_pool(x, k, out, stride, padding)


@op(
    g=lambda F, gg, g_shape, k, stride, padding: F.slice_view(
        F.sum_pool(gg, k=k, stride=stride, padding=padding, ceil_mode=True),
        index=(..., *(slice(n) for n in g_shape[2:])),
    ),
    orderly=True,
)
def sum_pool_grad(be, g, *, x_shape, k, stride, padding):
    """The gradient of `sum_pool`."""
    return be.sum_pool_grad(g, tuple(x_shape), k, stride, padding)


# -- rows ----------------------------------------------------------------------------------------------------------------


@op(x=lambda F, g, out, dim: F.softmax_grad(g, out, dim=dim))
def softmax(be, x, *, dim):
    """eˣ / Σ eˣ along one dimension."""
    return be.softmax(x, _dim(dim, x.ndim, "softmax")) if x.ndim and x.size else x * 0 + 1


@op(
    g=lambda F, gg, y, dim: F.softmax_grad(gg, y, dim=dim),
    y=lambda F, gg, g, y, dim: g * (gg - F.sum(gg * y, dim=dim, keepdim=True)) - gg * F.sum(g * y, dim=dim, keepdim=True),
)
def softmax_grad(be, g, y, *, dim):
    """The gradient of `softmax`, from its output y: y (g − Σ g y)."""
    return be.softmax_grad(g, y, _dim(dim, y.ndim, "softmax")) if y.ndim else g * 0


@op(x=lambda F, g, out, dim: F.log_softmax_grad(g, out, dim=dim))
def log_softmax(be, x, *, dim):
    """ln softmax(x) along one dimension, without overflow."""
    return be.log_softmax(x, _dim(dim, x.ndim, "log_softmax")) if x.ndim and x.size else x * 0


@op(
    g=lambda F, gg, y, dim: gg - F.sum(gg * F.exp(y), dim=dim, keepdim=True),
    y=lambda F, gg, g, y, dim: gg * F.exp(y) * F.sum(g, dim=dim, keepdim=True) * -1,
)
def log_softmax_grad(be, g, y, *, dim):
    """The gradient of `log_softmax`, from its output y: g − eʸ Σ g."""
    return be.log_softmax_grad(g, y, _dim(dim, y.ndim, "log_softmax")) if y.ndim else g * 0


# -- losses --------------------------------------------------------------------------------------------------------------


def _check_classes(be: Any, logp: Any, target: Any, ignore_index: int, where: str) -> Any:
    """Class indices checked for dtype, shape and range; returns which are not ignored."""
    if target.dtype.kind not in "iu":
        raise DTypeError(
            f"{where}: expected class indices of an integer dtype, got {dtypes.of(target.dtype)}; use target.long()"
        )
    expected = logp.shape[:1] + logp.shape[2:] if logp.ndim > 1 else ()
    if target.shape != expected:
        raise ShapeError(
            f"{where}: expected target of shape {tuple(expected)} for input {tuple(logp.shape)}, got {tuple(target.shape)}"
        )
    keep = target != ignore_index
    classes = logp.shape[1 if logp.ndim > 1 else 0]
    wrong = keep & ((target < 0) | (target >= classes))
    if be.device_type == "cpu" and wrong.any():
        raise RangeError(
            f"{where}: Target {int(target[wrong].flat[0])} is out of bounds: expected classes 0 to {classes - 1}"
        )
    return keep


def _nll_dx(F, g, target, total, x_shape, w, ignore_index, reduction):
    return F.nll_grad(g, target, w, total, x_shape=x_shape, ignore_index=ignore_index, reduction=reduction)


@op(x=_nll_dx, aux=("total",), names=("input", "target", "weight"))
def nll_loss(be, x, target, w=None, *, ignore_index=-100, reduction="mean"):
    """−w[t]·x[t]: x (N, C, *) of log-probabilities or (C), target (N, *) of classes. `mean` divides by the weights of
    what is not ignored."""
    xp = be.xp
    keep = _check_classes(be, x, target, ignore_index, "nll_loss")
    classes = x.shape[1 if x.ndim > 1 else 0]
    if w is not None and w.shape != (classes,):
        raise ShapeError(
            f"nll_loss: weight tensor should be defined for all classes: expected shape ({classes},), got "
            f"{tuple(w.shape)}"
        )
    at = _class_index(xp, xp.where(keep, target, 0))
    loss = -x[at]
    weight = keep.astype(x.dtype) if w is None else xp.where(keep, w[xp.where(keep, target, 0)], 0)
    loss = xp.where(keep, loss * weight, 0).astype(x.dtype)
    total = weight.sum(dtype=x.dtype)
    if reduction == "none":
        return loss, total
    if reduction == "sum":
        return loss.sum(), total
    if reduction != "mean":
        raise ArgumentError(f"nll_loss: expected reduction 'none', 'mean' or 'sum', got {reduction!r}")
    with np.errstate(invalid="ignore"):
        return loss.sum() / total, total  # nan if everything is ignored, as in torch


def _class_index(xp: Any, target: Any) -> tuple[Any, ...]:
    """The index that picks each sample's class from (N, C, *)."""
    if not target.ndim:
        return (target,)
    if target.ndim == 1:
        return (xp.arange(target.shape[0]), target)
    grid = xp.ogrid[tuple(slice(n) for n in target.shape)]
    grid = list(grid) if isinstance(grid, (list, tuple)) else [grid]
    return (grid[0], target, *grid[1:])


@op(g=lambda F, gg, target, w, total, ignore_index, reduction: _nll_gg(F, gg, target, w, total, ignore_index, reduction))
def nll_grad(be, g, target, w, total, *, x_shape, ignore_index, reduction):
    """The gradient of `nll_loss` for x."""
    xp = be.xp
    keep = target != ignore_index
    safe = xp.where(keep, target, 0)
    weight = keep.astype(g.dtype) if w is None else xp.where(keep, w[safe], 0).astype(g.dtype)
    dx = xp.zeros(x_shape, dtype=g.dtype)
    scale = -g / total if reduction == "mean" else -g
    dx[_class_index(xp, safe)] = weight * scale
    return dx


def _nll_gg(F, gg, target, w, total, ignore_index, reduction):
    # nll_loss is linear in x, so the gradient of its gradient is the loss of gg, with the same divisor
    return F.nll_loss(gg, target, w, ignore_index=ignore_index, reduction=reduction)


# -- noise ---------------------------------------------------------------------------------------------------------------


@op(x=lambda F, g, mask: g * mask)
def dropout_mask(be, x, mask):
    """x · mask, the mask of zeros and 1/(1−p) drawn by the caller in x's dtype."""
    return x * mask
