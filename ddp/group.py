"""A process group: ranks that make collective calls together, in one order, over one transport.

Contract: calls are numbered as they run, which is the order in which they are made, so every rank must make the same
ones in the same order. An asynchronous call returns a `Work` and runs in the transport's own thread; a synchronous one
runs at once if nothing is waiting there, else behind it. A call made by a callback of a `Work`'s future runs right
there, before whatever is queued: so such calls, too, come in one order on all ranks. Tensors on a device go to a
transport that takes arrays of it as they are, else through pinned memory of the host. Every call is recorded
(`ddp.recorder`). Not here: torch.distributed's names and defaults (`ddp.distributed`), how bytes move
(`ddp.transport`).
"""

from __future__ import annotations

import functools
import os
import queue
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

from core import backend
from core._tensor import Tensor, wrap
from core.errors import ArgumentError, DTypeError, ShapeError
from ddp.env import World
from ddp.errors import DDPError, MismatchError
from ddp.flat import Blocks, Flat, free_rooms, landing
from ddp.futures import Future
from ddp.recorder import Recorder
from ddp.staging import DeviceFlat, StagedFlat, contiguous, from_here
from ddp.transport.base import Call, Deadline, Transport, always

# torch.distributed.group is a class with these two names; here it is this module
WORLD: Any = None  # as `group=`: every rank
NON_GROUP_MEMBER: Any = object()  # what `new_group` gives a rank that is not in the group


class Work:
    """A call that is under way. `outputs` are the tensors that it fills."""

    def __init__(self, task: Callable[[], Any], outputs: Sequence[Tensor] = ()):
        self._task = task
        self._outputs = outputs
        self._done = threading.Event()
        self._awaited = False
        self._error: BaseException | None = None
        self._result: Any = None
        self._future: Future[list[Tensor]] | None = None

    def _run(self) -> None:
        try:
            self._result = self._task()
        except BaseException as e:
            self._error = e
        self._task = _nothing  # lets go of the arrays
        with _future_lock:
            self._done.set()
            future = self._future
        if future is not None:
            self._complete(future)

    def get_future(self) -> Future[list[Tensor]]:
        """The tensors that the call fills, as a future. Its callbacks run before the next call of the transport."""
        with _future_lock:
            if self._future is not None:
                return self._future
            future = self._future = Future()
            if not self._done.is_set():
                return future
        self._complete(future)
        return future

    def _complete(self, future: Future[list[Tensor]]) -> None:
        if self._error is not None:
            future.set_exception(self._error)
        else:
            future.set_result(list(self._outputs))

    def wait(self, timeout: Any = None) -> bool:
        """Return when it has ended; raises its error. It has a deadline of its own, so `timeout` (seconds) only shortens the
        wait.
        """
        self._awaited = True
        if not self._done.wait(_seconds(timeout) if timeout is not None else None):
            raise DDPError(
                f"wait: expected the call to end within {_seconds(timeout):g} s, got nothing; it is still under way"
            )
        if self._error is not None:
            raise self._error
        return True

    synchronize = wait

    def is_awaited(self) -> bool:
        """Whether somebody waits for it, or has."""
        return self._awaited

    def is_completed(self) -> bool:
        """Whether it has ended, well or not."""
        return self._done.is_set()

    def is_success(self) -> bool:
        """Whether it has ended well."""
        return self._done.is_set() and self._error is None

    def exception(self) -> BaseException | None:
        """Its error, if it has ended with one."""
        return self._error

    def result(self) -> Any:
        """What it computed; waits."""
        self.wait()
        return self._result


class DeviceWork(Work):
    """A call of a transport that only puts work on a stream: waiting lets the current stream wait, and not the host."""

    def __init__(self, task: Callable[[], Any], outputs: Sequence[Tensor], transport: Transport, timeout_s: float):
        super().__init__(task, outputs)
        self._transport, self._timeout_s = transport, timeout_s

    def wait(self, timeout: Any = None) -> bool:
        super().wait(timeout)
        self._transport.flush(Deadline.after(self._timeout_s))
        return True


_future_lock = threading.Lock()  # of all works: it is held for a moment only


def _nothing() -> None:
    return None


def _finished() -> Work:
    work = Work(_nothing)
    work._run()
    return work


DONE = _finished()


class Lane:
    """One transport's queue: calls run one at a time, in the order they were made."""

    def __init__(self, transport: Transport):
        self.transport = transport
        self.pid = os.getpid()  # a child of ours that was forked has no part in the job
        self.recorder = Recorder(transport.rank, transport.size)
        self.timeline: Any = None  # a `ddp.timeline.Timeline`, if one is wanted
        self.progress: Any = None  # what `ddp.progress` shows, if it is wanted
        self.enter: Callable[[], None] = _nothing  # what the thread does first
        self._queue: queue.SimpleQueue[Work | None] = queue.SimpleQueue()
        self._lock = threading.Lock()  # held by whoever uses the transport
        self._waiting = 0  # works that are queued or running in the thread
        self._count = threading.Lock()
        self._thread: threading.Thread | None = None

    def call(self, task: Callable[[], Any]) -> Any:
        """Run now, or behind what is queued."""
        thread = self._thread
        if thread is not None and threading.current_thread() is thread:  # in a callback, which has the transport
            return task()
        if not self._waiting:
            with self._lock:
                return task()
        return self.post(task).result()

    def post(self, task: Callable[[], Any], outputs: Sequence[Tensor] = ()) -> Work:
        """Queue, and return at once."""
        work = Work(task, outputs)
        if threading.current_thread() is self._thread:
            work._run()
            return work
        with self._count:
            self._waiting += 1
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name=f"ddp rank {self.transport.rank}", daemon=True)
            self._thread.start()
        self._queue.put(work)
        return work

    def _serve(self) -> None:
        self.enter()
        while (work := self._queue.get()) is not None:
            with self._lock:
                # while the program computes, waiting must not take the processor or the interpreter from it
                self.transport.is_urgent = work.is_awaited
                work._run()
                self.transport.is_urgent = always
            with self._count:
                self._waiting -= 1
            del work

    def close(self) -> None:
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join(timeout=5)
            self._thread = None
        if self._lock.acquire(timeout=1):  # a call that hangs keeps the transport; its deadline ends it
            try:
                self.transport.close()
            finally:
                self._lock.release()


class Number(int):
    """A number that may be called: torch's groups have methods `rank()` and `size()`, ours attributes. Not for files: int() it."""

    def __call__(self) -> int:
        return int(self)


class ProcessGroup:
    """Ranks `ranks` of the world. `rank` and `size` count inside the group, from 0."""

    def __init__(self, lane: Lane, world: World, ranks: Sequence[int], number: int, timeout_s: float):
        self.lane, self.world, self.ranks, self.number, self.timeout_s = lane, world, tuple(ranks), number, timeout_s
        whole = tuple(range(world.size))
        self.transport = lane.transport if self.ranks == whole else lane.transport.subset(self.ranks)
        self.rank, self.size = Number(self.transport.rank), Number(self.transport.size)
        self._calls = 0  # collectives that have begun
        lane.recorder.groups[number] = list(self.ranks)

    @property
    def backend(self) -> str:
        return self.transport.name

    def group_rank(self, rank: int, where: str) -> int:
        """A rank of the world as a rank of this group."""
        if rank not in self.ranks:
            raise ArgumentError(
                f"rank {self.world.rank}: {where}: expected a rank of this group, {list(self.ranks)}, got {rank}"
            )
        return self.ranks.index(rank)

    # -- collectives on tensors; in place where torch's are
    # ---------------------------------------------------------------

    def all_reduce(self, tensor: Tensor, op: str, async_op: bool = False) -> Any:
        flat = self._flat(tensor, op)

        def task(call: Call, d: Deadline) -> None:
            self.transport.all_reduce(flat.arrive(call, d), op, call, d)
            self._put_back(flat, call, d)

        return self._go("all_reduce", flat.array, op, task, [tensor], async_op)

    def homes(self, nbytes: int) -> list[np.ndarray] | None:
        """An array (nbytes,) of bytes for each rank, all of which every rank sees; None where ranks share no memory."""
        found: list[list[np.ndarray] | None] = []

        def task(call: Call, d: Deadline) -> None:
            found.append(self.transport.homes(nbytes, call, d))

        self._go("homes", np.empty(nbytes, np.uint8), "", task, [], False)
        return found[0]

    def all_reduce_homes(self, tensor: Tensor, homes: Sequence[np.ndarray], op: str, async_op: bool = False) -> Any:
        """`all_reduce` of a tensor that is this rank's of `homes`, parts of what the method of that name gave."""

        def task(call: Call, d: Deadline) -> None:
            self.transport.all_reduce_homes(homes, op, call, d)
            tensor._bump()

        return self._go("all_reduce", tensor._a, f"{op}, at home", task, [tensor], async_op)

    def all_reduce_coalesced(self, tensors: Sequence[Tensor], op: str, async_op: bool = False) -> Any:
        """One call for all; tensors of one dtype."""
        if not tensors or any(t._a.dtype != tensors[0]._a.dtype for t in tensors):
            raise DTypeError(
                f"rank {self.world.rank}: all_reduce_coalesced: expected tensors of one dtype, got {[str(t.dtype) for t in tensors]}"
            )
        outs, flat = [landing(t) for t in tensors], self._joined(tensors, op)

        def task(call: Call, d: Deadline) -> None:
            together = flat.arrive(call, d)
            self.transport.all_reduce(together, op, call, d)
            ends = np.cumsum([t._a.size for t in tensors]).tolist()
            self._spread([together[end - t._a.size : end] for end, t in zip(ends, tensors)], outs)

        return self._go("all_reduce", flat.array, op, task, tensors, async_op)

    def reduce(self, tensor: Tensor, dst: int, op: str, async_op: bool = False) -> Any:
        flat = self._flat(tensor, op)

        def task(call: Call, d: Deadline) -> None:
            self.transport.reduce(flat.arrive(call, d), op, dst, call, d)
            if self.rank == dst:
                self._put_back(flat, call, d)

        return self._go("reduce", flat.array, f"{op}, root={dst}", task, [tensor], async_op)

    def broadcast(self, tensor: Tensor, src: int, async_op: bool = False) -> Any:
        flat = self._flat(tensor, "")

        def task(call: Call, d: Deadline) -> None:
            self.transport.broadcast(flat.arrive(call, d), src, call, d)
            self._put_back(flat, call, d)

        return self._go("broadcast", flat.array, f"root={src}", task, [tensor], async_op)

    def all_gather(self, outputs: Sequence[Tensor], tensor: Tensor, async_op: bool = False) -> Any:
        outs = [landing(t) for t in self._alike(outputs, tensor, "all_gather")]
        flat = self._flat(tensor, "", writes=False)

        def task(call: Call, d: Deadline) -> None:
            mine = flat.arrive(call, d)
            self._spread(self.transport.all_gather(mine, call, d, **self._into(outs, mine, self.rank)), outs)

        return self._go("all_gather", flat.array, "", task, outputs, async_op)

    def gather(self, tensor: Tensor, outputs: Sequence[Tensor] | None, dst: int, async_op: bool = False) -> Any:
        if (outputs is not None and len(outputs) > 0) != (self.rank == dst):
            raise ArgumentError(
                f"rank {self.world.rank}: gather: expected gather_list on the destination rank and only there"
            )
        outs = [landing(t) for t in self._alike(outputs, tensor, "gather")] if outputs else []
        flat = self._flat(tensor, "", writes=False)

        def task(call: Call, d: Deadline) -> None:
            mine = flat.arrive(call, d)
            rows = self.transport.gather(mine, dst, call, d, **self._into(outs, mine, self.rank))
            if rows is not None:
                self._spread(rows, outs)

        return self._go("gather", flat.array, f"root={dst}", task, outputs or [], async_op)

    def scatter(self, tensor: Tensor, inputs: Sequence[Tensor] | None, src: int, async_op: bool = False) -> Any:
        if (inputs is not None and len(inputs) > 0) != (self.rank == src):
            raise ArgumentError(
                f"rank {self.world.rank}: scatter: expected scatter_list on the source rank and only there"
            )
        out, flat = landing(tensor), self._flat(tensor, "", writes=False)
        # the other ranks' array says where the block is to be
        blocks = self._apart(self._alike(inputs, tensor, "scatter"), "") if inputs else flat

        def task(call: Call, d: Deadline) -> None:
            mine = blocks.arrive(call, d)
            into = self._into([out], mine if inputs else [])
            self._spread([self.transport.scatter(mine, src, call, d, **into)], [out])

        return self._go("scatter", flat.array, f"root={src}", task, [tensor], async_op)

    def reduce_scatter(self, output: Tensor, inputs: Sequence[Tensor], op: str, async_op: bool = False) -> Any:
        out, blocks = landing(output), self._apart(self._alike(inputs, output, "reduce_scatter"), op)

        def task(call: Call, d: Deadline) -> None:
            mine = blocks.arrive(call, d)
            self._spread([self.transport.reduce_scatter(mine, op, call, d, **self._into([out], mine))], [out])

        return self._go("reduce_scatter", blocks.array, op, task, [output], async_op, count=self.size * output._a.size)

    def all_to_all(self, outputs: Sequence[Tensor], inputs: Sequence[Tensor], async_op: bool = False) -> Any:
        """Of any sizes: all ranks hear of all first."""
        for tensors, what in ((inputs, "inputs"), (outputs, "outputs")):
            if len(tensors) != self.size:
                raise ArgumentError(
                    f"rank {self.world.rank}: all_to_all: expected {self.size} {what}, one for each rank, got {len(tensors)}"
                )
        if len(dtypes := {t._a.dtype for t in (*inputs, *outputs)}) > 1:
            raise DTypeError(
                f"rank {self.world.rank}: all_to_all: expected tensors of one dtype, got {', '.join(sorted(map(str, dtypes)))}"
            )
        mine = np.array([[t._a.size for t in inputs], [t._a.size for t in outputs]])
        table = [wrap(np.empty_like(mine)) for _ in range(self.size)]
        self.all_gather(table, wrap(mine))
        sent, awaited = np.stack([t._a[0] for t in table]), np.stack([t._a[1] for t in table]).T
        if (sent != awaited).any():
            source, to = (int(i[0]) for i in np.nonzero(sent != awaited))
            raise MismatchError(
                f"rank {self.world.rank}: all_to_all: expected rank {self.ranks[to]} to await what rank {self.ranks[source]} sends it, "
                f"{sent[source, to]} elements, got room for {awaited[source, to]}; mend the split sizes"
            )
        if (sent == sent[0, 0]).all() and {t._a.shape for t in (*inputs, *outputs)} == {inputs[0]._a.shape}:
            return self.all_to_all_equal(outputs, inputs, async_op)
        return self._all_to_all_padded(outputs, inputs, int(sent.max()), async_op)

    def _all_to_all_padded(self, outputs: Sequence[Tensor], inputs: Sequence[Tensor], most: int, async_op: bool) -> Any:
        blocks = backend.of(inputs[0]._a).xp.zeros((self.size, most), inputs[0]._a.dtype)
        for row, t in zip(blocks, inputs):
            row[: t._a.size] = contiguous(t)
        outs, flat = [landing(t) for t in outputs], self._flat(wrap(blocks.reshape(-1)), "", writes=False)

        def task(call: Call, d: Deadline) -> None:
            received = self.transport.all_to_all(flat.arrive(call, d), call, d).reshape(self.size, most)
            self._spread([row[: t._a.size] for row, t in zip(received, outputs)], outs)

        return self._go("all_to_all", flat.array, "", task, outputs, async_op)

    def all_to_all_equal(self, outputs: Sequence[Tensor], inputs: Sequence[Tensor], async_op: bool = False) -> Any:
        """All of one shape, on all ranks."""
        blocks = self._apart(self._alike(inputs, inputs[0], "all_to_all"), "")
        outs = [landing(t) for t in self._alike(outputs, inputs[0], "all_to_all")]

        def task(call: Call, d: Deadline) -> None:
            mine = blocks.arrive(call, d)
            rows = self.transport.all_to_all(mine, call, d, **(into := self._into(outs, mine)))
            self._spread(rows if into else rows.reshape(self.size, -1), outs)

        return self._go("all_to_all", blocks.array, "", task, outputs, async_op, count=self.size * inputs[0]._a.size)

    def barrier(self, async_op: bool = False, timeout_s: float | None = None) -> Any:
        return self._go("barrier", np.empty(0, np.uint8), "", self.transport.barrier, [], async_op, timeout_s)

    # -- point to point
    # --------------------------------------------------------------------------------------------------

    def send(self, tensor: Tensor, dst: int, tag: int, async_op: bool = False) -> Any:
        flat = self._flat(tensor, "send", writes=False)

        def task(call: Call, d: Deadline) -> None:
            self.transport.send_pieces(dst, flat.arrive(call, d), call, d)
            if isinstance(flat.array, np.ndarray):
                self.transport.flush(d)

        return self._go("send", flat.array, f"to {self.ranks[dst]}", task, [tensor], async_op, tag=tag)

    def recv(self, tensor: Tensor, src: int, tag: int, async_op: bool = False) -> Any:
        flat = self._flat(tensor, "send")

        def task(call: Call, d: Deadline) -> None:
            self.transport.recv_pieces(src, flat.arrive(call, d), call, d)
            self._put_back(flat, call, d)

        return self._go("recv", flat.array, f"from {self.ranks[src]}", task, [tensor], async_op, tag=tag)

    def connect(self, tensors: Sequence[Tensor], peers: Sequence[int]) -> None:
        """Before several sends and receives: where their transport has to meet the other ends first, do so in an order without rings."""
        connect = getattr(self.transport, "connect", None)
        if connect is not None and any(isinstance(self._flat(t, "send", False), DeviceFlat) for t in tensors):
            call = Call("send", 0, "uint8", 0, "", self.number)
            self.lane.call(lambda: connect(peers, call, Deadline.after(self.timeout_s)))

    # -- parts
    # -----------------------------------------------------------------------------------------------------------

    def _go(
        self, name: str, array: np.ndarray, detail: str, task: Callable[[Call, Deadline], Any], outputs: Sequence[Tensor],
        async_op: bool, timeout_s: float | None = None, tag: int | None = None, count: int | None = None,
    ) -> Work | None:  # fmt: skip
        """Make a call; one with a `tag` is point to point. `count` elements, if not those of the array."""
        count = array.size if count is None else count
        seconds = self.timeout_s if timeout_s is None else timeout_s
        recorder = self.lane.recorder
        dtype = _name(array.dtype)
        entry = recorder.call(name, dtype, count, detail, self.number)

        def run() -> None:
            if tag is None:
                self._calls += 1
                call = Call(name, self._calls, dtype, count, detail, self.number)
            else:
                call = Call("send", tag, dtype, count, "", self.number)
            recorder.begins(entry, call.number)
            try:
                # the clock starts now, not when the call was queued: what is queued before it has deadlines of its own
                task(call, Deadline.after(seconds))
            except BaseException as error:
                recorder.fails(entry, error)
                raise
            recorder.ends(entry)

        if not isinstance(array, np.ndarray):
            run = from_here(backend.of(array), run)
            if self.transport.asynchronous:
                work = DeviceWork(run, outputs, self.transport, seconds)
                self.lane.call(work._run)
                if async_op:
                    return work
                work.wait()
                return None
        if async_op:
            return self.lane.post(run, outputs)
        self.lane.call(run)
        return None

    def _flat(self, tensor: Tensor, op: str, writes: bool = True) -> Any:
        """The tensor for a transport, which writes to it if `writes`: as it is where the transport takes arrays of its device, else as one
        of the host. `op`: "" of what is only moved, "send" of a message."""
        if not isinstance(tensor, Tensor) or isinstance(tensor._a, np.ndarray):
            return Flat(tensor, writes)
        if writes:
            tensor._check_inplace("collective")
        transport: Any = self.transport  # those that take arrays of a device say which
        on_device = getattr(transport, "device_type", None) == backend.of(tensor._a).device_type
        takes = on_device and transport.takes(tensor._a.dtype, op)
        return DeviceFlat(tensor) if takes else StagedFlat(tensor)

    def _joined(self, tensors: Sequence[Tensor], op: str) -> Any:
        """Their elements one after the other, to be read."""
        xp = backend.of(tensors[0]._a).xp
        return self._flat(wrap(xp.concatenate([contiguous(t) for t in tensors])), op, writes=False)

    def _apart(self, tensors: Sequence[Tensor], op: str) -> Any:
        """Their elements one block after the other, to be read: as they lie where the transport takes blocks apart."""
        if self.transport.fills and all(isinstance(t, Tensor) and isinstance(t._a, np.ndarray) for t in tensors):
            return Blocks(tensors)
        return self._joined(tensors, op)

    def _into(self, outs: Sequence[Any], source: Any, own: int = -1) -> dict[str, list[np.ndarray]]:
        """For a transport that fills arrays: where the results are to be, see `free_rooms`. `source`: an array, or a list of them."""
        sources = source if isinstance(source, list) else [source]
        rooms = free_rooms(outs, sources, own) if self.transport.fills else None
        return {"into": rooms} if rooms else {}

    def _alike(self, tensors: Sequence[Tensor], like: Tensor, where: str) -> Sequence[Tensor]:
        """One tensor for each rank, all of one shape and dtype."""
        if len(tensors) != self.size:
            raise ArgumentError(
                f"rank {self.world.rank}: {where}: expected {self.size} tensors, one for each rank, got {len(tensors)}"
            )
        for t in tensors:
            if t._a.shape != like._a.shape or t._a.dtype != like._a.dtype:
                raise ShapeError(
                    f"rank {self.world.rank}: {where}: expected tensors of {like.dtype} and shape {tuple(like.shape)}, "
                    f"got {t.dtype} and {tuple(t.shape)}"
                )
        return tensors

    def _behind(self, *arrays: Any) -> AbstractContextManager[None]:
        """Where arrays that a transport has left on a device, maybe before it has filled them, may be read."""
        behind = getattr(self.transport, "behind", None)
        return nullcontext() if behind is None or isinstance(arrays[0], np.ndarray) else behind(*arrays)

    def _put_back(self, flat: Any, call: Call, d: Deadline) -> None:
        if not getattr(flat, "copied", False):
            return flat.put_back(call, d)
        with self._behind(flat.array):
            flat.put_back(call, d)

    def _spread(self, rows: Any, outs: Sequence[Any]) -> None:
        with self._behind(*rows):
            for row, out in zip(rows, outs):
                out.store(row)


@functools.cache
def _name(dtype: np.dtype) -> str:
    return dtype.name  # which NumPy makes up anew each time, in 2 us


def _seconds(timeout: Any) -> float:
    return timeout.total_seconds() if hasattr(timeout, "total_seconds") else float(timeout)
