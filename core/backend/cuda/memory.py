"""Memory of GPUs: an allocator that counts, and pinned memory of the host.

CuPy's pool knows what is in use only by walking through it, and keeps no peak. So what it hands out is counted here: `Counter.counted`
makes the allocator of the process, which costs about a microsecond for each array. Freeing is seen by the token that owns the block.

The pool hands a block out again, to the stream that it was made on, as soon as it is free. So a block that another stream uses, too, says
so (`Counter.used_on`), and goes back to the pool only when that stream is done with it.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np


class Statistics:
    """Bytes and blocks of one device."""

    def __init__(self) -> None:
        self.bytes = self.peak_bytes = self.blocks = self.peak_blocks = 0
        self.allocated_bytes = self.allocations = 0  # ever

    def change(self, size: int) -> None:
        """A block was handed out, or (size < 0) came back."""
        self.bytes += size
        self.blocks += 1 if size > 0 else -1
        if size > 0:
            self.allocated_bytes += size
            self.allocations += 1
            self.peak_bytes, self.peak_blocks = max(self.peak_bytes, self.bytes), max(self.peak_blocks, self.blocks)


class Counter:
    """Wraps an allocator. A block may be freed by the garbage collector in the midst of anything, so changes queue up and one thread
    books them."""

    def __init__(self, xp: Any):
        self._cuda = xp.cuda
        self._unowned, self._pointer = xp.cuda.UnownedMemory, xp.cuda.MemoryPointer
        self._held: deque[_Held] = deque()  # free, but for what other streams may be doing with it
        self._changes: deque[tuple[int, int]] = deque()  # device, bytes
        self._booking = threading.Lock()
        self._devices: dict[int, Statistics] = {}

    def counted(self, malloc: Callable[[int], Any]) -> Callable[[int], Any]:
        """The allocator, counting."""

        def allocate(size: int) -> Any:
            if self._held:
                self._release()
            p = malloc(size)
            device = p.mem.device_id
            if not size:
                return p
            self._changes.append((device, size))
            self._book()
            block = self._unowned(p.ptr, size, _Token(p, self._changes, self._held, device, size), device)
            return self._pointer(block, 0)

        return allocate

    def used_on(self, array: Any, stream: Any) -> None:
        """Another stream uses an array's memory: once free, it is handed out again after what that stream has to do by then."""
        token = getattr(array.data.mem, "_owner", None)
        if isinstance(token, _Token):
            token.streams = {**(token.streams or {}), stream.ptr: stream}

    def _release(self) -> None:
        """Let go of the blocks that no stream uses any more."""
        for _ in range(len(self._held)):
            try:
                held = self._held.popleft()
            except IndexError:  # another thread was here
                return
            if held.events is None:
                if any(s.is_capturing() for s in held.streams):  # what is captured has no events to ask
                    self._held.append(held)
                    continue
                held.events = [self._behind(s) for s in held.streams]
            if not all(e.done for e in held.events):
                self._held.append(held)

    def _behind(self, stream: Any) -> Any:
        with self._cuda.Device(stream.device_id) if stream.device_id >= 0 else nullcontext():
            event = self._cuda.Event(disable_timing=True)
            event.record(stream)
        return event

    def statistics(self, device: int) -> Statistics:
        """Up to date, as far as other threads have come."""
        self._book()
        return self._devices.setdefault(device, Statistics())

    def _book(self) -> None:
        while self._changes and self._booking.acquire(blocking=False):  # who holds the lock books ours, too
            try:
                while self._changes:
                    device, size = self._changes.popleft()
                    found = self._devices.get(device)
                    if found is None:
                        found = self._devices[device] = Statistics()
                    found.change(size)
            finally:
                self._booking.release()


class _Held:
    """A block, the streams that use it, and events behind what they had to do when it was free."""

    __slots__ = ("block", "streams", "events")

    def __init__(self, block: Any, streams: list[Any]):
        self.block, self.streams = block, streams
        self.events: list[Any] | None = None


class _Token:
    """Owns a block; the block goes back to its pool when the token goes, and nobody else uses it."""

    __slots__ = ("streams", "_block", "_changes", "_held", "_device", "_size")

    def __init__(self, block: Any, changes: deque[tuple[int, int]], held: deque[_Held], device: int, size: int):
        self._block, self._changes, self._held, self._device, self._size = block, changes, held, device, size
        self.streams: dict[int, Any] | None = None  # by handle: others that use the block

    def __del__(self) -> None:
        self._changes.append((self._device, -self._size))
        if self.streams:  # no call of CUDA here: the garbage collector may run in the midst of anything
            self._held.append(_Held(self._block, [*self.streams.values()]))


# -- pinned memory -------------------------------------------------------------------------------------------------------


def pinned(xp: Any, array: np.ndarray) -> np.ndarray:
    """A copy in memory that a GPU reads and writes by itself, in C order; the array itself if it is there."""
    if is_pinned(xp, array):
        return array
    copy = pinned_empty(xp, array.shape, array.dtype)
    copy[...] = array
    return copy


def pinned_empty(xp: Any, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Pinned memory, whatever is in it."""
    return np.ndarray(shape, dtype, buffer=xp.cuda.alloc_pinned_memory(max(1, math.prod(shape) * dtype.itemsize)))


def is_pinned(xp: Any, array: Any) -> bool:
    """Whether the array lies in pinned memory that CuPy allocated."""
    while isinstance(array, (np.ndarray, memoryview)):
        array = array.base if isinstance(array, np.ndarray) else array.obj
    return isinstance(array, xp.cuda.PinnedMemoryPointer)
