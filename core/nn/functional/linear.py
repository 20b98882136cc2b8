"""Linear and bilinear maps as functions."""

from __future__ import annotations

from typing import Any

from core._tensor import Tensor
from core.errors import ShapeError
from core.ops import linalg as _linalg
from core.ops.linalg import linear as linear

__all__ = ["bilinear", "linear"]


def bilinear(input1: Tensor, input2: Tensor, weight: Tensor, bias: Any = None) -> Tensor:
    """yₖ = x₁ᵀ Wₖ x₂ + bₖ: (*, I), (*, J), (K, I, J), (K) -> (*, K)"""
    k, i, j = weight._a.shape
    lead = input1._a.shape[:-1]
    if input2._a.shape[:-1] != lead or input1._a.shape[-1:] != (i,) or input2._a.shape[-1:] != (j,):
        raise ShapeError(
            f"bilinear: expected inputs (*, {i}) and (*, {j}) for weight {(k, i, j)}, got {tuple(input1.shape)} and "
            f"{tuple(input2.shape)}"
        )
    # one product for x₁ᵀ W, another for each row with x₂
    left = _linalg.matmul(input1.reshape(-1, i), weight.permute(1, 0, 2).reshape(i, k * j)).reshape(-1, k, j)
    y = _linalg.matmul(left, input2.reshape(-1, j, 1)).reshape(*lead, k)
    return y if bias is None else y + bias
