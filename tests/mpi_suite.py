"""The conformance suite on MPI. pytest does not collect this file by itself; `test_mpi.py` runs it as

mpiexec -n 3 python -m pytest --with-mpi tests/mpi_suite.py
"""

from __future__ import annotations

import pytest

from ddp.env import World
from ddp.errors import WorldError
from ddp.transport import open_transport
from tests.transport_cases import BROKEN, HEALTHY, TIMEOUT_S, Group

pytestmark = pytest.mark.mpi(min_size=2)


def world() -> World:
    from mpi4py import MPI

    return World(rank=MPI.COMM_WORLD.rank, size=MPI.COMM_WORLD.size)


@pytest.mark.parametrize("body", HEALTHY + BROKEN, ids=lambda body: body.__name__)
def test_mpi(body):
    transport = open_transport("mpi", world(), TIMEOUT_S)
    try:
        body(Group(transport))
    finally:
        transport.close()


def test_a_world_that_mpi_does_not_know_is_refused():
    with pytest.raises(WorldError, match="start with the mpiexec"):
        open_transport("mpi", World(rank=0, size=99), 1)
