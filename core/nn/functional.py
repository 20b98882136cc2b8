"""torch.nn.functional: layers and losses as functions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from core import backend, rng
from core._tensor import Tensor, wrap
from core.errors import ArgumentError, DTypeError, ShapeError
from core.ops import index as _index
from core.ops import nn as _nn
from core.ops import pointwise as _pw
from core.ops import reduce as _reduce
from core.ops import shape as _shape
from core.ops.linalg import linear
from core.ops.pointwise import sigmoid, tanh

__all__ = [
    "adaptive_avg_pool2d", "avg_pool1d", "avg_pool2d", "avg_pool3d", "conv1d", "conv2d", "conv3d", "cross_entropy", "dropout",
    "embedding", "l1_loss", "linear", "log_softmax", "max_pool1d", "max_pool2d", "max_pool3d", "mse_loss", "nll_loss", "one_hot", "pad",
    "relu", "relu_", "sigmoid", "softmax", "tanh",
]  # fmt: skip


def tuple_of(value: Any, n: int, where: str) -> tuple[int, ...]:
    """One number for each of n dimensions."""
    if isinstance(value, (int, np.integer)):
        return (int(value),) * n
    values = tuple(int(v) for v in value)
    if len(values) == 1:
        return values * n
    if len(values) != n:
        raise ArgumentError(f"{where}: expected one number or {n}, got {values}")
    return values


# -- activations ---------------------------------------------------------------------------------------------------------


def relu(input: Tensor, inplace: bool = False) -> Tensor:
    """max(x, 0)"""
    return _pw.relu.inplace(input) if inplace else _pw.relu(input)


def relu_(input: Tensor) -> Tensor:
    """max(x, 0), in place"""
    return _pw.relu.inplace(input)


def _old_dim(ndim: int) -> int:
    """The dimension that softmax took before it had to be given."""
    return 0 if ndim in (0, 1, 3) else 1


def softmax(input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> Tensor:
    """eˣ / Σ eˣ along `dim`."""
    x = input if dtype is None else input.to(dtype)
    return _nn.softmax(x, dim=_old_dim(x._a.ndim) if dim is None else dim)


def log_softmax(input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> Tensor:
    """ln softmax(x) along `dim`."""
    x = input if dtype is None else input.to(dtype)
    return _nn.log_softmax(x, dim=_old_dim(x._a.ndim) if dim is None else dim)


def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Elements set to zero with probability p, the rest divided by 1 − p; nothing unless `training`."""
    if not 0 <= p <= 1:
        raise ArgumentError(f"dropout: probability has to be between 0 and 1, got {p}")
    if not training or p == 0:
        return input
    d = input._a.dtype
    keep = rng.default_generator.uniform(input._a.size, np.dtype(np.float64)) < 1 - p
    mask = keep.reshape(input._a.shape).astype(d) * d.type(0 if p == 1 else 1 / (1 - p))
    mask_t = wrap(backend.of(input._a).from_numpy(mask))
    return _nn.dropout_mask.inplace(input, mask_t) if inplace else _nn.dropout_mask(input, mask_t)


# -- convolution ---------------------------------------------------------------------------------------------------------


def _conv(input: Tensor, weight: Tensor, bias: Any, stride: Any, padding: Any, dilation: Any, groups: int, n: int) -> Tensor:
    where = f"conv{n}d"
    stride, dilation = tuple_of(stride, n, where), tuple_of(dilation, n, where)
    if isinstance(padding, str):
        input, padding = _named_padding(input, weight, stride, padding, dilation, n)
    else:
        padding = tuple_of(padding, n, where)
    single = input._a.ndim == n + 1
    x = _shape.unsqueeze(input, dim=0) if single else input
    y = _nn.conv(x, weight, bias, stride=stride, padding=padding, dilation=dilation, groups=groups)
    return _shape.squeeze(y, dim=0) if single else y


def _named_padding(input: Tensor, weight: Tensor, stride: Any, padding: str, dilation: Any, n: int) -> tuple[Tensor, Any]:
    if padding == "valid":
        return input, (0,) * n
    if padding != "same":
        raise ArgumentError(f"conv{n}d: expected padding 'valid', 'same' or numbers, got {padding!r}")
    if any(s != 1 for s in stride):
        raise ArgumentError(f"conv{n}d: padding='same' is not supported for strided convolutions, got stride {stride}")
    total = [d * (k - 1) for d, k in zip(dilation, weight._a.shape[2:])]
    if all(t % 2 == 0 for t in total):
        return input, tuple(t // 2 for t in total)
    pads = [p for t in reversed(total) for p in (t // 2, t - t // 2)]
    return _shape.constant_pad(input, pad=tuple(pads)), (0,) * n


def conv1d(input: Tensor, weight: Tensor, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1) -> Tensor:
    """(N, C, L), (K, C/groups, k) -> (N, K, L')"""
    return _conv(input, weight, bias, stride, padding, dilation, groups, 1)


def conv2d(input: Tensor, weight: Tensor, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1) -> Tensor:
    """(N, C, H, W), (K, C/groups, kh, kw) -> (N, K, H', W')"""
    return _conv(input, weight, bias, stride, padding, dilation, groups, 2)


def conv3d(input: Tensor, weight: Tensor, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1) -> Tensor:
    """(N, C, D, H, W), (K, C/groups, kd, kh, kw) -> (N, K, D', H', W')"""
    return _conv(input, weight, bias, stride, padding, dilation, groups, 3)


# -- pooling -------------------------------------------------------------------------------------------------------------


def _max_pool(
    input: Tensor, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool, return_indices: bool, n: int
) -> Any:
    where = f"max_pool{n}d"
    k = tuple_of(kernel_size, n, where)
    geometry = {
        "k": k,
        "stride": k if stride is None or stride == [] else tuple_of(stride, n, where),
        "padding": tuple_of(padding, n, where),
        "dilation": tuple_of(dilation, n, where),
        "ceil_mode": ceil_mode,
    }
    x, single = _batched(input, n, where)
    y = _nn.max_pool(x, **geometry)
    y = _shape.squeeze(y, dim=0) if single else y
    if not return_indices:
        return y
    i = _nn.max_pool_index(x, **geometry)
    return y, (_shape.squeeze(i, dim=0) if single else i)


def _batched(input: Tensor, n: int, where: str) -> tuple[Tensor, bool]:
    if input._a.ndim not in (n + 1, n + 2):
        raise ShapeError(f"{where}: expected input of {n + 1} or {n + 2} dimensions, got shape {tuple(input.shape)}")
    single = input._a.ndim == n + 1
    return (_shape.unsqueeze(input, dim=0) if single else input), single


def max_pool1d(
    input: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:  # fmt: skip
    """(N, C, L) -> (N, C, L'), with the positions of the maxima if `return_indices`"""
    return _max_pool(input, kernel_size, stride, padding, dilation, ceil_mode, return_indices, 1)


def max_pool2d(
    input: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:  # fmt: skip
    """(N, C, H, W) -> (N, C, H', W'), with the positions of the maxima if `return_indices`"""
    return _max_pool(input, kernel_size, stride, padding, dilation, ceil_mode, return_indices, 2)


def max_pool3d(
    input: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:  # fmt: skip
    """(N, C, D, H, W) -> (N, C, D', H', W'), with the positions of the maxima if `return_indices`"""
    return _max_pool(input, kernel_size, stride, padding, dilation, ceil_mode, return_indices, 3)


def _avg_pool(
    input: Tensor, kernel_size: Any, stride: Any, padding: Any, ceil_mode: bool, count_include_pad: bool, divisor: Any, n: int
) -> Tensor:
    where = f"avg_pool{n}d"
    k, pad = tuple_of(kernel_size, n, where), tuple_of(padding, n, where)
    step = k if stride is None or stride == [] else tuple_of(stride, n, where)
    x, single = _batched(input, n, where)
    y = _nn.sum_pool(x, k=k, stride=step, padding=pad, ceil_mode=ceil_mode)
    if divisor is not None:
        y = y / divisor
    elif not ceil_mode and (count_include_pad or not any(pad)):
        y = y / math.prod(k)
    else:
        y = y / _window_sizes(x, y._a.shape[2:], k, step, pad, count_include_pad)
    return _shape.squeeze(y, dim=0) if single else y


def _window_sizes(x: Tensor, out: Any, k: Any, stride: Any, padding: Any, count_include_pad: bool) -> Tensor:
    """(*out): how many elements each window holds; the padding counts or not, what lies beyond it never."""
    sizes = np.ones((1,) * len(k))
    for i, (n, o) in enumerate(zip(x._a.shape[2:], out)):
        start = np.arange(o) * stride[i] - padding[i]
        end = np.minimum(start + k[i], n + padding[i])
        if not count_include_pad:
            start, end = np.maximum(start, 0), np.minimum(end, n)
        sizes = sizes * (end - start).reshape([-1 if j == i else 1 for j in range(len(k))])
    return wrap(backend.of(x._a).from_numpy(sizes.astype(x._a.dtype)))


def avg_pool1d(
    input: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False, count_include_pad: bool = True
) -> Tensor:
    """(N, C, L) -> (N, C, L')"""
    return _avg_pool(input, kernel_size, stride, padding, ceil_mode, count_include_pad, None, 1)


def avg_pool2d(
    input: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False, count_include_pad: bool = True,
    divisor_override: Any = None,
) -> Tensor:  # fmt: skip
    """(N, C, H, W) -> (N, C, H', W')"""
    return _avg_pool(input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override, 2)


def avg_pool3d(
    input: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False, count_include_pad: bool = True,
    divisor_override: Any = None,
) -> Tensor:  # fmt: skip
    """(N, C, D, H, W) -> (N, C, D', H', W')"""
    return _avg_pool(input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override, 3)


def _adaptive_avg_pool(input: Tensor, output_size: Any, n: int) -> Tensor:
    x = input
    sizes = output_size if isinstance(output_size, (tuple, list)) else (output_size,) * n
    for i, out in enumerate(sizes):
        dim = x._a.ndim - n + i
        length = x._a.shape[dim]
        out = length if out is None else int(out)
        # windows ⌊i·L/o⌋ … ⌈(i+1)·L/o⌉: dimension by dimension, since a mean of means over a grid is the mean
        if length % out == 0:
            shape = x._a.shape
            x = _reduce.mean(x.reshape(*shape[:dim], out, length // out, *shape[dim + 1 :]), dim=dim + 1)
        else:
            parts = [(j * length // out, -(-(j + 1) * length // out)) for j in range(out)]
            x = _shape.stack(
                [_reduce.mean(_shape.narrow(x, dim=dim, start=a, length=b - a), dim=dim) for a, b in parts], dim=dim
            )
    return x


def adaptive_avg_pool1d(input: Tensor, output_size: Any) -> Tensor:
    """(N, C, L) -> (N, C, output_size)"""
    return _adaptive_avg_pool(input, output_size, 1)


def adaptive_avg_pool2d(input: Tensor, output_size: Any) -> Tensor:
    """(N, C, H, W) -> (N, C, *output_size)"""
    return _adaptive_avg_pool(input, output_size, 2)


# -- losses --------------------------------------------------------------------------------------------------------------


def _reduced(loss: Tensor, reduction: str, where: str) -> Tensor:
    if reduction == "mean":
        return _reduce.mean(loss)
    if reduction == "sum":
        return _reduce.sum(loss)
    if reduction == "none":
        return loss
    raise ArgumentError(f"{where}: expected reduction 'none', 'mean' or 'sum', got {reduction!r}")


def _same_shape(input: Tensor, target: Tensor, where: str) -> None:
    """torch only warns here; a loss between shapes that differ is almost always a mistake, but it broadcasts, so it is allowed."""
    if input._a.shape != target._a.shape:
        try:
            np.broadcast_shapes(input._a.shape, target._a.shape)
        except ValueError:
            raise ShapeError(
                f"{where}: expected input and target of equal shapes, got {tuple(input.shape)} and {tuple(target.shape)}"
            ) from None
        import warnings

        warnings.warn(
            f"{where}: using a target size {tuple(target.shape)} that is different to the input size {tuple(input.shape)}; "
            "this will likely lead to incorrect results due to broadcasting",
            stacklevel=3,
        )


def mse_loss(
    input: Tensor, target: Tensor, size_average: Any = None, reduce: Any = None, reduction: str = "mean", weight: Any = None
) -> Tensor:
    """(x − y)²"""
    _same_shape(input, target, "mse_loss")
    loss = _pw.square(input - target)
    return _reduced(loss if weight is None else loss * weight, reduction, "mse_loss")


def l1_loss(input: Tensor, target: Tensor, size_average: Any = None, reduce: Any = None, reduction: str = "mean") -> Tensor:
    """|x − y|"""
    _same_shape(input, target, "l1_loss")
    return _reduced(_pw.abs(input - target), reduction, "l1_loss")


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
        total = _reduce.sum(keep.to(logp.dtype) if weight is None else _index.index_select(weight, safe.reshape(-1), dim=0) * keep.reshape(-1))
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
    return _reduced(loss, reduction, "cross_entropy")


# -- the rest ------------------------------------------------------------------------------------------------------------


def embedding(
    input: Tensor, weight: Tensor, padding_idx: int | None = None, max_norm: Any = None, norm_type: float = 2.0,
    scale_grad_by_freq: bool = False, sparse: bool = False,
) -> Tensor:  # fmt: skip
    """Rows of weight (V, D) by an index of any shape (*): (*, D)"""
    return _index.embedding(input, weight, padding_idx=padding_idx)


def one_hot(tensor: Tensor, num_classes: int = -1) -> Tensor:
    """(*) of classes -> (*, num_classes) of zeros and ones, int64"""
    a = tensor._a
    n = int(a.max()) + 1 if num_classes == -1 else num_classes
    return wrap((a[..., None] == backend.of(a).xp.arange(n)).astype(np.int64))


def pad(input: Tensor, pad: Any, mode: str = "constant", value: Any = None) -> Tensor:
    """`pad` is (before, after) for the last dimension, then the one before it, and so on; negative numbers cut."""
    if mode != "constant":
        raise ArgumentError(f"pad: expected mode 'constant', got {mode!r}")
    return _shape.constant_pad(input, pad=tuple(int(p) for p in pad), value=0.0 if value is None else value)


