"""Schedulers made of others, on one optimizer."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

from core.errors import ArgumentError
from core.optim.lr_scheduler.plateau import ReduceLROnPlateau
from core.optim.lr_scheduler.scheduler import LRScheduler, set_value
from core.optim.optimizer import Optimizer


class _Several(LRScheduler):
    """A scheduler made of others, on one optimizer."""

    _not_state = ("optimizer", "_schedulers")
    _schedulers: list[Any]

    def _take(self, schedulers: Sequence[Any], optimizer: Any) -> None:
        name = type(self).__name__
        if not schedulers:
            raise ArgumentError(f"{name} expects at least one scheduler, but got no scheduler.")
        optimizer = optimizer or schedulers[0].optimizer
        for i, s in enumerate(schedulers):
            if isinstance(s, ReduceLROnPlateau):
                raise ArgumentError(
                    f"{name} does not support `ReduceLROnPlateau`, whose step needs a metric, but got one at index {i}"
                )
            if s.optimizer is not optimizer:
                raise ArgumentError(
                    f"{name} expects all schedulers to belong to the same optimizer, but got another at index {i}"
                )
        self._schedulers, self.optimizer = list(schedulers), optimizer

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "_schedulers": [s.state_dict() for s in self._schedulers]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        for s, state in zip(self._schedulers, state_dict["_schedulers"]):
            s.load_state_dict(state)


class ChainedScheduler(_Several):
    """Several schedulers, each of which changes what the one before has set."""

    def __init__(self, schedulers: Sequence[LRScheduler], optimizer: Optimizer | None = None):
        self._take(schedulers, optimizer)
        self._last_lr = self._in_force()

    def step(self, epoch: int | None = None) -> None:
        for s in self._schedulers:
            s.step(epoch)
        self._last_lr = self._in_force()


class SequentialLR(_Several):
    """Several schedulers, one after the other: `milestones` are the steps where the next takes over, from its own step
    0."""

    def __init__(
        self, optimizer: Optimizer, schedulers: Sequence[LRScheduler], milestones: list[int], last_epoch: int = -1
    ):
        self._take(schedulers, optimizer)
        if len(milestones) != len(schedulers) - 1:
            raise ArgumentError(
                f"SequentialLR: expected {len(schedulers) - 1} milestones for {len(schedulers)} schedulers, got "
                f"{len(milestones)}"
            )
        self._milestones, self.last_epoch = milestones, last_epoch + 1
        # making them has moved the rates and each of them: undo that, then begin with the first
        for group in optimizer.param_groups:
            set_value(group, "lr", group["initial_lr"])
        _back(self)
        first = self._schedulers[bisect_right(milestones, 0)]
        first._initial_step()
        self._last_lr = first.get_last_lr()

    def step(self, epoch: int | None = None) -> None:
        self.last_epoch += 1
        i = bisect_right(self._milestones, self.last_epoch)
        s = self._schedulers[i]
        if i > 0 and self._milestones[i - 1] == self.last_epoch:
            s._update_lr(0)
        else:
            s.step()
        self._last_lr = s.get_last_lr()


def _back(scheduler: Any) -> None:
    """Take back one step, in all that a scheduler is made of."""
    if isinstance(scheduler, _Several):
        for s in scheduler._schedulers:
            _back(s)
    else:
        scheduler.last_epoch -= 1
