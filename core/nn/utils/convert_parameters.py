"""Parameters as one vector, and back."""

from __future__ import annotations

from collections.abc import Iterable

from core._tensor import Tensor
from core.errors import DTypeError
from core.ops import shape as _shape


def parameters_to_vector(parameters: Iterable[Tensor]) -> Tensor:
    """All elements in order, as one vector; part of the graph"""
    return _shape.cat([p.reshape(-1) for p in parameters])


def vector_to_parameters(vec: Tensor, parameters: Iterable[Tensor]) -> None:
    """Let each parameter's memory be its part of the vector."""
    if not isinstance(vec, Tensor):
        raise DTypeError(f"expected torch.Tensor, but got: {type(vec).__name__}")
    start = 0
    for p in parameters:
        p.data = vec[start : start + p.numel()].detach().view(p.shape)
        start += p.numel()
