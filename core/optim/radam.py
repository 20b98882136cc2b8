"""RAdam."""

from __future__ import annotations

import math
from typing import Any

from core.optim.optimizer import Optimizer, check, counter, zeros_like


class RAdam(Optimizer):
    """Adam that waits for v to be worth dividing by: x ← x − lr·m̂ while ρₜ ≤ 5, then x ← x − lr·r·m̂·√(1−β₂ᵗ) / (√v +
    eps).

    ρ∞ = 2/(1−β₂) − 1, ρₜ = ρ∞ − 2tβ₂ᵗ/(1−β₂ᵗ), r² = (ρₜ−4)(ρₜ−2)ρ∞ / ((ρ∞−4)(ρ∞−2)ρₜ). `weight_decay` adds
    weight_decay·x to g, or is as in AdamW if decoupled. Source: Liu et al. 2020.
    """

    def __init__(
        self, params: Any, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 0,
        decoupled_weight_decay: bool = False, *, foreach: Any = None, maximize: bool = False, capturable: bool = False,
        differentiable: bool = False,
    ):  # fmt: skip
        check("RAdam", lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
        super().__init__(
            params,
            {
                "lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "maximize": maximize, "foreach": foreach,
                "capturable": capturable, "decoupled_weight_decay": decoupled_weight_decay, "differentiable": differentiable,
            },
        )  # fmt: skip

    def init(self, p, group):
        return {"step": counter(), "exp_avg": zeros_like(p), "exp_avg_sq": zeros_like(p)}

    def update(self, be, x_, g, state, group):
        lr, (beta1, beta2) = group["lr"], group["betas"]
        state["step"]._a += 1
        step = float(state["step"]._a)
        if group["weight_decay"]:
            if group["decoupled_weight_decay"]:
                x_ *= 1 - lr * group["weight_decay"]
            else:
                g = g + x_ * group["weight_decay"]
        m_, v_ = state["exp_avg"]._a, state["exp_avg_sq"]._a
        m_ += (g - m_) * (1 - beta1)
        v_ *= beta2
        v_ += (g * g) * (1 - beta2)
        left2 = 1 - beta2**step
        rate = lr / (1 - beta1**step)
        end = 2 / (1 - beta2) - 1
        rho = end - 2 * step * beta2**step / left2
        if rho > 5:
            rate *= math.sqrt((rho - 4) * (rho - 2) * end / ((end - 4) * (end - 2) * rho) * left2)
            root = be.xp.sqrt(v_)
            root += group["eps"]
            x_ -= m_ / root * rate
        else:
            x_ -= m_ * rate
