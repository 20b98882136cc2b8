"""Dropout as a function."""

from __future__ import annotations

import numpy as np

from core import backend, rng
from core._tensor import Tensor, wrap
from core.errors import ArgumentError
from core.ops import nn as _nn

__all__ = ["dropout"]


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
