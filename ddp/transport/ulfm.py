"""MPI whose processes may die: User-Level Failure Mitigation, as in Open MPI 5 by `mpirun --with-ft ulfm`.

Contract: sends and receives are those of `mpi`, without its collectives. MPI says who has died: every wait looks. After a death the
communicator is of no use any more; `agree` and `shrink` lead to the next one, in which those that live keep their ranks. Both are calls of
all that live, in this order. The second blocks inside MPI, which knows no deadline there, so at ours a thread ends the job.
Whoever ends without `agree(True)` keeps the others waiting in theirs: a process that fails must call `abort`.
Noticed are deaths (some 30 ms), not processes that are stopped: a wait for one of these ends with its deadline.
Not here: who calls when (`ddp.lockstep.membership`).
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ddp.env import World
from ddp.errors import PeerLostError
from ddp.transport.base import Call, Deadline
from ddp.transport.framed import Failure
from ddp.transport.mpi import MPITransport, finish
from ddp.wire import Frame


def is_enabled(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether this process was started by `mpirun --with-ft ulfm`."""
    return environ.get("OMPI_MCA_mpi_ft_enable") == "1" and "OMPI_COMM_WORLD_RANK" in environ


class ULFMTransport(MPITransport):
    name = "ulfm"
    finalizes = False

    def __init__(self, mpi: Any, comm: Any, world: World):
        super().__init__(mpi, comm, world)
        comm.Set_errhandler(mpi.ERRORS_RETURN)
        self._all = comm.Get_group()  # of the beginning, whose ranks everybody keeps
        self._all_live = True  # of the beginning; whoever has left by `agree` says the same
        self._today = list(range(self.size))  # rank -> rank in the communicator of today
        atexit.register(self._finalize)
        self._about_death = (mpi.ERR_PROC_FAILED, mpi.ERR_PROC_FAILED_PENDING, mpi.ERR_REVOKED)

    def _meet(self, world: World, deadline: Deadline) -> None:
        """Nothing to agree on: no collectives, and so neither MPI's nor shared memory."""

    @staticmethod
    def _at_exit(mpi: Any) -> None:
        """Nothing: `agree` sees that all leave together, and a barrier with the dead would fail."""

    def _finalize(self) -> None:
        """If all live: after a death Open MPI's (5.0.11) waits for ever one time in ten, and mpirun does not mind that it is left out."""
        if self._all_live and not self._mpi.Is_finalized():
            self._mpi.Finalize()

    # -- messages -----------------------------------------------------------------------------------------------------

    def _post(self, frame: Frame, peer: int, data: np.ndarray) -> bool:
        return bool(self._noticing(lambda: super(ULFMTransport, self)._post(frame, self._today[peer], data)))

    def _pump(self, timeout_s: float) -> None:
        self._noticing(lambda: super(ULFMTransport, self)._pump(timeout_s))

    def flush(self, deadline: Deadline) -> None:
        self._noticing(lambda: super(ULFMTransport, self).flush(deadline))
        if self._failure is not None:
            raise PeerLostError(f"rank {self.rank}: flush: {self._failure.text}", rank=self._failure.rank)

    def close(self) -> None:
        """No goodbyes: all have agreed to leave."""
        if not self._closed:
            self._closed = True
            self._shut()

    def _noticing(self, act: Callable[[], Any]) -> Any:
        """What it returns; None if a death got in its way, which then is the failure of this generation."""
        try:
            return act()
        except self._mpi.Exception as error:
            if error.Get_error_class() not in self._about_death:
                raise
        failed = self._comm.Get_failed()
        ranks = self._mpi.Group.Translate_ranks(failed, list(range(failed.size)), self._all)
        for rank in ranks:
            self._lost(rank)
        if self._failure is None:  # others know more, and have ended this communicator
            self._fail(Failure("lost", self.rank, "another rank found one that has died"))
        return None

    # -- generations --------------------------------------------------------------------------------------------------

    def agree(self, done: bool, deadline: Deadline) -> bool:
        """Whether all that live are done. Who is not, ends everybody's waits."""
        if not done:
            self._comm.Revoke()
        flag = np.array([done], np.intc)
        request = self._comm.Iagree(flag)
        try:
            finish(request, f"rank {self.rank}: agree: expected all that live", deadline, flag)
        except self._mpi.Exception as error:  # one more has died; still all have the same flag, and all are told
            if error.Get_error_class() not in self._about_death:
                raise
            self._all_live = False
        return bool(flag[0])

    def shrink(self, deadline: Deadline) -> list[int]:
        """A communicator of those that live; their ranks."""
        new = self._blocking("shrink", self._comm.Shrink, deadline)
        new.Set_errhandler(self._mpi.ERRORS_RETURN)
        group = new.Get_group()
        members = self._mpi.Group.Translate_ranks(group, list(range(group.size)), self._all)
        self._all_live = len(members) == self.size
        for rank in set(range(self.size)) - set(members):
            self._gone.setdefault(rank, "died")
        self._today = [members.index(rank) if rank in members else -1 for rank in range(self.size)]
        _ABANDONED.append((self._comm, self._outgoing[:], list(self._incoming)))
        self._comm = new
        self._outgoing.clear()
        self._incoming.clear()
        self._sent, self._seen = [0] * self.size, [0] * self.size
        return sorted(members)

    def _blocking(self, name: str, act: Callable[[], Any], deadline: Deadline) -> Any:
        found: list[Any] = []
        try:
            self._native(lambda: found.append(act()), Call(name, self.generation, "uint8", 0), deadline)
        finally:
            self._blocked = None
        return found[0]


# Communicators that were given up, and requests in them with the memory that MPI may still use.
_ABANDONED: list[object] = []
