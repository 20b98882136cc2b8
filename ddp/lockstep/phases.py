"""Shards side by side, for layers that need the whole batch: each runs up to a sum over all shards, then all go on with it.

Some layers (`SyncBatchNorm`) add up something over the whole batch, in forward and in backward. In a step of such a model each shard of
this member has a thread of its own, and one of them runs at a time: from sum to sum, in the order of the shards. At a sum it hands its
addend to the step and waits; when all have, the members tell each other what theirs add up to, and everybody adds the rest by the
canonical tree. So the bits do not depend on who has which shards, a member that is lost in the middle is an error in the step, which
unwinds the threads and is tried again, and nothing that shards share is used by two at a time: `switch` takes along what is one shard's.

Contract: all shards ask for the same sums in the same order, or DDPError. Addends are float64, of one length over all shards.
Memory: the graphs of all shards of this member are there at once, where otherwise there is one.
Not here: what a shard is (`compute`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from copy import copy
from typing import Any, Generic, TypeVar

import numpy as np

from core.engine import mode
from ddp import distributed
from ddp.errors import DDPError
from ddp.lockstep.membership import Link
from ddp.lockstep.tree import Node, Sum, cover
from ddp.sync_batchnorm import stand_in
from ddp.transport.base import chunks

T = TypeVar("T")
_ENDED, _ADDEND = b"E", b"A"


class _Dropped(BaseException):
    """In a shard's thread: the step has failed elsewhere."""


class ShardGroup:
    """In the place of a process group, in a shard's thread: its ranks are the shards."""

    def __init__(self, size: int, turn: _Turn[Any] | None = None):
        self.size, self._turn = size, turn

    def all_reduce(self, tensor: Any, op: str) -> None:
        """The sum over all shards, in place."""
        assert op == "sum" and tensor._a.dtype == np.float64 and self._turn is not None
        tensor._a[...] = self._turn.offer(tensor._a.copy())
        tensor._bump()


class _Turn(threading.Thread, Generic[T]):
    """A shard's work, in a thread that runs only inside `go_on`."""

    def __init__(self, number: int, shards: int, task: Callable[[], T]):
        super().__init__(name=f"shard {number}", daemon=True)
        self.number, self._task = number, task
        self.result: T
        self.error: BaseException | None = None
        self.ended = False
        self.offered: np.ndarray | None = None  # the addend with which it waits
        self._group = ShardGroup(shards, self)
        self._mode, self._own = copy(mode.state), distributed._state.own  # of the thread that makes us
        self._answer: np.ndarray | None = None
        self._mine, self._yours = threading.Semaphore(0), threading.Semaphore(0)

    def go_on(self, answer: np.ndarray | None) -> None:
        """Let it run to its next sum, or its end. None at its beginning; later, that it shall end at once."""
        if not self.is_alive() and not self.ended:
            self.start()
        self._answer, self.offered = answer, None
        self._mine.release()
        self._yours.acquire()

    def offer(self, addend: np.ndarray) -> np.ndarray:
        """In the thread: wait for the sum."""
        self.offered = addend
        self._yours.release()
        self._mine.acquire()
        if self._answer is None:
            raise _Dropped
        return self._answer

    def run(self) -> None:
        self._mine.acquire()
        mode.state = self._mode
        distributed._state.own, stand_in.group = self._own, self._group
        try:
            self.result = self._task()
        except BaseException as error:
            self.error = error
        self.ended = True
        self._yours.release()


def side_by_side(
    tasks: Mapping[int, Callable[[], T]],
    link: Link,
    filled: list[bool],
    switch: Callable[[int], AbstractContextManager[None]],
    between: Callable[[str], None],
) -> list[T]:
    """The results of this member's shards, by number. `filled` tells which shards of the step have samples.

    `switch(number)` surrounds every moment in which a shard runs; `between` is called before every exchange.
    """
    turns = [_Turn(number, len(filled), task) for number, task in tasks.items()]
    total: np.ndarray | None = None
    try:
        while True:
            for turn in turns:
                with switch(turn.number):
                    turn.go_on(total)
                if turn.error is not None:
                    raise turn.error
            between("sync")
            total = _exchange(link, filled, turns)
            if total is None:
                return [turn.result for turn in turns]
    finally:
        for turn in turns:
            while turn.is_alive() and not turn.ended:
                turn.go_on(None)
            if turn.ident is not None:
                turn.join()


def _exchange(link: Link, filled: list[bool], turns: list[_Turn[Any]]) -> np.ndarray | None:
    """The sum of what the shards of all members offer; None if all have ended."""
    part: Sum[np.ndarray] = Sum(_plus)
    addends = {turn.number: turn.offered for turn in turns}
    owned = [range(span.start, span.stop) for span in chunks(len(filled), link.size)]
    for number in owned[link.place]:
        part.push(Node(0, number), addends.get(number))
    values = [value for _, value in part.parts if value is not None]
    mixed = any(turn.ended for turn in turns) and values
    data = b"".join(value.tobytes() for value in values)
    said = link.gather("sync", b"" if not turns else (b"?" if mixed else _ADDEND if values else _ENDED) + data)
    sorts = {each[:1] for each in said if each}
    if sorts == {_ENDED}:
        return None
    if sorts != {_ADDEND}:
        raise DDPError(
            f"rank {link.me}: Lockstep.steps: expected all shards to go through the same SyncBatchNorm layers, got some that "
            "have ended and some that wait; let fn make the same calls for every shard"
        )
    whole: Sum[np.ndarray] = Sum(_plus)
    for shards, each in zip(owned, said):
        nodes = cover(shards)
        there = [node for node in nodes if any(filled[leaf] for leaf in node.leaves(len(filled)))]
        arrays = dict(zip(there, np.frombuffer(each, np.float64, offset=1).reshape(len(there), -1))) if there else {}
        for node in nodes:
            whole.push(node, arrays.get(node))
    return whole.total()


def _plus(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    return left + right
