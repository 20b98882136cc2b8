"""SparseAdam: Adam for tables of which a step uses few rows."""

from __future__ import annotations

import math
from typing import Any

from core.optim.optimizer import Optimizer, check, counter, zeros_like


class SparseAdam(Optimizer):
    """Adam on the rows that have a gradient; the others, and their averages, stay as they are.

    Gradients are dense here, those of `embedding(sparse=True)` too, so a row counts as used if its gradient is not all zeros; a
    tensor without dimensions is one row.
    """

    def __init__(
        self, params: Any, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, maximize: bool = False,
    ):  # fmt: skip
        check(type(self).__name__, lr=lr, betas=betas, eps=eps)
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "maximize": maximize})

    def init(self, p, group):
        return {"step": counter(), "exp_avg": zeros_like(p), "exp_avg_sq": zeros_like(p)}

    def update(self, be, x_, g, state, group):
        xp, (beta1, beta2) = be.xp, group["betas"]
        state["step"]._a += 1
        step = float(state["step"]._a)
        rows = xp.nonzero(g.reshape(len(g), math.prod(g.shape[1:])).any(axis=1))[0] if g.ndim else ...
        m_, v_, g = state["exp_avg"]._a, state["exp_avg_sq"]._a, g[rows]
        m_[rows] = m = m_[rows] + (g - m_[rows]) * (1 - beta1)
        v_[rows] = v = v_[rows] + (g * g - v_[rows]) * (1 - beta2)
        size = group["lr"] * math.sqrt(1 - beta2**step) / (1 - beta1**step)
        x_[rows] -= size * (m / (xp.sqrt(v) + group["eps"]))
