"""Muon."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from core.errors import ArgumentError, unknown_name
from core.optim.optimizer import Optimizer, check, zeros_like


class Muon(Optimizer):
    """b ← b + (1−momentum)(g − b), x ← x·(1 − lr·weight_decay) − lr·c·O(b), O(b) nearly the orthogonal matrix next to
    b. For matrices only.

    Nesterov: O(g + momentum·(b − g)). c is √max(1, M/N), or 0.2·√max(M, N) for `adjust_lr_fn="match_rms_adamw"`. O is
    `ns_steps` steps of the Newton-Schulz iteration X ← aX + (bS + cS²)X, S = XXᵀ, done in float32 where PyTorch rounds
    to bfloat16.
    Source: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/
    """

    def __init__(
        self, params: Any, lr: float = 1e-3, weight_decay: float = 0.1, momentum: float = 0.95, nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = (3.4445, -4.7750, 2.0315), eps: float = 1e-7, ns_steps: int = 5,
        adjust_lr_fn: str | None = None,
    ):  # fmt: skip
        check("Muon", lr=lr, weight_decay=weight_decay, momentum=momentum)
        if adjust_lr_fn not in _ADJUST:
            raise ArgumentError(unknown_name("Muon", "adjust_lr_fn", adjust_lr_fn, filter(None, _ADJUST)))
        if len(ns_coefficients) != 3 or not ns_steps < 100:
            raise ArgumentError(
                f"Muon: expected 3 ns_coefficients and ns_steps < 100, got {ns_coefficients} and {ns_steps}"
            )
        super().__init__(
            params,
            {
                "lr": lr, "weight_decay": weight_decay, "momentum": momentum, "nesterov": nesterov, "ns_coefficients": ns_coefficients,
                "eps": eps, "ns_steps": ns_steps, "adjust_lr_fn": adjust_lr_fn,
            },
        )  # fmt: skip

    def add_param_group(self, param_group):
        super().add_param_group(param_group)
        for p in self.param_groups[-1]["params"]:
            if p.ndim != 2:
                shape = tuple(p.shape)
                self.param_groups.pop()
                raise ArgumentError(
                    f"Muon only supports 2D parameters, got one of shape {shape}; give the others to AdamW"
                )

    def init(self, p, group):
        return {"momentum_buffer": zeros_like(p)}

    def update(self, be, x_, g, state, group):
        momentum, lr = group["momentum"], group["lr"]
        b_ = state["momentum_buffer"]._a
        b_ += (g - b_) * (1 - momentum)
        o = orthogonal(be.xp, g + (b_ - g) * momentum if group["nesterov"] else b_, group)
        x_ *= 1 - lr * group["weight_decay"]
        x_ -= (o * (lr * _ADJUST[group["adjust_lr_fn"]](*x_.shape))).astype(x_.dtype, copy=False)


def orthogonal(xp: Any, x: Any, group: dict[str, Any]) -> Any:
    """(M, N) -> (M, N): the singular values of x brought near 1."""
    a, b, c = group["ns_coefficients"]
    x = x.astype(np.result_type(x.dtype, np.float32) if x.dtype.kind == "f" else np.float32)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / max(float(xp.linalg.norm(x)), group["eps"])
    for _ in range(group["ns_steps"]):
        s = x @ x.T
        x = a * x + (b * s + c * (s @ s)) @ x
    return x.T if tall else x


def _original(m: int, n: int) -> float:
    return math.sqrt(max(1, m / n))


_ADJUST = {None: _original, "original": _original, "match_rms_adamw": lambda m, n: 0.2 * math.sqrt(max(m, n))}
