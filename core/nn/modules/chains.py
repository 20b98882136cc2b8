"""Layers that stand side by side, computed as one op where the backend gains by it (`Backend.chains`).

`Sequential` holds a linear layer, convolution or normalisation and the activation behind it, a Transformer's layers hold dropout and
the residual it is added to, a residual block its sum and the rectifier. With hooks on a layer, or an input that is not the backend's
case, the layers are called one by one; the numbers are the same, on a GPU but for one rounding less.
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
from core.nn.modules.batchnorm import BatchNorm1d, BatchNorm2d, BatchNorm3d
from core.nn.modules.conv import Conv1d, Conv2d, Conv3d
from core.nn.modules.dropout import Dropout
from core.nn.modules.hooks import everywhere
from core.nn.modules.linear import Linear
from core.nn.modules.module import Module
from core.nn.modules.pooling import MaxPool1d, MaxPool2d, MaxPool3d
from core.ops import chains as _ops

_CONVOLUTIONS = frozenset((Conv1d, Conv2d, Conv3d))
_NORMS = frozenset((BatchNorm1d, BatchNorm2d, BatchNorm3d))
_FIRST = _CONVOLUTIONS | _NORMS | {Linear}  # these make a new tensor, which nobody else sees
_ACTIVATIONS = frozenset((ReLU, GELU))
_POOLS = frozenset((MaxPool1d, MaxPool2d, MaxPool3d))


def _chains(x: Any) -> Any:
    """What the backend of a tensor computes as one."""
    return backend.of(x._any_order()).chains if isinstance(x, Tensor) else ()


def _bare(module: Module) -> bool:
    """Whether calling it is calling its class's `forward`."""
    return not (
        module._forward_pre_hooks
        or module._forward_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or (everywhere.active and everywhere.calls())
        or "forward" in module.__dict__
    )


def sequence(modules: Iterable[Module], x: Any) -> Any:
    """What `Sequential` computes."""
    layers = [*modules]
    last, i = len(layers) - 1, 0
    while i <= last:
        layer = layers[i]
        i += 1
        if i > last or type(layers[i]) not in _ACTIVATIONS or type(layer) not in _FIRST:
            x = layer(x)
            continue
        activation = layers[i]
        if i < last and _commute(activation, layers[i + 1]):
            x = activation(layers[i + 1](layer(x)))
            i += 2
            continue
        y = _joined(layer, activation, x) if _bare(layer) and _bare(activation) else None
        if y is None:
            x = layer(x)
        else:
            x, i = y, i + 1
    return x


def _commute(activation: Module, pool: Module) -> bool:
    """Whether the activation may as well come after the pool, where it has less to do: the greatest stays the greatest, and has the
    gradient."""
    return (
        type(pool) in _POOLS
        and type(activation) is ReLU
        and not pool.return_indices
        and _bare(activation)
        and _bare(pool)
    )


def _joined(layer: Module, activation: Module, x: Any) -> Tensor | None:
    """Both, or None where that is no chain."""
    name = "relu" if type(activation) is ReLU else activation.approximate
    if type(layer) is Linear:
        return linear(layer, name, x)
    return (_norm if type(layer) in _NORMS else _convolution)(layer, name, x)


_OF_LINEAR = {"relu": _ops.linear_relu, "tanh": _ops.linear_gelu}


def linear(layer: Linear, activation: str, x: Any) -> Tensor | None:
    """activation(x wᵀ + b) for "relu" and "tanh", gelu's form that products have as an epilogue. None where it is not the case."""
    chain = _OF_LINEAR.get(activation)
    if chain is None or chain.name not in _chains(x) or x._any_order().ndim < 2:
        return None
    w, b = layer.operands()
    return None if b is None else chain.apply((x, w, b), chain.defaults)


def _convolution(layer: Any, activation: str, x: Any) -> Tensor | None:
    chain = "conv_relu" if activation == "relu" else "add_gelu"
    if chain not in _chains(x) or layer.bias is None or layer.padding_mode != "zeros":
        return None
    geometry = layer.stride, layer.padding, layer.dilation, layer.groups, layer.dims
    if activation == "relu":
        return _conv(x, layer.weight, layer.bias, *geometry, op=_ops.conv_relu)
    y = _conv(x, layer.weight, None, *geometry)
    return _ops.add_gelu(y, layer.bias.to(y.dtype).reshape(-1, *(1,) * layer.dims), approximate=activation)


def _norm(layer: Any, activation: str, x: Any) -> Tensor | None:
    by_batch = activation == "relu" and "standardize_relu" in _chains(x) and layer._by_batch()
    return layer._normalised(x, _ops.standardize_relu) if by_batch else None


def add_relu(relu: Module, x: Tensor, y: Tensor) -> Tensor:
    """relu(x + y)"""
    if "add_relu" in _chains(x) and type(relu) is ReLU and _bare(relu) and _alike(x, y):
        return _ops.add_relu(x, y)
    return relu(x + y)


def residual(x: Tensor, dropout: Module, y: Tensor) -> Tensor:
    """x + dropout(y)"""
    if "dropout_add" in _chains(y) and type(dropout) is Dropout and dropout.training and 0 < dropout.p < 1 and _bare(dropout):
        be: Any = backend.of(y._any_order())
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
