"""torch.cuda: GPUs, their memory, streams and events. Without a GPU every question has its honest answer and nothing is opened.

What computes on a GPU is `core.backend.cuda`; here are the manners around it.
"""

from __future__ import annotations

import functools
from typing import Any

from core import backend, rng, tensor_types
from core.backend.cuda import is_available
from core.devices import device as _device

globals().update(tensor_types.CUDA)



def device_count() -> int:
    """How many GPUs there are; 0 without CuPy or a driver."""
    return _gpu().count() if is_available() else 0


def _gpu() -> Any:
    """The backend; an error that says what is missing where there is no GPU."""
    return backend.get("cuda")


def _index(where: Any) -> int:
    if where is None:
        return current_device()
    if isinstance(where, int):
        return where
    index = _device(where).index
    return current_device() if index is None else index


def is_initialized() -> bool:
    """Whether the GPU has been used yet."""
    return "cuda" in backend._open


def init() -> None:
    """Open the GPU now rather than on first use."""
    _gpu()


def current_device() -> int:
    """The index of the GPU that new tensors go to."""
    return int(_gpu().xp.cuda.runtime.getDevice())


def set_device(where: Any) -> None:
    """Choose the GPU that new tensors go to. A negative index does nothing, as in torch."""
    if not (isinstance(where, int) and where < 0):
        _gpu().xp.cuda.Device(_index(where)).use()


class device:
    """`with device(1):` new tensors go to another GPU. None or a negative index does nothing."""

    def __init__(self, where: Any):
        self.where = where

    def __enter__(self) -> None:
        if self.where is not None and not (isinstance(self.where, int) and self.where < 0):
            self._context = _gpu().xp.cuda.Device(_index(self.where))
            self._context.__enter__()

    def __exit__(self, *exc: object) -> None:
        if hasattr(self, "_context"):
            self._context.__exit__(*exc)


def get_device_name(where: Any = None) -> str:
    """What the GPU calls itself."""
    return _gpu().xp.cuda.runtime.getDeviceProperties(_index(where))["name"].decode()


def get_device_capability(where: Any = None) -> tuple[int, int]:
    """(major, minor) of its compute capability."""
    properties = get_device_properties(where)
    return properties.major, properties.minor


class _Properties:
    def __init__(self, raw: dict[str, Any]):
        self.name = raw["name"].decode()
        self.major, self.minor = raw["major"], raw["minor"]
        self.total_memory, self.multi_processor_count = raw["totalGlobalMem"], raw["multiProcessorCount"]


def get_device_properties(where: Any = None) -> Any:
    """name, major, minor, total_memory (bytes), multi_processor_count"""
    return _Properties(_gpu().xp.cuda.runtime.getDeviceProperties(_index(where)))


def synchronize(where: Any = None) -> None:
    """Wait until the GPU has done everything asked for."""
    with device(where):
        _gpu().xp.cuda.runtime.deviceSynchronize()


def is_bf16_supported(including_emulation: bool = True) -> bool:
    """Whether there is a GPU with bfloat16 arithmetic (compute capability 8.0)."""
    return is_available() and get_device_capability() >= (8, 0)


# -- memory ----------------------------------------------------------------------------------------------------------------


def _pool() -> Any:
    return _gpu().xp.get_default_memory_pool()


def _if_used(question: Any) -> Any:
    """0 as long as no GPU has been used: asking must not open one."""

    @functools.wraps(question)
    def answer(where: Any = None) -> int:
        return question(where) if is_initialized() else 0

    return answer


@_if_used
def memory_allocated(where: Any = None) -> int:
    """Bytes held by tensors."""
    with device(where):
        return int(_pool().used_bytes())


@_if_used
def memory_reserved(where: Any = None) -> int:
    """Bytes held by the pool, in use or not."""
    with device(where):
        return int(_pool().total_bytes())


def empty_cache() -> None:
    """Give unused memory of the pool back to the device."""
    if is_initialized():
        _pool().free_all_blocks()


def mem_get_info(where: Any = None) -> tuple[int, int]:
    """(free, total) bytes of the device."""
    with device(where):
        free, total = _gpu().xp.cuda.runtime.memGetInfo()
    return int(free), int(total)


# -- random numbers: drawn on the host, so one stream serves all devices ---------------------------------------------------


def manual_seed(seed: int) -> None:
    """Seeds nothing of its own: numbers for a GPU come from the default generator, which `core.manual_seed` seeds."""


def manual_seed_all(seed: int) -> None:
    """See `manual_seed`."""


def get_rng_state(where: Any = "cuda") -> Any:
    """The state of the default generator."""
    return rng.get_rng_state()


def set_rng_state(state: Any, where: Any = "cuda") -> None:
    """Set the default generator's state."""
    rng.set_rng_state(state)


# -- streams and events ----------------------------------------------------------------------------------------------------


class Stream:
    """A queue of work on a GPU; `with stream(s):` puts work on it."""

    def __init__(self, device: Any = None, priority: int = 0, raw: Any = None):
        xp = _gpu().xp
        self.raw = xp.cuda.Stream(non_blocking=True) if raw is None else raw

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
        self.raw.wait_event(event.raw)

    def wait_stream(self, other: Any) -> None:
        """Work put here from now on waits for what is on the other stream now."""
        self.wait_event(other.record_event())


class Event:
    """A moment on a stream."""

    def __init__(self, enable_timing: bool = False, blocking: bool = False, interprocess: bool = False):
        self.raw = _gpu().xp.cuda.Event(block=blocking, disable_timing=not enable_timing, interprocess=interprocess)

    def record(self, stream: Any = None) -> None:
        """Now, on a stream."""
        self.raw.record(None if stream is None else stream.raw)

    def synchronize(self) -> None:
        """Wait for it."""
        self.raw.synchronize()

    def query(self) -> bool:
        """Whether it has happened."""
        return bool(self.raw.done)

    def elapsed_time(self, end: Any) -> float:
        """Milliseconds from here to another event."""
        return float(_gpu().xp.cuda.get_elapsed_time(self.raw, end.raw))


def current_stream(where: Any = None) -> Stream:
    """The stream that work goes to."""
    return Stream(raw=_gpu().xp.cuda.get_current_stream())


class stream:
    """`with stream(s):` work goes to s."""

    def __init__(self, s: Stream | None):
        self.s = s

    def __enter__(self) -> None:
        if self.s is not None:
            self.s.raw.__enter__()

    def __exit__(self, *exc: object) -> None:
        if self.s is not None:
            self.s.raw.__exit__(*exc)


