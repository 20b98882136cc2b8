"""What a scheduler is.

A member writes `get_lr()`, the rates for `last_epoch`, one for each parameter group; where it can it writes them as a
change of the rates in force, so that schedulers may be chained. `step()` after the optimizer's moves on by one. An lr
that is a Tensor is written to.
"""

from __future__ import annotations

import warnings
from typing import Any

from core._tensor import Tensor
from core.errors import ArgumentError, DTypeError, StateDictError
from core.optim.optimizer import Optimizer


class LRScheduler:
    """Base class of all schedulers."""

    _get_lr_called_within_step = True  # what schedulers written for PyTorch ask before they warn
    _is_initial = False  # whether the rates in force are those the optimizer started with

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1):
        self.optimizer = checked(optimizer)
        for i, group in enumerate(optimizer.param_groups):
            if last_epoch == -1:
                group.setdefault("initial_lr", _copied(group["lr"]))
            elif "initial_lr" not in group:
                raise StateDictError(
                    f"param 'initial_lr' is not specified in param_groups[{i}] when resuming a scheduler with last_epoch {last_epoch}; "
                    "load the optimizer's state first"
                )
        self.base_lrs = _values(optimizer, "initial_lr")
        self.last_epoch = last_epoch
        self._initial_step()

    def get_lr(self) -> list[Any]:
        """The rates for `last_epoch`."""
        raise NotImplementedError

    def _initial_step(self) -> None:
        self._step_count = 0
        self._is_initial = True
        self.step()
        self._is_initial = False

    def step(self, epoch: int | None = None) -> None:
        """Move on by one step, or to `epoch`."""
        if self._step_count == 1 and not self.optimizer._opt_called:
            warnings.warn(
                "Detected call of `lr_scheduler.step()` before `optimizer.step()`: the first learning rate is skipped. "
                "Call them in the opposite order.",
                UserWarning,
                stacklevel=2,
            )
        self._step_count += 1
        if epoch is not None:
            warnings.warn(
                "lr_scheduler.step(epoch) is deprecated: call step() without epoch", UserWarning, stacklevel=2
            )
        self._update_lr(epoch)

    def _update_lr(self, epoch: int | None = None) -> None:
        self.last_epoch = self.last_epoch + 1 if epoch is None else epoch
        closed = None if epoch is None else getattr(self, "_get_closed_form_lr", None)
        self._apply(self.get_lr() if closed is None else closed())

    def _apply(self, rates: list[Any]) -> None:
        for group, lr in zip(self.optimizer.param_groups, rates):
            set_value(group, "lr", lr)
        self._last_lr = _values(self.optimizer, "lr")

    def get_last_lr(self) -> list[Any]:
        """The rates that the last `step()` set."""
        return self._last_lr

    _not_state: tuple[str, ...] = ("optimizer",)

    def state_dict(self) -> dict[str, Any]:
        """All but the optimizer and plain functions, which must be given again."""
        return {k: v for k, v in vars(self).items() if k not in self._not_state}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state."""
        vars(self).update({k: v for k, v in state_dict.items() if k not in self._not_state})

    # for members

    def _in_force(self) -> list[Any]:
        return _values(self.optimizer, "lr")

    def _times(self, factor: float) -> list[Any]:
        return [group["lr"] * factor for group in self.optimizer.param_groups]

    def _base_times(self, factor: float) -> list[Any]:
        return [lr * factor for lr in self.base_lrs]


# -- values of parameter groups ----------------------------------------------------------------------------------------


def _copied(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value


def _values(optimizer: Optimizer, key: str) -> list[Any]:
    return [_copied(group[key]) for group in optimizer.param_groups]


def set_value(group: dict[str, Any], key: str, value: Any) -> None:
    if isinstance(group[key], Tensor):
        group[key]._a[...] = float(value)
        group[key]._bump()
    else:
        group[key] = value


def each(name: str, optimizer: Optimizer, value: Any) -> list[Any]:
    """A value for each parameter group, from one value or a list."""
    n = len(optimizer.param_groups)
    if not isinstance(value, (list, tuple)):
        return [_copied(value) for _ in range(n)]
    if len(value) != n:
        raise ArgumentError(
            f"{name} must have the same length as optimizer.param_groups: expected {n} values, got {len(value)}"
        )
    return [_copied(v) for v in value]


def checked(optimizer: Any) -> Optimizer:
    if not isinstance(optimizer, Optimizer):
        raise DTypeError(f"{type(optimizer).__name__} is not an Optimizer")
    return optimizer
