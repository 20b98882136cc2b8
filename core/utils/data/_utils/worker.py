"""The worker process: receives indices, fetches, sends batches, until its loader's end of the channel closes.

A worker is seeded with base seed + worker id (core's and Python's default streams; NumPy's with the same words as
under PyTorch), ignores SIGINT (the parent decides what Ctrl-C means), and lets numeric libraries use one thread. It
leaves when the parent hangs up, and, from a thread that waits for that alone, at once when the parent is dead, even in
the middle of a sample.
On fork: the child has copies of the parent's sockets and libraries. It closes the loaders' sockets and uses none of
the others: a dataset must not talk on an MPI communicator, ZeroMQ socket or CUDA device that the parent opened. Where
it must open such things itself, use multiprocessing_context="forkserver" or "spawn".
"""

from __future__ import annotations

import ctypes
import os
import pickle
import random
import select
import signal
import socket
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from core import rng
from core.errors import CoreError
from core.utils.data._utils.channel import Channel
from core.utils.data._utils.fetch import Fetch, fetcher
from core.utils.data.dataset import IterableDataset

RESUME = "resume"  # in the place of a task: a new epoch begins


class WorkerError(CoreError, RuntimeError):
    """A worker that died or stalls, or an error in it that cannot be raised as it was."""


@dataclass(frozen=True)
class WorkerInfo:
    """What a worker knows of itself. `dataset` is this process's copy."""

    id: int
    num_workers: int
    seed: int
    dataset: Any


@dataclass(frozen=True)
class Job:
    """What all workers of a loader have to do."""

    dataset: Any
    batched: bool
    collate_fn: Callable[[Any], Any]
    drop_last: bool
    init_fn: Callable[[int], None] | None
    base_seed: int
    num_workers: int

    def fetcher(self) -> Fetch:
        """A fetcher from the start."""
        return fetcher(self.dataset, self.batched, self.collate_fn, self.drop_last)


class Ended:
    """In the place of a batch: this worker's stream is at its end."""


@dataclass(frozen=True)
class Failure:
    """In the place of a batch: the error that came instead."""

    where: str
    name: str
    text: str
    pickled: bytes | None

    @classmethod
    def of(cls, error: BaseException, worker_id: int) -> Failure:
        """Of the error that is being handled in this process."""
        where = f"in DataLoader worker process {worker_id} (pid {os.getpid()})"
        pickled = None
        if not isinstance(error, StopIteration):  # raised in the parent, it would end the loop without a word
            try:
                pickled = pickle.dumps(error)
                pickle.loads(pickled)
            except Exception:
                pickled = None
        return cls(where, type(error).__name__, traceback.format_exc(), pickled)

    def error(self) -> BaseException:
        """The error again, of the same type and value if it can be pickled, with the worker's traceback as a note."""
        report = f"Caught {self.name} {self.where}.\nOriginal {self.text}"
        try:
            error = pickle.loads(self.pickled) if self.pickled else None
        except Exception:
            error = None
        if not isinstance(error, BaseException):
            return WorkerError(report)
        error.add_note(report)
        return error


_worker_info: WorkerInfo | None = None


def get_worker_info() -> WorkerInfo | None:
    """In a worker: its id, num_workers, seed and dataset. In the main process: None."""
    return _worker_info


def run(sock: socket.socket, job: Job, worker_id: int) -> None:
    """The life of a worker process."""
    global _worker_info
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a handler of the parent's is not for us
    channel = Channel(sock)
    threading.Thread(target=_leave_with_parent, args=(channel.fileno(),), daemon=True).start()
    _use_one_thread()
    _seed(job.base_seed, worker_id)
    _worker_info = WorkerInfo(worker_id, job.num_workers, job.base_seed + worker_id, job.dataset)
    try:
        _serve(channel, job, worker_id)
    except (BrokenPipeError, ConnectionResetError):
        pass  # the parent has hung up


def _serve(channel: Channel, job: Job, worker_id: int) -> None:
    fetch: Fetch | None = None
    failure: Failure | None = None
    ended = False
    try:
        if job.init_fn is not None:
            job.init_fn(worker_id)
        fetch = job.fetcher()
    except Exception as error:
        failure = Failure.of(error, worker_id)

    while (message := channel.receive()) is not None and not channel.hung_up():
        if message == RESUME:
            ended = False
            if isinstance(job.dataset, IterableDataset) and fetch is not None:
                try:
                    fetch = job.fetcher()
                except Exception as error:
                    fetch, failure = None, Failure.of(error, worker_id)
            continue
        if ended:
            continue  # tasks that were under way when the stream ended
        task, index = message
        reply: Any = failure
        if fetch is not None:
            try:
                reply = fetch(index)
            except Exception as error:
                ended = isinstance(error, StopIteration) and isinstance(job.dataset, IterableDataset)
                reply = Ended() if ended else Failure.of(error, worker_id)
        try:
            channel.send((task, reply))
        except (BrokenPipeError, ConnectionResetError):
            raise
        except Exception as error:  # a batch that cannot be pickled, or no memory for it
            channel.send((task, Failure.of(error, worker_id)))
        del message, index, reply  # a batch is big: let it go before waiting for the next task


def _leave_with_parent(fd: int) -> None:
    poll = select.poll()
    poll.register(fd, 0)  # nothing but the hang-up, which is always reported
    poll.poll()
    os._exit(1)


def _seed(base_seed: int, worker_id: int) -> None:
    random.seed(base_seed + worker_id)
    rng.manual_seed(base_seed + worker_id)
    words = [worker_id, base_seed & 0xFFFFFFFF, base_seed >> 32, 0]
    np.random.seed(np.random.SeedSequence(words).generate_state(4))


_SET_NUM_THREADS = (
    "scipy_openblas_set_num_threads64_",
    "scipy_openblas_set_num_threads",
    "openblas_set_num_threads64_",
    "openblas_set_num_threads",
    "MKL_Set_Num_Threads",
    "omp_set_num_threads",
)


def _use_one_thread() -> None:
    """Workers are the parallelism. And GNU OpenMP hangs in a forked child that starts threads after its parent did."""
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = "1"  # for libraries that this process has still to load
    with open("/proc/self/maps") as maps:
        loaded = {line.split(maxsplit=5)[5].strip() for line in maps if ".so" in line}
    for path in sorted(p for p in loaded if any(name in os.path.basename(p) for name in ("openblas", "mkl_rt", "omp"))):
        try:
            library = ctypes.CDLL(path)
        except OSError:
            continue  # mapped, but deleted or replaced since
        for name in _SET_NUM_THREADS:
            if hasattr(library, name):
                getattr(library, name)(1)
