"""MPI: the library of the cluster, with its own collectives between hosts; inside a host they go through shared memory.

Contract
- Importing `mpi4py.MPI` initialises MPI; this happens in `open` and never at import. Do not fork afterwards: start
  loader processes by "spawn", or before.
- A transport works on its own duplicate of COMM_WORLD, so it shares no tag and no order with a program's own MPI calls.
- *Shared memory.* Ranks of one host share a `board`, as over ZeroMQ: the ranks tell each other by MPI where they are, and
  get the memory by frames. If all ranks are on one host, all collectives run there; of several hosts, those of a `subset`
  of ranks of one.
  LOCKSTEP_SHARED_MEMORY=0 switches it off, `without_board` says why there is none. MPI has nothing that one could wait for
  together with a bell: a rank that sleeps at the board looks for MPI's messages when it wakes, at most board.NAP_S later.
- One of MPI's own collectives begins with an all-reduce of a fingerprint of the `Call`. Only when all ranks are in the
  same call does data move, so a different call, shape, dtype or root is a `MismatchError` on every rank and never a hang
  or a truncation.
- Waiting until all have come is a test loop, so that the deadline holds. A rank that waits for a while tells the others
  where it is; who has told nothing by the deadline is the one that is blamed. Once all have come, data moves by MPI's
  blocking collectives: its non-blocking ones take up to three times as long. Only a process that is stopped just then
  can make these hang; a thread watches the clock, says so, and ends the job.
- What MPI has no type or no operation for (float16, bfloat16, bool, min and max of floats), arrays of 2 GiB, and
  groups of some ranks take the plain collectives of `base`.

Death. Where a process dies, mpiexec ends the others. An exception on one rank is no death to MPI: what catches it
last must call `abort`, or the others wait until the deadline. After a failure requests stay open on some ranks, and
MPI_Finalize might wait for them for ever; so at exit a failed rank waits LEAVE_S for the others to come to their ends
too, and then aborts the job.
Not here: what the frames mean (`framed`), how ranks of one host get their memory and wait there (`same_host`), processes
that may die (`ulfm`).
"""

from __future__ import annotations

import atexit
import dataclasses
import json
import math
import os
import select
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import cache
from typing import Any, Self

import numpy as np

from core.errors import missing_library
from ddp.env import World
from ddp.errors import DDPError, DeadlineError, WorldError
from ddp.transport import tuning
from ddp.transport.base import Call, Deadline, divide, reduction
from ddp.transport.framed import WAITING_AFTER_S, Failure, FrameTransport
from ddp.transport.places import by_host, cores, host_of
from ddp.transport.same_host import HostMemory
from ddp.transport.shared import mark
from ddp.wire import HEADER_BYTES, Frame, Kind, job_id, pack, payload, unpack

LEAVE_S = 5.0
SAID_S = 0.3  # how long mpiexec has to pass on why a rank ends the job
CLOSE_S = 1.0  # how long closing waits for what was sent and not flushed
# A wait spins, as MPI itself does; soon it yields, because ranks may share a core; and when others are late it sleeps.
SPIN_S = 50e-6
YIELD_S = 2e-3
NAP_S = 200e-6
# A rank that was elsewhere for so long may be too late for the others, and looks so often (half a millisecond) what they
# say: no time, in which it may not have run at all.
LATE_S = 0.1
LISTENS = 100
WATCH_S = 0.2  # how often the clock is looked at while MPI blocks

_HEADER_TAG, _PAYLOAD_TAG = 1, 2
_NATIVE_BYTES = (1 << 31) - 1  # MPI counts in C ints
_TEXT_BYTES = 160
_MEET_BYTES = 512  # what a rank says of itself when the ranks meet
# Reduce op -> MPI's name, and the kinds of dtype for which it does the same as NumPy. Not min and max of floats: MPI
# leaves open what becomes of NaN, and then ranks may differ.
_NATIVE_OPS = {
    "sum": ("SUM", "iufc"),
    "avg": ("SUM", "fc"),
    "product": ("PROD", "iufc"),
    "min": ("MIN", "iu"),
    "max": ("MAX", "iu"),
    "band": ("BAND", "iu"),
    "bor": ("BOR", "iu"),
    "bxor": ("BXOR", "iu"),
}


class NativeCollectives(FrameTransport):
    """MPI's own collectives, on `_comm`, once a member has prepared them."""

    _mpi: Any
    _comm: Any
    _blocked: tuple[Call, Deadline] | None = None  # the call in which MPI blocks
    _watcher: threading.Thread | None = None

    def _prepare(self) -> None:
        """A call of all ranks."""
        # The largest and the negated smallest fingerprint. One persistent request: half the time of a new one each call.
        self._ends = np.zeros(2, np.int64)
        self._words = self._ends.data
        try:
            self._meeting = self._comm.Allreduce_init(self._mpi.IN_PLACE, self._ends, self._mpi.MAX)
        except NotImplementedError:  # before MPI 4
            self._meeting = None
        self._native_ops: dict[tuple[str, np.dtype], Any] = {}
        self._last_s = time.monotonic()  # when this rank was last together with the others

    # -- collectives --------------------------------------------------------------------------------------------------

    def all_reduce(self, array: np.ndarray, op: str, call: Call, deadline: Deadline) -> None:
        how = self._native_op(op, array, call)
        self._agree(call, deadline)
        if how is None:
            return super().all_reduce(array, op, call, deadline)
        self._native(lambda: self._comm.Allreduce(self._mpi.IN_PLACE, array, how), call, deadline)
        if op == "avg":
            divide(array, self.size)

    def reduce(self, array: np.ndarray, op: str, root: int, call: Call, deadline: Deadline) -> None:
        self._check_root(root, call)
        how = self._native_op(op, array, call)
        self._agree(call, deadline)
        if how is None:
            return super().reduce(array, op, root, call, deadline)
        ends = (self._mpi.IN_PLACE, array) if self.rank == root else (array, None)
        self._native(lambda: self._comm.Reduce(*ends, how, root), call, deadline)
        if op == "avg" and self.rank == root:
            divide(array, self.size)

    def broadcast(self, array: np.ndarray, root: int, call: Call, deadline: Deadline) -> None:
        self._check_root(root, call)
        self._agree(call, deadline)
        if array.nbytes > _NATIVE_BYTES:
            return super().broadcast(array, root, call, deadline)
        self._native(lambda: self._comm.Bcast(self._bytes(array), root), call, deadline)

    def all_gather(self, array: np.ndarray, call: Call, deadline: Deadline) -> np.ndarray:
        self._agree(call, deadline)
        if array.nbytes * self.size > _NATIVE_BYTES:
            return super().all_gather(array, call, deadline)
        out = np.empty((self.size, array.size), array.dtype)
        self._native(lambda: self._comm.Allgather(self._bytes(array), self._bytes(out)), call, deadline)
        return out

    def gather(self, array: np.ndarray, root: int, call: Call, deadline: Deadline) -> np.ndarray | None:
        self._check_root(root, call)
        self._agree(call, deadline)
        if array.nbytes * self.size > _NATIVE_BYTES:
            return super().gather(array, root, call, deadline)
        out = np.empty((self.size, array.size), array.dtype) if self.rank == root else None
        into = None if out is None else self._bytes(out)
        self._native(lambda: self._comm.Gather(self._bytes(array), into, root), call, deadline)
        return out

    def scatter(self, array: np.ndarray | None, root: int, call: Call, deadline: Deadline) -> np.ndarray:
        self._check_root(root, call)
        if self.rank == root:
            self._check_scatter(array, call)
        self._agree(call, deadline)
        out = self._empty(call)
        if out.nbytes * self.size > _NATIVE_BYTES:
            return super().scatter(array, root, call, deadline)
        source = self._bytes(array) if self.rank == root and array is not None else None
        self._native(lambda: self._comm.Scatter(source, self._bytes(out), root), call, deadline)
        return out

    def reduce_scatter(self, array: np.ndarray, op: str, call: Call, deadline: Deadline) -> np.ndarray:
        self._check_blocks(array, call)
        how = self._native_op(op, array, call)
        self._agree(call, deadline)
        if how is None:
            return super().reduce_scatter(array, op, call, deadline)
        out = np.empty(array.size // self.size, array.dtype)
        self._native(lambda: self._comm.Reduce_scatter_block(array, out, how), call, deadline)
        if op == "avg":
            divide(out, self.size)
        return out

    def all_to_all(self, array: np.ndarray, call: Call, deadline: Deadline) -> np.ndarray:
        self._check_blocks(array, call)
        self._agree(call, deadline)
        if array.nbytes > _NATIVE_BYTES:
            return super().all_to_all(array, call, deadline)
        out = np.empty_like(array)
        self._native(lambda: self._comm.Alltoall(self._bytes(array), self._bytes(out)), call, deadline)
        return out

    def barrier(self, call: Call, deadline: Deadline) -> None:
        self._agree(call, deadline)

    # -- waiting ------------------------------------------------------------------------------------------------------

    def _agree(self, call: Call, deadline: Deadline) -> None:
        """Return once all ranks have begun the same call: the largest and the smallest fingerprint are the same."""
        self._check_open(call)
        self._check_together(call)
        late = time.monotonic() - self._last_s > LATE_S
        words = self._words
        words[0] = number = mark(call)
        words[1] = -number
        if self._meeting is not None:
            request = self._meeting
            request.Start()
        else:
            request = self._comm.Iallreduce(self._mpi.IN_PLACE, self._ends, self._mpi.MAX)
        if not request.Test():
            self._wait(request, call, deadline, self._ends)
        if late:
            self._listen(call)
        self._last_s = time.monotonic()
        if words[0] == -words[1]:
            return
        mine = np.frombuffer(str(call).encode()[:_TEXT_BYTES].ljust(_TEXT_BYTES), np.uint8)
        texts = np.empty((self.size, _TEXT_BYTES), np.uint8)
        self._wait(self._comm.Iallgather(mine, texts), call, deadline, mine, texts)
        got = "; ".join(f"rank {rank} in {texts[rank].tobytes().decode().strip()}" for rank in range(self.size))
        rule = "all ranks must make the same calls in the same order, with the same shapes, dtypes and roots"
        self._failure = Failure("mismatch", self.rank, f"expected all ranks in the same call, got {got}; {rule}")
        raise self._error(call)

    def _wait(self, request: Any, call: Call, deadline: Deadline, *memory: object) -> None:
        """Wait for all ranks. On failure the request goes on without us, so its memory is kept."""
        pause, silent = Pause(), True
        until = time.monotonic() + min(WAITING_AFTER_S, deadline.remaining_s() / 2)
        try:
            while not request.Test():
                pause()
                if pause.long:
                    self._pump(0.0)
                    self._check_together(call)
                    if silent and time.monotonic() >= until:
                        silent = False
                        self._tell_all(Kind.WAITING, call, about=(self.rank + 1) % self.size)
                    if not silent:  # who left by now did not leave after its part of this call
                        for peer in self._others():
                            self._refuse(peer, call)
                    if deadline.expired():
                        culprit = min(self._others(), key=lambda peer: peer in self._waiting)
                        self._fail(Failure("deadline", culprit, deadline.text(culprit)))
                        raise self._error(call)
        except BaseException:
            _ABANDONED.append((request, memory))
            raise
        if not silent:
            self._tell_all(Kind.WAITING, call, about=self.rank)

    def _native(self, collective: Callable[[], object], call: Call, deadline: Deadline) -> None:
        """Let MPI block in a collective that all ranks have begun, under the eyes of the watcher."""
        if self._watcher is None:
            self._watcher = threading.Thread(target=self._watch_clock, name=f"mpi watch {self.rank}", daemon=True)
            self._watcher.start()
        self._blocked = (call, deadline)
        collective()
        self._blocked = None
        self._last_s = time.monotonic()

    def _listen(self, call: Call) -> None:
        """Who comes late may find the agreement complete and the others gone: they gave up waiting, and said so."""
        for _ in range(LISTENS):
            self._pump(0.0)
        self._check_together(call)

    def _watch_clock(self) -> None:
        while not self._closed:
            time.sleep(WATCH_S)
            if (blocked := self._blocked) is not None and blocked[1].expired():
                call, deadline = blocked
                self.abort(
                    f"{call}: expected all ranks, which have begun it, to end it within {deadline.timeout_s:g} s, got "
                    f"none that did; a process was stopped in the middle"
                )

    def _native_op(self, op: str, array: np.ndarray, call: Call) -> Any:
        """MPI's operation, or None where the plain collective must do it."""
        if array.nbytes > _NATIVE_BYTES:
            reduction(op, array.dtype, call)
            return None
        try:
            return self._native_ops[op, array.dtype]
        except KeyError:
            reduction(op, array.dtype, call)
        name, kinds = _NATIVE_OPS[op]
        native = array.dtype.kind in kinds and not (array.dtype.kind == "f" and array.dtype.itemsize == 2)
        how = self._native_ops[op, array.dtype] = getattr(self._mpi, name) if native else None
        return how

    def _bytes(self, array: np.ndarray) -> list:
        return [array.view(np.uint8), self._mpi.BYTE]


class MPITransport(HostMemory, NativeCollectives):
    name = "mpi"
    finalizes = True  # MPI_Finalize is called when the process ends, whatever has happened

    @classmethod
    def open(cls, world: World, timeout_s: float) -> Self:
        try:
            if not cls.finalizes:
                import mpi4py

                mpi4py.rc.finalize = False
            from mpi4py import MPI
        except (ImportError, RuntimeError) as error:  # mpi4py is there, but no libmpi for it
            raise missing_library("MPI (libmpi)", "transport mpi", "mpi-local") from error
        here = MPI.COMM_WORLD
        if (here.rank, here.size) != (world.rank, world.size):
            raise WorldError(
                f"rank {world.rank}: open: expected MPI to have this process as rank {world.rank} of {world.size}, "
                f"got {here.rank} of {here.size}; start with the mpiexec of the MPI that mpi4py was built for"
            )
        cls._at_exit(MPI)
        deadline = Deadline.after(timeout_s)
        comm, request = here.Idup()
        try:
            finish(request, f"rank {world.rank}: open: expected all ranks", deadline)
            _COMMS.append(comm)
            transport = cls(MPI, comm, world)
            transport._meet(world, deadline)
        except BaseException as error:
            _TROUBLE.append(str(error))
            raise
        return transport

    @staticmethod
    def _at_exit(mpi: Any) -> None:
        _leave_together(mpi)

    def __init__(self, mpi: Any, comm: Any, world: World):
        super().__init__(world)
        self.refused_peers = 0  # strangers who asked for the shared memory
        self._mpi = mpi
        self._comm = comm  # never freed: that is collective, and closing must not wait
        self._job = job_id(world.job)
        self._watched: dict[int, Callable[[], object]] = {}
        self._poller = select.poll()
        self._outgoing: list[tuple[int, Any, object]] = []  # receiver, request, and the memory that it reads
        self._incoming: deque[tuple[Frame, np.ndarray, Any]] = deque()  # frames whose payload may still be on its way

    # -- frames -------------------------------------------------------------------------------------------------------

    def _post(self, frame: Frame, peer: int, data: np.ndarray) -> bool:
        """Two messages, a header and, unless empty, a payload. Each sort keeps its order, so they find each other."""
        self._outgoing = [sent for sent in self._outgoing if not sent[1].Test()]
        header = pack(frame, self._job)
        self._outgoing.append((peer, self._comm.Isend([header, self._mpi.BYTE], peer, _HEADER_TAG), header))
        if data.nbytes:
            self._outgoing.append((peer, self._comm.Isend(self._bytes(data), peer, _PAYLOAD_TAG), data))
        return True

    def _pump(self, timeout_s: float) -> None:
        timeout_s = min(timeout_s, self._nap_s)
        deadline, pause = Deadline.after(timeout_s), Pause()
        self._probe()
        while not self._deliver() and not deadline.expired():
            at_board = self._nap_s < math.inf and not self._incoming  # and sleeps until the bell rings
            if self._heard(timeout_s if at_board else 0.0):
                return
            if not at_board:
                pause()
            self._probe()

    def _can_lend(self, peer: int, data: np.ndarray) -> bool:
        return False  # MPI's own messages take no longer

    def _heard(self, timeout_s: float) -> bool:
        """Wait for what is watched; MPI itself has nothing that one could wait for so."""
        ready = self._poller.poll(1000 * timeout_s) if self._watched else []
        for fd, _ in ready:
            self._watched[fd]()
        return bool(ready)

    def _watch(self, fd: int, act: Callable[[], object]) -> None:
        self._watched[fd] = act
        self._poller.register(fd, select.POLLIN)

    def _unwatch(self, fd: int) -> None:
        del self._watched[fd]
        self._poller.unregister(fd)

    def _probe(self) -> None:
        """Take a header if there is one, and begin to receive its payload."""
        status = self._mpi.Status()
        message = self._comm.Improbe(self._mpi.ANY_SOURCE, _HEADER_TAG, status)
        if message is None:
            return
        header = bytearray(HEADER_BYTES)
        message.Recv([header, self._mpi.BYTE])
        frame = unpack(header, self._job)
        body = np.empty(frame.nbytes, np.uint8)
        request = self._comm.Irecv(self._bytes(body), status.Get_source(), _PAYLOAD_TAG) if frame.nbytes else None
        self._incoming.append((frame, body, request))

    def _deliver(self) -> bool:
        """Report the frames that are complete, each sender's in order. True if there were any."""
        unfinished: set[int] = set()
        waiting = len(self._incoming)
        for _ in range(waiting):
            frame, body, request = self._incoming.popleft()
            if frame.sender in unfinished or (request is not None and not request.Test()):
                unfinished.add(frame.sender)
                self._incoming.append((frame, body, request))
            else:
                self._arrived(frame, payload(frame, body.data))
        return len(self._incoming) < waiting

    def flush(self, deadline: Deadline) -> None:
        """MPI may send a large array only once its receiver looks for it; so look for ours meanwhile."""
        pause = Pause()
        while self._outgoing:
            peer, request, _ = self._outgoing[-1]
            if request.Test():
                self._outgoing.pop()
            elif deadline.expired():
                raise DeadlineError(f"rank {self.rank}: flush: {deadline.text(peer)}", rank=peer)
            else:
                self._probe()
                self._deliver()
                pause()

    def _shut(self) -> None:
        deadline = Deadline.after(CLOSE_S)
        while not deadline.expired() and not all(request.Test() for _, request, _ in self._outgoing):
            time.sleep(NAP_S)
        _ABANDONED.append((self._outgoing, self._incoming))
        self._unshare()

    def abort(self, reason: str) -> None:
        """End all processes of the job: the others may be in collectives that MPI cannot interrupt."""
        _end_all(self._mpi, f"rank {self.rank}: gave up: {reason}")

    def _error(self, call: Call) -> DDPError:
        error = super()._error(call)
        _TROUBLE.append(str(error))
        return error

    # -- meeting ------------------------------------------------------------------------------------------------------

    def _meet(self, world: World, deadline: Deadline) -> None:
        """Learn who is on which host, share memory there, and prepare MPI's collectives where that is not all ranks'."""
        table = dataclasses.asdict(tuning.load()) if self.rank == 0 else {}
        here = {"host": host_of(world), "cores": cores(), "tuning": table}
        mine = np.frombuffer(json.dumps(here).encode().ljust(_MEET_BYTES), np.uint8)
        everybody = np.empty((self.size, _MEET_BYTES), np.uint8)
        where = f"rank {self.rank}: open: expected all ranks"
        finish(self._comm.Iallgather(mine, everybody), where, deadline, mine, everybody)
        ranks = [json.loads(row.tobytes()) for row in everybody]
        self.tuning = tuning.checked(ranks[0]["tuning"], f"rank {self.rank}: open: rank 0's table")
        self._hosts = by_host([each["host"] for each in ranks])
        host = next(host for host in self._hosts if self.rank in host)
        self._take_turns(sum(count for _, count in {tuple(ranks[rank]["cores"]) for rank in host}), len(host))
        self._share(deadline)
        if not self._on_board:
            self._prepare()

    def _nobody(self, missing: list[int], deadline: Deadline) -> DDPError:
        text = f"expected rank {missing[0]} within {deadline.timeout_s:g} s, to share memory, got nothing"
        return DeadlineError(f"rank {self.rank}: open: {text}", rank=missing[0])

    def _refused_a_stranger(self, times: int) -> None:
        self.refused_peers += times


def finish(request: Any, expected: str, deadline: Deadline, *memory: object) -> None:
    """Wait for others where no call can be told of. On failure the request goes on without us, so its memory is kept."""
    pause = Pause()
    while not request.Test():
        if deadline.expired():
            _ABANDONED.append((request, memory))
            raise DeadlineError(f"{expected} within {deadline.timeout_s:g} s, got fewer")
        pause()


class Pause:
    """What to do between two looks at something that is not there yet: more and more polite."""

    def __init__(self) -> None:
        self._since = time.perf_counter()
        self.long = False  # whether the wait has come beyond spinning and yielding

    def __call__(self) -> None:
        waited_s = time.perf_counter() - self._since
        self.long = waited_s > YIELD_S
        if self.long:
            time.sleep(NAP_S)
        elif waited_s > SPIN_S:
            _yield()


# Sleeping for no time takes 70 µs on Linux, a timer's slack; yielding half of one.
_yield: Callable[[], object] = getattr(os, "sched_yield", lambda: time.sleep(0.0))

# Failures that were raised in this process, of any transport.
_TROUBLE: list[str] = []
# The communicators of the transports of this process, closed ones too.
_COMMS: list[Any] = []
# Requests that were given up, and the memory that MPI may still read and write for them until it ends.
_ABANDONED: list[object] = []


@cache
def _leave_together(mpi: Any) -> None:
    """At exit, wait for the other ranks, as MPI_Finalize does anyway; but after a failure not for ever."""

    def leave() -> None:
        if mpi.Is_finalized():
            return
        deadline, pause, request = Deadline.after(LEAVE_S), Pause(), mpi.COMM_WORLD.Ibarrier()
        while not request.Test():
            if _TROUBLE and deadline.expired():
                _end_all(mpi, f"expected all ranks to end within {LEAVE_S:g} s after a failure: {_TROUBLE[0]}")
            pause()
        for comm in _COMMS:
            _drain(mpi, comm)

    atexit.register(leave)  # runs before the MPI_Finalize of mpi4py


def _end_all(mpi: Any, reason: str) -> None:
    """End all processes of the job, which MPICH's mpiexec would do before it has passed on what they said last."""
    print(reason, file=sys.stderr, flush=True)
    time.sleep(SAID_S)
    mpi.COMM_WORLD.Abort(1)


def _drain(mpi: Any, comm: Any) -> None:
    """Take what came after a transport was closed: UCX, below MPICH, warns of what nobody has taken."""
    status = mpi.Status()
    while (message := comm.Improbe(mpi.ANY_SOURCE, mpi.ANY_TAG, status)) is not None:
        message.Recv([bytearray(status.Get_count(mpi.BYTE)), mpi.BYTE])
