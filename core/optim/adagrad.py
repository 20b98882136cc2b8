"""Adagrad."""

from __future__ import annotations

from typing import Any

from core.optim.optimizer import Optimizer, check, counter, zeros_like


class Adagrad(Optimizer):
    """s ← s + g², x ← x − lr·g / (√s + eps), with lr / (1 + (step − 1)·lr_decay) for lr.

    s starts at `initial_accumulator_value`; `weight_decay` adds weight_decay·x to g. Source: Duchi, Hazan & Singer
    2011.
    """

    def __init__(
        self, params: Any, lr: float = 1e-2, lr_decay: float = 0, weight_decay: float = 0, initial_accumulator_value: float = 0,
        eps: float = 1e-10, foreach: Any = None, *, maximize: bool = False, differentiable: bool = False, fused: Any = None,
    ):  # fmt: skip
        start = initial_accumulator_value
        check("Adagrad", lr=lr, lr_decay=lr_decay, weight_decay=weight_decay, initial_accumulator_value=start, eps=eps)
        super().__init__(
            params,
            {
                "lr": lr, "lr_decay": lr_decay, "eps": eps, "weight_decay": weight_decay, "initial_accumulator_value": start,
                "foreach": foreach, "maximize": maximize, "differentiable": differentiable, "fused": fused,
            },
        )  # fmt: skip
        for group in self.param_groups:  # PyTorch's has its state before the first step
            for p in group["params"]:
                self.state[p] = self.init(p, group)

    def init(self, p, group):
        total = zeros_like(p)
        total._a += group["initial_accumulator_value"]
        return {"step": counter(), "sum": total}

    def update(self, be, x_, g, state, group):
        state["step"]._a += 1
        if group["weight_decay"]:
            g = g + x_ * group["weight_decay"]
        s_ = state["sum"]._a
        s_ += g * g
        root = be.xp.sqrt(s_)
        root += group["eps"]
        x_ -= g / root * (group["lr"] / (1 + (float(state["step"]._a) - 1) * group["lr_decay"]))
