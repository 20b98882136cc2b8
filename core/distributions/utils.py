"""torch.distributions.utils: what distributions are written with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import core
import core.nn.functional as F
from core._tensor import Tensor
from core.errors import ArgumentError

__all__ = [
    "broadcast_all",
    "clamp_probs",
    "lazy_property",
    "logits_to_probs",
    "probs_to_logits",
    "tril_matrix_to_vec",
    "vec_to_tril_matrix",
]


def broadcast_all(*values: Any) -> list[Tensor]:
    """Numbers and tensors as tensors of one shape."""
    like = next((v for v in values if isinstance(v, Tensor)), core.zeros(()))
    if not all(isinstance(v, (Tensor, int, float, bool)) for v in values):
        raise ArgumentError(f"broadcast_all: expected numbers and tensors, got {[type(v).__name__ for v in values]}")
    tensors = [
        v if isinstance(v, Tensor) else core.full((), float(v), dtype=like.dtype, device=like.device) for v in values
    ]
    return list(core.broadcast_tensors(*tensors))


def one_of(where: str, probs: Any, logits: Any) -> Any:
    """The one that was given."""
    if (probs is None) == (logits is None):
        raise ArgumentError(f"{where}: expected either probs or logits, got both or neither")
    return probs if logits is None else logits


def logits_to_probs(logits: Tensor, is_binary: bool = False) -> Tensor:
    """Sigmoid, or softmax over the last dimension."""
    return logits.sigmoid() if is_binary else F.softmax(logits, dim=-1)


def clamp_probs(probs: Tensor) -> Tensor:
    """Away from 0 and 1 by the dtype's precision."""
    eps = core.finfo(probs.dtype).eps
    return probs.clamp(eps, 1 - eps)


def probs_to_logits(probs: Tensor, is_binary: bool = False) -> Tensor:
    """ln p/(1 − p), or ln p."""
    p = clamp_probs(probs)
    return p.log() - (-p).log1p() if is_binary else p.log()


class lazy_property:
    """A property that is computed at the first use and then is an attribute."""

    def __init__(self, wrapped: Callable[[Any], Any]):
        self.wrapped = wrapped
        self.__doc__ = wrapped.__doc__
        self.name = wrapped.__name__

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        if instance is None:
            return self
        with core.enable_grad():
            value = self.wrapped(instance)
        instance.__dict__[self.name] = value
        return value


class SuccessProbability:
    """Mixed into distributions that are given the probability of a success, as `probs` or as `logits`, and compute the other one."""

    @lazy_property
    def probs(self) -> Tensor:
        """The probability of a success."""
        return logits_to_probs(self.logits, is_binary=True)

    @lazy_property
    def logits(self) -> Tensor:
        """ln p/(1 − p)"""
        return probs_to_logits(self.probs, is_binary=True)


def standard_normal(shape: Any, like: Tensor) -> Tensor:
    """Normal numbers of like's dtype and device."""
    return core.randn(*shape, dtype=like.dtype, device=like.device)


def sum_rightmost(x: Tensor, n: int) -> Tensor:
    """The sum over the last n dimensions."""
    return x if n == 0 else x.reshape(*x.shape[: x.dim() - n], -1).sum(-1)


def tril_matrix_to_vec(mat: Tensor, diag: int = 0) -> Tensor:
    """(*, n, n) -> the elements on and below a diagonal, row by row."""
    n = mat.shape[-1]
    rows, columns = core.tril_indices(n, n, diag)
    return mat[..., rows, columns]


def vec_to_tril_matrix(vec: Tensor, diag: int = 0) -> Tensor:
    """The inverse of `tril_matrix_to_vec`."""
    n = round((-(1 + 2 * diag) + ((1 + 2 * diag) ** 2 + 8 * vec.shape[-1] + 4 * abs(diag) * (diag + 1)) ** 0.5) / 2)
    mat = vec.new_zeros((*vec.shape[:-1], n, n))
    rows, columns = core.tril_indices(n, n, diag)
    mat[..., rows, columns] = vec
    return mat
