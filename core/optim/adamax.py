"""Adamax."""

from __future__ import annotations

from typing import Any

from core.optim.optimizer import Optimizer, check, counter, zeros_like


class Adamax(Optimizer):
    """m ← β₁m + (1−β₁)g, u ← max(β₂u, |g| + eps), x ← x − lr / (1 − β₁ᵗ)·m / u: Adam with the infinity norm.

    `weight_decay` adds weight_decay·x to g. Source: Kingma & Ba 2015, section 7.1.
    """

    def __init__(
        self, params: Any, lr: float = 2e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 0,
        foreach: Any = None, *, maximize: bool = False, differentiable: bool = False, capturable: bool = False,
    ):  # fmt: skip
        check("Adamax", lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
        super().__init__(
            params,
            {
                "lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "foreach": foreach, "maximize": maximize,
                "differentiable": differentiable, "capturable": capturable,
            },
        )  # fmt: skip

    def init(self, p, group):
        return {"step": counter(), "exp_avg": zeros_like(p), "exp_inf": zeros_like(p)}

    def update(self, be, x_, g, state, group):
        xp, (beta1, beta2) = be.xp, group["betas"]
        state["step"]._a += 1
        if group["weight_decay"]:
            g = g + x_ * group["weight_decay"]
        m_, u_ = state["exp_avg"]._a, state["exp_inf"]._a
        m_ += (g - m_) * (1 - beta1)
        u_ *= beta2
        xp.maximum(u_, xp.abs(g) + group["eps"], out=u_)
        x_ -= m_ / u_ * (group["lr"] / (1 - beta1 ** float(state["step"]._a)))
