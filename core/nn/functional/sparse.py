"""Embeddings as functions."""

from __future__ import annotations

from typing import Any

import numpy as np

from core import backend
from core._tensor import Tensor, wrap
from core.ops import index as _index

__all__ = ["embedding", "one_hot"]


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
