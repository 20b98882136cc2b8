"""A world of one, so that no script needs `if distributed`.

Contract: the collectives are those of `base` and end at once; there is no peer to send to, and trying is an error
that says so.
"""

from __future__ import annotations

import numpy as np

from ddp.env import World
from ddp.errors import WorldError
from ddp.transport.base import Call, Deadline, Transport


class LoopbackTransport(Transport):
    name = "loopback"

    @classmethod
    def open(cls, world: World, timeout_s: float) -> LoopbackTransport:
        if world.size != 1:
            raise WorldError(
                f"rank {world.rank}: loopback: expected a world of one, got {world.size} ranks; use zmq or mpi"
            )
        return cls(0, 1)

    def send(self, peer: int, array: np.ndarray, call: Call, deadline: Deadline) -> None:
        self._check_peer(peer, call)

    def recv(self, peer: int, call: Call, deadline: Deadline) -> np.ndarray:
        self._check_peer(peer, call)
        raise AssertionError("a world of one has no peers")

    def flush(self, deadline: Deadline) -> None:
        pass

    def close(self) -> None:
        pass
