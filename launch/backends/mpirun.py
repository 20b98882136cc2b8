"""Ranks started by mpirun, whose MPI also carries the data unless the script asks for "zmq".

mpirun is Open MPI's, or Hydra, that of MPICH and its children: they differ in how they are told of hosts and variables.
The one beside this Python (the PyPI package brings it) is taken, or else the first on PATH. The ranks find their places by
its variables (`ddp.env`), and the key in a private file, which must be on a disk that all hosts see.
Output is mpirun's own; `--launcher-args='--output tag'` (Open MPI) or `-l` (Hydra) has it say whose a line is.

A `launch.witness` stands by each rank and tells us which one failed first; none does where a death is no failure, as with
`--with-ft ulfm`. Open MPI 5 looks every few seconds whether the other hosts are still there, not every few minutes.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator

from ddp.env import World
from launch import witness
from launch.backends.base import Launcher, Plan, Process, Session, command, counted, wishes
from launch.hostfile import read_hosts
from launch.job import EXPORTED, Job

SURVIVES = ("with-ft", "recover", "continuous")  # in an option by which a job outlives the death of a rank
# After so many seconds of silence a daemon is asked whether it is there, and again after so many: lost after 15 s, as by ssh.
KEEPALIVE = {
    f"PRTE_MCA_oob_tcp_keepalive_{name}": value for name, value in (("time", "5"), ("intvl", "5"), ("probes", "2"))
}
VERSION_S = 10


class MpirunLauncher(Launcher):
    name = "mpirun"
    inherits = False

    def plan(self, job: Job, session: Session) -> Plan:
        env = job_env(job, session)
        program = find("mpirun", job.python)
        survives = any(word in arg for arg in job.launcher_args for word in SURVIVES)
        witnessed = "" if survives else os.path.dirname(session.key_file)
        argv = (
            *(program, "-n", str(job.size)),
            *(_to_hydra(job) if is_hydra(program) else _to_open_mpi(job, env)),
            *job.launcher_args,
            *((job.python, "-IS", witness.__file__, witnessed) if witnessed else ()),
            *command(job),
        )
        process = Process(0, argv, {**env, **KEEPALIVE}, name="mpirun", prefixed=False)
        return Plan((process,), notes=(f"{counted(job.size, 'rank')} by mpirun",), witnessed=witnessed)


def _to_open_mpi(job: Job, env: Iterable[str]) -> Iterator[str]:
    """Hosts, and the variables that every rank gets."""
    if job.hostfile:
        yield from ("--hostfile", job.hostfile)
    for name in (*env, *(name for name in EXPORTED if name in dict(job.exports))):
        yield from ("-x", name)


def _to_hydra(job: Job) -> Iterator[str]:
    """Hosts; its ranks get all variables, and it reads other hostfiles than Open MPI does."""
    if job.hostfile:
        yield from ("-hosts", ",".join(f"{host.name}:{host.slots}" for host in read_hosts(job.hostfile)))


@functools.cache
def is_hydra(program: str) -> bool:
    """Whether an mpirun is Hydra. One that cannot be run is none: starting it will say why."""
    try:
        said = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=VERSION_S)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return said.returncode == 0 and not of_open_mpi(said.stdout + said.stderr)


def of_open_mpi(version: str) -> bool:
    """Whether a library or an mpirun that says this of itself is Open MPI's."""
    return any(name in version.lower() for name in ("open mpi", "openrte"))


def job_env(job: Job, session: Session) -> dict[str, str]:
    """What ranks need to know besides the places that another launcher tells them."""
    world = World(job=session.job, key_file=session.key_file, restart=session.restart).to_env()
    told = {name: value for name, value in world.items() if name.startswith("LOCKSTEP_")}
    if job.master_addr:
        told |= {"MASTER_ADDR": job.master_addr, "MASTER_PORT": str(job.master_port)}
    return {**told, **wishes(job), "PYTHONUNBUFFERED": "1"}


def find(name: str, python: str) -> str:
    """The program beside Python, or else just its name, for PATH."""
    return shutil.which(name, path=os.path.dirname(python) or os.curdir) or name
