"""The worker processes as their loader sees them: start, post tasks, receive replies, stop.

Every worker has a channel of its own, so one that is killed at any moment leaves no lock behind and no half message to
the others.
No wait is without an end: a worker that dies is an error within about a second, one that stalls is an error after
`timeout_s`.
The workers stop when the pool does, when it is garbage, and when this process ends or is killed. Not here: which batch
is next.
"""

from __future__ import annotations

import os
import pickle
import select
import signal
import time
import weakref
from typing import Any

from core.utils.data._utils import channel, worker
from core.utils.data._utils.worker import Job, WorkerError

STOP_GRACE_S = 2.0  # how long a worker may go on with the batch it is at when it is no longer wanted
_LIFE_CHECK_S = 1.0


class Pool:
    """`job.num_workers` processes of a multiprocessing context."""

    def __init__(self, context: Any, job: Job):
        self.processes: list[Any] = []
        self._channels: list[channel.Channel] = []
        self._poll = select.poll()
        self._stop = weakref.finalize(self, _stop, os.getpid(), self.processes, self._channels)
        try:
            for i in range(job.num_workers):
                here, there = channel.pair()
                self._channels.append(here)
                with there:
                    arguments = (there, job, i)
                    process = context.Process(target=worker.run, args=arguments, name=f"DataLoader-{i}", daemon=True)
                    process.start()
                self.processes.append(process)
                self._poll.register(here, select.POLLIN)
        except BaseException as error:
            if isinstance(error, (pickle.PicklingError, AttributeError, TypeError)):
                error.add_note(
                    "DataLoader: with spawn and forkserver the dataset, collate_fn and worker_init_fn must be picklable; "
                    "define them at the top of a module"
                )
            self.stop()
            raise
        self._by_fd = {c.fileno(): i for i, c in enumerate(self._channels)}

    @property
    def stopped(self) -> bool:
        """Whether the workers are gone."""
        return not self._stop.alive

    def post(self, i: int, message: Any) -> None:
        """Send to worker i, never waiting."""
        self._channels[i].post(message)
        self._watch(i)

    def receive(self, timeout_s: float | None) -> tuple[int, Any] | None:
        """(worker, its next message), of whichever has one; None after `timeout_s`."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            left = _LIFE_CHECK_S if deadline is None else min(_LIFE_CHECK_S, deadline - time.monotonic())
            events = self._poll.poll(max(left, 0) * 1000)
            for fd, event in events:
                i = self._by_fd[fd]
                if event & select.POLLOUT:
                    self._channels[i].flush()
                    self._watch(i)
                if event & ~select.POLLOUT:
                    message = self._channels[i].receive()
                    if message is None:
                        raise self._death(i)
                    return i, message
            if not events:
                for i, process in enumerate(self.processes):
                    if not process.is_alive():  # its socket may live on in a process that it started
                        raise self._death(i)
                if deadline is not None and time.monotonic() >= deadline:
                    return None

    def name(self, i: int) -> str:
        """Worker i, for people."""
        return f"worker {i} (pid {self.processes[i].pid})"

    def stop(self, kill: bool = False) -> None:
        """End the workers: those that do not end by themselves in time are killed, all of them at once if `kill`."""
        if kill:
            for process in self.processes:
                process.kill()
        self._stop()

    def _watch(self, i: int) -> None:
        c = self._channels[i]
        self._poll.modify(c, select.POLLIN | select.POLLOUT if c.backlog else select.POLLIN)

    def _death(self, i: int) -> WorkerError:
        process = self.processes[i]
        process.join(1)
        code = process.exitcode
        if code is None:
            how = "closed its channel"
        elif code < 0:
            how = f"was killed by signal {-code} ({signal.Signals(-code).name})"
        else:
            how = f"exited with code {code}"
        hint = {-signal.SIGKILL: "out of memory? see dmesg", -signal.SIGBUS: "out of memory?"}.get(
            code, "see its output above"
        )
        error = WorkerError(
            f"DataLoader: expected {self.name(i)} to answer, but it {how} (exited unexpectedly); {hint}, "
            "or use num_workers=0 to run the dataset in this process"
        )
        self.stop()
        return error


def _stop(owner: int, processes: list[Any], channels: list[channel.Channel]) -> None:
    if os.getpid() != owner:
        return  # garbage in a forked child: these are its parent's workers
    try:
        for c in channels:
            c.end()
        deadline = time.monotonic() + STOP_GRACE_S
        for process in processes:
            process.join(max(0.0, deadline - time.monotonic()))
    finally:  # a second Ctrl-C must not leave any behind
        for c in channels:
            c.close()
        for process in processes:
            process.kill()
        for process in processes:
            process.join()
