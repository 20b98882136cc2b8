"""Adam and AdamW."""

from __future__ import annotations

import math
import operator
from collections import defaultdict
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from core import backend
from core._tensor import Tensor, wrap
from core.optim.optimizer import Optimizer, check, counter, zeros_like

_MOMENTS = "exp_avg", "exp_avg_sq"
_SMALL = 1 << 13  # elements: what has fewer is updated in less time than it takes to begin with it


class Adam(Optimizer):
    """m ← β₁m + (1−β₁)g, v ← β₂v + (1−β₂)g², x ← x − lr·m̂ / (√v̂ + eps), m̂ and v̂ corrected for their start at zero.

    `weight_decay` adds weight_decay·x to g, or is as in AdamW if decoupled; `amsgrad` uses the greatest v so far.
    Sources: Kingma & Ba 2015; Reddi et al. 2018.
    """

    # of the first of parameters that are updated together: the moments of all, and the two arrays that these are parts of
    _joint: dict[int, tuple[Sequence[Any], Sequence[Any]]] | None = None

    def __init__(
        self, params: Any, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 0,
        amsgrad: bool = False, *, foreach: Any = None, maximize: bool = False, capturable: bool = False, differentiable: bool = False,
        fused: Any = None, decoupled_weight_decay: bool = False,
    ):  # fmt: skip
        check(type(self).__name__, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": betas,
                "eps": eps,
                "weight_decay": weight_decay,
                "amsgrad": amsgrad,
                "maximize": maximize,
                "foreach": foreach,
                "capturable": capturable,
                "differentiable": differentiable,
                "fused": fused,
                "decoupled_weight_decay": decoupled_weight_decay,
            },
        )

    def init(self, p, group):
        state = {"step": counter(), "exp_avg": zeros_like(p), "exp_avg_sq": zeros_like(p)}
        return {**state, "max_exp_avg_sq": zeros_like(p)} if group["amsgrad"] else state

    def step_group(self, params, group):
        """Small parameters on the CPU are updated together, as if they were one: the rule looks at each element alone."""
        if group["amsgrad"] or group["maximize"] or (type(self).update, type(self).init) != (Adam.update, Adam.init):
            return super().step_group(params, group)
        alike, others = defaultdict(list), []
        for p in params:
            if not _is_small(p):
                others.append(p)
                continue
            if not self.state.get(p):
                self.state[p] = self.init(p, group)
            alike[float(self.state[p]["step"]._a)].append(p)
        for ps in alike.values():
            self._update_together(ps, group)
        super().step_group(others, group)

    def _update_together(self, params: Sequence[Tensor], group: dict[str, Any]) -> None:
        """One update of parameters that have made equally many steps."""
        states = [self.state[p] for p in params]
        xs, step = [p._a for p in params], states[0]["step"]
        x, g = _joined(xs), _joined([p._grad._a for p in params if p._grad is not None])
        m, v = self._moments(params, states)
        self.update(backend.get("cpu"), x, g, {"step": step, "exp_avg": wrap(m), "exp_avg_sq": wrap(v)}, group)
        for p, x_, new, state in zip(params, xs, _cut(x, xs), states):
            x_[...] = new
            state["step"]._a[...] = step._a
            p._bump()

    def _moments(self, params: Sequence[Tensor], states: Sequence[dict[str, Any]]) -> Sequence[Any]:
        """All first moments and all second ones as two arrays, of which those of the parameters are parts from now on."""
        moments = [state[name] for name in _MOMENTS for state in states]
        arrays = [moment._a for moment in moments]
        known = self._joint = self._joint or {}
        parts, joint = known.get(id(params[0]), ((), ()))
        if len(parts) != len(arrays) or not all(map(operator.is_, parts, arrays)):  # new ones, or loaded
            n = len(params)
            joint = [_joined(arrays[:n]), _joined(arrays[n:])]
            parts = [part for one in joint for part in _cut(one, arrays[:n])]
            for moment, part in zip(moments, parts):
                moment._a = part
            known[id(params[0])] = parts, joint
        return joint

    def update(self, be, x_, g, state, group):
        lr, (beta1, beta2), keep = group["lr"], group["betas"], 1.0
        state["step"]._a += 1
        step = float(state["step"]._a)
        if group["weight_decay"]:
            if group["decoupled_weight_decay"]:
                keep -= lr * group["weight_decay"]
            else:
                g = g + x_ * group["weight_decay"]
        # m̂ / (√v̂ + eps), both corrections in one number: √v̂ + eps = (√v + eps·c) / c
        c = math.sqrt(1 - beta2**step)
        size, eps, top = lr * c / (1 - beta1**step), group["eps"] * c, state.get("max_exp_avg_sq")
        m_, v_, top_ = state["exp_avg"]._a, state["exp_avg_sq"]._a, None if top is None else top._a
        be.adam_step_(x_, g, m_, v_, top_, size, (beta1, beta2), eps, keep)


def _joined(arrays: Sequence[Any]) -> Any:
    return np.concatenate([a.reshape(-1) for a in arrays])


def _cut(joined: Any, like: Sequence[Any]) -> list[Any]:
    """Its parts, in the shapes of the arrays that were joined."""
    ends = list(accumulate([0, *(a.size for a in like)]))
    return [joined[start:end].reshape(a.shape) for start, end, a in zip(ends, ends[1:], like)]


def _is_small(p: Tensor) -> bool:
    """Whether it has a gradient, on the CPU, and both are float32 in C order, and few numbers"""
    if p._grad is None:
        return False
    x, g = p._a, p._grad._a
    return (
        type(x) is type(g) is np.ndarray
        and x.size <= _SMALL
        and x.dtype == g.dtype == np.float32
        and x.flags.c_contiguous
    )


class AdamW(Adam):
    """Adam whose weights decay by themselves: x ← x·(1 − lr·weight_decay). Source: Loshchilov & Hutter 2019."""

    def __init__(
        self, params: Any, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 1e-2,
        amsgrad: bool = False, **options: Any,
    ):  # fmt: skip
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, **options, decoupled_weight_decay=True)
