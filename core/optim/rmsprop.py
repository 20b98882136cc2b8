"""RMSprop."""

from __future__ import annotations

from typing import Any

from core.optim.optimizer import Optimizer, check, counter, zeros_like


class RMSprop(Optimizer):
    """v ← alpha·v + (1−alpha)g², x ← x − lr·g / (√v + eps); with momentum: b ← momentum·b + g / (√v + eps), x ← x −
    lr·b.

    `centered` takes the square of the mean of g from v; `weight_decay` adds weight_decay·x to g. Sources: Tieleman &
    Hinton 2012; Graves 2013.
    """

    def __init__(
        self, params: Any, lr: float = 1e-2, alpha: float = 0.99, eps: float = 1e-8, weight_decay: float = 0, momentum: float = 0,
        centered: bool = False, capturable: bool = False, foreach: Any = None, maximize: bool = False, differentiable: bool = False,
    ):  # fmt: skip
        check("RMSprop", lr=lr, alpha=alpha, eps=eps, weight_decay=weight_decay, momentum=momentum)
        super().__init__(
            params,
            {
                "lr": lr, "momentum": momentum, "alpha": alpha, "eps": eps, "centered": centered, "weight_decay": weight_decay,
                "capturable": capturable, "foreach": foreach, "maximize": maximize, "differentiable": differentiable,
            },
        )  # fmt: skip

    def init(self, p, group):
        state = {"step": counter(), "square_avg": zeros_like(p)}
        if group["momentum"] > 0:
            state["momentum_buffer"] = zeros_like(p)
        if group["centered"]:
            state["grad_avg"] = zeros_like(p)
        return state

    def update(self, be, x_, g, state, group):
        alpha = group["alpha"]
        state["step"]._a += 1
        if group["weight_decay"]:
            g = g + x_ * group["weight_decay"]
        v_ = state["square_avg"]._a
        v_ *= alpha
        v_ += (g * g) * (1 - alpha)
        if group["centered"]:
            m_ = state["grad_avg"]._a
            m_ += (g - m_) * (1 - alpha)
            root = be.xp.sqrt(v_ - m_ * m_)
        else:
            root = be.xp.sqrt(v_)
        root += group["eps"]
        if group["momentum"] > 0:
            b_ = state["momentum_buffer"]._a
            b_ *= group["momentum"]
            b_ += g / root
            x_ -= b_ * group["lr"]
        else:
            x_ -= g / root * group["lr"]
