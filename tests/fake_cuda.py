"""A CUDA device made of NumPy: what an op does here, it does on CuPy.

`Array` is no ndarray, as CuPy's is none: NumPy can neither read it nor compute with it, and it refuses NumPy arrays as operands, values and
indices. `xp` is the module that computes on it; like CuPy it returns arrays also where NumPy returns scalars. `FakeCUDA` is the real CUDA
backend over that module, so its own code is tested, too; with a `launch` (`tests.gpu.shim`) it runs our kernels as well.

`xp.cuda` has streams, events and graphs. Work is done at once, except under capture: then it is written down, and done when the graph is
launched; what a GPU cannot do there (wait, hand a value to the host, have a shape depend on values) is an error. Memory is counted by the
backend's own counter. Not here: speed, concurrency, and what CuPy has not got.
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
from ml_dtypes import bfloat16

from core.backend.cuda import CUDABackend

# -- capture -----------------------------------------------------------------------------------------------------------


class Graph:
    """What was captured."""

    def __init__(self) -> None:
        self.steps: list[Callable[[], Any]] = []
        self.memory: list[
            np.ndarray
        ] = []  # of what was made while capturing: the graph's own, since launches write there

    def launch(self, stream: Any = None) -> None:
        with np.errstate(all="ignore"):
            for step in self.steps:
                step()

    def upload(self, stream: Any = None) -> None:
        pass


class _State(threading.local):
    """Of the one device, for each thread."""

    graph: Graph | None = None  # what is being captured
    streams: Any = None  # of each device, what is current; None: its default stream
    broken = False
    device = 0
    allocator: Any = None  # of `using_allocator`

    @property
    def stream(self) -> Any:
        return (self.streams or {}).get(self.device)

    @stream.setter
    def stream(self, stream: Any) -> None:
        self.streams = {**(self.streams or {}), self.device: stream} if stream is not None else None


State = _State()


def _no_capture(what: str) -> None:
    if State.graph is not None:
        State.broken = True
        raise RuntimeError(
            f"cudaErrorStreamCaptureUnsupported: operation not permitted when stream is capturing: {what}"
        )


def _do(step: Callable[[], Any]) -> None:
    """Work that changes memory: now, or when the graph is launched."""
    if State.graph is not None:
        State.graph.steps.append(step)
    else:
        step()


def _new(compute: Callable[[], Any]) -> Any:
    """Work that makes arrays. Under capture it is done for their shapes, and again with each launch."""
    if State.graph is None:
        return _up(compute())
    with np.errstate(all="ignore"):
        found = compute()
    held = _up(found)

    def again() -> None:
        for old, new in zip(_hosts(held), _hosts(_up(compute()))):
            if old.base is None:  # a view needs nothing
                old[...] = new

    State.graph.steps.append(again)
    return held


def _hosts(value: Any) -> list[np.ndarray]:
    if isinstance(value, Array):
        return [value.host]
    return [h for v in value for h in _hosts(v)] if isinstance(value, (tuple, list)) else []


_WRITERS = {"copyto", "at", "fill", "put", "place", "put_along_axis", "sort", "putmask"}
_REDUCTIONS = {"sum", "mean", "max", "min", "prod", "any", "all", "argmax", "argmin", "cumsum", "astype", "fill"}
_WAITERS = {"item", "tolist", "get", "nonzero", "unique", "argwhere", "flatnonzero", "array_equal", "allclose"}


# -- arrays ------------------------------------------------------------------------------------------------------------


def _down(value: Any) -> Any:
    """An operand as NumPy has it; a NumPy array among the operands is the mistake that this module is here to find."""
    if isinstance(value, Array):
        if value.index != State.device:
            raise RuntimeError(
                f"Array device must be same as the current device: array device = {value.index}, current = {State.device}"
            )
        return value.host
    if isinstance(value, np.ndarray):
        raise TypeError("Unsupported type <class 'numpy.ndarray'>: expected an array of the device")
    if isinstance(value, (tuple, list)):
        return type(value)(map(_down, value))
    return value


def _up(value: Any) -> Any:
    """A result as the device has it."""
    if isinstance(value, (np.ndarray, np.generic)):
        return Array(np.asarray(value))
    if isinstance(value, (tuple, list)):
        return type(value)(map(_up, value))
    return value


def _lifted(function: Callable[..., Any], name: str = "") -> Callable[..., Any]:
    def lifted(*args: Any, **kwargs: Any) -> Any:
        def call() -> Any:
            return function(*map(_down, args), **{k: _down(v) for k, v in kwargs.items()})

        if name in _WAITERS:
            _no_capture(name)
        if kwargs.get("out") is not None:
            _do(call)
            return kwargs["out"]
        if name in _WRITERS:
            return _do(call)
        return _new(call)

    return lifted


class Array:
    """An array on the fake device."""

    __array_ufunc__ = None  # np.exp(array), ndarray + array: a TypeError
    allocate: Callable[[int], Any] | None = None  # the counting allocator of the backend that is open

    def __init__(self, host: np.ndarray):
        self.host, self.index = host, State.device
        if State.graph is not None:
            State.graph.memory.append(host)
        allocate = State.allocator or Array.allocate
        self._block = allocate(host.nbytes) if allocate is not None and host.base is None else None

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`")

    def get(self, stream: Any = None, out: Any = None, blocking: bool = True) -> np.ndarray:
        if out is None or blocking:
            _no_capture("get")
            if out is None:
                return self.host.copy()
        _do(lambda: np.copyto(out, self.host))
        return out

    def set(self, host: np.ndarray, stream: Any = None) -> None:
        assert isinstance(host, np.ndarray) and host.shape == self.shape and host.dtype == self.host.dtype
        _do(lambda: np.copyto(self.host, host))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # no way in for NumPy by __array_interface__
            raise AttributeError(name)
        value = getattr(_down(self) if name in _REDUCTIONS else self.host, name)
        if not callable(value):
            return self._here(_up(value))
        lifted = _lifted(value, name)
        return lambda *args, **kwargs: self._here(lifted(*args, **kwargs))

    def _here(self, y: Any) -> Any:
        """A view lies where its base does, whatever device is the current one."""
        if isinstance(y, Array) and y.index != self.index and np.may_share_memory(y.host, self.host):
            y.index = self.index
        return y

    @property
    def shape(self) -> tuple[int, ...]:
        return self.host.shape

    @shape.setter
    def shape(self, shape: tuple[int, ...]) -> None:
        self.host = self.host.reshape(shape, copy=False)

    @property
    def data(self) -> Any:
        return SimpleNamespace(
            ptr=self.host.__array_interface__["data"][0], device_id=self.index, mem=getattr(self._block, "mem", None)
        )

    @property
    def device(self) -> Any:
        return SimpleNamespace(id=self.index)

    def reshape(self, *shape: Any, order: str = "C") -> Array:  # CuPy's has no `copy`
        def compute() -> np.ndarray:
            y = self.host.reshape(*shape, order=order)
            return y if np.may_share_memory(y, self.host) else y.copy()  # NumPy's copy is a view of another array

        return self._here(_new(compute))

    def __getitem__(self, index: Any) -> Array:
        index = _down(index)
        if any(
            isinstance(i, np.ndarray) and i.dtype == bool for i in (index if isinstance(index, tuple) else (index,))
        ):
            _no_capture("a boolean index")

        def pick() -> np.ndarray:
            found = self.host[index]
            if not isinstance(found, np.ndarray):  # a 0-d view, where NumPy would hand out a scalar
                found = self.host[(*index, ...) if isinstance(index, tuple) else (index, ...)]
            return found

        return self._here(_new(pick))

    def __setitem__(self, index: Any, value: Any) -> None:
        index, value = _down(index), _down(value)
        _do(lambda: self.host.__setitem__(index, value))

    def __iter__(self) -> Iterator[Array]:
        return (self[i] for i in range(len(self.host)))

    def __bool__(self) -> bool:
        _no_capture("bool()")
        return bool(self.host)

    def __int__(self) -> int:
        _no_capture("int()")
        return int(self.host)

    def __float__(self) -> float:
        _no_capture("float()")
        return float(self.host)

    def __len__(self) -> int:
        return len(self.host)


def _operator(name: str) -> Callable[..., Any]:
    writes = name.startswith("__i") and name != "__invert__"

    def operator(self: Array, *others: Any) -> Any:
        def compute() -> Any:
            return getattr(_down(self), name)(*map(_down, others))

        if writes:
            _do(compute)
            return self
        return _new(compute)

    return operator


for _name in """
    add radd sub rsub mul rmul truediv rtruediv floordiv rfloordiv mod rmod pow rpow matmul and rand or ror xor rxor neg pos abs invert
    eq ne lt le gt ge iadd isub imul itruediv ipow iand ior ixor
""".split():
    setattr(Array, f"__{_name}__", _operator(f"__{_name}__"))


# -- the device --------------------------------------------------------------------------------------------------------


class Event:
    """A moment: there is no waiting for it, since work is done at once."""

    def __init__(self, block: bool = False, disable_timing: bool = False, interprocess: bool = False):
        self.at_ms: float | None = None
        self.done = True

    def record(self, stream: Any = None) -> None:
        self.at_ms = time.perf_counter() * 1e3

    def synchronize(self) -> None:
        _no_capture("Event.synchronize")


class Stream:
    """A queue of work, which is always empty."""

    _made = 0

    def __init__(self, null: bool = False, non_blocking: bool = False, ptds: bool = False, priority: int = 0):
        Stream._made += 1
        self.ptr = 0 if null else Stream._made
        self.priority, self.device_id = priority, -1 if null else State.device
        self._outer: list[Any] = []

    @property
    def done(self) -> bool:
        _no_capture("Stream.done")
        return True

    def __enter__(self) -> Stream:
        if self.device_id not in (-1, State.device):
            raise RuntimeError("The device that the stream is created on does not match with the current device")
        self._outer.append(State.stream)
        State.stream = self
        return self

    def __exit__(self, *exc: object) -> None:
        State.stream = self._outer.pop()

    def synchronize(self) -> None:
        _no_capture("Stream.synchronize")

    def record(self, event: Any = None) -> Any:
        event = Event() if event is None else event
        event.record(self)
        return event

    def wait_event(self, event: Event) -> None:
        assert event.at_ms is not None, "expected an event that was recorded"

    def begin_capture(self, mode: Any = None) -> None:
        if self.ptr == 0:
            raise RuntimeError("cannot capture on the default stream")
        assert State.stream is self and State.graph is None
        State.graph, State.broken = Graph(), False

    def end_capture(self) -> Graph:
        graph, State.graph = State.graph, None
        assert graph is not None
        if State.broken:
            raise RuntimeError(
                "cudaErrorStreamCaptureInvalidated: operation failed due to a previous error during capture"
            )
        return graph

    def is_capturing(self) -> bool:
        return State.graph is not None


class MemoryPool:
    """Addresses, and no memory behind them."""

    def __init__(self) -> None:
        self.total, self.limit = 0, 0

    def malloc(self, size: int) -> Any:
        self.total += size
        return SimpleNamespace(ptr=1 << 20, mem=SimpleNamespace(device_id=0, size=size))

    def total_bytes(self) -> int:
        return self.total

    def free_all_blocks(self) -> None:
        self.total = 0

    def set_limit(self, size: int | None = None, fraction: float | None = None) -> None:
        self.limit = size or 0


class PinnedMemoryPointer(bytearray):
    """Pinned memory of the host: anything that has the buffer protocol."""


class Device:
    """`with Device(1):` or `Device(1).use()`: another device is the current one."""

    def __init__(self, index: int):
        if not 0 <= index < Cuda.count:
            raise RuntimeError("cudaErrorInvalidDevice: invalid device ordinal")
        self.id = index

    def use(self) -> None:
        State.device = self.id

    def __enter__(self) -> Device:
        self._before, State.device = State.device, self.id
        return self

    def __exit__(self, *exc: object) -> None:
        State.device = self._before


class Memory:
    """What cudaMalloc gives: memory that other processes can open."""

    def __init__(self, size: int):
        self._host = np.empty(size, np.uint8)
        self.ptr, self.size, self.device_id = self._host.ctypes.data, size, 0


OPEN_HANDLES: list[int] = []  # addresses that `ipcOpenMemHandle` has returned and nobody has closed


def _ipc_open(handle: bytes) -> int:
    place = int.from_bytes(handle[:8], "little")
    OPEN_HANDLES.append(place)
    return place


@contextlib.contextmanager
def _using_allocator(allocator: Any) -> Iterator[None]:
    before, State.allocator = State.allocator, allocator
    try:
        yield
    finally:
        State.allocator = before


class Cuda:
    """`cupy.cuda`"""

    Memory = Memory
    count = 1  # how many devices there are

    Stream, Event, MemoryPool, PinnedMemoryPointer = Stream, Event, MemoryPool, PinnedMemoryPointer
    UnownedMemory = staticmethod(
        lambda ptr, size, owner, device: SimpleNamespace(ptr=ptr, size=size, _owner=owner, device_id=device)
    )
    MemoryPointer = staticmethod(lambda mem, offset: SimpleNamespace(ptr=mem.ptr + offset, mem=mem))
    alloc = staticmethod(lambda size: Memory(size))
    alloc_pinned_memory = staticmethod(lambda size: PinnedMemoryPointer(size))
    get_elapsed_time = staticmethod(lambda start, end: end.at_ms - start.at_ms)
    using_allocator = staticmethod(_using_allocator)

    def __init__(self) -> None:
        properties = {"name": b"Fake", "major": 9, "minor": 0, "totalGlobalMem": 1 << 30, "multiProcessorCount": 4}
        self.null = Stream(null=True)
        self.runtime = SimpleNamespace(
            getDeviceCount=lambda: Cuda.count,
            getDevice=lambda: State.device,
            getDeviceProperties=lambda index: properties,
            deviceSynchronize=lambda: _no_capture("deviceSynchronize"),
            ipcGetMemHandle=lambda place: place.to_bytes(8, "little").ljust(64, b"\0"),
            ipcOpenMemHandle=_ipc_open,
            ipcCloseMemHandle=OPEN_HANDLES.remove,
            memGetInfo=lambda: ((1 << 30) - 7, 1 << 30),
        )

    Device = Device

    def get_current_stream(self) -> Stream:
        return State.stream or self.null


class _Function:
    """A function of the module; of ufuncs also `at`."""

    def __init__(self, function: Any, name: str):
        self.call = _lifted(function, name)
        if hasattr(function, "at"):
            self.at = _lifted(function.at, "at")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.call(*args, **kwargs)


class _Grid:
    def __getitem__(self, index: Any) -> Any:
        return _up(np.ogrid[index])


# what CuPy 14.2 has not got for bfloat16: it answers in float32, or refuses
_NO_BFLOAT16 = {
    "where",
    "clip",
    "tril",
    "triu",
    "cumsum",
    "cumprod",
    "round",
    "argsort",
    "sort",
    "searchsorted",
    "unique",
}


def _refusing(function: Any, name: str) -> Any:
    def refusing(*args: Any, **kwargs: Any) -> Any:
        kinds = [a.dtype for a in args if hasattr(a, "dtype") and a.dtype.kind in "fcV"]
        low = (bool(kinds) and np.result_type(*kinds) == bfloat16) or kwargs.get("dtype") == bfloat16
        if low and (name != "copyto" or kwargs.get("where") is not None):
            raise TypeError(f"{name}: CuPy 14.2 has no loop for bfloat16")
        return function(*args, **kwargs)

    return refusing


class Module:
    """What CuPy is to code that says `be.xp`."""

    ndarray = Array
    ogrid = _Grid()
    lib = SimpleNamespace(stride_tricks=SimpleNamespace(as_strided=_lifted(np.lib.stride_tricks.as_strided)))

    def __init__(self) -> None:
        self.cuda = Cuda()
        self._pool, self._pinned = MemoryPool(), SimpleNamespace(free_all_blocks=lambda: None)

    def get_default_memory_pool(self) -> MemoryPool:
        return self._pool

    def get_default_pinned_memory_pool(self) -> Any:
        return self._pinned

    def __getattr__(self, name: str) -> Any:
        value = getattr(np, name)
        if name in _NO_BFLOAT16:
            return _refusing(_Function(value, name), name)
        return _Function(value, name) if callable(value) and not isinstance(value, type) else value

    @staticmethod
    def asarray(value: Any, dtype: Any = None, order: Any = None, *, copy: Any = None, blocking: bool = False) -> Array:
        if blocking:
            _no_capture("a copy that is waited for")
        if isinstance(value, Array) and value.index != State.device:
            return Array(np.array(value.host, dtype=dtype))  # copied to the current device
        if isinstance(value, Array) and dtype in (None, value.dtype):
            return value
        return Module.array(value, dtype)

    @staticmethod
    def array(value: Any, dtype: Any = None, order: Any = "K") -> Array:
        if isinstance(value, Array):
            return _new(lambda: np.array(value.host, dtype=dtype, order=order))
        if isinstance(value, np.ndarray):
            _no_capture("a copy from memory that is not pinned")
        return Array(np.array(value, dtype=dtype, order=order))

    @staticmethod
    def asnumpy(value: Array) -> np.ndarray:
        return value.get()


class FakeCUDA(CUDABackend):
    """The row "cuda" of `core.backend.BACKENDS` while a test runs."""

    kernels: Any = None  # a launcher; without one the plain kernels compute

    def __init__(self) -> None:
        State.graph, State.streams, State.device, State.allocator = None, None, 0, None
        self._open(Module(), Array, self._launched if self.kernels is not None else None)
        Array.allocate = staticmethod(self.memory.counted(self.xp.get_default_memory_pool().malloc))

    def at(self, place: int, size: int, owner: Any) -> Array:
        return Array(np.ndarray(size, np.uint8, (ctypes.c_char * size).from_address(place)))

    def _launched(self, *args: Any) -> None:
        for a in args:
            if isinstance(a, Array):
                _down(a)  # on the current device
        _do(lambda: self.kernels(*args))
