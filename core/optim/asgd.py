"""Averaged stochastic gradient descent."""

from __future__ import annotations

from typing import Any

import numpy as np

from core._tensor import wrap
from core.optim.optimizer import Optimizer, check, counter, zeros_like


class ASGD(Optimizer):
    """x ← x·(1 − lambd·η) − η·g with η = lr / (1 + lambd·lr·step)^alpha; after step t0, `ax` in the state is the mean
    of x.

    `weight_decay` adds weight_decay·x to g. Source: Polyak & Juditsky 1992, in the form of Bottou 2010.
    """

    def __init__(
        self, params: Any, lr: float = 1e-2, lambd: float = 1e-4, alpha: float = 0.75, t0: float = 1e6, weight_decay: float = 0,
        foreach: Any = None, maximize: bool = False, differentiable: bool = False, capturable: bool = False,
    ):  # fmt: skip
        check("ASGD", lr=lr, weight_decay=weight_decay)
        super().__init__(
            params,
            {
                "lr": lr, "lambd": lambd, "alpha": alpha, "t0": t0, "weight_decay": weight_decay, "foreach": foreach,
                "maximize": maximize, "differentiable": differentiable, "capturable": capturable,
            },
        )  # fmt: skip

    def init(self, p, group):
        eta, mu = wrap(np.full((), float(group["lr"]), dtype=np.float32)), wrap(np.ones((), dtype=np.float32))
        return {"step": counter(), "eta": eta, "mu": mu, "ax": zeros_like(p)}

    def update(self, be, x_, g, state, group):
        lr, lambd, eta, mu = group["lr"], group["lambd"], float(state["eta"]), float(state["mu"])
        state["step"]._a += 1
        step = float(state["step"]._a)
        if group["weight_decay"]:
            g = g + x_ * group["weight_decay"]
        x_ *= 1 - lambd * eta
        x_ -= g * eta
        ax_ = state["ax"]._a
        if mu == 1:
            ax_[...] = x_
        else:
            ax_ += (x_ - ax_) * mu
        state["eta"]._a[...] = lr / (1 + lambd * lr * step) ** group["alpha"]
        state["mu"]._a[...] = 1 / max(1, step - group["t0"])
