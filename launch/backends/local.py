"""Ranks as processes of this host: the plain launcher."""

from __future__ import annotations

from ddp.env import World
from launch.backends.base import Launcher, Plan, Process, Session
from launch.job import THREAD_VARIABLES, Job


class LocalLauncher(Launcher):
    name = "local"

    def plan(self, job: Job, session: Session) -> Plan:
        threads = {} if job.user_threads else dict.fromkeys(THREAD_VARIABLES, str(_threads(job)))
        processes = tuple(
            Process(
                rank=rank,
                argv=(job.python, *(("-m", "launch.as_torch") if job.as_torch else ()), *job.program, *job.args),
                env={**_world(rank, job, session).to_env(), "PYTHONUNBUFFERED": "1", **threads},
            )
            for rank in range(job.size)
        )
        return Plan(processes, notes=(_note(job),))


def _world(rank: int, job: Job, session: Session) -> World:
    return World(
        rank=rank,
        size=job.size,
        local_rank=rank,
        local_size=job.size,
        launcher="ddprun",
        master_addr="127.0.0.1",
        master_port=session.master_port,
        job=session.job,
        key_file=session.key_file,
    )


def _threads(job: Job) -> int:
    return max(1, job.cores // job.size)


def _note(job: Job) -> str:
    share = f"{_counted(job.size, 'rank')} on {_counted(job.cores, 'core')}"
    if job.user_threads:
        return f"{share}, OMP_NUM_THREADS={job.user_threads} as you set it"
    return f"{share}, {_counted(_threads(job), 'thread')} for each (set OMP_NUM_THREADS to choose another number)"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
