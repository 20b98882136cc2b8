"""Flatten and Unflatten."""

from __future__ import annotations

from typing import Any

from core import functions
from core._tensor import Tensor, _dim
from core.errors import ArgumentError
from core.nn.modules.module import Module


class Flatten(Module):
    """The dimensions from start_dim to end_dim as one: (N, *) -> (N, ∏*) by default"""

    def __init__(self, start_dim: int = 1, end_dim: int = -1):
        super().__init__()
        self.start_dim, self.end_dim = start_dim, end_dim

    def forward(self, input: Tensor) -> Tensor:
        return functions.flatten(input, self.start_dim, self.end_dim)

    def extra_repr(self) -> str:
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"


class Unflatten(Module):
    """One dimension as several, of which one length may be −1"""

    def __init__(self, dim: int, unflattened_size: Any):
        super().__init__()
        if not isinstance(dim, int) or not all(isinstance(n, int) for n in unflattened_size):
            raise ArgumentError(
                f"Unflatten: expected a dimension and a tuple of lengths, got {dim!r} and {unflattened_size!r}; "
                "named tensors are not supported"
            )
        self.dim, self.unflattened_size = dim, unflattened_size

    def forward(self, input: Tensor) -> Tensor:
        d = _dim(self.dim, input.dim(), "Unflatten")
        shape = input._a.shape
        return functions.reshape(input, (*shape[:d], *self.unflattened_size, *shape[d + 1 :]))

    def extra_repr(self) -> str:
        return f"dim={self.dim}, unflattened_size={self.unflattened_size}"
