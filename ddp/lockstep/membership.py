"""Who is in: the workers that compute a run together, and how they agree on it.

A run goes through generations. A generation is a list of members, and which list is decided once and for all by a register: a place
where each number can be written once, so that of several proposals the first one stands (on a host, a directory, where linking a file
to a name that exists fails). No worker leads; whoever notices that the generation cannot go on proposes the next one.

1. A member that dies, leaves or answers no heartbeat ends the generation for all: the transport tells everybody, and every wait ends.
2. Each survivor proposes generation g + 1, the members without those that it knows to be gone, and adopts what stands in the register
   under g + 1, or under a later number. If that list has a dead member too, the generation fails at once, and 2. is repeated.
3. Who does not find itself in the list is out, for good: it was stopped, or cut off, and the others have gone on. It raises
   `ExcludedError`. So there is never more than one run, whoever is stopped and wakes up when. If a worker sees less than half of the
   members, it is probably itself the one that was cut off, so it gives the others a moment to decide first.
4. A worker that comes later knocks at all members. At a step boundary the members propose a generation with it in the list.

Invariants: generations only grow; messages of an earlier one are dropped; all members of a generation know the same list, in the
same order; a worker that is out never completes another exchange, since each one needs a message from every member.

`Link` is what a run sees of this: it is alone, one of a fixed group (any transport; a death ends the run), or elastic.
Not here: what is computed, and what members tell each other at the beginning of a generation (`run`).
"""

from __future__ import annotations

import atexit
import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ddp.env import World
from ddp.errors import DDPError, DeadlineError, PeerLostError, WorldError
from ddp.group import Lane, ProcessGroup
from ddp.transport.base import Call, Deadline, Transport
from ddp.transport.elastic import ElasticTransport
from ddp.transport.loopback import LoopbackTransport

# How long a job that is starting waits for workers beyond the least number.
START_S = 10.0
# How long a small part of the members lets a larger one decide first.
YIELD_S = 0.5
_LOOK_S = 0.05


class ExcludedError(DDPError):
    """The others went on without this worker."""


class Register:
    """Generation numbers and their members, each written once. A directory of this host, or one that all hosts see."""

    def __init__(self, directory: str | os.PathLike[str]):
        self._directory = Path(directory)

    def propose(self, generation: int, members: list[int]) -> list[int]:
        """The members of a generation: these, unless another proposal was first."""
        path = self._path(generation)
        mine = path.with_name(f".{path.name}.{os.getpid()}")
        mine.write_text(json.dumps(members))
        try:
            os.link(mine, path)  # whole, or not at all
        except FileExistsError:
            pass
        finally:
            mine.unlink()
        return self._members(generation)

    def latest(self) -> tuple[int, list[int]] | None:
        """The last generation and its members; None before the first."""
        numbers = [int(entry.name) for entry in self._directory.iterdir() if entry.name.isdigit()]
        return (max(numbers), self._members(max(numbers))) if numbers else None

    def _members(self, generation: int) -> list[int]:
        return json.loads(self._path(generation).read_text())

    def _path(self, generation: int) -> Path:
        return self._directory / f"{generation:08}"


class Place(NamedTuple):
    """What the launcher tells a worker of an elastic job."""

    worker: int  # a number that no other worker of the job has or will have
    started: int  # workers 0 … started−1 are there from the beginning
    least: int  # how many make a job
    register: str

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> Place | None:
        text = environ.get("LOCKSTEP_ELASTIC")
        if not text:
            return None
        try:
            worker, started, least, register = text.split(":", 3)
            return cls(int(worker), int(started), int(least), register)
        except ValueError:
            raise WorldError(
                f"environment: expected WORKER:STARTED:LEAST:DIRECTORY, got LOCKSTEP_ELASTIC={text!r}; start with ddprun --elastic"
            ) from None


class Link:
    """The members of the run, of which this process is one, and messages between them."""

    def __init__(
        self, transport: Transport, me: int, members: list[int], call: Callable[[Callable[[], Any]], Any], group: int, timeout_s: float
    ):  # fmt: skip
        self.me, self.members, self.timeout_s = me, tuple(members), timeout_s
        self.generation = 0
        self.late = False  # it came when the run had begun, and has no state yet
        self._transport, self._in_lane, self._group = transport, call, group
        self._register: Register | None = None
        self._number = 0

    @classmethod
    def open(cls, timeout_s: float) -> Link:
        """By what the environment says: elastic, a process group that there is or that a launcher means, or alone."""
        place = Place.from_env()
        if place is not None:
            return _join(place, timeout_s)
        from ddp import distributed
        from ddp.env import world_from_env

        if not distributed.is_initialized():
            if world_from_env().size == 1:
                return cls(LoopbackTransport(0, 1), 0, [0], _at_once, 0, timeout_s)
            distributed.init_process_group()
        group: ProcessGroup = (
            distributed.new_group()
        )  # numbered of its own: a script's collectives do not mix with ours
        lane: Lane = group.lane
        return cls(group.transport, group.rank, list(range(group.size)), lane.call, group.number, timeout_s)

    @property
    def place(self) -> int:
        """Among the members, from 0."""
        return self.members.index(self.me)

    @property
    def size(self) -> int:
        return len(self.members)

    @property
    def elastic(self) -> bool:
        return self._register is not None

    # -- messages: every member makes the same calls ------------------------------------------------------------------

    def gather(self, name: str, data: bytes) -> list[bytes]:
        """What each member says, by place. Any length, so it is for a few kilobytes."""

        def task(call: Call, deadline: Deadline) -> list[bytes]:
            mine = np.frombuffer(data, np.uint8)
            for peer in self._others():
                self._transport.send(peer, mine, call, deadline)
            said = [data if m == self.me else self._transport.recv(m, call, deadline).tobytes() for m in self.members]
            self._transport.flush(deadline)
            return said

        return self._run(task, name, "uint8", 0)

    def swap(
        self,
        name: str,
        outgoing: Mapping[int, list[np.ndarray]],
        incoming: Mapping[int, list[np.ndarray]],
        dtype: str,
        count: int,
    ) -> None:
        """Send arrays to members and fill others from members, by place. `dtype` and `count` are the same everywhere."""

        def task(call: Call, deadline: Deadline) -> None:
            places = [(self.place + i) % self.size for i in range(1, self.size)]  # not all to the same member at once
            for place in places:
                for array in outgoing.get(place, ()):
                    self._transport.send_pieces(self.members[place], array, call, deadline)
            for place in reversed(places):
                for array in incoming.get(place, ()):
                    self._transport.recv_pieces(self.members[place], array, call, deadline)
            self._transport.flush(deadline)

        self._run(task, name, dtype, count)

    def _run(self, task: Callable[[Call, Deadline], Any], name: str, dtype: str, count: int) -> Any:
        self._number += 1
        call = Call(name, self._number, dtype, count, "lockstep", self._group)
        return self._in_lane(lambda: task(call, Deadline.after(self.timeout_s)))

    def _others(self) -> list[int]:
        return [member for member in self.members if member != self.me]

    # -- members ------------------------------------------------------------------------------------------------------

    def newcomers(self) -> list[int]:
        """Workers that knock. Only an elastic run has any."""
        if not isinstance(self._transport, ElasticTransport):
            return []
        self._transport.attend(0.0)
        return sorted(self._transport.present - set(self.members))

    def check_in(self) -> None:
        """Raise ExcludedError if the others went on without this worker."""
        latest = self._register.latest() if self._register else None
        if latest is not None and latest[0] > self.generation and self.me not in latest[1]:
            raise self._excluded(*latest)

    def survive(self, error: DDPError) -> None:
        """The next generation after a failure. Raises the error where there is none."""
        lost = error.rank if isinstance(error, PeerLostError | DeadlineError) else None
        if lost is None or self._register is None:
            if lost is not None:
                error.add_note(
                    "a job of fixed size ends with its first death; started by ddprun --elastic MIN:MAX it goes on"
                )
            raise error
        self.regroup(set(self.members) - {lost}, lost)

    def regroup(self, wanted: set[int], lost: int | None = None) -> None:
        """Agree on the next generation: the wanted ones that are not gone, unless another list was proposed first."""
        assert self._register is not None and isinstance(self._transport, ElasticTransport)
        self._transport.attend(0.0)
        wanted = (wanted - self._transport.gone) | {self.me}
        if 2 * len(wanted) < self.size or lost == self.me:
            until = time.monotonic() + YIELD_S
            while time.monotonic() < until and not self._decided():
                self._transport.attend(_LOOK_S)
        if not self._decided():
            self._register.propose(self.generation + 1, sorted(wanted))
        latest = self._register.latest()
        assert latest is not None
        self.adopt(*latest)

    def adopt(self, generation: int, members: list[int]) -> None:
        """Be a member of this generation."""
        assert isinstance(self._transport, ElasticTransport)
        if self.me not in members:
            raise self._excluded(generation, members)
        self.generation, self.members = generation, tuple(members)
        self._number = 0
        for member in self._others():  # of two that came at the same time, neither may know of the other
            self._transport.reach(member)
        self._transport.advance(generation, frozenset(members))

    def _decided(self) -> bool:
        latest = self._register.latest() if self._register else None
        return latest is not None and latest[0] > self.generation

    def _excluded(self, generation: int, members: list[int]) -> ExcludedError:
        return ExcludedError(
            f"rank {self.me}: Lockstep: expected to be a member of generation {generation}, got {members}; the others went on "
            f"without this worker, because it was stopped or cut off for longer than a heartbeat; start another in its place"
        )

    def close(self) -> None:
        if isinstance(self._transport, ElasticTransport):
            self._transport.close()


def _at_once(task: Callable[[], Any]) -> Any:
    return task()


def _join(place: Place, timeout_s: float) -> Link:
    """Come to an elastic job: at its beginning, or later."""
    world = World(
        rank=place.worker,
        size=place.worker + 1,
        local_rank=place.worker,
        local_size=place.worker + 1,
        job=os.environ.get("LOCKSTEP_JOB", ""),
        key_file=os.environ.get("LOCKSTEP_KEY_FILE", ""),
    )
    transport = ElasticTransport(world)
    atexit.register(transport.close)  # who comes to its end says so
    register = Register(place.register)
    link = Link(transport, place.worker, [place.worker], _at_once, 0, timeout_s)
    link._register = register
    link.late = register.latest() is not None
    began = time.monotonic()
    for peer in range(place.started):
        if peer != place.worker:
            transport.reach(peer)
    try:
        while (latest := register.latest()) is None or place.worker not in latest[1]:
            waited_s = time.monotonic() - began
            here = sorted(transport.present | {place.worker})
            if latest is not None:
                for peer in latest[1]:
                    transport.reach(peer)
            elif len(here) == place.started or (waited_s > START_S and len(here) >= place.least):
                register.propose(0, here)
                continue
            if latest is not None and transport.absent >= set(latest[1]):
                raise PeerLostError(
                    f"rank {place.worker}: Lockstep: expected a member that lives, got {latest[1]}, who are all gone; the run has ended, "
                    "or resume it from a checkpoint"
                )
            if waited_s > timeout_s:
                raise DeadlineError(
                    f"rank {place.worker}: Lockstep: expected to be let in within {timeout_s:g} s, got nothing; present: {here}, "
                    f"members: {latest and latest[1]}"
                )
            transport.attend(_LOOK_S)
    except BaseException:
        transport.close()
        raise
    link.adopt(*latest)
    return link
