"""The command `ddprun`: from arguments to a job, to a plan, to its run.

Contract: `main` returns the exit status of the run. A mistake of the user ends with status 2 and one message, before
anything has been started.
"""

from __future__ import annotations

import secrets
import socket
import sys
from collections.abc import Sequence

from ddp.env import FLAVOURS, World, world_from_env
from ddp.errors import WorldError
from launch import supervisor
from launch.backends import load_launcher
from launch.backends.base import Session
from launch.job import job_from_args
from launch.secret import job_key


def main(argv: Sequence[str] | None = None) -> int:
    job = job_from_args(sys.argv[1:] if argv is None else argv)
    try:
        _refuse_nesting(world_from_env())
    except WorldError as error:
        print(f"ddprun: {error}", file=sys.stderr)
        return 2
    launcher = load_launcher(job.launcher)
    if job.dry_run:
        # Nothing is made for a run that will not be: no secret, so no number of the descriptor that would hold it.
        print(launcher.plan(job, _new_session("/dev/fd/N")).describe())
        return 0
    with job_key() as (key_file, key_fds):
        plan = launcher.plan(job, _new_session(key_file))
        for note in plan.notes:
            print(f"ddprun: {note}", file=sys.stderr)
        return supervisor.run(plan, pass_fds=key_fds)


def _refuse_nesting(world: World) -> None:
    """Each of `mpirun -n 2 ddprun -n 2` would start a job of its own: four processes that train twice, side by side."""
    interactive = world.launcher == "slurm" and world.size == 1  # `srun --pty bash` is a step of one task
    if world.launcher == "none" or interactive:
        return
    row = next(row for row in FLAVOURS if row.name == world.launcher)
    raise WorldError(
        f"expected to be started outside of any job, got the environment of rank {world.rank} of {world.size}; "
        f"start the script itself there, without ddprun, or unset {row.rank} {row.size}"
    )


def _new_session(key_file: str) -> Session:
    return Session(job=secrets.token_hex(16), master_port=_free_port(), key_file=key_file)


def _free_port() -> int:
    """A port that the system just gave us. Another process may yet take it before rank 0 does: then that bind fails."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
