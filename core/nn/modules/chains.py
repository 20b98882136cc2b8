"""Layers that stand side by side, computed as one op where the backend gains by it (`Backend.fuses_chains`).

`Sequential` holds a linear layer or convolution and the activation behind it, a Transformer's layers hold dropout and the residual it is
added to, a residual block its sum and the rectifier. With hooks on a layer, or an input that is not the backend's case, the layers are
called one by one; the numbers are the same but for one rounding less.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from core import backend
from core._tensor import Tensor
from core.cuda import random as cuda_random
from core.nn import functional as F
from core.nn.functional.conv import _conv
from core.nn.modules.activation import GELU, ReLU
from core.nn.modules.conv import Conv1d, Conv2d, Conv3d
from core.nn.modules.dropout import Dropout
from core.nn.modules.linear import Linear
from core.nn.modules.module import Module, _everywhere
from core.ops import chains as _ops

_CONVOLUTIONS = (Conv1d, Conv2d, Conv3d)


def _fuses(x: Any) -> Any:
    """The backend of a tensor, if it computes chains."""
    if not isinstance(x, Tensor):
        return None
    be = backend.of(x._any_order())
    return be if be.fuses_chains else None


def _bare(module: Module) -> bool:
    """Whether calling it is calling its `forward`."""
    return not (
        module._forward_pre_hooks
        or module._forward_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or _everywhere.active
    )


def sequence(modules: Iterable[Module], x: Any) -> Any:
    """What `Sequential` computes."""
    waiting: Any = None  # a layer that may be joined with the next
    for module in modules:
        if waiting is None:
            waiting = module
            continue
        y = _joined(waiting, module, x) if _fuses(x) is not None else None
        if y is None:
            x, waiting = waiting(x), module
        else:
            x, waiting = y, None
    return x if waiting is None else waiting(x)


def _joined(layer: Module, activation: Module, x: Tensor) -> Tensor | None:
    """Both, or None where that is no chain."""
    if not (_bare(layer) and _bare(activation)):
        return None
    if type(activation) is ReLU:
        name = "relu"
    elif type(activation) is GELU:
        name = activation.approximate
    else:
        return None
    if type(layer) is Linear:
        return linear(layer, name, x)
    return _convolution(layer, name, x) if type(layer) in _CONVOLUTIONS else None


def linear(layer: Linear, activation: str, x: Tensor) -> Tensor | None:
    """activation(x wᵀ + b) for "relu" and "tanh", gelu's form that products have as an epilogue. None where it is not the case."""
    if layer.bias is None or x.ndim < 2 or x.shape[-1] != layer.in_features or _fuses(x) is None:
        return None
    if activation == "relu":
        return _ops.linear_relu([x, layer.weight, layer.bias])
    return _ops.linear_gelu([x, layer.weight, layer.bias]) if activation == "tanh" else None


def _convolution(layer: Any, activation: str, x: Tensor) -> Tensor | None:
    if layer.bias is None or layer.padding_mode != "zeros":
        return None
    y = _conv(x, layer.weight, None, layer.stride, layer.padding, layer.dilation, layer.groups, layer.dims)
    b = layer.bias.to(y.dtype).reshape(-1, *(1,) * layer.dims)
    return _ops.add_relu([y, b]) if activation == "relu" else _ops.add_gelu([y, b], approximate=activation)


def add_relu(relu: Module, x: Tensor, y: Tensor) -> Tensor:
    """relu(x + y)"""
    if _fuses(x) is not None and type(relu) is ReLU and _bare(relu) and _alike(x, y):
        return _ops.add_relu([x, y])
    return relu(x + y)


def residual(x: Tensor, dropout: Module, y: Tensor) -> Tensor:
    """x + dropout(y)"""
    be = _fuses(y)
    if be is not None and type(dropout) is Dropout and dropout.training and 0 < dropout.p < 1 and _bare(dropout):
        draw = cuda_random.dropout_add(be, be.index_of(y._a), y._a.dtype, dropout.p) if _alike(x, y) else None
        if draw is not None:
            return _ops.dropout_add(y, x, scale=1 / (1 - dropout.p), draw=draw)
    return x + dropout(y)


def _alike(x: Tensor, y: Tensor) -> bool:
    return x.shape == y.shape and x.dtype == y.dtype and x.device == y.device


def feed(layer: Linear, activation: Any, x: Tensor) -> Tensor:
    """activation(layer(x)), where the activation is a function."""
    y = linear(layer, "relu", x) if activation is F.relu and _bare(layer) else None
    return activation(layer(x)) if y is None else y
