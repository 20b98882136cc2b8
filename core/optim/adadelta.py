"""Adadelta."""

from __future__ import annotations

from typing import Any

from core.errors import ArgumentError
from core.optim.optimizer import Optimizer, check, counter, zeros_like


class Adadelta(Optimizer):
    """v ← rho·v + (1−rho)g², d = g·√(u + eps) / √(v + eps), u ← rho·u + (1−rho)d², x ← x − lr·d.

    `weight_decay` adds weight_decay·x to g. Source: Zeiler 2012.
    """

    def __init__(
        self, params: Any, lr: float = 1.0, rho: float = 0.9, eps: float = 1e-6, weight_decay: float = 0, foreach: Any = None,
        *, capturable: bool = False, maximize: bool = False, differentiable: bool = False,
    ):  # fmt: skip
        check("Adadelta", lr=lr, rho=rho, eps=eps, weight_decay=weight_decay)
        if rho > 1:
            raise ArgumentError(f"Adadelta: Invalid rho: expected a number in [0, 1], got {rho}")
        super().__init__(
            params,
            {
                "lr": lr, "rho": rho, "eps": eps, "weight_decay": weight_decay, "maximize": maximize, "capturable": capturable,
                "foreach": foreach, "differentiable": differentiable,
            },
        )  # fmt: skip

    def init(self, p, group):
        return {"step": counter(), "square_avg": zeros_like(p), "acc_delta": zeros_like(p)}

    def update(self, be, x_, g, state, group):
        xp, rho, eps = be.xp, group["rho"], group["eps"]
        state["step"]._a += 1
        if group["weight_decay"]:
            g = g + x_ * group["weight_decay"]
        v_, u_ = state["square_avg"]._a, state["acc_delta"]._a
        v_ *= rho
        v_ += (g * g) * (1 - rho)
        d = xp.sqrt(u_ + eps)
        d /= xp.sqrt(v_ + eps)
        d *= g
        u_ *= rho
        u_ += (d * d) * (1 - rho)
        x_ -= d * group["lr"]
