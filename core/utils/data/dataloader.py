"""DataLoader: batches of a dataset, in order, made here or in worker processes.

Order and random numbers are PyTorch's: each `iter` of a loader draws a base seed (two words of its generator, by
default the default stream), a shuffling sampler draws its own when the first batch is asked for, and the random state
afterwards is the same.
With workers, `prefetch_factor` batches per worker are under way; tensors come back through shared memory
(`_utils.channel`). With `pin_memory` and a GPU each batch is handed out in pinned memory, so that
`.to("cuda", non_blocking=True)` copies it while the host goes on; without a GPU that does nothing.
`multiprocessing_context=None` is Python's default start method (fork on Linux up to Python 3.13); what must not be
used after a fork is in `_utils.worker`. Not here: sharing samples among ranks (a sampler does that).
"""

from __future__ import annotations

import itertools
import multiprocessing
import multiprocessing.context
import os
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

from core import rng
from core.errors import ArgumentError, DTypeError
from core.utils.data._utils.collate import default_collate, default_convert
from core.utils.data._utils.fetch import fetcher
from core.utils.data._utils.pin import pinned
from core.utils.data._utils.pool import Pool
from core.utils.data._utils.worker import RESUME, Ended, Failure, Job, WorkerError, get_worker_info
from core.utils.data.dataset import IterableDataset
from core.utils.data.sampler import BatchSampler, RandomSampler, SequentialSampler, draw_seed

__all__ = ["DataLoader", "default_collate", "default_convert", "get_worker_info"]

T_co = TypeVar("T_co", covariant=True)
_NONE = object()
_FIXED = frozenset({"batch_size", "batch_sampler", "sampler", "drop_last", "dataset", "persistent_workers"})


class DataLoader(Generic[T_co]):
    """An iterable over the batches of a dataset.

    dataset: map-style, or an IterableDataset, for which the order is its own.
    batch_size, drop_last: samples in a batch; None gives single samples, through `collate_fn` all the same. shuffle,
    sampler: the order of the indices. batch_sampler: lists of indices, instead of those four.
    num_workers: processes that fetch, 0 for none. collate_fn: list of samples -> batch, by default `default_collate`.
    timeout: seconds to wait for a batch of a worker, 0 for no limit. worker_init_fn: called with the worker id in each
    worker, after seeding. prefetch_factor: batches under way per worker, 2 if not given. persistent_workers: keep the
    workers from epoch to epoch.
    in_order=False: take batches as they are ready. generator: where seeds and shuffling come from.
    pin_memory: hand batches out in pinned memory, where there is a GPU. pin_memory_device: accepted; all of them read it.
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int | None = 1,
        shuffle: bool | None = None,
        sampler: Iterable[Any] | None = None,
        batch_sampler: Iterable[Any] | None = None,
        num_workers: int = 0,
        collate_fn: Callable[[Any], Any] | None = None,
        pin_memory: bool = False,
        drop_last: bool = False,
        timeout: float = 0,
        worker_init_fn: Callable[[int], None] | None = None,
        multiprocessing_context: Any = None,
        generator: rng.Generator | None = None,
        *,
        prefetch_factor: int | None = None,
        persistent_workers: bool = False,
        pin_memory_device: str = "",
        in_order: bool = True,
    ):
        _check_workers(num_workers, timeout, prefetch_factor, persistent_workers)
        _check_order(dataset, batch_size, shuffle, sampler, batch_sampler, drop_last)
        self.dataset = dataset
        self.num_workers = num_workers
        self.prefetch_factor = 2 if num_workers > 0 and prefetch_factor is None else prefetch_factor
        self.pin_memory = pin_memory
        self.pin_memory_device = pin_memory_device
        self.timeout = timeout
        self.worker_init_fn = worker_init_fn
        self.multiprocessing_context = multiprocessing_context
        self.in_order = in_order
        self.generator = generator
        self.persistent_workers = persistent_workers

        if batch_sampler is not None:
            batch_size = None
        if sampler is None:
            if isinstance(dataset, IterableDataset):
                sampler = _Unindexed()
            elif shuffle:
                sampler = RandomSampler(dataset, generator=generator)
            else:
                sampler = SequentialSampler(dataset)
        if batch_size is not None:
            batch_sampler = BatchSampler(sampler, batch_size, drop_last)
        self.batch_size = batch_size
        self.drop_last = drop_last
        self.sampler = sampler
        self.batch_sampler = batch_sampler
        self.collate_fn = collate_fn or (default_convert if batch_sampler is None else default_collate)
        self._announced: int | None = None  # the length of a stream, once somebody has asked for it
        self._iterator: _MultiProcessingDataLoaderIter | None = None
        self._initialized = True
        self.check_worker_number_rationality()

    def __iter__(self) -> _BaseDataLoaderIter:
        if not self.num_workers:
            return _SingleProcessDataLoaderIter(self)
        if not self.persistent_workers:
            return _MultiProcessingDataLoaderIter(self)
        if self._iterator is None or self._iterator.stopped:
            self._iterator = _MultiProcessingDataLoaderIter(self)
        else:
            self._iterator.restart(self)
        return self._iterator

    def __len__(self) -> int:
        """Batches in an epoch. Of a stream: what its own `len` promises, however its workers split it."""
        if not isinstance(self.dataset, IterableDataset):
            return len(self._index_sampler)
        n = self._announced = len(self.dataset)  # type: ignore[arg-type]  # a stream without a length is a TypeError
        if self.batch_size is None:
            return n
        return n // self.batch_size if self.drop_last else -(-n // self.batch_size)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _FIXED and getattr(self, "_initialized", False):
            raise ArgumentError(
                f"DataLoader: {name} attribute should not be set after {type(self).__name__} is initialized"
            )
        super().__setattr__(name, value)

    @property
    def multiprocessing_context(self) -> Any:
        """How workers are started: a multiprocessing context, or None for Python's default."""
        return self._multiprocessing_context

    @multiprocessing_context.setter
    def multiprocessing_context(self, context: Any) -> None:
        if context is not None and not self.num_workers:
            raise ArgumentError(
                f"DataLoader: expected num_workers > 0 with multiprocessing_context, got num_workers={self.num_workers}"
            )
        if isinstance(context, str):
            known = multiprocessing.get_all_start_methods()
            if context not in known:
                raise ArgumentError(
                    f"DataLoader: expected a valid start method in {known} as multiprocessing_context, got {context!r}"
                )
            context = multiprocessing.get_context(context)
        if context is not None and not isinstance(context, multiprocessing.context.BaseContext):
            raise DTypeError(
                f"DataLoader: expected multiprocessing_context to be a context or the name of one, got {context!r}"
            )
        self._multiprocessing_context = context

    @property
    def _auto_collation(self) -> bool:
        return self.batch_sampler is not None

    @property
    def _index_sampler(self) -> Any:
        return self.batch_sampler if self._auto_collation else self.sampler

    def check_worker_number_rationality(self) -> None:
        """Warn of more workers than processors."""
        processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        if self.num_workers > processors:
            warnings.warn(
                f"This DataLoader will create {self.num_workers} worker processes in total, on {processors} CPUs: "
                "it may be slower than with fewer",
                stacklevel=3,
            )


def _check_workers(num_workers: int, timeout: float, prefetch_factor: int | None, persistent_workers: bool) -> None:
    if num_workers < 0:
        raise ArgumentError(
            f"DataLoader: num_workers option should be non-negative, got {num_workers}; use 0 for no processes"
        )
    if timeout < 0:
        raise ArgumentError(f"DataLoader: timeout option should be non-negative, got {timeout}")
    if not num_workers:
        if prefetch_factor is not None:
            raise ArgumentError(
                "DataLoader: prefetch_factor option could only be specified in multiprocessing, "
                f"got {prefetch_factor} with num_workers=0; use num_workers > 0"
            )
        if persistent_workers:
            raise ArgumentError("DataLoader: persistent_workers option needs num_workers > 0, got num_workers=0")
        if timeout:
            raise ArgumentError(f"DataLoader: timeout option needs num_workers > 0, got {timeout} with num_workers=0")
    elif prefetch_factor is not None and prefetch_factor <= 0:
        raise ArgumentError(f"DataLoader: prefetch_factor option should be positive, got {prefetch_factor}")


def _check_order(
    dataset: Any, batch_size: Any, shuffle: Any, sampler: Any, batch_sampler: Any, drop_last: bool
) -> None:
    if isinstance(dataset, IterableDataset):
        for name, value in (("shuffle", shuffle or None), ("sampler", sampler), ("batch_sampler", batch_sampler)):
            if value is not None:
                raise ArgumentError(
                    f"DataLoader with IterableDataset: expected unspecified {name} option, but got {name}={value}"
                )
    if sampler is not None and shuffle:
        raise ArgumentError("DataLoader: sampler option is mutually exclusive with shuffle, got both")
    if batch_sampler is not None and (batch_size != 1 or shuffle or sampler is not None or drop_last):
        raise ArgumentError(
            "DataLoader: batch_sampler option is mutually exclusive with batch_size, shuffle, sampler, and drop_last, "
            f"got batch_size={batch_size}, shuffle={shuffle}, sampler={sampler}, drop_last={drop_last}"
        )
    if batch_size is None and drop_last:
        raise ArgumentError(
            "DataLoader: batch_size=None disables auto-batching and is mutually exclusive with drop_last, got both"
        )


class _Unindexed:
    """The sampler of a stream: asks for the next sample, for ever."""

    def __iter__(self) -> Iterator[None]:
        return itertools.repeat(None)


# -- iterators ---------------------------------------------------------------------------------------------------------


class _BaseDataLoaderIter:
    """One pass over a loader's batches."""

    def __init__(self, loader: DataLoader[Any]):
        self._index_sampler = loader._index_sampler
        self._sampler_iter = iter(self._index_sampler)
        self._base_seed = draw_seed(loader.generator)
        self._dataset = loader.dataset
        self._announced = loader._announced
        self._num_yielded = 0
        self._pin = bool(loader.pin_memory)

    def __iter__(self) -> _BaseDataLoaderIter:
        return self

    def __len__(self) -> int:
        return len(self._index_sampler)

    def __next__(self) -> Any:
        batch = self._next_data()
        if self._pin:
            batch = pinned(batch)
        self._num_yielded += 1
        if self._announced is not None and self._num_yielded > self._announced:
            warnings.warn(
                f"Length of IterableDataset {self._dataset} was reported to be {self._announced} (when accessing "
                f"len(dataloader)), but {self._num_yielded} samples have been fetched; with workers, let each read its "
                "own part (get_worker_info)",
                stacklevel=2,
            )
        return batch

    def _next_data(self) -> Any:
        raise NotImplementedError

    def __reduce__(self) -> Any:
        raise DTypeError(
            f"{type(self).__name__}: expected something that can be pickled, got an iterator; pickle the DataLoader"
        )


class _SingleProcessDataLoaderIter(_BaseDataLoaderIter):
    def __init__(self, loader: DataLoader[Any]):
        super().__init__(loader)
        self._fetch = fetcher(loader.dataset, loader._auto_collation, loader.collate_fn, loader.drop_last)

    def _next_data(self) -> Any:
        return self._fetch(next(self._sampler_iter))


class _MultiProcessingDataLoaderIter(_BaseDataLoaderIter):
    """Tasks are numbered through all epochs and dealt to the workers in turn; batches are handed out by number.

    `_waiting` has the tasks that have not been handed out, in order, `_arrived` the batches that came before their
    turn.
    """

    def __init__(self, loader: DataLoader[Any]):
        super().__init__(loader)
        self._persistent = loader.persistent_workers
        self._in_order = loader.in_order
        self._timeout_s = loader.timeout or None
        self._num_workers = loader.num_workers
        self._under_way = (loader.prefetch_factor or 0) * loader.num_workers
        self._next_task = 0
        job = Job(
            loader.dataset,
            loader._auto_collation,
            loader.collate_fn,
            loader.drop_last,
            loader.worker_init_fn,
            self._base_seed,
            loader.num_workers,
        )
        self._pool = Pool(loader.multiprocessing_context or multiprocessing.get_context(), job)
        self._workers = self._pool.processes
        self._begin(loader)

    @property
    def stopped(self) -> bool:
        """Whether the workers are gone."""
        return self._pool.stopped

    def restart(self, loader: DataLoader[Any]) -> None:
        """A new epoch with the same workers; what is left of the last one is dropped."""
        for i in range(self._num_workers):
            self._pool.post(i, RESUME)
        self._begin(loader)

    def _begin(self, loader: DataLoader[Any]) -> None:
        # torch, too, asks a second time in the first epoch, and a sampler may draw here
        self._sampler_iter = iter(self._index_sampler)
        self._announced = loader._announced
        self._num_yielded = 0
        self._first_task = self._next_task
        self._waiting: deque[int] = deque()
        self._arrived: dict[int, Any] = {}
        self._worker_of: dict[int, int] = {}  # of each task that has not arrived
        self._ended: set[int] = set()  # workers whose stream is at its end
        self._turn = itertools.cycle(range(self._num_workers))
        for _ in range(self._under_way):
            self._post_task()

    def _next_data(self) -> Any:
        while self._waiting:
            if (task := self._waiting[0]) in self._arrived:
                self._waiting.popleft()
                return self._handed_out(self._arrived.pop(task))
            if self._worker_of[task] in self._ended:  # had ended before it came to this task
                self._waiting.popleft()
                del self._worker_of[task]
                continue
            i, (arrived, batch) = self._receive()
            if arrived < self._first_task:
                continue  # of an epoch that was broken off
            if isinstance(batch, Ended):
                self._ended.add(i)
                self._post_task()
                continue
            del self._worker_of[arrived]
            if self._in_order:
                self._arrived[arrived] = batch
            else:
                self._waiting.remove(arrived)
                return self._handed_out(batch)
        if not self._persistent:
            self._pool.stop()
        raise StopIteration

    def _handed_out(self, batch: Any) -> Any:
        self._post_task()
        if isinstance(batch, Failure):
            raise batch.error()
        return batch

    def _post_task(self) -> None:
        """Deal the next indices, if there are any, to the worker whose turn it is."""
        index = next(self._sampler_iter, _NONE)
        if index is _NONE:
            return
        i = self._next_worker()
        if i is None:
            return
        self._pool.post(i, (self._next_task, index))
        self._waiting.append(self._next_task)
        self._worker_of[self._next_task] = i
        self._next_task += 1

    def _next_worker(self) -> int | None:
        live = [i for i in itertools.islice(self._turn, self._num_workers) if i not in self._ended]
        if not live:
            return None
        if not self._in_order:  # a slow worker must not collect the tasks
            load = list(self._worker_of.values())
            return min(live, key=load.count)
        while (i := next(self._turn)) in self._ended:
            pass
        return i

    def _receive(self) -> tuple[int, Any]:
        if self._pool.stopped:
            raise WorkerError(
                "DataLoader: expected an iterator with workers, got one whose workers are gone; iterate the loader anew"
            )
        received = self._pool.receive(self._timeout_s)
        if received is None:
            slow = sorted(
                {self._worker_of[t] for t in ([self._waiting[0]] if self._in_order else self._waiting)} - self._ended
            )
            names = ", ".join(map(self._pool.name, slow))
            self._pool.stop(kill=True)
            raise WorkerError(
                f"DataLoader: expected a batch within {self._timeout_s} seconds, got none from {names} (timed out "
                f"after {self._timeout_s} seconds); raise timeout, or look at what its dataset waits for"
            )
        return received
