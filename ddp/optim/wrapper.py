"""An optimizer around another: everything but the step is the inner one's."""

from __future__ import annotations

from typing import Any

from core.optim import Optimizer


class OptimizerWrapper(Optimizer):
    """Subclasses write `step`. Schedulers take either: the groups are the same objects."""

    def __init__(self, optim: Optimizer):
        self.optim = optim
        self.defaults = optim.defaults

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        return self.optim.param_groups

    @property
    def state(self) -> Any:
        return self.optim.state

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.optim.zero_grad(set_to_none)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        self.optim.add_param_group(param_group)

    def state_dict(self) -> dict[str, Any]:
        return self.optim.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.optim.load_state_dict(state_dict)

    def __repr__(self) -> str:
        return repr(self.optim)
