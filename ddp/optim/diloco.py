"""DiLoCo: each rank trains alone for many steps, then an outer optimizer moves the common weights.

Every `period` steps: Δ ← average over the ranks of (common weights − local weights), which the outer optimizer takes for
a gradient of the common weights; the local weights begin anew at the result. Communication is divided by `period`.
Source: Douillard et al., DiLoCo, arXiv 2311.08105, algorithm 1; inner AdamW, outer SGD with Nesterov momentum 0.9, lr 0.7.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from core import backend
from core._tensor import Tensor, wrap
from core.errors import ArgumentError
from core.optim import SGD, Optimizer
from ddp import distributed
from ddp.optim.wrapper import OptimizerWrapper


class DiLoCo(OptimizerWrapper):
    """`optim` at each step, the outer optimizer every `period` steps.

    The model is in no DistributedDataParallel. At construction all ranks must have the same weights; `outer_class` and its
    options may replace the outer SGD.
    """

    def __init__(
        self, optim: Optimizer, period: int = 500, process_group: Any = None, outer_class: type[Optimizer] = SGD,
        **outer_options: Any,
    ):  # fmt: skip
        if period < 1:
            raise ArgumentError(f"DiLoCo: expected period >= 1, got {period}")
        super().__init__(optim)
        self.period, self.group = period, distributed._group(process_group)
        self.common = [wrap(p._a.copy()) for p in self._params()]
        if outer_class is SGD and not outer_options:
            outer_options = {"lr": 0.7, "momentum": 0.9, "nesterov": True}
        self.outer = outer_class(self.common, **outer_options)
        self.steps = 0

    def _params(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    def step(self, closure: Any = None) -> Any:
        loss = self.optim.step(closure)
        self._opt_called = True
        self.steps += 1
        if self.steps % self.period == 0:
            self.synchronise()
        return loss

    def synchronise(self) -> None:
        """The outer step, now."""
        local = self._params()
        for dtype in dict.fromkeys(p._a.dtype for p in local):
            pairs = [(c, p) for c, p in zip(self.common, local) if p._a.dtype == dtype]
            deltas = [backend.of(p._a).to_numpy(c._a - p._a).reshape(-1) for c, p in pairs]
            flat = wrap(np.concatenate(deltas))
            self.group.all_reduce(flat, "avg")
            start = 0
            for c, _ in pairs:
                be, n = backend.of(c._a), c._a.size
                c._grad = wrap(be.from_numpy(flat._a[start : start + n].reshape(c._a.shape), be.index_of(c._a)))
                start += n
        self.outer.step()
        self.outer.zero_grad()
        for c, p in zip(self.common, local):
            p._a[...] = c._a
            p._bump()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Not after construction."""
        raise ArgumentError("DiLoCo: expected all parameters at construction, got a new group; make a new DiLoCo")

    def state_dict(self) -> dict[str, Any]:
        return {
            "optim": self.optim.state_dict(), "outer": self.outer.state_dict(), "common": list(self.common), "steps": self.steps,
        }  # fmt: skip

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.optim.load_state_dict(state_dict["optim"])
        self.outer.load_state_dict(state_dict["outer"])
        self.steps = state_dict["steps"]
        for mine, theirs in zip(self.common, state_dict["common"], strict=True):
            mine._a[...] = theirs.to(mine.device)._a
