"""NCCL: collectives on arrays of GPUs, from GPU to GPU.

Contract
- Arrays of the host, barriers and the start go over another transport, the carrier. Arrays of a GPU, one-dimensional and contiguous, go
  over NCCL, one GPU a process.
- A call on a GPU's array is put on a stream of its own and returns at once. It begins after the work that was on the current stream, so
  it runs beside what comes there later; `flush` lets the current stream wait for it, without stopping the host. So all of it can be
  captured in a CUDA graph; then capture and launches must be the same on all ranks.
- Messages between two ranks have a communicator and a stream for each direction, made when either rank first sends to or receives from
  the other, which waits for the other to do so, too; `connect` does that for several peers in an order that cannot end in a ring. They
  are matched by their order: tags are not looked at, as in torch. A send may wait, on its stream, for its receive.
- Some of the ranks (`subset`) have a communicator of their own, made with their first collective.
- A dead or late peer is, to NCCL, a kernel that never ends. A thread watches: when a call is not done by its deadline, or NCCL reports an
  error, it aborts the communicators, which ends the kernels, and every later call raises. `synchronize` waits on the host in this way;
  nothing else should.
- Ranks that make different calls are not told apart from late ones: agreeing first would cost more than the call.

`min` and `max` of NaN are NCCL's; `band`, `bor`, `bxor`, bool and complex numbers it has not got.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from core import backend
from core.errors import ArgumentError, DTypeError
from ddp.env import World
from ddp.errors import DDPError, DeadlineError
from ddp.transport.base import Call, Deadline, Transport

WATCH_S = 0.05  # how often unfinished collectives are looked at
ID_BYTES = 128  # ncclUniqueId
MEETING_TAG = (1 << 31) - 1  # of the messages by which two ranks meet

# NumPy's name -> NCCL's
_TYPES = {
    "int8": "INT8", "uint8": "UINT8", "int32": "INT32", "uint32": "UINT32", "int64": "INT64", "uint64": "UINT64", "float16": "FLOAT16",
    "bfloat16": "BFLOAT16", "float32": "FLOAT32", "float64": "FLOAT64",
}  # fmt: skip
_OPS = {"sum": "SUM", "product": "PROD", "min": "MIN", "max": "MAX", "avg": "AVG"}


class _Pending(NamedTuple):
    call: Call
    deadline: Deadline
    done: Any  # an event behind it
    arrays: tuple[Any, ...]  # its memory: CuPy's pool would hand it out again


class _Channel:
    """A communicator, the stream that its calls are put on, and what of them may not have ended."""

    def __init__(self, communicator: Any, stream: Any):
        self.communicator, self.stream = communicator, stream
        self.pending: deque[_Pending] = deque()
        self.last: tuple[Call, Deadline] | None = None
        self.captured = False  # whether the capture under way has work here that `flush` has not led back yet


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
        found = cls(carrier, backend.get("cuda"), range(carrier.size))
        found._whole(Call("broadcast", 0, "uint8", ID_BYTES, "nccl"), Deadline.after(timeout_s))
        return found

    def __init__(self, carrier: Transport, be: Any, ranks: Sequence[int]):
        """`ranks`: those of the carrier's ranks in the job, for messages."""
        super().__init__(carrier.rank, carrier.size)
        self.tuning = carrier.tuning
        self._carrier, self._be, self._nccl, self._cuda = carrier, be, be.nccl(), be.xp.cuda
        self._names = tuple(ranks)
        self._channels: dict[Any, _Channel] = {}  # by "all", or by (source, destination)
        self._subsets: list[NCCLTransport] = []
        self._kept: list[Any] = []  # what a captured graph reads and writes
        self._error: DDPError | None = None
        self._closed = threading.Event()
        self._watcher: threading.Thread | None = None

    @property
    def _me(self) -> int:
        return self._names[self.rank]

    def subset(self, ranks: Sequence[int]) -> Transport:
        part = NCCLTransport(self._carrier.subset(ranks), self._be, [self._names[rank] for rank in ranks])
        self._subsets.append(part)
        return part

    # -- communicators -------------------------------------------------------------------------------------------------

    def _whole(self, call: Call, deadline: Deadline) -> _Channel:
        """That of all ranks."""
        if "all" not in self._channels:
            name = self._name() if self.rank == 0 else np.zeros(ID_BYTES, np.uint8)
            meeting = Call("broadcast", 0, "uint8", ID_BYTES, "nccl", call.group)
            self._carrier.broadcast(name, 0, meeting, deadline)
            self._channels["all"] = self._opened(self.size, name, self.rank)  # all ranks are here: the broadcast was
        return self._channels["all"]

    def _name(self) -> np.ndarray:
        return np.frombuffer(self._nccl.get_unique_id(), np.uint8).copy()

    def _opened(self, size: int, name: np.ndarray, rank: int) -> _Channel:
        return _Channel(self._nccl.NcclCommunicator(size, name.tobytes(), rank), self._cuda.Stream(non_blocking=True))

    def connect(self, peers: Sequence[int], call: Call, deadline: Deadline) -> None:
        """Meet these ranks, each of which must do so, too."""
        self._check()
        for peer in sorted(set(peers), key=lambda peer: sorted((peer, self.rank))):  # one order for all ranks: no ring
            self._pair(peer, call, deadline)

    def _pair(self, peer: int, call: Call, deadline: Deadline) -> None:
        """Both directions to a rank."""
        self._check_peer(peer, call)
        if (self.rank, peer) in self._channels:
            return
        here, there = sorted((self.rank, peer))
        names = np.concatenate([self._name(), self._name()]) if self.rank == here else np.empty(0, np.uint8)
        meeting = Call("send", MEETING_TAG, "uint8", 2 * ID_BYTES, "", call.group)
        answer = meeting._replace(count=0)
        if self.rank == here:
            self._carrier.send(peer, names, meeting, deadline)
            self._carrier.flush(deadline)
            self._carrier.recv(peer, answer, deadline)  # NCCL would wait for ever for a peer that does not come
        else:
            self._carrier.send(peer, names, answer, deadline)
            self._carrier.flush(deadline)
            names = self._carrier.recv(peer, meeting, deadline)
        for way, name in zip(((here, there), (there, here)), names.reshape(2, ID_BYTES)):
            self._channels[way] = self._opened(2, name, way.index(self.rank))

    # -- the carrier's -------------------------------------------------------------------------------------------------

    def send(self, peer: int, array: Any, call: Call, deadline: Deadline) -> None:
        if self._on_host(array):
            return self._carrier.send(peer, array, call, deadline)
        self._message((self.rank, peer), array, call, deadline)

    def recv(self, peer: int, call: Call, deadline: Deadline) -> np.ndarray:
        return self._carrier.recv(peer, call, deadline)

    def send_pieces(self, peer: int, array: Any, call: Call, deadline: Deadline) -> None:
        if self._on_host(array):
            return super().send_pieces(peer, array, call, deadline)
        self.send(peer, array, call, deadline)  # NCCL has no largest message

    def recv_pieces(self, peer: int, out: Any, call: Call, deadline: Deadline) -> None:
        if self._on_host(out):
            return super().recv_pieces(peer, out, call, deadline)
        self._message((peer, self.rank), out, call, deadline)

    def barrier(self, call: Call, deadline: Deadline) -> None:
        self._carrier.barrier(call, deadline)

    def flush(self, deadline: Deadline) -> None:
        """The carrier's flush; and work put on the current stream from now on comes after all calls so far."""
        self._carrier.flush(deadline)
        self._check()
        current = self._cuda.get_current_stream()
        capturing = current.is_capturing()
        for channel in list(self._channels.values()):
            if channel.captured or not capturing:  # a stream outside the capture must not be waited for inside
                current.wait_event(self._be.event(channel.stream))
                channel.captured = False

    def close(self) -> None:
        for part in self._subsets:
            part.close()
        if not self._closed.is_set():
            self._closed.set()
            if self._watcher is not None:
                self._watcher.join()
            self._abort()  # `destroy` would wait for what a lost peer never ends
            for channel in self._channels.values():
                channel.pending.clear()
        self._carrier.close()

    def abort(self, reason: str) -> None:
        for part in self._subsets:
            part._fail(DDPError(f"rank {self._me}: gave up: {reason}"))
        self._fail(DDPError(f"rank {self._me}: gave up: {reason}"))
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
        """Return once all calls so far have ended; raises when they do not."""
        while (pending := self._oldest()) and self._error is None and not deadline.expired():
            time.sleep(WATCH_S / 50)
        self._check()
        if pending:
            raise DeadlineError(f"rank {self._me}: {pending.call}: {_late(pending.call, deadline)}")

    def _oldest(self) -> _Pending | None:
        """A call that may not have ended, if there is one."""
        return next((c.pending[0] for c in list(self._channels.values()) if c.pending), None)

    @contextmanager
    def behind(self, *arrays: Any) -> Iterator[None]:
        """Work that is asked for inside comes after the last collective, beside the current stream; it may read these arrays."""
        channel = self._channels["all"]
        with channel.stream:
            yield
        assert channel.last is not None
        self._watched(channel, *channel.last, arrays)

    def _message(self, way: tuple[int, int], array: Any, call: Call, deadline: Deadline) -> None:
        """To or from a rank: `way` is (source, destination)."""
        self._check()
        self._pair(way[0] + way[1] - self.rank, call, deadline)
        count, kind = self._bytes(array)
        sends = way[0] == self.rank

        def exchange(c: Any, s: int) -> None:
            (c.send if sends else c.recv)(array.data.ptr, count, kind, 1 if sends else 0, s)

        self._enqueue(exchange, call, deadline, array, channel=self._channels[way])

    def _enqueue(
        self, work: Callable[[Any, int], Any], call: Call, deadline: Deadline, *arrays: Any, channel: Any = None
    ) -> None:
        self._check()
        channel = self._whole(call, deadline) if channel is None else channel
        channel.stream.wait_event(self._be.event())
        with channel.stream:
            work(channel.communicator, channel.stream.ptr)
        self._watched(channel, call, deadline, arrays)

    def _watched(self, channel: _Channel, call: Call, deadline: Deadline, arrays: tuple[Any, ...]) -> None:
        """Keep the arrays until what was put on the channel's stream has ended, and see that it does."""
        channel.last = call, deadline
        if self._cuda.get_current_stream().is_capturing():
            channel.captured = True
            self._kept.append(arrays)  # there is nothing to watch: the work is done when the graph is launched
            return
        channel.pending.append(_Pending(call, deadline, self._be.event(channel.stream), arrays))
        if self._watcher is None:
            self._watcher = threading.Thread(target=self._watch, name=f"nccl watch {self._me}", daemon=True)
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
        while not self._closed.wait(WATCH_S if self._oldest() is None else WATCH_S / 10) and self._error is None:
            for channel in list(self._channels.values()):
                try:
                    self._look(channel)
                except Exception as error:  # NCCL's or CUDA's
                    call = channel.pending[0].call if channel.pending else "nccl"
                    self._fail(DDPError(f"rank {self._me}: {call}: {error}"))

    def _look(self, channel: _Channel) -> None:
        while channel.pending and channel.pending[0].done.done:
            channel.pending.popleft()
        if channel.pending and self._error is None:
            channel.communicator.check_async_error()
            first = channel.pending[0]
            if first.deadline.expired():
                self._fail(DeadlineError(f"rank {self._me}: {first.call}: {_late(first.call, first.deadline)}"))

    def _fail(self, error: DDPError) -> None:
        if self._error is None:
            self._error = error
            self._abort()

    def _abort(self) -> None:
        for channel in list(self._channels.values()):
            channel.communicator.abort()

    def _check(self) -> None:
        if self._error is not None:
            raise self._error
        if self._closed.is_set():
            raise DDPError(f"rank {self._me}: expected an open transport, got one that was closed")

    # -- NCCL's words --------------------------------------------------------------------------------------------------

    def _on_host(self, array: Any) -> bool:
        return array is None or isinstance(array, np.ndarray)

    def takes(self, dtype: np.dtype, op: str) -> bool:
        """Whether arrays of the GPU go over NCCL, rather than through the host: op "" is that of moving, "send" of messages."""
        return op in ("", "send") or (dtype.name in _TYPES and op in _OPS and not (op == "avg" and dtype.kind in "iu"))

    def _kind(self, array: Any, call: Call) -> tuple[int, int]:
        """Count and type."""
        name = _TYPES.get(array.dtype.name)
        if name is None:
            raise DTypeError(
                f"rank {self._me}: {call}: expected a dtype that NCCL has ({', '.join(_TYPES)}), got {array.dtype}; convert it"
            )
        return array.size, getattr(self._nccl, f"NCCL_{name}")

    def _bytes(self, array: Any) -> tuple[int, int]:
        """Count and type of what is only moved."""
        return array.nbytes, self._nccl.NCCL_UINT8

    def _op(self, op: str, array: Any, call: Call) -> int:
        if op not in _OPS or (op == "avg" and array.dtype.kind in "iu"):
            raise ArgumentError(
                f"rank {self._me}: {call}: expected a reduce op that NCCL has for {array.dtype} ({', '.join(_OPS)}), got {op!r}"
            )
        return getattr(self._nccl, f"NCCL_{_OPS[op]}")


def _late(call: Call, deadline: Deadline) -> str:
    who, else_ = ("all ranks", "one is lost, stuck, or in another call") if call.collective else (
        "the other rank", "it is lost, stuck, or makes its calls in another order"
    )  # fmt: skip
    return f"expected {who} to end it within {deadline.timeout_s:g} s; {else_}"
