"""Ranks started by mpirun, whose Open MPI also carries the data unless the script asks for "zmq".

The ranks find their places by mpirun's variables (`ddp.env`), and the key in a private file, which must be on a disk
that all hosts see. mpirun is the one beside this Python (the PyPI package brings it) or else the first on PATH.
Output is mpirun's own; `--launcher-args='--output tag'` has it say whose a line is.

A `launch.witness` stands by each rank and tells us which one failed first; none does where a death is no failure, as with
`--with-ft ulfm`. Open MPI 5 looks every few seconds whether the other hosts are still there, not every few minutes.
"""

from __future__ import annotations

import os
import shutil

from ddp.env import World
from launch import witness
from launch.backends.base import Launcher, Plan, Process, Session, command, counted, wishes
from launch.job import EXPORTED, Job

SURVIVES = ("with-ft", "recover", "continuous")  # in an option by which a job outlives the death of a rank
# After so many seconds of silence a daemon is asked whether it is there, and again after so many: lost after 15 s, as by ssh.
KEEPALIVE = {
    f"PRTE_MCA_oob_tcp_keepalive_{name}": value for name, value in (("time", "5"), ("intvl", "5"), ("probes", "2"))
}


class MpirunLauncher(Launcher):
    name = "mpirun"
    inherits = False

    def plan(self, job: Job, session: Session) -> Plan:
        env = job_env(job, session)
        names = (*env, *(name for name in EXPORTED if name in dict(job.exports)))
        survives = any(word in arg for arg in job.launcher_args for word in SURVIVES)
        witnessed = "" if survives else os.path.dirname(session.key_file)
        argv = (
            *(find("mpirun", job.python), "-n", str(job.size)),
            *(("--hostfile", job.hostfile) if job.hostfile else ()),
            *(word for name in names for word in ("-x", name)),
            *job.launcher_args,
            *((job.python, "-IS", witness.__file__, witnessed) if witnessed else ()),
            *command(job),
        )
        process = Process(0, argv, {**env, **KEEPALIVE}, name="mpirun", prefixed=False)
        return Plan((process,), notes=(f"{counted(job.size, 'rank')} by mpirun",), witnessed=witnessed)


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
