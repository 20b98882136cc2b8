"""Gradients held within bounds, in place."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

from core._tensor import Tensor, _grad_mode
from core.creation import tensor
from core.errors import GraphError
from core.functions import norm as _norm
from core.ops import shape as _shape


def _listed(parameters: Tensor | Iterable[Tensor]) -> list[Tensor]:
    return [parameters] if isinstance(parameters, Tensor) else list(parameters)


def get_total_norm(
    tensors: Tensor | Iterable[Tensor], norm_type: float = 2.0, error_if_nonfinite: bool = False,
    foreach: bool | None = None
) -> Tensor:  # fmt: skip
    """The norm of the norms: that of all elements together"""
    found = _listed(tensors)
    if not found:
        return tensor(0.0)
    with _grad_mode(False):
        first = found[0].device
        norms = _shape.stack([_norm(t.detach(), float(norm_type)).to(first) for t in found])
        total = _norm(norms, float(norm_type))
    if error_if_nonfinite and not bool(total.isfinite().all()):
        raise GraphError(
            f"The total norm of order {norm_type} for gradients from `parameters` is non-finite, so it cannot be "
            f"clipped. To disable "
            "this error and scale the gradients by the non-finite norm anyway, set `error_if_nonfinite=False`"
        )
    return total


def clip_grads_with_norm_(
    parameters: Tensor | Iterable[Tensor], max_norm: float, total_norm: Tensor, foreach: bool | None = None
) -> None:
    """Scale the gradients by max_norm / total_norm, if that is less than 1."""
    # torch never asks whether it is less: the product with 1 costs less than a wait for the device
    scale = (float(max_norm) / (total_norm + 1e-6)).clamp(None, 1.0)
    with _grad_mode(False):
        for p in _listed(parameters):
            if p.grad is not None:
                p.grad.mul_(scale.to(p.grad.device).to(p.grad.dtype))


def clip_grad_norm_(
    parameters: Tensor | Iterable[Tensor], max_norm: float, norm_type: float = 2.0, error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:  # fmt: skip
    """Scale all gradients so that their norm together is at most max_norm. Returns what it was. Pascanu et al. 2013."""
    params = _listed(parameters)
    total = get_total_norm([p.grad for p in params if p.grad is not None], norm_type, error_if_nonfinite)
    clip_grads_with_norm_(params, max_norm, total)
    return total


def clip_grad_norm(parameters: Any, max_norm: float, norm_type: float = 2.0, **others: Any) -> Tensor:
    """`clip_grad_norm_` under its older name"""
    warnings.warn(
        "`torch.nn.utils.clip_grad_norm` is now deprecated in favor of `torch.nn.utils.clip_grad_norm_`.",
        FutureWarning, stacklevel=2
    )
    return clip_grad_norm_(parameters, max_norm, norm_type, **others)


def clip_grad_value_(parameters: Tensor | Iterable[Tensor], clip_value: float, foreach: bool | None = None) -> None:
    """Hold every element of every gradient within ±clip_value."""
    bound = float(clip_value)
    with _grad_mode(False):
        for p in _listed(parameters):
            if p.grad is not None:
                p.grad.clamp_(-bound, bound)
