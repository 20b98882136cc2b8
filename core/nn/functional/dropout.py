"""Dropout as functions. All masks are drawn here, from the default generator; on a GPU by the GPU, from its own."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np

from core import backend, rng
from core._tensor import Tensor, wrap
from core.cuda import random as cuda_random
from core.errors import ArgumentError
from core.ops import nn as _nn

__all__ = ["alpha_dropout", "dropout", "dropout1d", "dropout2d", "dropout3d", "feature_alpha_dropout"]


def _check(p: float, where: str) -> None:
    if not 0 <= p <= 1:
        raise ArgumentError(f"{where}: dropout probability has to be between 0 and 1, but got {p}")


def dropped(shape: tuple[int, ...], p: float, like: Tensor) -> Tensor:
    """A mask of zeros, with probability p, and 1/(1 − p), of the dtype and device of a tensor."""
    be: Any = backend.of(like._a)
    d = like._a.dtype
    if be.device_type == "cuda":
        mask = cuda_random.dropout_mask(be, be.index_of(like._a), shape, d, p)
        if mask is not None:
            return wrap(mask)
    keep = rng.default_generator.below(math.prod(shape), 1 - p).reshape(shape)
    scale = d.type(0 if p == 1 else 1 / (1 - p))
    if d.itemsize == 2:  # which NumPy is slow at
        return wrap(be.from_numpy(backend.get("cpu").cast(keep * np.float32(scale), d)))
    return wrap(be.from_numpy(keep * scale))


def _applied(input: Tensor, shape: tuple[int, ...], p: float, inplace: bool) -> Tensor:
    mask = dropped(shape, p, input)
    return _nn.dropout_mask.inplace(input, mask) if inplace else _nn.dropout_mask(input, mask)


def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Elements set to zero with probability p, the rest divided by 1 − p; nothing unless `training`."""
    _check(p, "dropout")
    return _applied(input, input._a.shape, p, inplace) if training and p else input


def _channels(input: Tensor, p: float, training: bool, inplace: bool, dims: int, where: str) -> Tensor:
    """Whole channels of (N, C, *) or (C, *) at once. Tompson et al. 2015."""
    _check(p, where)
    lead = input.dim() - dims
    if lead not in (1, 2):
        warnings.warn(
            f"{where}: Received a {input.dim()}-D input to {where}, which is deprecated and will result in an error "
            f"in a future "
            f"release. Expected {dims + 1}-D or {dims + 2}-D",
            stacklevel=3,
        )
        lead = 2
    if not training or not p:
        return input
    shape = (*input._a.shape[:lead], *(1,) * (input.dim() - lead))
    return _applied(input, shape, p, inplace)


def dropout1d(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """`dropout` of whole channels of (N, C, L) or (C, L)"""
    return _channels(input, p, training, inplace, 1, "dropout1d")


def dropout2d(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """`dropout` of whole channels of (N, C, H, W); a (N, C, L) is taken as such, not as (C, H, W), as in torch"""
    if input.dim() == 3:
        return _channels(input, p, training, inplace, 1, "dropout2d")
    return _channels(input, p, training, inplace, 2, "dropout2d")


def dropout3d(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """`dropout` of whole channels of (N, C, D, H, W) or (C, D, H, W)"""
    return _channels(input, p, training, inplace, 3, "dropout3d")


# −scale·alpha of `selu`: what its output tends to for x → −∞
_SATURATED = -1.7580993408473766


def _alpha(input: Tensor, shape: tuple[int, ...], p: float, inplace: bool) -> Tensor:
    """Dropped elements become selu's saturation value; then a linear map restores mean 0 and variance 1. Klambauer et
    al. 2017.
    """
    keep = (dropped(shape, p, input)._a != 0).astype(input._a.dtype)
    a = 0.0 if p == 1 else 1 / math.sqrt((1 - p) * (1 + p * _SATURATED**2))
    shift = wrap((1 - keep) * (a * _SATURATED) - a * p * _SATURATED)
    y = _nn.dropout_mask(input, wrap(keep * a)) + shift
    return input.copy_(y) if inplace else y


def alpha_dropout(input: Tensor, p: float = 0.5, training: bool = False, inplace: bool = False) -> Tensor:
    """`dropout` for `selu`: keeps mean 0 and variance 1"""
    _check(p, "alpha_dropout")
    return _alpha(input, input._a.shape, p, inplace) if training and p else input


def feature_alpha_dropout(input: Tensor, p: float = 0.5, training: bool = False, inplace: bool = False) -> Tensor:
    """`alpha_dropout` of whole channels of (N, C, *)"""
    _check(p, "feature_alpha_dropout")
    if not training or not p:
        return input
    return _alpha(input, (*input._a.shape[:2], *(1,) * (input.dim() - 2)), p, inplace)
