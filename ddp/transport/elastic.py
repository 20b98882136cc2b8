"""ZeroMQ for a job whose workers come and go: a worker has a number that no other ever gets, and may knock at any time.

Contract
- On one Linux host an address is a function of a number. Between hosts each worker listens on TCP, on the interface that faces the job's
  desk, at a port that the system chooses, and `find` tells the addresses of others. Who comes later reaches who came earlier and says
  hello; who is greeted by a stranger connects back. So none of the workers keeps a door.
- `present` are the workers that are connected both ways. Which of them belong to the job, its members, is decided elsewhere
  (`ddp.lockstep.membership`) and said by `advance`; that others come, die and leave is no failure.
- A process that is killed is noticed within `zeromq.GRACE_S`; one that is stopped or starved, or whose host is cut off, when ZeroMQ's own
  thread in it has answered no ping for HEARTBEAT_MS. A long computation does not matter: that thread needs no interpreter.

Not here: who is a member; who keeps the addresses.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

import numpy as np

from ddp.env import World
from ddp.transport.framed import Failure
from ddp.transport.zeromq import ZMQTransport, addresses, read_secret
from ddp.wire import Frame, Kind

# Numbers that a job may give out in its life.
CAPACITY = 1 << 16
HEARTBEAT_MS = 2000
# How often to look for what is there already.
_LOOKS = 8


class ElasticTransport(ZMQTransport):
    def __init__(
        self, world: World, desk: tuple[str, int] | None = None, find: Callable[[int], str | None] | None = None
    ):
        super().__init__(dataclasses.replace(world, size=max(world.size, 256)), read_secret(world))
        self.size = CAPACITY
        self._sent, self._seen, self._places = [0] * CAPACITY, [0] * CAPACITY, [-1] * CAPACITY
        self._members: frozenset[int] = frozenset()
        self._refused: set[int] = set()  # workers that were not there when we tried
        self._world = dataclasses.replace(world, master_addr=desk[0], master_port=desk[1]) if desk else world
        self._find = find or self._here
        self._sockets.bind(self._router, self._here(world.rank))
        self.endpoint = self._listens_at()  # where it listens

    @property
    def present(self) -> set[int]:
        """Workers that are connected both ways and have not gone."""
        return (self._up & self._met & self._dealers.keys()) - self._gone.keys()

    @property
    def gone(self) -> set[int]:
        """Workers that died or left."""
        return set(self._gone)

    @property
    def absent(self) -> set[int]:
        """Workers that are gone, or were not there when we tried to reach them and have said nothing since."""
        return self._refused | self._gone.keys()

    def reach(self, peer: int) -> None:
        """Try to connect to a worker. It becomes `present` if it is there. Who has no address yet comes later, and says hello."""
        if peer in self._dealers or peer in self._gone:
            return
        if (address := self._find(peer)) is not None:
            self._dial(peer, address, HEARTBEAT_MS)

    def attend(self, timeout_s: float) -> None:
        """Look for up to `timeout_s` at who comes and goes."""
        until = time.monotonic() + timeout_s
        for _ in range(_LOOKS):  # what is there by now, at least: a greeting takes several
            self._pump(0.0)
        while (rest := until - time.monotonic()) > 0:
            self._pump(rest)

    def advance(self, generation: int, members: frozenset[int] | None = None) -> None:
        """Begin a generation, of these members."""
        if generation > self.generation:  # the first one has begun already
            super().advance(generation)
        if members is not None:
            self._members = members
        for peer in sorted(self._members & self._gone.keys()):
            self._fail(Failure("lost", peer, f"rank {peer} {self._gone[peer]}"))

    # -- who comes and goes -------------------------------------------------------------------------------------------

    def _others(self):
        return iter(sorted(self._dealers))

    def _arrived(self, frame: Frame, data: np.ndarray) -> None:
        if frame.kind == Kind.HELLO and frame.sender not in self._gone:
            self._refused.discard(frame.sender)
            if frame.sender in self._suspects:  # we were there before it and found nobody
                del self._suspects[frame.sender]
                self._hang_up(frame.sender)
            self.reach(frame.sender)
        super()._arrived(frame, data)

    def _lost(self, peer: int) -> None:
        if peer in self._members:
            super()._lost(peer)
        elif peer in self._met:
            self._gone.setdefault(peer, "died: its connection ended without a goodbye")
        else:
            self._refused.add(peer)

    def _fail(self, failure: Failure) -> None:
        # what a worker that is out believes concerns nobody
        if not self._members or failure.rank in self._members:
            super()._fail(failure)

    def _here(self, worker: int) -> str:
        """Where a worker of this host listens; on TCP only this one, for there the system chooses."""
        return addresses(dataclasses.replace(self._world, rank=worker), self._job.hex())[1]
