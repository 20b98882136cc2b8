"""Activations as functions."""

from __future__ import annotations

from typing import Any

from core._tensor import Tensor
from core.ops import nn as _nn
from core.ops import pointwise as _pw
from core.ops.pointwise import sigmoid as sigmoid
from core.ops.pointwise import tanh as tanh

__all__ = ["log_softmax", "relu", "relu_", "sigmoid", "softmax", "tanh"]


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
