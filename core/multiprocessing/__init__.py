"""torch.multiprocessing: Python's multiprocessing, and `spawn`. Tensors that cross are copied, shared ones by their memory."""

from __future__ import annotations

import multiprocessing as _mp
import sys
import traceback
from collections.abc import Callable
from multiprocessing import *  # noqa: F403
from multiprocessing import connection as _connection
from typing import Any

from core.errors import CoreError
from core.multiprocessing import sharing
from core.nn.parameter import Buffer, Parameter

sharing.register(Buffer, Parameter)


class ProcessRaisedException(CoreError, RuntimeError):
    """A process that `spawn` started raised; the message holds its traceback."""


class ProcessExitedException(CoreError, RuntimeError):
    """A process that `spawn` started ended by a signal or with a status other than 0."""


def get_all_sharing_strategies() -> set[str]:
    """How tensors may cross: as copies through a file descriptor's bytes."""
    return {"file_descriptor"}


def get_sharing_strategy() -> str:
    """See `get_all_sharing_strategies`."""
    return "file_descriptor"


def set_sharing_strategy(strategy: str) -> None:
    """There is one; see `get_all_sharing_strategies`."""


class SpawnContext:
    """The processes that `spawn` started. `join()` waits; the first that fails stops the rest and is raised."""

    def __init__(self, processes: list[Any], readers: list[Any]):
        self.processes, self._readers = processes, readers

    def pids(self) -> list[int]:
        """Their process numbers."""
        return [p.pid for p in self.processes]

    def join(self, timeout: float | None = None) -> bool:
        """Wait for one to end, or the timeout (seconds). True when all have ended well."""
        alive = {p.sentinel: i for i, p in enumerate(self.processes) if p.is_alive()}
        failed = None
        if alive:
            for sentinel in _connection.wait(list(alive), timeout):
                i = alive[sentinel]  # type: ignore[index]
                self.processes[i].join()
                if self.processes[i].exitcode:
                    failed = i
                    break
        failed = next((i for i, p in enumerate(self.processes) if p.exitcode), failed)
        if failed is None:
            return all(not p.is_alive() for p in self.processes)
        for p in self.processes:
            if p.is_alive():
                p.terminate()
        for p in self.processes:
            p.join(5)
            if p.is_alive():
                p.kill()
                p.join()
        code, reader = self.processes[failed].exitcode, self._readers[failed]
        try:
            raised = reader.recv() if reader.poll() else None
        except EOFError:  # it ended without a word
            raised = None
        if raised is not None:
            raise ProcessRaisedException(f"\n\n-- Process {failed} terminated with the following error:\n{raised}")
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        raise ProcessExitedException(f"process {failed} terminated with {how}")


def spawn(
    fn: Callable[..., Any], args: tuple[Any, ...] = (), nprocs: int = 1, join: bool = True, daemon: bool = False,
    start_method: str = "spawn",
) -> SpawnContext | None:
    """Run fn(i, *args) in processes i = 0 … nprocs−1. With `join` wait for all, and raise if one fails."""
    context: Any = _mp.get_context(start_method)
    processes, readers = [], []
    for i in range(nprocs):
        reader, writer = context.Pipe(duplex=False)
        p = context.Process(target=_run, args=(fn, i, args, writer), daemon=daemon)
        p.start()
        writer.close()
        processes.append(p)
        readers.append(reader)
    started = SpawnContext(processes, readers)
    if not join:
        return started
    while not started.join():
        pass
    return None


start_processes = spawn


def _run(fn: Callable[..., Any], i: int, args: tuple[Any, ...], writer: Any) -> None:
    try:
        fn(i, *args)
    except KeyboardInterrupt:
        pass  # the parent was told, too
    except Exception:
        writer.send(traceback.format_exc())
        sys.exit(1)
