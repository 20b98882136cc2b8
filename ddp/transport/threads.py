"""Ranks as threads of one process: the test double of the real transports.

Contract: the same frames, streams and errors as between processes, through queues instead of sockets. Arrays are
copied when sent. Not here: speed; the threads share one interpreter.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from ddp.env import World
from ddp.errors import DeadlineError, WorldError
from ddp.transport.base import Deadline
from ddp.transport.framed import FrameTransport
from ddp.wire import Frame


class Hub:
    """One inbox for each rank. An inbox holds (frame, array) pairs, and the numbers of ranks that died."""

    def __init__(self, size: int):
        self.size = size
        self.inboxes: list[queue.SimpleQueue] = [queue.SimpleQueue() for _ in range(size)]

    def died(self, rank: int) -> None:
        """Tell all ranks that this one ended without a goodbye."""
        for inbox in self.inboxes:
            inbox.put(rank)


class ThreadTransport(FrameTransport):
    name = "threads"

    def __init__(self, hub: Hub, rank: int):
        super().__init__(rank, hub.size)
        self._hub = hub

    @classmethod
    def open(cls, world: World, timeout_s: float) -> ThreadTransport:
        if world.size != 1:
            raise WorldError(
                f"rank {world.rank}: threads: expected a world of one, got {world.size} ranks in processes; "
                f"use zmq or mpi, or ddp.transport.threads.run"
            )
        return cls(Hub(1), 0)

    def _post(self, frame: Frame, peer: int, data: np.ndarray) -> bool:
        self._hub.inboxes[peer].put((frame, data.copy()))
        return True

    def _pump(self, timeout_s: float) -> None:
        try:
            item = self._hub.inboxes[self.rank].get(timeout=timeout_s)
        except queue.Empty:
            return
        if isinstance(item, int):
            self._lost(item)
        else:
            self._arrived(*item)

    def _shut(self) -> None:
        pass


def run(size: int, fn: Callable[[ThreadTransport], Any], timeout_s: float) -> list[Any]:
    """Run fn(transport) as every rank, each in a thread; the results by rank.

    The first failure is raised again, with a note that names its rank; to the other ranks that rank is dead. If ranks
    still run after `timeout_s`, DeadlineError names them (their threads are daemons: a thread cannot be ended from
    outside).
    """
    hub = Hub(size)
    results: list[Any] = [None] * size
    failures: list[tuple[int, BaseException]] = []

    def main(rank: int) -> None:
        transport = ThreadTransport(hub, rank)
        try:
            results[rank] = fn(transport)
            transport.close()
        except BaseException as error:
            failures.append((rank, error))
            hub.died(rank)

    threads = [threading.Thread(target=main, args=(rank,), name=f"rank {rank}", daemon=True) for rank in range(size)]
    deadline = Deadline.after(timeout_s)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(deadline.remaining_s())
    if failures:
        rank, error = failures[0]
        error.add_note(f"raised on rank {rank} of {size}, in a thread")
        raise error
    if late := [rank for rank, thread in enumerate(threads) if thread.is_alive()]:
        raise DeadlineError(
            f"threads.run: expected all ranks to end within {timeout_s:g} s, still running: {late}", rank=late[0]
        )
    return results
