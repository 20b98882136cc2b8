"""Who is in: the workers that compute a run together, and how they agree on it.

A run goes through generations. A generation is a list of members, and which list is decided once and for all. No worker leads; whoever
notices that the generation cannot go on begins the next one. How that is decided depends on what carries the messages (`Agreement`):

- `ByRegister`, for workers of `ddprun --elastic`: a place where each number can be written once, so that of several proposals the first
  one stands (`register`).
  1. A member that dies, leaves or answers no heartbeat ends the generation for all: the transport tells everybody, and every wait ends.
  2. Each survivor proposes generation g + 1, the members without those that it knows to be gone, and adopts what stands in the register
     under g + 1, or under a later number. If that list has a dead member too, the generation fails at once, and 2. is repeated.
  3. Who does not find itself in the list is out, for good: it was stopped, or cut off, and the others have gone on. It raises
     `ExcludedError`. So there is never more than one run, whoever is stopped and wakes up when. If a worker sees less than half of the
     members, it is probably itself the one that was cut off, so it gives the others a moment to decide first.
  4. A worker that comes later knocks at all members. At a step boundary the members propose a generation with it in the list.
- `ByShrinking`, under an MPI whose processes may die (`mpirun --with-ft ulfm`): MPI's own agreement and MPI_Comm_shrink. Nobody can
  come, and nobody may leave before all can: who is done waits for the others, and goes on with them if one more of them dies.
- `Agreement` itself, for jobs of fixed size over any transport: the first death ends the run.

Invariants: generations only grow; messages of an earlier one are dropped; all members of a generation know the same list, in the
same order; a worker that is out never completes another exchange, since each one needs a message from every member.

`Link` is what a run sees of this. Not here: what is computed, and what members tell each other at the beginning of a generation (`run`).
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ddp.env import LATE_STATUS, World, world_from_env
from ddp.errors import DDPError, DeadlineError, PeerLostError
from ddp.group import Lane, ProcessGroup
from ddp.lockstep.register import DeskRegister, Place, Register, opened
from ddp.transport.base import Call, Deadline, Transport
from ddp.transport.elastic import ElasticTransport
from ddp.transport.loopback import LoopbackTransport
from ddp.transport.ulfm import ULFMTransport, is_enabled

# How long a job that is starting waits for workers beyond the least number, and one with too few members for others.
START_S = 10.0
# How long a small part of the members lets a larger one decide first.
YIELD_S = 0.5
_LOOK_S = 0.05


class ExcludedError(DDPError):
    """The others went on without this worker."""


class Agreement:
    """How members agree on who they are. This one is for a job of fixed size."""

    elastic = False  # whether the run can outlive a member

    def newcomers(self, link: Link) -> list[int]:
        """Workers that knock."""
        return []

    def check_in(self, link: Link) -> None:
        """Raise ExcludedError if the others went on without this worker."""

    def next(self, link: Link, wanted: set[int], lost: int | None) -> tuple[int, list[int]]:
        """The next generation: the wanted ones that are not gone, unless the others have decided otherwise."""
        raise NotImplementedError

    def enter(self, link: Link) -> None:
        """Be a member of the link's generation."""

    def leave(self, link: Link) -> bool:
        """All is done here. False if the run must go on with this member: then a generation has begun."""
        return True


class Link:
    """The members of the run, of which this process is one, and messages between them."""

    def __init__(
        self, transport: Transport, me: int, members: list[int], call: Callable[[Callable[[], Any]], Any], group: int, timeout_s: float,
        agreement: Agreement | None = None,
    ):  # fmt: skip
        self.me, self.members, self.timeout_s = me, tuple(members), timeout_s
        self.generation = 0
        self.late = False  # it came when the run had begun, and has no state yet
        self._transport, self._in_lane, self._group = transport, call, group
        self._agreement = agreement or Agreement()
        self._number = 0

    @classmethod
    def open(cls, timeout_s: float) -> Link:
        """By what the environment says: elastic, an MPI that survives deaths, a process group that there is or that a launcher means, or
        alone.
        """
        place = Place.from_env()
        if place is not None:
            return _join(place, timeout_s)
        from ddp import distributed

        if not distributed.is_initialized():
            world = world_from_env()
            if world.size == 1:
                return cls(LoopbackTransport(0, 1), 0, [0], _at_once, 0, timeout_s)
            if is_enabled():
                mpi = ULFMTransport.open(world, timeout_s)
                return cls(mpi, world.rank, list(range(world.size)), _at_once, 0, timeout_s, ByShrinking(mpi))
            distributed.init_process_group()
            _say_what_a_death_means()
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
        """Whether the run can outlive a member."""
        return self._agreement.elastic

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
        return self._agreement.newcomers(self)

    def check_in(self) -> None:
        """Raise ExcludedError if the others went on without this worker."""
        self._agreement.check_in(self)

    def survive(self, error: DDPError) -> None:
        """The next generation after a failure. Raises the error where there is none."""
        lost = error.rank if isinstance(error, PeerLostError | DeadlineError) else None
        if lost is None or not self.elastic:
            if lost is not None:
                error.add_note(_FIXED)
            raise error
        self.regroup(set(self.members) - {lost}, lost)

    def regroup(self, wanted: set[int], lost: int | None = None) -> None:
        """Agree on the next generation: the wanted ones that are not gone, unless another list was decided first."""
        self.adopt(*self._agreement.next(self, wanted, lost))

    def adopt(self, generation: int, members: list[int]) -> None:
        """Be a member of this generation."""
        if self.me not in members:
            raise self.excluded(generation, members)
        self.generation, self.members = generation, tuple(members)
        self._number = 0
        self._agreement.enter(self)

    def leave(self) -> bool:
        """All is done here. False if the others must go on and need this member: then a generation has begun."""
        return self._agreement.leave(self)

    def close(self) -> None:
        if self.elastic:
            self._transport.close()

    def excluded(self, generation: int, members: list[int]) -> ExcludedError:
        return ExcludedError(
            f"rank {self.me}: Lockstep: expected to be a member of generation {generation}, got {members}; the others went on "
            f"without this worker, because it was stopped or cut off for longer than a heartbeat; start another in its place"
        )


_FIXED = (
    "a job of fixed size ends with its first death; started by ddprun --elastic MIN:MAX it goes on, and so it does by "
    "mpirun --with-ft ulfm where the MPI has that (Open MPI 5)"
)


def _say_what_a_death_means() -> None:
    """Over plain MPI nobody can say it later: mpirun ends all processes when one of them has died."""
    from ddp import distributed

    group = distributed._group(None)
    if group.backend == "mpi" and group.rank == 0:
        print(
            f"Lockstep: {group.size} members over MPI: the first death ends this job; mpirun --with-ft ulfm (Open MPI 5) goes on, "
            "and so does ddprun --elastic MIN:MAX",
            file=sys.stderr,
        )


def _has_failed() -> bool:
    """Whether this program ends with an exception."""
    return hasattr(sys, "last_value")


def _at_once(task: Callable[[], Any]) -> Any:
    return task()


# -- workers of ddprun --elastic --------------------------------------------------------------------------------------


class ByRegister(Agreement):
    elastic = True

    def __init__(self, transport: ElasticTransport, register: Register | DeskRegister, least: int):
        self._transport, self._register, self._least = transport, register, least

    def newcomers(self, link: Link) -> list[int]:
        self._transport.attend(0.0)
        return sorted(self._transport.present - set(link.members))

    def check_in(self, link: Link) -> None:
        latest = self._decided(link)
        if latest is not None and link.me not in latest[1]:
            raise link.excluded(*latest)

    def next(self, link: Link, wanted: set[int], lost: int | None) -> tuple[int, list[int]]:
        self._transport.attend(0.0)
        wanted = (wanted - self._transport.gone) | {link.me}
        if 2 * len(wanted) < link.size or lost == link.me:
            until = time.monotonic() + YIELD_S
            while time.monotonic() < until and not self._decided(link):
                self._transport.attend(_LOOK_S)
        latest = self._decided(link)
        if latest is None:
            wanted = self._enough(link, wanted)
            self._register.propose(link.generation + 1, sorted(wanted))
            latest = self._decided(link)
            assert latest is not None
        return latest

    def enter(self, link: Link) -> None:
        for member in link.members:  # of two that came at the same time, neither may know of the other
            if member != link.me:
                self._transport.reach(member)
        self._transport.advance(link.generation, frozenset(link.members))

    def leave(self, link: Link) -> bool:
        if not _has_failed():
            self._register.end()
        return True

    def _decided(self, link: Link) -> tuple[int, list[int]] | None:
        """The generation that is later than the link's, if there is one."""
        latest = self._register.latest()
        return latest if latest is not None and latest[0] > link.generation else None

    def _enough(self, link: Link, wanted: set[int]) -> set[int]:
        """With workers that knock, where there are too few without. On one host the launcher counts."""
        if isinstance(self._register, Register):
            return wanted
        until = time.monotonic() + START_S
        while len(wanted) < self._least and not self._decided(link):
            if time.monotonic() > until:
                raise DDPError(
                    f"rank {link.me}: Lockstep: expected at least {self._least} members, got {sorted(wanted)} and nobody more within "
                    f"{START_S:g} s; resume from a checkpoint, or start with a smaller MIN in --elastic MIN:MAX"
                )
            self._transport.attend(_LOOK_S)
            wanted = (wanted | self._transport.present) - self._transport.gone
        return wanted


def _join(place: Place, timeout_s: float) -> Link:
    """Come to an elastic job: at its beginning, or later."""
    register = opened(place, timeout_s)
    transport = _transport(place, register)
    link = Link(
        transport, place.worker, [place.worker], _at_once, 0, timeout_s, ByRegister(transport, register, place.least)
    )
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
            elif len(here) >= max(place.started, place.least) or (waited_s > START_S and len(here) >= place.least):
                register.propose(0, here)
                continue
            if latest is not None and transport.absent >= set(latest[1]):
                if register.ended():
                    print(
                        f"Lockstep: worker {place.worker} came when the run had ended: nothing left to do",
                        file=sys.stderr,
                    )
                    raise SystemExit(LATE_STATUS)
                raise PeerLostError(
                    f"rank {place.worker}: Lockstep: expected a member that lives, got {latest[1]}, who are all gone; "
                    "resume the run from a checkpoint"
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


def _transport(place: Place, register: Register | DeskRegister) -> ElasticTransport:
    """On one host, or between hosts by the desk."""
    world = World(
        rank=place.worker,
        size=place.worker + 2,
        job=os.environ.get("LOCKSTEP_JOB", ""),
        key_file=os.environ.get("LOCKSTEP_KEY_FILE", ""),
    )
    if isinstance(register, DeskRegister):
        assert place.desk is not None
        transport = ElasticTransport(world, place.desk, register.address)
        register.publish(place.worker, transport.endpoint)
    else:
        transport = ElasticTransport(world)
    return transport


# -- processes of mpirun --with-ft ulfm -------------------------------------------------------------------------------


class ByShrinking(Agreement):
    elastic = True

    def __init__(self, transport: ULFMTransport):
        self._transport = transport

    def next(self, link: Link, wanted: set[int], lost: int | None) -> tuple[int, list[int]]:
        """All that live; who was stopped for a while is not lost."""
        deadline = Deadline.after(link.timeout_s)
        self._transport.agree(False, deadline)
        return link.generation + 1, self._transport.shrink(deadline)

    def enter(self, link: Link) -> None:
        self._transport.advance(link.generation)

    def leave(self, link: Link) -> bool:
        if _has_failed():  # and so nobody can agree with it
            self._transport.abort(f"expected the program to come to its end, got {sys.last_value!r}")
        deadline = Deadline.after(link.timeout_s)
        if self._transport.agree(True, deadline):
            return True
        link.adopt(link.generation + 1, self._transport.shrink(deadline))
        return False
