"""An elastic job: workers may die, new ones may come, and the run goes on (`ddp.Lockstep`).

Contract: `--elastic MIN:MAX` starts MAX workers, or as many as -n says. A worker that dies ends the run only if fewer than MIN are left;
with `--replace` another is started for one that a signal killed. Each gets a number that no other had. To the rest of `ddp` a worker is
alone in its world: who the members are changes, and only the run knows. The status is 0 if a worker came to its end.

On one host the members agree through a directory that lives as long as the run. With `--rdzv HOST:PORT --key-file KEY` they do so at a
desk, which is a process beside the workers (`ddp.lockstep.desk`), and `ddprun --join HOST:PORT --key-file KEY` brings further workers, from
this host or another, while the run goes on; then the members themselves see to it that they are MIN.

A worker that is killed before it was let in does not do what it should, and the next one may not either: it is replaced only after a
while, that doubles with each one in a row, and after FUTILE of them not at all.
"""

from __future__ import annotations

import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from typing import IO

from ddp.env import LATE_STATUS, World
from ddp.errors import WorldError
from launch.backends.base import Plan, Process, Session, command, counted
from launch.desk import AtDesk, Here, Running
from launch.job import THREAD_VARIABLES, Job
from launch.supervisor import FORWARDED, Outcome, Patience, _Child, _ending, _preparation, _Supervisor

# So many workers in a row may be killed before they were let in; and the pause before the first of them is replaced.
FUTILE = 5
PAUSE_S = 0.25
# When to ask the desk again, if it has no number to give.
AGAIN_S = 1.0
_DESK = "desk"


@dataclass(frozen=True)
class Site:
    """Where the workers of a job meet, and what they are told of it."""

    register: str  # a directory, or tcp://HOST:PORT of the desk
    running: Running
    first: int = 0  # the number of the first worker that we start

    @property
    def shared(self) -> bool:
        return self.register.startswith("tcp://")


def plan(job: Job, session: Session, site: Site) -> Plan:
    """The workers that we start at the beginning, and the desk if it is ours."""
    assert job.elastic is not None
    workers = [_worker(site.first + i, job, session, site) for i in range(job.size)]
    note = f"{counted(job.size, 'worker')}, goes on with {site.running.least} or more"
    if job.join:
        note = f"{counted(job.size, 'worker')} for the job at {job.master_addr}:{job.master_port}"
    return Plan(
        processes=(*workers, *([_desk(job, session)] if site.shared and not job.join else [])),
        notes=(note + (", replaces who is killed" if job.replace else ""),),
        log_dir=job.log_dir,
        shown=job.shown,
    )


def at_start(job: Job, directory: str) -> Site:
    """Of a job that begins with us."""
    assert job.elastic is not None
    running = Running("", job.size, job.elastic[0])
    return Site(_desk_of(job) if job.master_addr else directory, running)


def run(job: Job, session: Session, pass_fds: tuple[int, ...], secret: bytes, running: Running | None) -> Outcome:
    """Run it to its end, or, if it is `running` already, as long as our workers do."""
    numbers: AtDesk | Here
    with tempfile.TemporaryDirectory(prefix="lockstep-") as directory:  # of mode 0700
        if running is None:
            site = at_start(job, directory)
            endpoint = (job.master_addr, job.master_port)
            numbers = AtDesk(endpoint, secret) if site.shared else Here(directory, job.size)
        else:
            numbers = AtDesk((job.master_addr, job.master_port), secret)
            site = Site(_desk_of(job), running, numbers.take(job.size))
        new = partial(_worker, job=job, session=session, site=site)
        outcome = _Elastic(
            plan(job, session, site), session.key_file, pass_fds, site, numbers if job.replace else None, new
        ).run()
        if outcome.status == 0 and isinstance(numbers, Here) and not numbers.joined():
            print(
                "ddprun: expected a script that trains with ddp.Lockstep, got none that did: each worker ran all of it by itself; "
                "without --elastic the ranks of -n N make one job",
                file=sys.stderr,
            )
        return outcome


def _desk_of(job: Job) -> str:
    return f"tcp://{job.master_addr}:{job.master_port}"


def _desk(job: Job, session: Session) -> Process:
    assert job.elastic is not None
    what = (job.master_addr, str(job.master_port), session.job, str(job.size), *map(str, job.elastic))
    argv = (sys.executable, "-m", "ddp.lockstep.desk", *what)
    return Process(rank=-1, argv=argv, env={"LOCKSTEP_KEY_FILE": session.key_file}, name=_DESK, prefixed=False)


def _worker(number: int, job: Job, session: Session, site: Site) -> Process:
    own = World(job=session.job, key_file=session.key_file).to_env()
    shared = {name: own[name] for name in ("LOCKSTEP_JOB", "LOCKSTEP_KEY_FILE")}
    place = f"{number}:{site.running.started}:{site.running.least}:{site.register}"
    # one thread each, however many there are: another number would round otherwise
    threads = {} if job.user_threads else dict.fromkeys(THREAD_VARIABLES, "1")
    env = {**shared, "LOCKSTEP_ELASTIC": place, "PYTHONUNBUFFERED": "1", **threads}
    return Process(rank=number, argv=command(job), env=env, name=f"worker {number}")


class _Elastic(_Supervisor):
    """Goes on as long as enough workers are left. `numbers` if those that are killed shall be replaced, by a `new` one."""

    def __init__(
        self, plan: Plan, key_file: str, pass_fds: tuple[int, ...], site: Site, numbers: AtDesk | Here | None, new: partial[Process]
    ):  # fmt: skip
        super().__init__(plan, key_file, pass_fds, None, False, Patience())
        self.least = 1 if site.shared else site.running.least
        self.numbers, self.new = numbers, new
        self.finished = False  # a worker came to its end: others may still be on their way to it
        self.lost: list[_Child] = []  # the last that ended badly
        self.futile = 0  # so many in a row were killed before they were let in
        self.due: list[float] = []  # when others will be started

    # -- who is there

    def _workers(self) -> list[_Child]:
        """That run."""
        return [child for child in self._running() if child.process.name != _DESK]

    def _judge(self, ended: list[_Child]) -> None:
        late = [child for child in ended if child.status == LATE_STATUS]  # has said so itself, and changes nothing
        ended = [child for child in ended if child not in late]
        self.lost = [child for child in ended if child.status and child.process.name != _DESK] or self.lost
        self.finished = self.finished or any(child.status == 0 for child in ended if child.process.name != _DESK)
        if self.stop_signal is not None or self.cause is not None:
            return
        for child in ended:
            if child.process.name == _DESK:
                if child.status not in (0, -signal.SIGTERM):  # told before it was open, it had nobody to wait for
                    super()._judge([child])
                    return
            elif child.status:
                self._report_loss(child)
        desk = [
            child for child in self._running() if child.process.name == _DESK
        ]  # then there may be workers elsewhere
        if desk and (ended or late) and not self._workers() and not self.due:
            desk[0].send(signal.SIGTERM, group=False)
        if self.lost and not self.finished and not desk and len(self._workers()) + len(self.due) < self.least:
            super()._judge(self.lost)

    def _report_loss(self, child: _Child) -> None:
        status = child.status or 0
        what = self._replace(child) if status < 0 and self.numbers is not None and not self.finished else ""
        left = counted(len(self._workers()) + len(self.due), "worker")
        self._tell(f"{child.process.title} (pid {child.popen.pid}) {_ending(status)}; {left} left{what}")

    # -- who comes

    def _replace(self, child: _Child) -> str:
        """Plan another worker; what there is to say of it."""
        assert self.numbers is not None
        try:
            self.futile = 0 if child.process.rank in self.numbers.joined() else self.futile + 1
        except (OSError, WorldError) as error:
            return f"; not replaced: {error}"
        if self.futile > FUTILE:
            return f"; not replaced: {self.futile} in a row were killed before they were let in; see what they say last"
        pause_s = PAUSE_S * 2 ** (self.futile - 1) if self.futile else 0.0
        self.due.append(time.monotonic() + pause_s)
        if not self.futile:
            return ", one of them new"
        return f"; the {self.futile}. in a row before it was let in, so another comes in {pause_s:g} s"

    def _step(self) -> None:
        super()._step()
        if self.stop_signal is not None or self.cause is not None or self.finished:
            self.due.clear()
        while self.due and time.monotonic() >= min(self.due):
            self.due.remove(min(self.due))
            self._start_another()

    def _wait_s(self) -> float | None:
        wait_s = super()._wait_s()
        due_s = max(0.0, min(self.due) - time.monotonic()) if self.due else None
        return min((each for each in (wait_s, due_s) if each is not None), default=None)

    def _done(self) -> bool:
        return not self.due and super()._done()

    def _start_another(self) -> None:
        assert self.numbers is not None
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)
        try:
            self._start_one(self.new(self.numbers.take(1)), _preparation(mask))
        except WorldError:  # there are MAX: the desk has yet to notice the death, or somebody else was faster
            self.due.append(time.monotonic() + AGAIN_S)
        except OSError as error:
            self._tell(f"no other worker: the desk is gone: {error}")
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def _file(self, kind: str, process: Process) -> IO[bytes] | None:
        return None if process.name == _DESK else super()._file(kind, process)
