"""Ranks as processes of this host, which may be one of several: the plain launcher."""

from __future__ import annotations

from ddp.env import World
from launch.backends.base import Launcher, Plan, Process, Session, command, counted, wishes
from launch.cores import shares, threads_for_each
from launch.job import THREAD_VARIABLES, Job


class LocalLauncher(Launcher):
    name = "local"

    def plan(self, job: Job, session: Session) -> Plan:
        ranks = session.ranks or (job.size,)
        bound = shares(job.cores, job.size) if job.bind else ((),) * job.size
        threads = {} if job.user_threads else dict.fromkeys(THREAD_VARIABLES, str(_threads(job)))
        worlds = [_world(local_rank, job, session, ranks) for local_rank in range(job.size)]
        return Plan(
            processes=tuple(
                Process(
                    rank=world.rank,
                    argv=command(job),
                    env={
                        **world.to_env(),
                        **_torchrun(world, job, ranks),
                        **wishes(job),
                        "PYTHONUNBUFFERED": "1",
                        **threads,
                    },
                    prefixed=world.size > 1,
                    cores=bound[world.local_rank],
                )
                for world in worlds
            ),
            notes=(_note(job, ranks),),
            log_dir=job.log_dir,
            shown=job.shown,
        )


def _world(local_rank: int, job: Job, session: Session, ranks: tuple[int, ...]) -> World:
    return World(
        rank=sum(ranks[: job.node_rank]) + local_rank,
        size=sum(ranks),
        local_rank=local_rank,
        local_size=job.size,
        node_rank=job.node_rank,
        launcher="ddprun",
        master_addr=session.master_addr,
        master_port=session.master_port,
        job=session.job,
        key_file=session.key_file,
        restart=session.restart,
    )


def _torchrun(world: World, job: Job, ranks: tuple[int, ...]) -> dict[str, str]:
    """What else scripts written for torchrun read."""
    return {
        "ROLE_RANK": str(world.rank),
        "ROLE_WORLD_SIZE": str(world.size),
        "ROLE_NAME": "default",
        "GROUP_WORLD_SIZE": str(len(ranks)),
        "TORCHELASTIC_RUN_ID": job.name or world.job,
        "TORCHELASTIC_RESTART_COUNT": str(world.restart),
        "TORCHELASTIC_MAX_RESTARTS": str(job.restarts),
    }


def _threads(job: Job) -> int:
    return threads_for_each(len(job.cores), job.size)


def _note(job: Job, ranks: tuple[int, ...]) -> str:
    share = f"{counted(job.size, 'rank')} on {counted(len(job.cores), 'core')}"
    if len(ranks) > 1:
        first = sum(ranks[: job.node_rank])
        share = f"node {job.node_rank} of {len(ranks)}, from rank {first} of {sum(ranks)}: {share}"
    if job.bind:
        share += ", each bound to its own" if job.size <= len(job.cores) else ", too few to bind each to its own"
    if job.user_threads:
        return f"{share}, OMP_NUM_THREADS={job.user_threads} as you set it"
    return f"{share}, {counted(_threads(job), 'thread')} for each (set OMP_NUM_THREADS to choose another number)"
