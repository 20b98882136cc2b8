"""An elastic job on this host: workers may die, new ones may come, and the run goes on (`ddp.Lockstep`).

Contract: `--elastic MIN:MAX` starts MAX workers, or as many as -n says. A worker that dies ends the run only if fewer than MIN are left;
with `--replace` another is started for one that a signal killed. Each gets a number that no other had. To the rest of `ddp` a worker is
alone in its world: who the members are changes, and only the run knows. The status is 0 if a worker came to its end.
The members agree through a directory that lives as long as the run; see `ddp.lockstep.membership`.
"""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Callable
from functools import partial

from ddp.env import World
from launch.backends.base import Plan, Process, Session, command, counted
from launch.job import THREAD_VARIABLES, Job
from launch.supervisor import FORWARDED, Outcome, Patience, _Child, _preparation, _signal_name, _Supervisor


def plan(job: Job, session: Session, register: str) -> Plan:
    """The workers that there are from the beginning."""
    assert job.elastic is not None
    return Plan(
        processes=tuple(_worker(number, job, session, register) for number in range(job.size)),
        notes=(
            f"{counted(job.size, 'worker')}, goes on with {job.elastic[0]} or more{', replaces who is killed' if job.replace else ''}",
        ),
        log_dir=job.log_dir,
        shown=job.shown,
    )


def run(job: Job, session: Session, pass_fds: tuple[int, ...]) -> Outcome:
    """Run it to its end."""
    assert job.elastic is not None
    with tempfile.TemporaryDirectory(prefix="lockstep-") as register:  # of mode 0700
        new = partial(_worker, job=job, session=session, register=register) if job.replace else None
        return _Elastic(plan(job, session, register), session.key_file, pass_fds, job.elastic[0], new).run()


def _worker(number: int, job: Job, session: Session, register: str) -> Process:
    assert job.elastic is not None
    own = World(job=session.job, key_file=session.key_file).to_env()
    shared = {name: own[name] for name in ("LOCKSTEP_JOB", "LOCKSTEP_KEY_FILE")}
    place = f"{number}:{job.size}:{job.elastic[0]}:{register}"
    # one thread each, however many there are: another number would round otherwise
    threads = {} if job.user_threads else dict.fromkeys(THREAD_VARIABLES, "1")
    env = {**shared, "LOCKSTEP_ELASTIC": place, "PYTHONUNBUFFERED": "1", **threads}
    return Process(rank=number, argv=command(job), env=env, name=f"worker {number}")


class _Elastic(_Supervisor):
    """Goes on as long as enough workers are left."""

    def __init__(
        self, plan: Plan, key_file: str, pass_fds: tuple[int, ...], least: int, new: Callable[[int], Process] | None
    ):
        super().__init__(plan, key_file, pass_fds, None, False, Patience())
        self.least, self.new = least, new
        self.finished = False  # a worker came to its end: others may still be on their way to it

    def _judge(self, ended: list[_Child]) -> None:
        self.finished = self.finished or any(child.status == 0 for child in ended)
        lost = [child for child in ended if child.status]
        if self.stop_signal is not None or self.cause is not None:
            return
        for child in lost:
            killed = (child.status or 0) < 0
            if killed and self.new is not None and not self.finished:
                self._start_another(self.new(len(self.children)))
            ending = (
                f"was killed by {_signal_name(-(child.status or 0))}"
                if killed
                else f"exited with status {child.status}"
            )
            self._tell(
                f"{child.process.title} (pid {child.popen.pid}) {ending}; {counted(len(self._running()), 'worker')} left"
            )
        if lost and not self.finished and len(self._running()) < self.least:
            super()._judge(lost)

    def _start_another(self, process: Process) -> None:
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)
        try:
            self._start_one(process, _preparation(mask))
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
