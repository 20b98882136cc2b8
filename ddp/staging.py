"""Tensors of a GPU on their way to a transport: as they are, or through pinned memory for one that moves arrays of the host.

A copy begins on a stream of its own, behind the work that the caller's stream has so far, and the caller goes on: so backward computes
while a bucket travels. Who moves the bytes, in the thread of the transport, waits for the copy, and for the one back.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from core import backend
from core._tensor import Tensor
from ddp.errors import DeadlineError
from ddp.transport.base import Call, Deadline

_POLL_S = 2e-5
_streams: dict[int, Any] = {}  # by number of the device: its stream for copies


class Staged:
    """A device array, as a flat array of the host: `host`, which holds the values after `arrive`."""

    def __init__(self, be: Any, array: Any):
        self._be, self._array, self._index = be, array, be.index_of(array)
        with be.xp.cuda.Device(self._index):
            if self._index not in _streams:
                _streams[self._index] = be.xp.cuda.Stream(non_blocking=True)
            self._stream = _streams[self._index]
            self._flat = be.xp.ascontiguousarray(array).reshape(-1)  # the array itself if it lies so
            self.host = be.pinned_empty(self._flat.size, self._flat.dtype)
            self._stream.wait_event(be.event())
            self._flat.get(stream=self._stream, out=self.host, blocking=False)
            self._copied = be.event(self._stream)

    def arrive(self, call: Call, deadline: Deadline) -> np.ndarray:
        """The values, as soon as they are there."""
        _wait(self._copied, call, deadline)
        return self.host

    def store(self, call: Call, deadline: Deadline) -> None:
        """The device array holds what the host's holds now."""
        with self._be.xp.cuda.Device(self._index), self._stream:
            self._flat.set(self.host, stream=self._stream)
            if self._flat.data.ptr != self._array.data.ptr:
                self._array[...] = self._flat.reshape(self._array.shape)
            back = self._be.event(self._stream)
        _wait(back, call, deadline)


# -- tensors, as `ddp.group` gives them to a transport


def contiguous(tensor: Tensor) -> Any:
    """Its elements, one-dimensional, where they are."""
    return backend.of(tensor._a).xp.ascontiguousarray(tensor._a).reshape(-1)


class StagedFlat:
    """`Flat` of a tensor on a GPU, for a transport that takes arrays of the host; the copies are made while the caller goes on."""

    def __init__(self, tensor: Tensor):
        self.tensor = tensor
        self._staged = Staged(backend.of(tensor._a), tensor._a)
        self.array = self._staged.host

    def arrive(self, call: Call, deadline: Deadline) -> Any:
        return self._staged.arrive(call, deadline)

    def put_back(self, call: Call, deadline: Deadline) -> None:
        self._staged.store(call, deadline)
        self.tensor._bump()


class DeviceFlat:
    """`Flat` of a tensor on a GPU, for a transport that takes arrays of it."""

    def __init__(self, tensor: Tensor):
        self.tensor, self.array = tensor, contiguous(tensor)
        self.copied = not tensor._a.flags.c_contiguous  # so that the result has to be copied back

    def arrive(self, call: Call, deadline: Deadline) -> Any:
        return self.array

    def put_back(self, call: Call, deadline: Deadline) -> None:
        if self.copied:
            self.tensor._a[...] = self.array.reshape(self.tensor._a.shape)
        self.tensor._bump()


class DeviceLanding:
    """A tensor on a GPU that results are stored in: arrays of it, or of the host."""

    def __init__(self, tensor: Tensor):
        tensor._check_inplace("collective")
        self.tensor = tensor

    def store(self, array: Any) -> None:
        a = self.tensor._a
        if isinstance(array, np.ndarray):
            be = backend.of(a)
            array = be.from_numpy(array, be.index_of(a))
        a[...] = array.reshape(a.shape)
        self.tensor._bump()


def from_here(be: Any, task: Callable[[], Any]) -> Callable[[], Any]:
    """A task on arrays of a GPU, for any thread: with the GPU and the stream that are current here, behind whose work it belongs."""
    device, stream = be.current(), be.xp.cuda.get_current_stream()

    def there() -> Any:
        with be.xp.cuda.Device(device), stream:
            return task()

    return there


def _wait(event: Any, call: Call, deadline: Deadline) -> None:
    while not event.done:
        if deadline.expired():
            raise DeadlineError(
                f"{call}: expected the GPU to copy within {deadline.timeout_s:g} s; it is busy or stuck"
            )
        time.sleep(_POLL_S)
