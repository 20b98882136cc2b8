"""Padding as a function."""

from __future__ import annotations

from typing import Any

from core._tensor import Tensor
from core.errors import ArgumentError
from core.ops import shape as _shape

__all__ = ["pad"]


def pad(input: Tensor, pad: Any, mode: str = "constant", value: Any = None) -> Tensor:
    """`pad` is (before, after) for the last dimension, then the one before it, and so on; negative numbers cut."""
    if mode != "constant":
        raise ArgumentError(f"pad: expected mode 'constant', got {mode!r}")
    return _shape.constant_pad(input, pad=tuple(int(p) for p in pad), value=0.0 if value is None else value)
