"""Convolutions as functions."""

from __future__ import annotations

from typing import Any

from core._tensor import Tensor
from core.errors import ArgumentError
from core.nn.functional._arguments import tuple_of
from core.ops import nn as _nn
from core.ops import shape as _shape

__all__ = ["conv1d", "conv2d", "conv3d"]


def _conv(
    input: Tensor, weight: Tensor, bias: Any, stride: Any, padding: Any, dilation: Any, groups: int, n: int
) -> Tensor:
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
