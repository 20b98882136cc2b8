"""Rprop."""

from __future__ import annotations

from typing import Any

from core.errors import ArgumentError
from core.optim.optimizer import Optimizer, check, counter, zeros_like


class Rprop(Optimizer):
    """x ← x − sign(g)·s, where the step s grows by etas[1] while g keeps its sign and shrinks by etas[0] when it
    changes.

    After a change the element rests for one step. s starts at lr and stays within `step_sizes`. For whole-batch
    gradients.
    Source: Riedmiller & Braun 1993, in the variant iRprop− of Igel & Hüsken 2000.
    """

    def __init__(
        self, params: Any, lr: float = 1e-2, etas: tuple[float, float] = (0.5, 1.2), step_sizes: tuple[float, float] = (1e-6, 50),
        *, capturable: bool = False, foreach: Any = None, maximize: bool = False, differentiable: bool = False,
    ):  # fmt: skip
        check("Rprop", lr=lr)
        if not 0 < etas[0] < 1 < etas[1]:
            raise ArgumentError(f"Rprop: Invalid eta values: expected 0 < etas[0] < 1 < etas[1], got {etas}")
        super().__init__(
            params,
            {
                "lr": lr, "etas": etas, "step_sizes": step_sizes, "foreach": foreach, "maximize": maximize,
                "differentiable": differentiable, "capturable": capturable,
            },
        )  # fmt: skip

    def init(self, p, group):
        size = zeros_like(p)
        size._a += float(group["lr"])
        return {"step": counter(), "prev": zeros_like(p), "step_size": size}

    def update(self, be, x_, g, state, group):
        xp, (shrink, grow) = be.xp, group["etas"]
        state["step"]._a += 1
        prev_, s_ = state["prev"]._a, state["step_size"]._a
        agreement = g * prev_
        turned = agreement < 0
        s_ *= xp.where(turned, shrink, xp.where(agreement > 0, grow, 1.0))
        xp.clip(s_, *group["step_sizes"], out=s_)
        prev_[...] = xp.where(turned, 0, g)
        x_ -= xp.sign(prev_) * s_
