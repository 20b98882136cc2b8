"""Batch normalisation in evaluation mode folded into the layer before it: y = γ(Wx + b − μ)/√(σ² + eps) + β is a layer again."""

from __future__ import annotations

import copy
from typing import Any

from core._tensor import Tensor
from core.errors import ArgumentError
from core.nn.modules.module import Module
from core.nn.parameter import Parameter
from core.ops import pointwise as _pw

__all__ = ["fuse_conv_bn_eval", "fuse_conv_bn_weights", "fuse_linear_bn_eval", "fuse_linear_bn_weights"]


def fuse_conv_bn_weights(
    conv_w: Tensor,
    conv_b: Any,
    bn_rm: Tensor,
    bn_rv: Tensor,
    bn_eps: float,
    bn_w: Any,
    bn_b: Any,
    transpose: bool = False,
) -> tuple[Parameter, Parameter]:
    """(weight, bias) of the convolution that does both; `transpose`: its output channels are the weight's dimension 1."""
    scale = _pw.rsqrt(bn_rv + bn_eps) * (1 if bn_w is None else bn_w)
    shape = [1] * conv_w.dim()
    shape[1 if transpose else 0] = -1
    bias = (0 - bn_rm if conv_b is None else conv_b - bn_rm) * scale + (0 if bn_b is None else bn_b)
    return (
        Parameter((conv_w * scale.reshape(shape)).detach(), conv_w.requires_grad),
        Parameter(bias.detach(), conv_w.requires_grad if conv_b is None else conv_b.requires_grad),
    )


def fuse_linear_bn_weights(
    linear_w: Tensor, linear_b: Any, bn_rm: Tensor, bn_rv: Tensor, bn_eps: float, bn_w: Any, bn_b: Any
) -> tuple[Parameter, Parameter]:
    """(weight, bias) of the linear layer that does both."""
    return fuse_conv_bn_weights(linear_w, linear_b, bn_rm, bn_rv, bn_eps, bn_w, bn_b)


def _fused(layer: Module, bn: Module, transpose: bool, where: str) -> Any:
    if layer.training or bn.training:
        raise ArgumentError(f"{where}: Fusion only for eval! expected both in eval mode; call eval()")
    norm: Any = bn
    if norm.running_mean is None or norm.running_var is None:
        raise ArgumentError(f"{where}: expected running statistics, got track_running_stats=False")
    made: Any = copy.deepcopy(layer)
    made.weight, made.bias = fuse_conv_bn_weights(
        made.weight, made.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias, transpose
    )
    return made


def fuse_conv_bn_eval(conv: Module, bn: Module, transpose: bool = False) -> Any:
    """A copy of the convolution that also normalises."""
    return _fused(conv, bn, transpose, "fuse_conv_bn_eval")


def fuse_linear_bn_eval(linear: Module, bn: Module) -> Any:
    """A copy of the linear layer that also normalises."""
    return _fused(linear, bn, False, "fuse_linear_bn_eval")
