"""Runs a plan on this host: starts its processes, shows their output, and ends when all of them have ended.

Contract
- The first process to fail (an exit status other than 0, or a signal) is the cause: the others get a grace period, then
  SIGTERM, then SIGKILL. The report names it, and its status is ours: 128 + the number for a signal.
- A signal to us goes to the processes. SIGINT, SIGTERM and SIGHUP also end the run; a second SIGINT ends it at once.
- Each process leads a session of its own. What it leaves behind in its process group is killed soon after its end,
  and nothing outlives us, not even if we are killed.
- The output of several processes is shown by whole lines, each behind its rank. A single process has our own streams.
  Files get the bytes as they are.
- `ear`, if given, tells us signals, a line each, and the end of the run by its own end: see `Process.commanded`.

There are no threads: `preexec_fn` is not safe with them, and the parent-death signal follows the thread that forks.
"""

from __future__ import annotations

import ctypes
import os
import select
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from types import FrameType
from typing import IO

from launch import guard, witness
from launch.backends.base import Plan, Process
from launch.output import Lines, prefix

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
FORWARDED = (*STOPPING, signal.SIGUSR1, signal.SIGUSR2)

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class Patience:
    """How long to wait for what ought to happen by itself."""

    after_failure_s: float = 4.0  # the survivors notice the death themselves, and say which rank they miss
    after_term_s: float = 3.0
    after_signal_s: float = 30.0  # to save a checkpoint: what Kubernetes and torchrun give
    leftovers_s: float = 1.0  # for the children of a rank that has ended: so long until SIGTERM, so long until SIGKILL
    hearing_s: float = 0.2  # how often to look what witnesses tell


@dataclass(frozen=True)
class Outcome:
    status: int  # for the shell
    cause: str = ""  # which process failed, and how; empty if none did, or if a signal to us ended the run


def run(
    plan: Plan,
    key_file: str = "",
    pass_fds: tuple[int, ...] = (),
    ear: int | None = None,
    again: bool = False,  # a restart: files of output are continued
    patience: Patience | None = None,
) -> Outcome:
    """Run the plan to its end. For the main thread of a process that has no other thread."""
    sys.stdout.flush()
    sys.stderr.flush()
    return _Supervisor(plan, key_file, pass_fds, ear, again, patience or Patience()).run()


# -- one run ----------------------------------------------------------------------------------------------------------


@dataclass
class _Child:
    process: Process
    popen: subprocess.Popen[bytes]
    errors: Lines | None  # its stderr; None where it writes to ours
    orders: int | None = None  # the descriptor by which a commanded process hears of signals
    status: int | None = None  # as Popen tells it: -N for signal N
    ended_at: float = 0.0
    group_left: bool = True  # it, or something it started, may still be there
    group_told: bool = False  # what it left has got SIGTERM

    def send(self, number: int, group: bool) -> None:
        with suppress(ProcessLookupError, PermissionError, BrokenPipeError):
            if self.orders is not None and number != signal.SIGKILL:
                os.write(self.orders, b"%d\n" % number)
            else:
                (os.killpg if group else os.kill)(self.popen.pid, number)


@dataclass
class _Stream:
    fd: int  # ours, where it is shown
    lines: Lines
    shown: bool
    file: IO[bytes] | None  # where it is kept


class _StartError(Exception):
    pass


class _Supervisor:
    def __init__(
        self, plan: Plan, key_file: str, pass_fds: tuple[int, ...], ear: int | None, again: bool, patience: Patience
    ):
        self.plan = plan
        self.key_file = key_file
        self.pass_fds = pass_fds
        self.ear = ear
        self.again = again
        self.patience = patience
        self.children: list[_Child] = []
        self.cause: _Child | None = None  # the first that failed
        self.death: witness.Life | None = None  # the rank that failed first, of those that others have started
        self.stop_signal: int | None = None  # the signal that ended the run
        self.survivors: list[_Child] = []  # who was running when the end began
        self.schedule: list[tuple[float, signal.Signals]] = []  # what those that still run get, and when
        self.interrupts = 0
        self.ending = False  # past the point where a second Ctrl-C would make it faster
        self.selector = selectors.DefaultSelector()
        self.streams: dict[IO[bytes], _Stream] = {}  # by the pipe that it comes through
        self.broken: set[int] = set()  # our streams that nobody reads any more
        self.began = time.monotonic()

    def run(self) -> Outcome:
        with self._guarded(), self._signals():
            try:
                self._start()
                while not self._done():
                    self._step()
                for stream in list(self.streams):
                    self._close(stream)
            except KeyboardInterrupt:  # the second Ctrl-C; also gets us out of a write that is stuck
                pass
            except _StartError as error:
                self._tell(str(error))
                return Outcome(126)
            finally:
                self._kill_all()
        return self._report()

    # -- start and end

    def _start(self) -> None:
        if self.plan.log_dir:
            try:
                os.makedirs(self.plan.log_dir, exist_ok=True)
            except OSError as error:
                raise _StartError(
                    f"--log-dir: expected a directory, got {self.plan.log_dir}: {error.strerror}"
                ) from error
            self._put_recordings_away()
        # Signals wait until all have started: between fork and exec a child still has our handlers.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)
        try:
            prepare = _preparation(mask)
            for process in self.plan.processes if self.stop_signal is None else ():
                self._start_one(process, prepare)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def _put_recordings_away(self) -> None:
        """Flight recordings of an earlier run are not of this one. Those of the failure before this restart stay, in a folder."""
        for process in self.plan.processes:
            for kind in ("json", "stack"):
                name = f"rank-{process.rank}.{kind}"
                path = os.path.join(self.plan.log_dir, name)
                with suppress(OSError):  # there is none, or it is not ours to move; the run is more important
                    if self.again:
                        folder = os.path.join(self.plan.log_dir, f"before-restart-{process.env['LOCKSTEP_RESTART']}")
                        os.stat(path)
                        os.makedirs(folder, exist_ok=True)
                        os.replace(path, os.path.join(folder, name))
                    else:
                        os.unlink(path)

    def _start_one(self, process: Process, prepare: Callable[[tuple[int, ...]], None]) -> None:
        plan = self.plan
        alone = len(plan.processes) == 1 and not (process.prefixed or plan.log_dir or plan.shown is not None)
        ours = not self.children and self.ear is None  # as mpirun does: the first has our stdin
        try:
            popen = subprocess.Popen(
                process.argv,
                bufsize=0,
                env={**os.environ, **process.env},
                stdin=subprocess.PIPE if process.commanded else None if ours else subprocess.DEVNULL,
                stdout=None if alone else subprocess.PIPE,
                stderr=None if alone else subprocess.PIPE,
                pass_fds=self.pass_fds,
                start_new_session=True,
                preexec_fn=partial(prepare, process.cores),
            )
        except OSError as error:
            raise _StartError(
                f"{process.title} did not start: expected to run {process.argv[0]}, got {error.strerror}"
            ) from error
        child = _Child(process, popen, None, popen.stdin.fileno() if popen.stdin else None)
        self.children.append(child)
        self._tell_guard(f"+{popen.pid}")
        if popen.stdout:
            self._open(popen.stdout, 1, "out", process)
        if popen.stderr:
            child.errors = self._open(popen.stderr, 2, "err", process)
        if child.orders is not None:
            with open(self.key_file, "rb") as file, suppress(BrokenPipeError):
                os.write(child.orders, file.read().strip() + b"\n")

    def _done(self) -> bool:
        if any(child.group_left for child in self.children):
            return False
        # What left its group (a daemon) may hold a stream open for ever.
        last = max((child.ended_at for child in self.children), default=0.0)
        return not self.streams or time.monotonic() > last + self.patience.leftovers_s

    def _kill_all(self) -> None:
        self.ending = True
        for child in self.children:
            if child.group_left:
                child.send(signal.SIGKILL, group=True)
                child.popen.wait()
                self._forget_group(child)
            for stream in (child.popen.stdin, child.popen.stdout, child.popen.stderr):
                if stream:
                    stream.close()
        for to in self.streams.values():
            if to.file:
                to.file.close()

    # -- while it runs

    def _step(self) -> None:
        for key, _ in self.selector.select(self._wait_s()):
            key.data()
        self._reap()
        self._hear()
        while self.schedule and time.monotonic() >= self.schedule[0][0]:
            _, number = self.schedule.pop(0)
            for child in self._running():
                # Whom a rank that had to be killed leaves behind is told and killed in its turn, see _reap_group.
                child.send(number, group=number != signal.SIGKILL)

    def _wait_s(self) -> float | None:
        """How long nothing but an event can matter; None is for ever."""
        if any(child.status is not None and child.group_left for child in self.children) or not self._running():
            return 0.05  # the end of somebody else's child is no event
        if self.schedule:
            return max(0.0, self.schedule[0][0] - time.monotonic())
        return self.patience.hearing_s if self.plan.witnessed else None

    def _running(self) -> list[_Child]:
        return [child for child in self.children if child.status is None]

    def _reap(self) -> None:
        ended = []
        for child in self._running():
            child.status = child.popen.poll()
            if child.status is not None:
                child.ended_at = time.monotonic()
                ended.append(child)
        self._judge(ended)
        for child in self.children:
            if child.status is not None and child.group_left:
                self._reap_group(child)

    def _judge(self, ended: list[_Child]) -> None:
        """What it means that these have ended: here, that the first failure ends the run."""
        # Of several found at the same look, one that a signal killed died first: the others noticed, and said so.
        failed = sorted((child for child in ended if child.status), key=lambda child: (child.status or 0) > 0)
        if failed and self.cause is None and self.stop_signal is None:
            self.cause = failed[0]
            self._end_after_failure(self.cause.ended_at)

    def _hear(self) -> None:
        """Of a rank that failed under another launcher, which ought to end the run, and may be waiting for a host that is lost."""
        if self.plan.witnessed and self.death is None and self.stop_signal is None:
            self.death = witness.first_failure(self.plan.witnessed)
            if self.death is not None and self.cause is None:
                self._end_after_failure(time.monotonic())

    def _end_after_failure(self, failed_at: float) -> None:
        term_at = failed_at + self.patience.after_failure_s
        self._begin_end([(term_at, signal.SIGTERM), (term_at + self.patience.after_term_s, signal.SIGKILL)])

    def _reap_group(self, child: _Child) -> None:
        """See to what a rank that has ended left behind, such as the workers of a loader.

        SIGTERM first: Python's resource tracker ignores it, and once the others are gone unlinks their shared memory.
        """
        group = child.popen.pid
        with suppress(ChildProcessError):
            while os.waitpid(-group, os.WNOHANG)[0]:  # orphans come to us, see _preparation
                pass
        try:
            os.killpg(group, 0)
        except (ProcessLookupError, PermissionError):
            self._forget_group(child)
            return
        waited_s = time.monotonic() - child.ended_at
        if waited_s > 2 * self.patience.leftovers_s:
            child.send(signal.SIGKILL, group=True)
            self._forget_group(child)
        elif waited_s > self.patience.leftovers_s and not child.group_told:
            child.send(signal.SIGTERM, group=True)
            child.group_told = True

    def _forget_group(self, child: _Child) -> None:
        child.group_left = False
        self._tell_guard(f"-{child.popen.pid}")

    def _begin_end(self, schedule: list[tuple[float, signal.Signals]]) -> None:
        self.survivors = self._running()
        self.schedule = schedule

    # -- signals

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Our handlers, and a socket that wakes `select` when one has run."""
        ear, mouth = socket.socketpair()
        ear.setblocking(False)
        mouth.setblocking(False)
        self.selector.register(ear, selectors.EVENT_READ, lambda: ear.recv(4096))
        if self.ear is not None:
            self.selector.register(self.ear, selectors.EVENT_READ, self._listen)
        old_wakeup = signal.set_wakeup_fd(mouth.fileno(), warn_on_full_buffer=False)
        old = {signal.SIGCHLD: signal.signal(signal.SIGCHLD, lambda *_: None)}
        for number in FORWARDED:
            if signal.getsignal(number) != signal.SIG_IGN:  # nohup, and `&` in a script, mean it
                old[number] = signal.signal(number, self._on_signal)
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(old_wakeup)
            self.selector.close()
            ear.close()
            mouth.close()

    def _listen(self) -> None:
        """A line of a few bytes, written at once, is read whole: the number of a signal. The end is SIGTERM."""
        assert self.ear is not None
        orders = os.read(self.ear, 4096)
        if not orders:
            self.selector.unregister(self.ear)
        for order in orders.split() or [b"%d" % signal.SIGTERM]:
            if order.isdigit() and int(order) in FORWARDED:
                self._on_signal(int(order), None)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        """Forwards at once, even while we are stuck in a write that nobody reads."""
        if number == signal.SIGINT:
            self.interrupts += 1
            if self.interrupts == 2 and not self.ending:
                raise KeyboardInterrupt
        # To all, as from a terminal, or as by `kill PID`: to save its state on SIGTERM a rank needs its workers.
        group = number in (signal.SIGINT, signal.SIGHUP)
        for child in self._running():
            child.send(number, group)
        if number in STOPPING:
            self._stop(number)

    def _stop(self, number: int) -> None:
        if self.stop_signal is None and self.cause is None:
            self.stop_signal = number
            self._begin_end([(time.monotonic() + self.patience.after_signal_s, signal.SIGKILL)])

    # -- output

    def _open(self, stream: IO[bytes], fd: int, kind: str, process: Process) -> Lines:
        terminal = os.isatty(fd) and os.environ.get("TERM") != "dumb"
        colour = terminal and not os.environ.get("NO_COLOR")
        lines = Lines(prefix(process.rank, terminal, colour) if process.prefixed else b"", terminal)
        shown = self.plan.shown is None or process.rank in self.plan.shown
        self.streams[stream] = _Stream(fd, lines, shown or not process.prefixed, self._file(kind, process))
        self.selector.register(stream, selectors.EVENT_READ, lambda: self._read(stream))
        return lines

    def _file(self, kind: str, process: Process) -> IO[bytes] | None:
        if not self.plan.log_dir:
            return None
        path = os.path.join(self.plan.log_dir, f"rank-{process.rank}.{kind}")
        try:
            return open(path, "ab" if self.again else "wb", buffering=0)
        except OSError as error:
            raise _StartError(f"--log-dir: expected to write {path}, got {error.strerror}") from error

    def _read(self, stream: IO[bytes]) -> None:
        to = self.streams[stream]
        data = os.read(stream.fileno(), 1 << 16)
        if not data:
            self._close(stream)
            return
        shown = to.lines.feed(data)
        if to.shown:
            self._show(to.fd, shown)
        if to.file:
            try:
                _write(to.file.fileno(), data)
            except OSError as error:  # a full disk; the run is more important
                self._tell(f"{to.file.name} ends here: {error.strerror}")
                to.file.close()
                to.file = None

    def _close(self, stream: IO[bytes]) -> None:
        to = self.streams.pop(stream)
        self.selector.unregister(stream)
        stream.close()
        if to.file:
            to.file.close()
        rest = to.lines.close()
        if to.shown:
            self._show(to.fd, rest)

    def _show(self, fd: int, data: bytes) -> None:
        if fd in self.broken:
            return
        try:
            _write(fd, data)
        except OSError:  # `ddprun … | head`, or the terminal is gone: nobody reads on, so end as a single process would
            self.broken.add(fd)
            for child in self._running():
                child.send(signal.SIGTERM, group=False)
            self._stop(signal.SIGPIPE)

    def _tell(self, text: str) -> None:
        self._show(2, f"ddprun: {text}\n".encode())

    def _report(self) -> Outcome:
        """The summary, on stderr."""
        others = f"; {_names(self.survivors)} stopped" if self.survivors else ""
        self._hear()
        if self.death is not None:  # who failed before may have told so after
            self.death = witness.first_failure(self.plan.witnessed) or self.death
        if self.death is not None and self.death.status:
            return self._report_death(self.death, self.death.status)
        if self.cause is not None:
            child, status = self.cause, self.cause.status or 0
            name, ending = child.process.title, _ending(status)
            self._tell(f"{name} (pid {child.popen.pid}) {ending} after {child.ended_at - self.began:.1f} s{others}")
            if child.errors is not None and child.errors.last:
                self._tell(f"the last lines of {name} on stderr were:")
                self._show(2, b"".join(b"    " + line + b"\n" for line in child.errors.last))
            if self.plan.log_dir and any(entry.endswith(".json") for entry in os.listdir(self.plan.log_dir)):
                self._tell(f"who was at fault, by the last calls of all ranks: ddprun doctor {self.plan.log_dir}")
            return Outcome(status if status > 0 else 128 - status, f"{name} {ending}")
        if self.stop_signal is not None:
            self._tell(f"ended by {_signal_name(self.stop_signal)} after {time.monotonic() - self.began:.1f} s{others}")
            return Outcome(128 + self.stop_signal)
        if self.plan.witnessed and (cut_off := witness.cut_off(self.plan.witnessed)):
            # Open MPI's status when it has lost a host is 0
            ending = f"exited with status 0 before rank {', '.join(map(str, cut_off))} had ended"
            self._tell(f"{self.children[0].process.title} {ending}; see what it says above")
            return Outcome(1, ending)
        return Outcome(0)

    def _report_death(self, death: witness.Life, status: int) -> Outcome:
        """Of a rank that another launcher has started, which has had its say."""
        name, ending = f"rank {death.rank}", _ending(status)
        after_s = death.ended - (time.time() - (time.monotonic() - self.began))
        launcher = self.children[0]
        ended = "stopped" if launcher.status is None or launcher.status < 0 else f"exited with status {launcher.status}"
        where = f"pid {death.pid} on {death.host}"
        self._tell(f"{name} ({where}) {ending} after {after_s:.1f} s; {launcher.process.title} {ended}")
        return Outcome(status if status > 0 else 128 - status, f"{name} {ending}")

    # -- the guard

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """With `guard` at our side, which kills what we leave should we be killed ourselves."""
        command = [sys.executable, "-IS", guard.__file__]
        self.guard = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        try:
            yield
        finally:
            with suppress(BrokenPipeError):
                self.guard.communicate()

    def _tell_guard(self, line: str) -> None:
        assert self.guard.stdin is not None
        with suppress(BrokenPipeError):  # it was killed; the run is more important
            os.write(self.guard.stdin.fileno(), f"{line}\n".encode())


# -- the system -------------------------------------------------------------------------------------------------------


def _preparation(mask: set[signal.Signals | int]) -> Callable[[tuple[int, ...]], None]:
    """What a child does between fork and exec, with all that it needs loaded before.

    On Linux we also become the parent of orphans: so that the processes that a rank leaves behind can be waited for.
    """
    prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None
    parent = os.getpid()
    if prctl:
        prctl.argtypes = (ctypes.c_int, *[ctypes.c_ulong] * 4)
        prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    def prepare(cores: tuple[int, ...]) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if cores:
            os.sched_setaffinity(0, cores)
        if prctl:
            prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != parent:  # it died before it could be noticed
                os.kill(os.getpid(), signal.SIGKILL)

    return prepare


def _write(fd: int, data: bytes) -> None:
    """All of it, also where somebody has made our stream non-blocking."""
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(fd, rest) :]
        except BlockingIOError:
            select.select([], [fd], [])


def _names(children: list[_Child]) -> str:
    """ "rank 3", "ranks 0, 2", or what else they are called."""
    if any(child.process.name for child in children):
        return ", ".join(child.process.title for child in children)
    return f"rank{'s' if len(children) > 1 else ''} {', '.join(str(child.process.rank) for child in children)}"


def _ending(status: int) -> str:
    return f"exited with status {status}" if status > 0 else f"was killed by {_signal_name(-status)}"


def _signal_name(number: int) -> str:
    try:
        return f"signal {number} ({signal.Signals(number).name})"
    except ValueError:  # a real-time signal
        return f"signal {number}"
