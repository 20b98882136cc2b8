"""Streams and events of GPUs."""

from __future__ import annotations

from typing import Any

from core.cuda import place
from core.errors import CoreError


class Stream:
    """A queue of work on a GPU; `with stream(s):` puts work on it, and makes its GPU the current one."""

    def __init__(self, device: Any = None, priority: int = 0, raw: Any = None):
        if raw is None:
            with place.device(device):
                raw = place.gpu().xp.cuda.Stream(non_blocking=True, priority=priority)
        self.raw = raw
        self._devices: list[Any] = []  # contexts of the `with` blocks that are open

    @property
    def _index(self) -> int | None:
        """The number of its GPU; None for the default streams, which are on the current one."""
        return self.raw.device_id if self.raw.device_id >= 0 else None

    @property
    def cuda_stream(self) -> int:
        """CUDA's handle."""
        return int(self.raw.ptr)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stream) and self.cuda_stream == other.cuda_stream

    def __hash__(self) -> int:
        return hash(self.cuda_stream)

    def __enter__(self) -> Stream:
        self._devices.append(place.device(self._index))
        self._devices[-1].__enter__()
        self.raw.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self.raw.__exit__(*exc)
        self._devices.pop().__exit__(*exc)

    def synchronize(self) -> None:
        """Wait until its work is done."""
        self.raw.synchronize()

    def query(self) -> bool:
        """Whether its work is done."""
        return bool(self.raw.done)

    def record_event(self, event: Any = None) -> Any:
        """An event that has happened when the work up to here is done."""
        event = Event() if event is None else event
        event.record(self)
        return event

    def wait_event(self, event: Any) -> None:
        """Work put here from now on waits for the event."""
        if event.raw is not None:  # else it was never recorded: there is nothing to wait for
            self.raw.wait_event(event.raw)

    def wait_stream(self, other: Any) -> None:
        """Work put here from now on waits for what is on the other stream now."""
        self.wait_event(other.record_event())


class Event:
    """A moment on a stream. It is of the GPU of the stream that it is first recorded on."""

    def __init__(self, enable_timing: bool = False, blocking: bool = False, interprocess: bool = False):
        place.gpu()  # an error that says what is missing
        self._how = {"block": blocking, "disable_timing": not enable_timing, "interprocess": interprocess}
        self.raw: Any = None

    def record(self, stream: Any = None) -> None:
        """Now, on a stream."""
        stream = current_stream() if stream is None else stream
        with place.device(stream._index):
            if self.raw is None:
                self.raw = place.gpu().xp.cuda.Event(**self._how)
            self.raw.record(stream.raw)

    def wait(self, stream: Any = None) -> None:
        """Work put on the stream from now on waits for this."""
        (current_stream() if stream is None else stream).wait_event(self)

    def synchronize(self) -> None:
        """Wait for it."""
        if self.raw is not None:
            self.raw.synchronize()

    def query(self) -> bool:
        """Whether it has happened; true of one that was never recorded."""
        return self.raw is None or bool(self.raw.done)

    def elapsed_time(self, end: Any) -> float:
        """Milliseconds from here to another event."""
        if self.raw is None or end.raw is None:
            raise CoreError("elapsed_time: Both events must be recorded before calculating elapsed time")
        return float(place.gpu().xp.cuda.get_elapsed_time(self.raw, end.raw))


def current_stream(where: Any = None) -> Stream:
    """The stream that work goes to."""
    with place.device(where):
        return Stream(raw=place.gpu().xp.cuda.get_current_stream())


def default_stream(where: Any = None) -> Stream:
    """The stream that work goes to unless told otherwise: of every GPU the one that is called null."""
    return Stream(raw=place.gpu().xp.cuda.Stream(null=True))


class stream:
    """`with stream(s):` work goes to s; None does nothing."""

    def __init__(self, s: Stream | None):
        self.s = s

    def __enter__(self) -> None:
        if self.s is not None:
            self.s.__enter__()

    def __exit__(self, *exc: object) -> None:
        if self.s is not None:
            self.s.__exit__(*exc)
