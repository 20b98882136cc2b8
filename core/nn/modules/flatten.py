"""Flatten."""

from __future__ import annotations

from core import functions
from core._tensor import Tensor
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
