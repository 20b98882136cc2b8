"""Join: ranks with different numbers of inputs. Who has finished goes along with the others until all have.

Contract: inside the block each iteration of a rank calls `Join.notify_join_context` of each joinable once, before its
other calls. The first joinable's call is a small all-reduce that counts who is still active; a rank that leaves the
block answers these, and by each joinable's `JoinHook.main_hook` makes the calls that an active rank makes in an
iteration. Source: torch/distributed/algorithms/join.py (names, order of events).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np

from core._tensor import wrap
from core.errors import ArgumentError
from ddp.errors import DDPError


class JoinHook:
    """What a rank that has finished does for one joinable."""

    def main_hook(self) -> None:
        """Once for each iteration of the others."""

    def post_hook(self, is_last_joiner: bool) -> None:
        """Once, when all have finished."""


class Joinable(ABC):
    """Something that communicates in each iteration."""

    _join: Join | None = None  # the block that is under way

    @abstractmethod
    def join_hook(self, **kwargs: Any) -> JoinHook:
        """The hook for one block; `kwargs` are the block's."""

    @property
    @abstractmethod
    def join_device(self) -> Any:
        """Where it computes."""

    @property
    @abstractmethod
    def join_process_group(self) -> Any:
        """Whom it talks to."""


class Join:
    """The block. `active` is the number of ranks that still have inputs, as of the current iteration."""

    def __init__(
        self,
        joinables: Sequence[Joinable],
        enable: bool = True,
        throw_on_early_termination: bool = False,
        **kwargs: Any,
    ):
        if not joinables:
            raise ArgumentError("Join: expected at least one joinable, got none")
        self._joinables, self._enable, self._throw = list(joinables), enable, throw_on_early_termination
        self._hooks = [j.join_hook(**kwargs) for j in joinables]
        self._group = joinables[0].join_process_group
        if any(j.join_process_group is not self._group for j in joinables):
            raise ArgumentError("Join: expected joinables of one process group, got several; use a block for each")
        self.active = self._group.size

    def __enter__(self) -> Join:
        if self._enable:
            for joinable in self._joinables:
                joinable._join = self
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if not self._enable:
            return
        try:
            if kind is None:
                self._follow()
        finally:
            for joinable in self._joinables:
                joinable._join = None

    def _follow(self) -> None:
        """This rank has finished: go along until all have."""
        last = True
        while self._count(0):
            if self._throw:
                self._raise()
            last = False
            for hook in self._hooks:
                hook.main_hook()
        for hook in self._hooks:
            hook.post_hook(last)

    def hook_of(self, joinable: Joinable) -> Any:
        """The hook that `joinable` made for this block."""
        return self._hooks[self._joinables.index(joinable)]

    @staticmethod
    def notify_join_context(joinable: Joinable) -> None:
        """This rank begins an iteration. Does nothing outside of a block."""
        join = joinable._join
        if join is not None and joinable is join._joinables[0] and join._count(1) < join._group.size and join._throw:
            join._raise()

    def _count(self, active: int) -> int:
        count = wrap(np.array([active]))
        self._group.all_reduce(count, "sum")
        self.active = int(count._a[0])
        return self.active

    def _raise(self) -> None:
        raise DDPError(
            f"rank {self._group.world.rank}: Join: Detected at least one rank that exhausted inputs: expected inputs on "
            f"{self._group.size} ranks, got them on {self.active}; all ranks raise this, as throw_on_early_termination asks"
        )
