"""Convolutions as functions."""

from __future__ import annotations

from typing import Any

from core._tensor import Tensor
from core.errors import ArgumentError, ShapeError
from core.nn.functional._arguments import tuple_of
from core.ops import nn as _nn
from core.ops import shape as _shape

__all__ = ["conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"]


def _conv(
    input: Tensor, weight: Tensor, bias: Any, stride: Any, padding: Any, dilation: Any, groups: int, n: int, op: Any = _nn.conv
) -> Tensor:
    """By `conv`, or another op that is called as it is."""
    where = f"conv{n}d"
    stride, dilation = tuple_of(stride, n, where), tuple_of(dilation, n, where)
    if isinstance(padding, str):
        input, padding = _named_padding(input, weight, stride, padding, dilation, n)
    else:
        padding = tuple_of(padding, n, where)
    single = input.ndim == n + 1
    x = _shape.unsqueeze(input, dim=0) if single else input
    y = op(x, weight, bias, stride=stride, padding=padding, dilation=dilation, groups=groups)
    return _shape.squeeze(y, dim=0) if single else y


def _named_padding(
    input: Tensor, weight: Tensor, stride: Any, padding: str, dilation: Any, n: int
) -> tuple[Tensor, Any]:
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


def conv1d(
    input: Tensor,
    weight: Tensor,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """(N, C, L), (K, C/groups, k) -> (N, K, L')"""
    return _conv(input, weight, bias, stride, padding, dilation, groups, 1)


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """(N, C, H, W), (K, C/groups, kh, kw) -> (N, K, H', W')"""
    return _conv(input, weight, bias, stride, padding, dilation, groups, 2)


def conv3d(
    input: Tensor,
    weight: Tensor,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """(N, C, D, H, W), (K, C/groups, kd, kh, kw) -> (N, K, D', H', W')"""
    return _conv(input, weight, bias, stride, padding, dilation, groups, 3)


def _conv_transpose(
    input: Tensor, weight: Tensor, bias: Any, stride: Any, padding: Any, output_padding: Any, groups: int,
    dilation: Any, n: int
) -> Tensor:  # fmt: skip
    """out = (in − 1)·stride − 2·padding + dilation·(kernel − 1) + output_padding + 1: the gradient of `conv` for its
    input.
    """
    where = f"conv_transpose{n}d"
    stride, dilation = tuple_of(stride, n, where), tuple_of(dilation, n, where)
    padding, extra = tuple_of(padding, n, where), tuple_of(output_padding, n, where)
    if input.dim() not in (n + 1, n + 2) or weight.dim() != n + 2:
        raise ShapeError(
            f"{where}: expected input of {n + 1} or {n + 2} dimensions and weight of {n + 2}, got "
            f"{tuple(input.shape)} and {tuple(weight.shape)}"
        )
    single = input.dim() == n + 1
    x = _shape.unsqueeze(input, dim=0) if single else input
    if x.shape[1] != weight._a.shape[0] or x.shape[1] % groups:
        raise ShapeError(
            f"{where}: expected input (N, {weight._a.shape[0]}, *) for weight {tuple(weight.shape)} and groups "
            f"{groups}, got {tuple(input.shape)}"
        )
    if any(e < 0 or e >= max(s, d) for e, s, d in zip(extra, stride, dilation)):
        raise ArgumentError(
            f"output padding must be smaller than either stride or dilation, but got output_padding: {extra}, stride: "
            f"{stride}, dilation: {dilation}"
        )
    spans = [(i - 1) * s + d * (k - 1) + 1 for i, s, d, k in zip(x.shape[2:], stride, dilation, weight._a.shape[2:])]
    sizes = [span - 2 * p + e for span, p, e in zip(spans, padding, extra)]
    if min(sizes, default=1) < 1:
        raise ShapeError(
            f"{where}: expected an output with elements, got size {tuple(sizes)} for input {tuple(input.shape)}")
    lead = (x.shape[0], weight._a.shape[1] * groups)
    if all(e < s for e, s in zip(extra, stride)):
        y = _nn.conv_input_grad(
            x, weight, x_shape=(*lead, *sizes), stride=stride, padding=padding, dilation=dilation, groups=groups
        )
    else:  # a convolution of that size would have more outputs than x has elements: cut the unpadded result instead
        y = _nn.conv_input_grad(
            x, weight, x_shape=(*lead, *spans), stride=stride, padding=(0,) * n, dilation=dilation, groups=groups
        )
        y = _shape.constant_pad(y, pad=tuple(v for p, e in zip(reversed(padding), reversed(extra)) for v in (-p,
            e - p)))
    if bias is not None:
        y = y + bias.reshape(1, -1, *(1,) * n)
    return _shape.squeeze(y, dim=0) if single else y


def conv_transpose1d(
    input: Tensor, weight: Tensor, bias: Any = None, stride: Any = 1, padding: Any = 0, output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Tensor:  # fmt: skip
    """(N, C, L), (C, K/groups, k) -> (N, K, L')"""
    return _conv_transpose(input, weight, bias, stride, padding, output_padding, groups, dilation, 1)


def conv_transpose2d(
    input: Tensor, weight: Tensor, bias: Any = None, stride: Any = 1, padding: Any = 0, output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Tensor:  # fmt: skip
    """(N, C, H, W), (C, K/groups, kh, kw) -> (N, K, H', W')"""
    return _conv_transpose(input, weight, bias, stride, padding, output_padding, groups, dilation, 2)


def conv_transpose3d(
    input: Tensor, weight: Tensor, bias: Any = None, stride: Any = 1, padding: Any = 0, output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Tensor:  # fmt: skip
    """(N, C, D, H, W), (C, K/groups, kd, kh, kw) -> (N, K, D', H', W')"""
    return _conv_transpose(input, weight, bias, stride, padding, output_padding, groups, dilation, 3)
