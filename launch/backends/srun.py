"""Ranks started by Slurm's srun: from a login node (it waits for resources) or inside a batch script's allocation.

The ranks find their places and rank 0's host by Slurm's variables (`ddp.env`), and the key in a private file in the
home directory, which must be on a disk that all nodes see; if it is not, give `--key-file` on one that is.
"""

from __future__ import annotations

from launch.backends.base import Launcher, Plan, Process, Session, command, counted
from launch.backends.mpirun import job_env
from launch.job import Job


class SrunLauncher(Launcher):
    name = "srun"
    inherits = False

    def plan(self, job: Job, session: Session) -> Plan:
        argv = (
            *("srun", f"--ntasks={job.size}", "--label", "--kill-on-bad-exit=1", "--export=ALL"),
            *((f"--nodes={job.nodes}",) if job.nodes > 1 else ()),
            *((f"--job-name={job.name}",) if job.name else ()),
            *job.launcher_args,
            *command(job),
        )
        process = Process(0, argv, job_env(job, session), name="srun", prefixed=False)
        return Plan((process,), notes=(f"{counted(job.size, 'rank')} by srun",))
