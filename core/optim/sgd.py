"""Stochastic gradient descent."""

from __future__ import annotations

from typing import Any

import numpy as np

from core import backend
from core._tensor import wrap
from core.errors import ArgumentError
from core.optim.optimizer import Optimizer, check

_ARRAYS = {np.ndarray}


class SGD(Optimizer):
    """x ← x − lr·v with v ← momentum·v + (1 − dampening)·g, the first v being g; Nesterov: x ← x − lr·(g + momentum·v).

    `weight_decay` adds weight_decay·x to g. Source: Sutskever et al. 2013, in torch's form, where lr scales the step
    and not v.
    """

    takes_complex = True

    def __init__(
        self, params: Any, lr: float = 1e-3, momentum: float = 0, dampening: float = 0, weight_decay: float = 0, nesterov: bool = False,
        *, maximize: bool = False, foreach: Any = None, differentiable: bool = False, fused: Any = None,
    ):  # fmt: skip
        check("SGD", lr=lr, momentum=momentum, weight_decay=weight_decay)
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ArgumentError("SGD: Nesterov momentum requires a momentum and zero dampening")
        super().__init__(
            params,
            {
                "lr": lr,
                "momentum": momentum,
                "dampening": dampening,
                "weight_decay": weight_decay,
                "nesterov": nesterov,
                "maximize": maximize,
                "foreach": foreach,
                "differentiable": differentiable,
                "fused": fused,
            },
        )

    def step_group(self, params, group):
        """Without momentum all parameters on the CPU are updated by one call of its backend."""
        stepped = [p for p in params if p._grad is not None]
        xs = [p._a for p in stepped]
        if (
            group["momentum"] or group["weight_decay"] or group["maximize"]
            or (type(self).update, type(self).init) != (SGD.update, SGD.init) or not _ARRAYS.issuperset(map(type, xs))
        ):  # fmt: skip
            super().step_group(params, group)
            return
        backend.get("cpu").axpy_each_(-group["lr"], [p._grad._a for p in stepped], xs)
        for p in stepped:
            p._bump()

    def update(self, be, x_, g, state, group):
        momentum, buffer, decay = group["momentum"], state.get("momentum_buffer"), group["weight_decay"]
        if momentum and buffer is not None and not group["nesterov"]:
            return be.momentum_step_(x_, g, buffer._a, group["lr"], momentum, 1 - group["dampening"], decay)
        if decay:
            g = g + x_ * decay
        if momentum:
            if buffer is None:
                buffer = state["momentum_buffer"] = wrap(be.xp.array(g, dtype=x_.dtype))
            else:
                v_ = buffer._a
                be.axpby_(1 - group["dampening"], g, momentum, v_)
            g = g + buffer._a * momentum if group["nesterov"] else buffer._a
        be.axpby_(-group["lr"], g, 1, x_)
