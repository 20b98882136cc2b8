"""Starting real jobs from tests: ddprun and mpiexec, with a deadline, and nothing left behind."""

import contextlib
import importlib.util
import os
import secrets
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from launch.backends.mpirun import is_hydra

ROOT = Path(__file__).parent.parent
PROGRAMS = Path(__file__).parent / "programs"

# world and thread variables of whoever runs the tests must not reach the jobs
_FOREIGN = ("RANK", "WORLD_SIZE", "LOCAL_", "MASTER_", "LOCKSTEP_", "OMPI_", "PMI", "PRTE", "SLURM_")


def environment():
    env = {k: v for k, v in os.environ.items() if not k.startswith(_FOREIGN)}
    env["PYTHONPATH"] = str(ROOT)
    env["OMP_NUM_THREADS"] = env["OPENBLAS_NUM_THREADS"] = "1"
    # Open MPI asks root to say so twice
    return env | {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}


def mpiexec():
    """The path of mpiexec beside this Python or on PATH; None if that or mpi4py is missing."""
    beside = Path(sys.executable).parent / "mpiexec"
    found = str(beside) if beside.exists() else shutil.which("mpiexec")
    return found if importlib.util.find_spec("mpi4py") else None


def is_open_mpi():
    """Whether that mpiexec is Open MPI's, and not MPICH's."""
    return not is_hydra(mpiexec())


def mpi_ranks(n):
    """The start of a command line: n ranks on this host, however few its cores. MPICH does not count them."""
    return [mpiexec(), *(["--oversubscribe"] if is_open_mpi() else []), "-n", str(n)]


needs_mpi = pytest.mark.skipif(
    mpiexec() is None, reason="mpi4py or mpiexec is not installed (pip install 'lockstep-ddp[mpi-local]')"
)

# ddprun with a moment of patience where users have seconds, for tests that are not about how long it waits
HURRIED = """
import sys
from launch import cli, supervisor
supervisor.Patience.__init__.__defaults__ = (0.3, 0.3, 0.3, 0.3, 0.2)
cli.LONGEST_PAUSE_S = 0.1
sys.exit(cli.main())
"""
HURRIED_DDPRUN = [sys.executable, "-c", HURRIED]

LAUNCHERS = {
    "ddprun": lambda n: [sys.executable, "-m", "launch", "-n", str(n)],
    "mpiexec": lambda n: [*mpi_ranks(n), sys.executable],
}


def command(launcher, n, program, *args):
    return [*LAUNCHERS[launcher](n), str(PROGRAMS / program), *map(str, args)]


def run(argv, timeout_s=60, **kwargs):
    """The finished job; its output is shown if it failed."""
    kwargs.setdefault("env", environment())
    done = subprocess.run(argv, capture_output=True, text=True, timeout=timeout_s, stdin=subprocess.DEVNULL, **kwargs)
    assert done.returncode == 0, f"{' '.join(argv)} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def free_port():
    """A port that nobody listens on, below those that the system hands out: a rank's own socket must not get it before rank 0."""
    while True:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", 20000 + secrets.randbelow(12000)))
            return probe.getsockname()[1]


def processes_with(text):
    """Process numbers of this machine whose command line holds the text."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if (
                text.encode() in (entry / "cmdline").read_bytes()
                and (entry / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
            ):
                found.append(int(entry.name))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            pass
    return found
