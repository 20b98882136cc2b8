"""Adafactor."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes

from core._tensor import wrap
from core.errors import ArgumentError
from core.optim.optimizer import Optimizer, check, counter, zeros_like


class Adafactor(Optimizer):
    """g over the root of its mean square, which for matrices is kept only as row and column means: memory m + n
    instead of m·n.

    A mean moves by t^beta2_decay; the update is clipped to root mean square d and scaled by max(eps[1],
    RMS(x))·min(lr, 1/√t). Weights decay by themselves, x ← x·(1 − lr·weight_decay). eps[0] defaults to the dtype's
    epsilon. Source: Shazeer & Stern 2018.
    """

    def __init__(
        self, params: Any, lr: float = 1e-2, beta2_decay: float = -0.8, eps: tuple[float | None, float] = (None, 1e-3), d: float = 1.0,
        weight_decay: float = 0.0, *, foreach: Any = None, maximize: bool = False,
    ):  # fmt: skip
        check("Adafactor", lr=lr, eps=(eps[0] or 0.0, eps[1]), weight_decay=weight_decay)
        if beta2_decay > 0 or d < 1:
            raise ArgumentError(f"Adafactor: expected beta2_decay <= 0 and d >= 1, got {beta2_decay} and {d}")
        super().__init__(
            params,
            {
                "lr": lr, "beta2_decay": beta2_decay, "eps": eps, "d": d, "weight_decay": weight_decay, "foreach": foreach,
                "maximize": maximize,
            },
        )  # fmt: skip

    def init(self, p, group):
        if p.ndim < 2:
            return {"step": counter(), "variance": zeros_like(p)}
        zeros = zeros_like(p)._a
        return {"step": counter(), "row_var": wrap(zeros[..., :1].copy()), "col_var": wrap(zeros[..., :1, :].copy())}

    def update(self, be, x_, g, state, group):
        xp, lr, (eps1, eps2) = be.xp, group["lr"], group["eps"]
        eps1 = float(ml_dtypes.finfo(x_.dtype).eps) if eps1 is None else eps1
        state["step"]._a += 1
        step = float(state["step"]._a)
        move = step ** group["beta2_decay"]
        scale = max(eps2, _rms(xp, x_)) * min(lr, 1 / math.sqrt(step))
        if group["weight_decay"]:
            x_ *= 1 - lr * group["weight_decay"]
        square = g * g
        if x_.ndim > 1:
            rows_, columns_ = state["row_var"]._a, state["col_var"]._a  # (*, M, 1), (*, 1, N)
            rows_ += (square.mean(axis=-1, keepdims=True) - rows_) * move
            columns_ += (square.mean(axis=-2, keepdims=True) - columns_) * move
            v = rows_ * columns_
            v /= xp.maximum(rows_.mean(axis=-2, keepdims=True), eps1)
        else:
            v_ = state["variance"]._a
            v_ += (square - v_) * move
            v = v_
        step_ = g / xp.sqrt(xp.maximum(v, eps1 * eps1))
        step_ *= scale / max(1.0, _rms(xp, step_) / group["d"])
        x_ -= step_


def _rms(xp: Any, x: Any) -> float:
    return float(xp.linalg.norm(x.reshape(-1))) / math.sqrt(x.size)
