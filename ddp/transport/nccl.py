"""NCCL: collectives on arrays of GPUs, from GPU to GPU.

Contract
- Arrays of the host, single messages between ranks, barriers and the start go over another transport, the carrier. Arrays of a GPU, one-
  dimensional and contiguous, go over NCCL, one GPU a process.
- A collective on a GPU's array is put on a stream of its own and returns at once. It begins after the work that was on the current
  stream, so it runs beside what comes there later; `flush` lets the current stream wait for it, without stopping the host. So all of it
  can be captured in a CUDA graph; then capture and launches must be the same on all ranks.
- A dead or late peer is, to NCCL, a kernel that never ends. A thread watches: when a collective is not done by its deadline, or NCCL
  reports an error, it aborts the communicator, which ends the kernels, and every later call raises. `synchronize` waits on the host in
  this way; nothing else should.
- Ranks that make different calls are not told apart from late ones: agreeing first would cost more than the call.

`min` and `max` of NaN are NCCL's; `band`, `bor`, `bxor`, bool and complex numbers it has not got.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from core import backend
from core.errors import ArgumentError, DTypeError
from ddp.env import World
from ddp.errors import DDPError, DeadlineError
from ddp.transport.base import Call, Deadline, Transport

WATCH_S = 0.05  # how often unfinished collectives are looked at
ID_BYTES = 128  # ncclUniqueId

# NumPy's name -> NCCL's
_TYPES = {
    "int8": "INT8", "uint8": "UINT8", "int32": "INT32", "uint32": "UINT32", "int64": "INT64", "uint64": "UINT64", "float16": "FLOAT16",
    "bfloat16": "BFLOAT16", "float32": "FLOAT32", "float64": "FLOAT64",
}  # fmt: skip
_OPS = {"sum": "SUM", "product": "PROD", "min": "MIN", "max": "MAX", "avg": "AVG"}


class _Pending(NamedTuple):
    call: Call
    deadline: Deadline
    done: Any  # an event behind the collective
    arrays: tuple[Any, ...]  # its memory: CuPy's pool would hand it out again


class NCCLTransport(Transport):
    name = "nccl"
    device_type = "cuda"  # arrays of these devices are taken as they are
    asynchronous = True  # a collective on them returns before it has ended

    @classmethod
    def open(cls, world: World, timeout_s: float) -> NCCLTransport:
        from ddp.transport import open_transport

        be: Any = backend.get("cuda")
        if world.local_size > be.count():
            raise ArgumentError(
                f"rank {world.rank}: transport nccl: expected a GPU for each rank of this host, got {be.count()} for {world.local_size}; "
                "start fewer, or use backend 'ipc' or 'zmq'"
            )
        be.xp.cuda.Device(world.local_rank).use()
        return cls.over(open_transport("zmq" if world.size > 1 else "loopback", world, timeout_s), timeout_s)

    @classmethod
    def over(cls, carrier: Transport, timeout_s: float) -> NCCLTransport:
        """Connect the ranks of a transport, each with the GPU that is current there. It closes the carrier when it is closed."""
        be: Any = backend.get("cuda")
        nccl, deadline = be.nccl(), Deadline.after(timeout_s)
        name = np.zeros(ID_BYTES, np.uint8)
        if carrier.rank == 0:
            name[:] = np.frombuffer(nccl.get_unique_id(), np.uint8)
        carrier.broadcast(name, 0, Call("broadcast", 0, "uint8", ID_BYTES, "nccl"), deadline)
        communicator = nccl.NcclCommunicator(
            carrier.size, name.tobytes(), carrier.rank
        )  # all ranks are here: the broadcast was
        return cls(carrier, be, communicator)

    def __init__(self, carrier: Transport, be: Any, communicator: Any):
        super().__init__(carrier.rank, carrier.size)
        self.tuning = carrier.tuning
        self._carrier, self._be, self._nccl, self._communicator = carrier, be, be.nccl(), communicator
        self._cuda = be.xp.cuda
        self._stream = self._cuda.Stream(non_blocking=True)
        self._pending: deque[_Pending] = deque()
        self._kept: list[Any] = []  # what a captured graph reads and writes
        self._error: DDPError | None = None
        self._closed = threading.Event()
        self._watcher: threading.Thread | None = None

    # -- the carrier's -------------------------------------------------------------------------------------------------

    def send(self, peer: int, array: np.ndarray, call: Call, deadline: Deadline) -> None:
        self._carrier.send(peer, array, call, deadline)

    def recv(self, peer: int, call: Call, deadline: Deadline) -> np.ndarray:
        return self._carrier.recv(peer, call, deadline)

    def barrier(self, call: Call, deadline: Deadline) -> None:
        self._carrier.barrier(call, deadline)

    def flush(self, deadline: Deadline) -> None:
        """The carrier's flush; and work put on the current stream from now on comes after all collectives so far."""
        self._carrier.flush(deadline)
        self._check()
        self._cuda.get_current_stream().wait_event(self._stream.record())

    def close(self) -> None:
        if not self._closed.is_set():
            self._closed.set()
            if self._watcher is not None:
                self._watcher.join()
            self._communicator.abort()  # `destroy` would wait for what a lost peer never ends
            self._pending.clear()
        self._carrier.close()

    def abort(self, reason: str) -> None:
        self._fail(DDPError(f"rank {self.rank}: gave up: {reason}"))
        self._carrier.abort(reason)

    # -- collectives ---------------------------------------------------------------------------------------------------

    def all_reduce(self, array: Any, op: str, call: Call, deadline: Deadline) -> None:
        if self._on_host(array):
            return self._carrier.all_reduce(array, op, call, deadline)
        how, pointer = (*self._kind(array, call), self._op(op, array, call)), array.data.ptr
        self._enqueue(lambda c, s: c.allReduce(pointer, pointer, *how, s), call, deadline, array)

    def reduce(self, array: Any, op: str, root: int, call: Call, deadline: Deadline) -> None:
        if self._on_host(array):
            return self._carrier.reduce(array, op, root, call, deadline)
        self._check_root(root, call)
        how, pointer = (*self._kind(array, call), self._op(op, array, call)), array.data.ptr
        out = array if self.rank == root else self._be.xp.empty_like(array)  # the others' arrays stay as they are
        self._enqueue(lambda c, s: c.reduce(pointer, out.data.ptr, *how, root, s), call, deadline, array, out)

    def broadcast(self, array: Any, root: int, call: Call, deadline: Deadline) -> None:
        if self._on_host(array):
            return self._carrier.broadcast(array, root, call, deadline)
        self._check_root(root, call)
        how, pointer = self._bytes(array), array.data.ptr
        self._enqueue(lambda c, s: c.broadcast(pointer, pointer, *how, root, s), call, deadline, array)

    def all_gather(self, array: Any, call: Call, deadline: Deadline) -> Any:
        if self._on_host(array):
            return self._carrier.all_gather(array, call, deadline)
        out = self._be.xp.empty((self.size, array.size), array.dtype)
        how = self._bytes(array)
        self._enqueue(lambda c, s: c.allGather(array.data.ptr, out.data.ptr, *how, s), call, deadline, array, out)
        return out

    def gather(self, array: Any, root: int, call: Call, deadline: Deadline) -> Any:
        if self._on_host(array):
            return self._carrier.gather(array, root, call, deadline)
        self._check_root(root, call)
        out: Any = self._be.xp.empty((self.size, array.size), array.dtype) if self.rank == root else None
        count, kind = self._bytes(array)

        def exchange(c: Any, s: int) -> None:
            c.send(array.data.ptr, count, kind, root, s)
            for peer in range(self.size) if out is not None else ():
                c.recv(out.data.ptr + peer * count, count, kind, peer, s)

        self._enqueue(self._grouped(exchange), call, deadline, array, out)
        return out

    def scatter(self, array: Any, root: int, call: Call, deadline: Deadline) -> Any:
        """The other ranks, too, give an array of their device: it says where the block is to be, and is not looked at."""
        if self._on_host(array):
            return self._carrier.scatter(array, root, call, deadline)
        self._check_root(root, call)
        blocks: Any = self._check_scatter(array, call) if self.rank == root else None
        out = self._be.xp.empty(call.count, array.dtype)
        count, kind = self._bytes(out)

        def exchange(c: Any, s: int) -> None:
            for peer in range(self.size) if blocks is not None else ():
                c.send(blocks.data.ptr + peer * count, count, kind, peer, s)
            c.recv(out.data.ptr, count, kind, root, s)

        self._enqueue(self._grouped(exchange), call, deadline, array, out)
        return out

    def reduce_scatter(self, array: Any, op: str, call: Call, deadline: Deadline) -> Any:
        if self._on_host(array):
            return self._carrier.reduce_scatter(array, op, call, deadline)
        self._check_blocks(array, call)
        out = self._be.xp.empty(array.size // self.size, array.dtype)
        how = (*self._kind(out, call), self._op(op, array, call))
        self._enqueue(lambda c, s: c.reduceScatter(array.data.ptr, out.data.ptr, *how, s), call, deadline, array, out)
        return out

    def all_to_all(self, array: Any, call: Call, deadline: Deadline) -> Any:
        if self._on_host(array):
            return self._carrier.all_to_all(array, call, deadline)
        self._check_blocks(array, call)
        out = self._be.xp.empty_like(array)
        whole, kind = self._bytes(array)
        count = whole // self.size

        def exchange(c: Any, s: int) -> None:
            for peer in range(self.size):
                c.send(array.data.ptr + peer * count, count, kind, peer, s)
                c.recv(out.data.ptr + peer * count, count, kind, peer, s)

        self._enqueue(self._grouped(exchange), call, deadline, array, out)
        return out

    # -- putting work on the stream, and watching it ---------------------------------------------------------------------

    def synchronize(self, deadline: Deadline) -> None:
        """Return once all collectives so far have ended; raises when they do not."""
        while self._pending and self._error is None and not deadline.expired():
            time.sleep(WATCH_S / 50)
        self._check()
        if self._pending:
            raise DeadlineError(f"rank {self.rank}: {self._pending[0].call}: {_late(deadline)}")

    def _enqueue(self, collective: Callable[[Any, int], Any], call: Call, deadline: Deadline, *arrays: Any) -> None:
        self._check()
        current = self._cuda.get_current_stream()
        self._stream.wait_event(current.record())
        with self._stream:
            collective(self._communicator, self._stream.ptr)
        if current.is_capturing():
            self._kept.append(arrays)  # there is nothing to watch: the work is done when the graph is launched
            return
        done = self._cuda.Event(disable_timing=True)
        done.record(self._stream)
        self._pending.append(_Pending(call, deadline, done, arrays))
        if self._watcher is None:
            self._watcher = threading.Thread(target=self._watch, name=f"nccl watch {self.rank}", daemon=True)
            self._watcher.start()

    def _grouped(self, exchange: Callable[[Any, int], None]) -> Callable[[Any, int], None]:
        """Sends and receives that NCCL is to match as one."""

        def grouped(c: Any, s: int) -> None:
            self._nccl.groupStart()
            try:
                exchange(c, s)
            finally:
                self._nccl.groupEnd()

        return grouped

    def _watch(self) -> None:
        while not self._closed.wait(WATCH_S if not self._pending else WATCH_S / 10) and self._error is None:
            try:
                self._look()
            except Exception as error:  # NCCL's or CUDA's
                self._fail(DDPError(f"rank {self.rank}: {self._pending[0].call if self._pending else 'nccl'}: {error}"))

    def _look(self) -> None:
        while self._pending and self._pending[0].done.done:
            self._pending.popleft()
        if self._pending:
            self._communicator.check_async_error()
            first = self._pending[0]
            if first.deadline.expired():
                self._fail(DeadlineError(f"rank {self.rank}: {first.call}: {_late(first.deadline)}"))

    def _fail(self, error: DDPError) -> None:
        if self._error is None:
            self._error = error
            self._communicator.abort()

    def _check(self) -> None:
        if self._error is not None:
            raise self._error
        if self._closed.is_set():
            raise DDPError(f"rank {self.rank}: expected an open transport, got one that was closed")

    # -- NCCL's words --------------------------------------------------------------------------------------------------

    def _on_host(self, array: Any) -> bool:
        return array is None or isinstance(array, np.ndarray)

    def takes(self, dtype: np.dtype, op: str) -> bool:
        """Whether arrays of the GPU go over NCCL, rather than through the host: op "" is that of moving."""
        return not op or (dtype.name in _TYPES and op in _OPS and not (op == "avg" and dtype.kind in "iu"))

    def _kind(self, array: Any, call: Call) -> tuple[int, int]:
        """Count and type."""
        name = _TYPES.get(array.dtype.name)
        if name is None:
            raise DTypeError(
                f"rank {self.rank}: {call}: expected a dtype that NCCL has ({', '.join(_TYPES)}), got {array.dtype}; convert it"
            )
        return array.size, getattr(self._nccl, f"NCCL_{name}")

    def _bytes(self, array: Any) -> tuple[int, int]:
        """Count and type of what is only moved."""
        return array.nbytes, self._nccl.NCCL_UINT8

    def _op(self, op: str, array: Any, call: Call) -> int:
        if op not in _OPS or (op == "avg" and array.dtype.kind in "iu"):
            raise ArgumentError(
                f"rank {self.rank}: {call}: expected a reduce op that NCCL has for {array.dtype} ({', '.join(_OPS)}), got {op!r}"
            )
        return getattr(self._nccl, f"NCCL_{_OPS[op]}")


def _late(deadline: Deadline) -> str:
    return f"expected all ranks to end it within {deadline.timeout_s:g} s; one is lost, stuck, or in another call"
