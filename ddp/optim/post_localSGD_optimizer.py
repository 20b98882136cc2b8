"""Post-local SGD: an optimizer whose weights an averager averages now and then."""

from __future__ import annotations

from typing import Any

from core.optim import Optimizer
from ddp.algorithms.model_averaging.averagers import ModelAverager
from ddp.optim.wrapper import OptimizerWrapper


class PostLocalSGDOptimizer(OptimizerWrapper):
    """`optim`, and `averager` after each of its steps. Goes with `post_localSGD_hook`; with a model that is in no
    DistributedDataParallel it is local SGD. The state holds the averager's step.
    """

    def __init__(self, optim: Optimizer, averager: ModelAverager):
        super().__init__(optim)
        self.averager = averager

    def step(self, closure: Any = None) -> Any:
        loss = self.optim.step(closure)
        self._opt_called = True
        self.averager.average_parameters(self.param_groups)
        return loss

    def state_dict(self) -> dict[str, Any]:
        return {**self.optim.state_dict(), "step": self.averager.step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.averager.step = state_dict["step"]
        self.optim.load_state_dict({k: v for k, v in state_dict.items() if k != "step"})
