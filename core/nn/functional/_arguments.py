"""How torch lets arguments be written."""

from __future__ import annotations

from typing import Any

import numpy as np

from core._tensor import Tensor
from core.errors import ArgumentError, ShapeError
from core.ops import reduce as _reduce
from core.ops import shape as _shape


def tuple_of(value: Any, n: int, where: str) -> tuple[int, ...]:
    """One number for each of n dimensions."""
    if isinstance(value, (int, np.integer)):
        return (int(value),) * n
    values = tuple(int(v) for v in value)
    if len(values) == 1:
        return values * n
    if len(values) != n:
        raise ArgumentError(f"{where}: expected one number or {n}, got {values}")
    return values


def batched(input: Tensor, n: int, where: str) -> tuple[Tensor, bool]:
    if input.ndim not in (n + 1, n + 2):
        raise ShapeError(f"{where}: expected input of {n + 1} or {n + 2} dimensions, got shape {tuple(input.shape)}")
    single = input.ndim == n + 1
    return (_shape.unsqueeze(input, dim=0) if single else input), single


def reduction_of(size_average: Any, reduce: Any, reduction: str) -> str:
    """torch's old pair of flags as the word that replaced it."""
    if size_average is None and reduce is None:
        return reduction
    return "none" if reduce is False else "sum" if size_average is False else "mean"


def reduced(loss: Tensor, reduction: str, where: str) -> Tensor:
    if reduction == "mean":
        return _reduce.mean(loss)
    if reduction == "sum":
        return _reduce.sum(loss)
    if reduction == "none":
        return loss
    raise ArgumentError(f"{where}: expected reduction 'none', 'mean' or 'sum', got {reduction!r}")
