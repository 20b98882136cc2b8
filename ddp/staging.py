"""Arrays of a GPU on their way through pinned memory of the host, for transports that move arrays of the host.

A copy begins on a stream of its own, behind the work that the caller's stream has so far, and the caller goes on: so backward computes
while a bucket travels. Who moves the bytes, in the thread of the transport, waits for the copy, and for the one back.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

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
            self._stream.wait_event(be.xp.cuda.get_current_stream().record())
            self._flat.get(stream=self._stream, out=self.host, blocking=False)
            self._copied = self._stream.record()

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
            back = self._stream.record()
        _wait(back, call, deadline)


def _wait(event: Any, call: Call, deadline: Deadline) -> None:
    while not event.done:
        if deadline.expired():
            raise DeadlineError(
                f"{call}: expected the GPU to copy within {deadline.timeout_s:g} s; it is busy or stuck"
            )
        time.sleep(_POLL_S)
