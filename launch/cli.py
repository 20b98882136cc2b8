"""The command `ddprun`: from arguments to a job, to a plan, to its run.

Contract: `main` returns the exit status of the run. A mistake of the user ends with status 2 and one message, before
anything has been started; hosts that do not come end with status 1.

A first argument that is exactly one of SUBCOMMANDS or JOBS is that command: `ddprun doctor`. Everything else is a run,
so that a script of such a name is started as `ddprun ./doctor`, or behind any option.
"""

from __future__ import annotations

import os
import secrets
import socket
import sys
import time
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec

from ddp.env import FLAVOURS, World, world_from_env
from ddp.errors import DDPError, WorldError
from launch import elastic, supervisor
from launch.backends import load_launcher
from launch.backends.base import KEY_HERE, Launcher, Session
from launch.desk import running_at
from launch.job import KEY_FROM_STDIN, Job, job_from_args, own_options
from launch.meeting import Guest, meet
from launch.secret import derived_key, job_key, key_in_private_file, new_key, parse_key, read_key
from launch.supervisor import Outcome

SUBCOMMANDS = {  # called in this process with the arguments that follow; the function returns the exit status
    "keygen": "launch.secret:keygen",
    "doctor": "launch.doctor:main",
    "chaos": "ddp.chaos:main",
    "verify": "ddp.verify:main",
}
JOBS = {  # run by all ranks: `ddprun tune -n 4 ARGS` is `ddprun -n 4 -m ddp.bench --tune ARGS`
    "bench": ("ddp.bench",),
    "tune": ("ddp.bench", "--tune"),
    "--tune": ("ddp.bench", "--tune"),
}
# The pause before restart k is 2 ** (k - 1) seconds, and at most this.
LONGEST_PAUSE_S = 60.0
# Where we choose the port of another host: below what systems give to anybody.
PORTS = range(20000, 30000)


def main(argv: Sequence[str] | None = None) -> int:
    args = list(sys.argv[1:] if argv is None else argv)
    try:
        name, rest = (args[0], args[1:]) if args else ("", [])
        if name in SUBCOMMANDS:
            return _call(name, rest)
        if name in JOBS and {"-h", "--help"} & {*rest}:
            return _call_module(JOBS[name][0], ["--help"])
        return _launch(job_from_args(_arguments(name, rest) if name in JOBS else args))
    except DDPError as error:
        _tell(str(error))
        return 1 if isinstance(error, TimeoutError) else 2
    except KeyboardInterrupt:  # while nothing runs: a run sees to its own
        return 130


def _call(name: str, args: list[str]) -> int:
    module, _, function = SUBCOMMANDS[name].partition(":")
    _check_exists(name, module)
    return _call_module(module, args, function)


def _call_module(module: str, args: list[str], function: str = "main") -> int:
    status: int | None = getattr(import_module(module), function)(args)
    return status or 0


def _arguments(name: str, args: list[str]) -> list[str]:
    module, *its_own = JOBS[name]
    _check_exists(name, module)
    end = own_options(args)
    its_own += args[end + (args[end : end + 1] == ["--"]) :]
    return [*args[:end], "-m", module, *its_own]


def _check_exists(name: str, module: str) -> None:
    if find_spec(module) is None:
        raise WorldError(f"{name}: expected the module {module}, got none in this installation; a script is ./{name}")


# -- runs -------------------------------------------------------------------------------------------------------------


def _launch(job: Job) -> int:
    _refuse_nesting(world_from_env())
    launcher = load_launcher(job.launcher)
    if job.dry_run or not launcher.runs:
        # Nothing is made for a run that will not be: no secret, so no number of the descriptor that would hold it.
        ranks = (job.size,) * job.nodes
        session = _session(job, secrets.token_hex(16), "/dev/fd/N", ranks, job.restarted)
        shown = (
            elastic.plan(job, session, elastic.at_start(job, "/tmp/N")) if job.elastic else launcher.plan(job, session)
        ).describe()
        print(shown if job.dry_run else shown.replace(KEY_HERE, new_key().hex()))
        return 0
    ear = sys.stdin.fileno() if job.key_file == KEY_FROM_STDIN else None
    key = _users_key(job, ear)
    first, last = job.restarted, job.restarted + job.restarts
    for restart in range(first, last + 1):
        outcome = _run_once(job, launcher, key, ear, restart)
        if not outcome.cause or restart == last:
            break
        pause_s = min(LONGEST_PAUSE_S, 2.0 ** (restart - first))
        _tell(f"{outcome.cause}: restart {restart + 1 - first} of {job.restarts} in {pause_s:g} s")
        time.sleep(pause_s)
    return outcome.status


def _run_once(job: Job, launcher: Launcher, key: bytes | None, ear: int | None, restart: int) -> Outcome:
    """One run, with a name and a key of its own."""
    name = secrets.token_hex(16)
    ranks: tuple[int, ...] = (job.size,)
    meets = launcher.name == "local" and job.nodes > 1
    if (job.join or meets) and ear is None:  # who waits in silence looks stuck
        who = "the job" if job.join else f"all {job.nodes} hosts"
        _tell(f"waits up to {job.meeting_timeout_s:g} s for {who} at {job.master_addr}:{job.master_port}")
    running = running_at((job.master_addr, job.master_port), job.meeting_timeout_s) if job.join else None
    if running is not None:
        name = running.job
    if meets:
        assert key is not None  # see launch.job
        guest = Guest(job.nodes, job.node_rank, job.size, job.name, restart)
        agreed = meet(guest, (job.master_addr, job.master_port), key, job.meeting_timeout_s, ear)
        name, ranks, restart = agreed.job, agreed.ranks, agreed.restart
    secret = new_key() if key is None else derived_key(key, name)
    with job_key(secret) if launcher.inherits else key_in_private_file(secret, _shared_directory(job)) as (path, fds):
        if job.elastic:
            return elastic.run(job, _session(job, name, path, ranks, restart), fds, secret, running)
        plan = launcher.plan(job, _session(job, name, path, ranks, restart))
        for note in plan.notes:
            _tell(note)
        return supervisor.run(plan, path, fds, ear, again=restart > job.restarted)


def _session(job: Job, name: str, key_file: str, ranks: tuple[int, ...], restart: int) -> Session:
    port = job.master_port or (secrets.choice(PORTS) if job.launcher == "ssh" else _free_port())
    return Session(name, port, key_file, job.master_addr or "127.0.0.1", ranks, restart)


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


def _users_key(job: Job, ear: int | None) -> bytes | None:
    if ear is not None:
        return parse_key(_line(ear), "standard input")
    return read_key(job.key_file) if job.key_file else None


def _shared_directory(job: Job) -> str:
    """A directory that the other hosts are likely to see."""
    return os.path.dirname(os.path.abspath(job.key_file)) if job.key_file else os.path.expanduser("~")


def _line(fd: int) -> str:
    """The first line, and not a byte more: what follows is for others."""
    line = b""
    while not line.endswith(b"\n") and (byte := os.read(fd, 1)):
        line += byte
    return line.decode("ascii", "replace")


def _free_port() -> int:
    """A port that the system just gave us. Another process may yet take it before rank 0 does: then that bind fails."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _tell(text: str) -> None:
    print(f"ddprun: {text}", file=sys.stderr)
