"""Starts the MPI worlds: the conformance suite at several sizes, and the ways in which a job ends."""

from __future__ import annotations

import os
import signal
import subprocess
import time

import pytest

from tests import jobs

pytestmark = jobs.needs_mpi


def mpiexec(size: int, *command: str, timeout_s: float, **variables: str) -> tuple[int, str]:
    """Exit code and output of `size` ranks. What does not end is ended."""
    job = subprocess.Popen(
        [*jobs.LAUNCHERS["mpiexec"](size), *command],
        cwd=jobs.ROOT,
        env=jobs.environment() | variables,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        text, _ = job.communicate(timeout=timeout_s)
        return job.returncode, text
    finally:
        if job.poll() is None:
            job.terminate()  # so that mpiexec ends its ranks, which are in process groups of their own
            try:
                job.communicate(timeout=5)
            except subprocess.TimeoutExpired:
                os.killpg(job.pid, signal.SIGKILL)
                job.communicate()


@pytest.mark.parametrize(
    ("size", "ways"), [(2, "not on_two_hosts"), (3, "not without_board"), (4, "not without_board")]
)
def test_conformance(size, ways):
    pytest.importorskip("pytest_mpi", reason="pytest-mpi is not installed")
    pytest_ = ("-m", "pytest", "--with-mpi", "-q", "-x", "-p", "no:cacheprovider", "-k", ways, "tests/mpi_suite.py")
    code, text = mpiexec(size, *pytest_, timeout_s=100)
    assert code == 0, text


RANK = """
import os, signal, sys, time
import numpy as np
from mpi4py import MPI
from ddp.env import World
from ddp.transport import open_transport
from tests.transport_cases import Group
me = MPI.COMM_WORLD
g = Group(open_transport("mpi", World(rank=me.rank, size=me.size), 10), timeout_s=1.0)
g.barrier()
"""


STUCK = "if g.rank == 1: time.sleep(30)\ng.all_reduce(np.ones(9))"
STOPPED = "if g.rank == 1: os.kill(os.getpid(), signal.SIGSTOP)\ng.barrier()"
NO_MEMORY = "if g.rank == 1: g.transport.abort('no memory')\ng.barrier()"


@pytest.mark.parametrize(
    ("end", "shared", "good", "message"),
    [
        ("g.transport.close()", "1", True, ""),
        ("g.all_reduce(np.ones(1000))", "1", True, ""),  # not closed
        (NO_MEMORY, "1", False, "rank 1: gave up: no memory"),
        (NO_MEMORY, "0", False, "rank 1: gave up: no memory"),
        (STUCK, "1", False, "expected rank 1 within 1 s, got nothing"),
        (STUCK, "0", False, "expected rank 1 within 1 s, got nothing"),
        (STOPPED, "1", False, "expected rank 1 within 1 s, got nothing"),
    ],
    ids=["closed", "left open", "abort", "abort, no board", "one is stuck", "stuck, no board", "one is stopped"],
)
def test_every_job_ends(end, shared, good, message):
    began = time.monotonic()
    code, text = mpiexec(3, "-c", RANK + end, timeout_s=25, LOCKSTEP_SHARED_MEMORY=shared)
    assert (code == 0) == good, text
    assert message in text
    assert time.monotonic() - began < 15
