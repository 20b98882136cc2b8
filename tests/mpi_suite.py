"""The conformance suite on MPI. pytest does not collect this file by itself; `test_mpi.py` runs it as

mpiexec -n 3 python -m pytest --with-mpi tests/mpi_suite.py
"""

from __future__ import annotations

import os
from unittest import mock

import pytest

from ddp.env import World
from ddp.errors import WorldError
from ddp.transport import open_transport, same_host
from tests.transport_cases import BROKEN, HEALTHY, TIMEOUT_S, Group

pytestmark = pytest.mark.mpi(min_size=2)


def world(hosts: int = 1) -> World:
    """With several hosts, ranks take turns on them."""
    from mpi4py import MPI

    me = MPI.COMM_WORLD
    return World(me.rank, me.size, node_rank=me.rank % hosts)


def run(body, where: World, on_board: bool) -> None:
    transport = open_transport("mpi", where, TIMEOUT_S)
    try:
        assert transport._on_board == on_board
        body(Group(transport))
    finally:
        transport.close()


def on_one_host(body):
    """All calls in shared memory."""
    run(body, world(), True)


def on_two_hosts(body):
    """All calls of the world by MPI's own collectives, subsets of one host in shared memory."""
    run(body, world(2), False)


def without_board(body):
    """All calls by MPI's own collectives."""
    with mock.patch.dict(os.environ, LOCKSTEP_SHARED_MEMORY="0"):
        run(body, world(), False)


@pytest.mark.parametrize("way", [on_one_host, on_two_hosts, without_board], ids=lambda way: way.__name__)
@pytest.mark.parametrize("body", HEALTHY + BROKEN, ids=lambda body: body.__name__)
def test_mpi(body, way):
    way(body)


def test_a_world_that_mpi_does_not_know_is_refused():
    with pytest.raises(WorldError, match="start with the mpiexec"):
        open_transport("mpi", World(rank=0, size=99), 1)


def test_where_one_rank_cannot_have_the_memory_none_has(monkeypatch):
    fetch = same_host.segment.fetch

    def refused(*args):
        if world().rank == 1:
            raise OSError("no more descriptors")
        return fetch(*args)

    def body(g):
        assert g.transport.without_board == "rank 1: no more descriptors"
        g.barrier()

    monkeypatch.setattr(same_host.segment, "fetch", refused)
    run(body, world(), False)


def test_cores_to_which_ranks_are_bound_count_together():
    me, free = world(), sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {free[me.rank % len(free)]})
    try:
        transport = open_transport("mpi", me, TIMEOUT_S)
    finally:
        os.sched_setaffinity(0, free)
    transport.close()
    assert transport._spin_s == same_host.SPIN_S * min(1.0, len(free) / me.size)
