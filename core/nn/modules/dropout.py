"""Dropout."""

from __future__ import annotations

from core._tensor import Tensor
from core.errors import ArgumentError
from core.nn import functional as F
from core.nn.modules.module import Module


class Dropout(Module):
    """While training, elements become zero with probability p and the rest are divided by 1 − p. Srivastava et al. 2014."""

    def __init__(self, p: float = 0.5, inplace: bool = False):
        super().__init__()
        if not 0 <= p <= 1:
            raise ArgumentError(f"dropout probability has to be between 0 and 1, but got {p}")
        self.p, self.inplace = p, inplace

    def forward(self, input: Tensor) -> Tensor:
        return F.dropout(input, self.p, self.training, self.inplace)

    def extra_repr(self) -> str:
        return f"p={self.p}, inplace={self.inplace}"
