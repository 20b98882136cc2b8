"""What every test run shares: the same random numbers, and a header that says what is here and what will be skipped."""

import importlib.util
from pathlib import Path

import pytest

import core
from ddp.env import FLAVOURS

# Files whose tests start jobs by our launcher, wait for them most of the time, and look what they leave in the system's folders: one
# worker runs them all, and meanwhile another computes what the rest do.
STARTING = tuple(f"test_{name}" for name in ("as_torch", "bench", "examples", "failing", "launch", "lockstep", "slurm"))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            path = nodeid.partition("::")[0]
            return "starting" if Path(path).name.startswith(STARTING) else path

    return ByFile(config, log)


@pytest.fixture(autouse=True)
def _same_random_numbers():
    core.manual_seed(0)


@pytest.fixture
def no_world(monkeypatch):
    """No job's environment, though the tests themselves may run under mpirun or ddprun."""
    own = ("LOCKSTEP_JOB", "LOCKSTEP_KEY_FILE", "LOCKSTEP_RESTART", "OMP_NUM_THREADS", "NO_COLOR", "PYTHONUNBUFFERED")
    for name in (*own, *(name for row in FLAVOURS for name in (row.rank, row.size, row.local_rank))):
        monkeypatch.delenv(name, raising=False)


def pytest_report_header(config):
    there = [n for n in ("torch", "cupy", "mpi4py", "zmq") if importlib.util.find_spec(n)]
    absent = [n for n in ("torch", "cupy", "mpi4py", "zmq") if n not in there]
    return f"optional libraries: {', '.join(there) or 'none'}; not installed, their tests are skipped: {', '.join(absent) or 'none'}"
