"""NAdam."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from core._tensor import wrap
from core.optim.optimizer import Optimizer, check, counter, zeros_like


class NAdam(Optimizer):
    """Adam with Nesterov momentum: x ← x − lr·((1−μₜ)/(1−Πμ)·g + μₜ₊₁/(1−Πμ·μₜ₊₁)·m) / (√v̂ + eps), μₜ = β₁(1 −
    ½·0.96^(t·momentum_decay)).

    m, v̂ as in Adam. `weight_decay` adds weight_decay·x to g, or is as in AdamW if decoupled. Source: Dozat 2016.
    """

    def __init__(
        self, params: Any, lr: float = 2e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 0,
        momentum_decay: float = 4e-3, decoupled_weight_decay: bool = False, *, foreach: Any = None, maximize: bool = False,
        capturable: bool = False, differentiable: bool = False,
    ):  # fmt: skip
        check("NAdam", lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, momentum_decay=momentum_decay)
        super().__init__(
            params,
            {
                "lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "momentum_decay": momentum_decay,
                "decoupled_weight_decay": decoupled_weight_decay, "maximize": maximize, "foreach": foreach, "capturable": capturable,
                "differentiable": differentiable,
            },
        )  # fmt: skip

    def init(self, p, group):
        product = wrap(np.ones((), dtype=np.float32))
        return {"step": counter(), "mu_product": product, "exp_avg": zeros_like(p), "exp_avg_sq": zeros_like(p)}

    def update(self, be, x_, g, state, group):
        lr, (beta1, beta2), decay = group["lr"], group["betas"], group["momentum_decay"]
        state["step"]._a += 1
        step = float(state["step"]._a)
        if group["weight_decay"]:
            if group["decoupled_weight_decay"]:
                x_ *= 1 - lr * group["weight_decay"]
            else:
                g = g + x_ * group["weight_decay"]
        mu, mu_next = (beta1 * (1 - 0.5 * 0.96 ** (t * decay)) for t in (step, step + 1))
        state["mu_product"]._a *= mu
        product = float(state["mu_product"]._a)
        m_, v_ = state["exp_avg"]._a, state["exp_avg_sq"]._a
        m_ += (g - m_) * (1 - beta1)
        v_ *= beta2
        v_ += (g * g) * (1 - beta2)
        denominator = be.xp.sqrt(v_)
        denominator /= math.sqrt(1 - beta2**step)
        denominator += group["eps"]
        look_ahead = g * (lr * (1 - mu) / (1 - product))
        look_ahead += m_ * (lr * mu_next / (1 - product * mu_next))
        x_ -= look_ahead / denominator
