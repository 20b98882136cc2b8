"""Activations as functions. Those that torch lets write in place take `inplace`, or are also there as `name_`."""

from __future__ import annotations

from typing import Any

import numpy as np

from core import backend, rng
from core._tensor import Tensor, _dim, wrap
from core.engine import mode
from core.errors import ArgumentError, ShapeError
from core.ops import activation as _act
from core.ops import index as _index
from core.ops import nn as _nn
from core.ops import pointwise as _pw
from core.ops import shape as _shape
from core.ops.activation import logsigmoid as logsigmoid
from core.ops.pointwise import sigmoid as sigmoid
from core.ops.pointwise import tanh as tanh

__all__ = [
    "celu", "celu_", "elu", "elu_", "gelu", "glu", "gumbel_softmax", "hardshrink", "hardsigmoid", "hardswish",
    "hardtanh", "hardtanh_",
    "leaky_relu", "leaky_relu_", "log_softmax", "logsigmoid", "mish", "prelu", "relu", "relu6", "relu_", "rrelu",
    "rrelu_", "selu", "selu_",
    "sigmoid", "silu", "softmax", "softmin", "softplus", "softshrink", "softsign", "tanh", "tanhshrink", "threshold",
    "threshold_",
]  # fmt: skip


def _called(op: Any, input: Tensor, inplace: bool, **params: Any) -> Tensor:
    """The op, or its result written over the input; then the op sees a copy where its rule needs what is overwritten.
    """
    if not inplace:
        return op(input, **params)
    input._check_inplace(op.name)
    recorded = mode.grad and input._requires_grad
    return _shape.copy.inplace(input, op(_pw.clone(input) if recorded else input, **params))


# -- rectifiers
# ----------------------------------------------------------------------------------------------------------


def relu(input: Tensor, inplace: bool = False) -> Tensor:
    """max(x, 0)"""
    return _pw.relu.inplace(input) if inplace else _pw.relu(input)


def relu_(input: Tensor) -> Tensor:
    """max(x, 0), in place"""
    return _pw.relu.inplace(input)


def leaky_relu(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    """x if x > 0, else negative_slope·x"""
    if negative_slope < 0:  # then the sign of the output does not tell that of the input
        return _act.prelu(input, wrap(np.asarray(negative_slope, dtype=input._a.dtype)))
    return _called(_act.leaky_relu, input, inplace, negative_slope=negative_slope)


def leaky_relu_(input: Tensor, negative_slope: float = 0.01) -> Tensor:
    """`leaky_relu` in place"""
    return leaky_relu(input, negative_slope, True)


def prelu(input: Tensor, weight: Tensor) -> Tensor:
    """x if x > 0, else weight·x; weight has one element, or one for each channel of (N, C, *)"""
    n = weight._a.size
    if n != 1 and (input._a.ndim < 2 or input._a.shape[1] != n):
        raise ShapeError(
            f"prelu: expected a weight of 1 element or one for each channel, got {n} for input {tuple(input.shape)}"
        )
    if weight._a.ndim == 1 and input._a.ndim > 2:
        weight = weight.reshape(1, n, *(1,) * (input._a.ndim - 2))
    elif not input._a.ndim:
        weight = weight.reshape(())
    return _act.prelu(input, weight)


def rrelu(
    input: Tensor, lower: float = 1.0 / 8, upper: float = 1.0 / 3, training: bool = False, inplace: bool = False
) -> Tensor:
    """Leaky relu whose slope is random on [lower, upper) while training, else the mean of the two. Xu et al. 2015."""
    if not training:
        return leaky_relu(input, (lower + upper) / 2, inplace)
    a = input._a
    slope = rng.default_generator.uniform(a.size, np.dtype(np.float64)).reshape(a.shape) * (upper - lower) + lower
    slopes = wrap(backend.of(a).from_numpy(slope.astype(a.dtype)))
    y = _act.prelu(_pw.clone(input) if inplace else input, slopes)
    return _shape.copy.inplace(input, y) if inplace else y


def rrelu_(input: Tensor, lower: float = 1.0 / 8, upper: float = 1.0 / 3, training: bool = False) -> Tensor:
    """`rrelu` in place"""
    return rrelu(input, lower, upper, training, True)


def threshold(input: Tensor, threshold: float, value: float, inplace: bool = False) -> Tensor:
    """x if x > threshold, else value"""
    return _called(_act.threshold, input, inplace, threshold=threshold, value=value)


def threshold_(input: Tensor, threshold: float, value: float) -> Tensor:
    """`threshold` in place"""
    return _called(_act.threshold, input, True, threshold=threshold, value=value)


def hardtanh(input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Tensor:
    """x held between min_val and max_val"""
    if min_val > max_val:
        raise ArgumentError(f"hardtanh: expected min_val <= max_val, got {min_val} and {max_val}")
    return _called(_act.hardtanh, input, inplace, lo=min_val, hi=max_val)


def hardtanh_(input: Tensor, min_val: float = -1.0, max_val: float = 1.0) -> Tensor:
    """`hardtanh` in place"""
    return hardtanh(input, min_val, max_val, True)


def relu6(input: Tensor, inplace: bool = False) -> Tensor:
    """x held between 0 and 6"""
    return hardtanh(input, 0.0, 6.0, inplace)


# -- exponential units
# ---------------------------------------------------------------------------------------------------


def elu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """x if x > 0, else alpha·(eˣ − 1). Clevert et al. 2016."""
    return _called(_act.elu, input, inplace, alpha=alpha, scale=1.0, input_scale=1.0)


def elu_(input: Tensor, alpha: float = 1.0) -> Tensor:
    """`elu` in place"""
    return elu(input, alpha, True)


def celu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """x if x > 0, else alpha·(e^(x/alpha) − 1). Barron 2017."""
    if alpha == 0:
        raise ArgumentError("celu: expected alpha other than 0, got 0")
    return _called(_act.elu, input, inplace, alpha=alpha, scale=1.0, input_scale=1.0 / alpha)


def celu_(input: Tensor, alpha: float = 1.0) -> Tensor:
    """`celu` in place"""
    return celu(input, alpha, True)


# the fixed point of Klambauer et al. 2017: mean 0 and variance 1 are kept
SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805


def selu(input: Tensor, inplace: bool = False) -> Tensor:
    """`elu` with the two constants that keep mean 0 and variance 1. Klambauer et al. 2017."""
    return _called(_act.elu, input, inplace, alpha=SELU_ALPHA, scale=SELU_SCALE, input_scale=1.0)


def selu_(input: Tensor) -> Tensor:
    """`selu` in place"""
    return selu(input, True)


def softplus(input: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """ln(1 + e^(beta·x)) / beta; x itself where beta·x > threshold"""
    return _act.softplus(input, beta=beta, threshold=threshold)


# -- smooth units
# --------------------------------------------------------------------------------------------------------


def gelu(input: Tensor, approximate: str = "none") -> Tensor:
    """x·Φ(x), or its approximation by "tanh" """
    if approximate not in ("none", "tanh"):
        raise ArgumentError(f"gelu: expected approximate 'none' or 'tanh', got {approximate!r}")
    return _act.gelu(input, approximate=approximate)


def silu(input: Tensor, inplace: bool = False) -> Tensor:
    """x·σ(x)"""
    return _called(_act.silu, input, inplace)


def mish(input: Tensor, inplace: bool = False) -> Tensor:
    """x·tanh(softplus(x))"""
    return _called(_act.mish, input, inplace)


def hardswish(input: Tensor, inplace: bool = False) -> Tensor:
    """x·clip(x + 3, 0, 6) / 6"""
    return _called(_act.hardswish, input, inplace)


def hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    """clip(x + 3, 0, 6) / 6"""
    return _called(_act.hardsigmoid, input, inplace)


def softsign(input: Tensor) -> Tensor:
    """x / (1 + |x|)"""
    return input / (_pw.abs(input) + 1)


def tanhshrink(input: Tensor) -> Tensor:
    """x − tanh x"""
    return input - _pw.tanh(input)


def softshrink(input: Tensor, lambd: float = 0.5) -> Tensor:
    """x moved by lambd towards zero; zero within ±lambd"""
    if lambd < 0:
        raise ArgumentError(f"softshrink: expected lambda >= 0, got {lambd}")
    return _act.softshrink(input, lambd=lambd)


def hardshrink(input: Tensor, lambd: float = 0.5) -> Tensor:
    """x outside of ±lambd, else zero"""
    return _act.hardshrink(input, lambd=lambd)


def glu(input: Tensor, dim: int = -1) -> Tensor:
    """a·σ(b), where a and b are the halves of x along `dim`. Dauphin et al. 2017."""
    if not input._a.ndim:
        raise ShapeError("glu: expected a tensor with dimensions, got a 0-d tensor")
    n = input._a.shape[_dim(dim, input._a.ndim, "glu")]
    if n % 2:
        raise ShapeError(f"glu: expected an even length of dim {dim}, got {n}")
    half = n // 2
    return _shape.narrow(input, dim=dim, start=0, length=half) * _pw.sigmoid(
        _shape.narrow(input, dim=dim, start=half, length=half)
    )


# -- along a dimension
# ---------------------------------------------------------------------------------------------------


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


def softmin(input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> Tensor:
    """softmax(−x) along `dim`."""
    return softmax(-input, dim, dtype=dtype)


def gumbel_softmax(logits: Tensor, tau: float = 1, hard: bool = False, eps: float = 1e-10, dim: int = -1) -> Tensor:
    """A sample of softmax((logits + Gumbel noise) / tau); `hard`: one-hot, with the gradient of the soft one. Jang et
    al. 2017.
    """
    a = logits._a
    u = rng.default_generator.uniform(a.size, np.dtype(np.float64)).reshape(a.shape)
    noise = -np.log(np.maximum(-np.log1p(-u), np.finfo(np.float32).tiny))
    y = _nn.softmax((logits + wrap(backend.of(a).from_numpy(noise.astype(a.dtype)))) / tau, dim=dim)
    if not hard:
        return y
    one = _index.scatter(_shape.zero(y), y.argmax(dim, keepdim=True), 1.0, dim=dim)
    return one - y.detach() + y
