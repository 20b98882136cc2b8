"""Several processes on one GPU: each opens the others' memory there, by handles that the carrier exchanges.

Contract: as in `nccl`, arrays of the host, messages and barriers go over another transport, the carrier; arrays of the GPU, one-dimensional
and contiguous, stay on it. NCCL refuses two ranks on one GPU; this is for machines that have but one, and for tests. Every rank copies
its array to a window of its own, waits until all have, and reads the windows of all, in the order of the ranks: so every rank ends a
reduction with the same bits. A collective has ended when it returns, and cannot be captured in a graph.
Not here: speed beyond one GPU; GPUs that differ between ranks.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from core import backend
from ddp.env import World
from ddp.errors import DDPError
from ddp.transport.base import Call, Deadline, Transport, divide, reduction

HANDLE_BYTES = 64  # cudaIpcMemHandle_t
WINDOW_BYTES = 16 << 20  # a multiple of 2 MiB, so that nothing else shares its pages: a handle opens whole pages
_GOODBYE_S = 1.0

_OPS = ("sum", "product", "min", "max", "avg")
_leaked: list[Any] = []  # windows that somebody may still have open


class IPCTransport(Transport):
    name = "ipc"
    device_type = "cuda"
    asynchronous = False

    @classmethod
    def open(cls, world: World, timeout_s: float) -> IPCTransport:
        from ddp.transport import open_transport

        backend.get("cuda")  # says what is missing
        return cls(open_transport("zmq" if world.size > 1 else "loopback", world, timeout_s), Deadline.after(timeout_s))

    def __init__(self, carrier: Transport, deadline: Deadline):
        """Connect the ranks of a transport, which is closed with this one."""
        super().__init__(carrier.rank, carrier.size)
        self.tuning = carrier.tuning
        be: Any = backend.get("cuda")
        self._carrier, self._be = carrier, be
        self._runtime = be.xp.cuda.runtime
        self._window = be.xp.cuda.Memory(WINDOW_BYTES)  # cudaMalloc's own: blocks of a pool cannot be handed out
        handle = np.frombuffer(self._runtime.ipcGetMemHandle(self._window.ptr), np.uint8)
        everyone = carrier.all_gather(handle, Call("all_gather", 0, "uint8", HANDLE_BYTES, "ipc"), deadline)
        self._opened: dict[int, int] = {}  # rank -> where its window lies here
        for rank in range(self.size):
            if rank != self.rank:  # one's own handle cannot be opened
                self._opened[rank] = self._open(rank, everyone.reshape(self.size, -1)[rank].tobytes())
        places = [self._opened.get(rank, self._window.ptr) for rank in range(self.size)]
        self._windows = [be.at(place, WINDOW_BYTES, self._window) for place in places]
        self._count = 0
        self._closed = False

    def _open(self, rank: int, handle: bytes) -> int:
        try:
            return int(self._runtime.ipcOpenMemHandle(handle))
        except RuntimeError as error:
            raise DDPError(
                f"rank {self.rank}: transport ipc: expected rank {rank} to use the same GPU, got {error}; use nccl for several GPUs"
            ) from None

    # -- the carrier's -------------------------------------------------------------------------------------------------

    def send(self, peer: int, array: np.ndarray, call: Call, deadline: Deadline) -> None:
        self._carrier.send(peer, array, call, deadline)

    def recv(self, peer: int, call: Call, deadline: Deadline) -> np.ndarray:
        return self._carrier.recv(peer, call, deadline)

    def barrier(self, call: Call, deadline: Deadline) -> None:
        self._carrier.barrier(call, deadline)

    def flush(self, deadline: Deadline) -> None:
        self._carrier.flush(deadline)

    def abort(self, reason: str) -> None:
        self._carrier.abort(reason)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._windows.clear()
        for place in self._opened.values():
            self._runtime.ipcCloseMemHandle(place)
        try:  # CUDA wants a window closed everywhere before it is freed
            self._carrier.barrier(Call("barrier", self._count, "uint8", 0, "ipc goodbye"), Deadline.after(_GOODBYE_S))
        except (DDPError, OSError):
            _leaked.append(self._window)
        self._carrier.close()

    # -- collectives ---------------------------------------------------------------------------------------------------

    def takes(self, dtype: np.dtype, op: str) -> bool:
        """Whether arrays of the device go this way, rather than through the host."""
        return not op or (dtype.kind in "iufV" and op in _OPS and not (op == "avg" and dtype.kind in "iu"))

    def all_reduce(self, array: Any, op: str, call: Call, deadline: Deadline) -> None:
        if isinstance(array, np.ndarray):
            return self._carrier.all_reduce(array, op, call, deadline)
        self._reduce(array, op, call, deadline, keep=True)

    def reduce(self, array: Any, op: str, root: int, call: Call, deadline: Deadline) -> None:
        if isinstance(array, np.ndarray):
            return self._carrier.reduce(array, op, root, call, deadline)
        self._check_root(root, call)
        self._reduce(array, op, call, deadline, keep=self.rank == root)

    def broadcast(self, array: Any, root: int, call: Call, deadline: Deadline) -> None:
        if isinstance(array, np.ndarray):
            return self._carrier.broadcast(array, root, call, deadline)
        self._check_root(root, call)
        for piece, windows in self._shared(array, call, deadline):
            if self.rank != root:
                array[piece] = windows[root]

    def all_gather(self, array: Any, call: Call, deadline: Deadline) -> Any:
        if isinstance(array, np.ndarray):
            return self._carrier.all_gather(array, call, deadline)
        out = self._be.xp.empty((self.size, array.size), array.dtype)
        for piece, windows in self._shared(array, call, deadline):
            for row, window in zip(out, windows):
                row[piece] = window
        return out

    def gather(self, array: Any, root: int, call: Call, deadline: Deadline) -> Any:
        if isinstance(array, np.ndarray):
            return self._carrier.gather(array, root, call, deadline)
        self._check_root(root, call)
        rows = self.all_gather(array, call, deadline)
        return rows if self.rank == root else None

    def scatter(self, array: Any, root: int, call: Call, deadline: Deadline) -> Any:
        """The other ranks, too, give an array of the device: it says where the block is to be, and is not looked at."""
        if array is None or isinstance(array, np.ndarray):
            return self._carrier.scatter(array, root, call, deadline)
        self._check_root(root, call)
        if self.rank == root:
            self._check_scatter(array, call)
        whole = array.copy() if self.rank == root else self._be.xp.empty(call.count * self.size, array.dtype)
        self.broadcast(whole, root, call, deadline)
        return whole.reshape(self.size, -1)[self.rank].copy()

    def reduce_scatter(self, array: Any, op: str, call: Call, deadline: Deadline) -> Any:
        if isinstance(array, np.ndarray):
            return self._carrier.reduce_scatter(array, op, call, deadline)
        self._check_blocks(array, call)
        whole = array.copy()
        self._reduce(whole, op, call, deadline, keep=True)
        return whole.reshape(self.size, -1)[self.rank].copy()

    def all_to_all(self, array: Any, call: Call, deadline: Deadline) -> Any:
        if isinstance(array, np.ndarray):
            return self._carrier.all_to_all(array, call, deadline)
        self._check_blocks(array, call)
        every = self.all_gather(array, call, deadline).reshape(self.size, self.size, -1)  # from, to, elements
        return every[:, self.rank].reshape(-1)

    # -- windows -------------------------------------------------------------------------------------------------------

    def _reduce(self, array: Any, op: str, call: Call, deadline: Deadline, keep: bool) -> None:
        combine = getattr(self._be.xp, reduction(op, array.dtype, call).__name__)
        for piece, windows in self._shared(array, call, deadline):
            total = windows[0].copy()
            for window in windows[1:]:
                combine(total, window, out=total)
            if keep:
                array[piece] = total
        if op == "avg" and keep:
            divide(array, self.size)

    def _shared(self, array: Any, call: Call, deadline: Deadline) -> Iterator[tuple[slice, list[Any]]]:
        """Piece by piece: where it is, and what every rank has there, to be read until the next piece is asked for."""
        step = WINDOW_BYTES // array.dtype.itemsize
        for start in range(0, max(array.size, 1), step):
            piece = slice(start, min(start + step, array.size))
            size = (piece.stop - start) * array.dtype.itemsize
            windows = [w[:size].view(array.dtype) for w in self._windows]
            windows[self.rank][...] = array[piece]
            self._meet(call, deadline)
            yield piece, windows
            self._meet(call, deadline)

    def _meet(self, call: Call, deadline: Deadline) -> None:
        """What this rank asked the GPU for is done, and so say all."""
        done = self._be.event()
        while not done.done:
            if deadline.expired():
                raise DDPError(
                    f"rank {self.rank}: {call}: expected the GPU to copy within {deadline.timeout_s:g} s; it is busy or stuck"
                )
            time.sleep(2e-5)
        self._count += 1
        self._carrier.barrier(
            Call("barrier", self._count, call.dtype, call.count, f"ipc {call.name}", call.group), deadline
        )
